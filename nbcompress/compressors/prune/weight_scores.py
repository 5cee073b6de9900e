"""How much each weight matters.

Optimal brain surgery on one layer: what stays makes up for what goes.

Notation
    W   weights of one layer (or of one group of a convolution), `(out, n)`
    H   second moments of its inputs, damped, `(n, n)`: the Hessian of the squared error of the outputs, over 2
    U   upper Cholesky factor of the inverse of H: row k holds what the columns after k need to know of column k

Columns are settled from left to right. Where a weight of column k goes, the columns to its right change so that the
outputs change least; `U` makes the exact formula cheap, and blocks of columns make it a few products of matrices. What
is known only at the right end could not help on the left, so at last all weights that stay are improved together, by
conjugate gradients. The weights that magnitude would keep are improved too, and the better of both is the result: so
the outputs never change more than they do by magnitude.

References:
    Hassibi and Stork (1993), "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", equation 5.
    Frantar and Alistarh (2023), "SparseGPT", algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nbcompress.compressors.layers import Target
from nbcompress.compressors.losses import LossSpec
from nbcompress.compressors.prune.activation_scores import InputStatistics, input_statistics, wanda_scores
from nbcompress.compressors.prune.cutting import keep_two_of_four, lowest
from nbcompress.compressors.training import check_gradients, each_gradient
from nbcompress.errors import CompressionError, option

# Share of the mean diagonal that is added to the diagonal, so that inputs that always go together can be told apart.
_DAMPING = 0.01
_BLOCK = 128
# Steps of conjugate gradients. Each lowers the error; after some dozens it hardly moves (a heuristic).
_N_STEPS = 32


def surgeon_pruned(weight: Tensor, statistics: InputStatistics, count: int | None) -> Tensor:
    """`weight` with weights set to zero and the others changed to make up for it.

    Args:
        weight: Shape `(out, ...)`, finite.
        statistics: With products, of the inputs that go with the flattened weight.
        count: How many weights go; zeros count and stay. None keeps at most 2 of every 4 in a row.

    Returns:
        A tensor of the shape, dtype and device of `weight`.

    Raises:
        CompressionError: The update overflows the dtype.
    """
    if statistics.products is None:
        raise TypeError("the surgeon needs the products of inputs")
    n = statistics.products.shape[-1]
    w = weight.detach().to(statistics.products.device, torch.float64).reshape(statistics.n_groups, -1, n)
    hessians = torch.stack([_damped(product) for product in statistics.products])
    found = _by_surgery(w, hessians, count)
    plain = torch.where(_kept_by_magnitude(w, count), w, 0.0)
    attempts = [_improved(w, hessians, scores) for scores in (found, plain)]
    best = min(attempts, key=lambda attempt: float(_error(w, hessians, attempt)))
    values = best.reshape(weight.shape).to(weight.device, weight.dtype)
    if not bool(torch.isfinite(values).all()):
        raise CompressionError(
            f"{option('criterion', 'hessian')} gave weights beyond the range of their dtype: use float32 weights"
        )
    return values


def _damped(products: Tensor) -> Tensor:
    mean = products.diagonal().mean()
    damping = _DAMPING * mean if mean > 0 else torch.ones_like(mean)
    return products + damping * torch.eye(len(products), dtype=products.dtype, device=products.device)


def _by_surgery(w: Tensor, hessians: Tensor, count: int | None) -> Tensor:
    factors = torch.stack([_factor(hessian) for hessian in hessians])
    # How much the error grows if one weight alone goes, everything else making up for it: w^2 / [H^-1].
    saliency = w.square() / factors.square().sum(1)[:, None]
    counts = None if count is None else _counts(saliency, count)
    return torch.stack([_settled(w[k], factors[k], None if counts is None else counts[k]) for k in range(len(w))])


def _factor(hessian: Tensor) -> Tensor:
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper


def _kept_by_magnitude(w: Tensor, count: int | None) -> Tensor:
    return keep_two_of_four([w.abs()])[0] if count is None else ~_lowest(w.abs(), count)


def _improved(w: Tensor, hessians: Tensor, start: Tensor) -> Tensor:
    """`start` with the weights that are not zero moved to less error, each row by itself; never to more."""
    found, stays = start.clone(), start != 0
    diagonal = hessians.diagonal(dim1=1, dim2=2)[:, None]
    slope = ((w - found) @ hessians) * stays
    direction = slope / diagonal
    power = (slope * direction).sum(2, keepdim=True)
    for _ in range(_N_STEPS):
        change = (direction @ hessians) * stays
        curvature = (direction * change).sum(2, keepdim=True)
        step = torch.where(curvature > 0, power / curvature, 0.0)
        found += step * direction
        slope -= step * change
        last, power = power, (slope.square() / diagonal).sum(2, keepdim=True)
        direction = slope / diagonal + torch.where(last > 0, power / last, 0.0) * direction
    return found


def _error(w: Tensor, hessians: Tensor, found: Tensor) -> Tensor:
    return (((w - found) @ hessians) * (w - found)).sum()


def _counts(saliency: Tensor, count: int) -> list[list[int]]:
    """How many weights go, by group and block of columns, when all rank together. Zeros have saliency 0."""
    gone = _lowest(saliency, count) | (saliency == 0)
    return [[int(block.sum()) for block in index.split(_BLOCK, dim=1)] for index in gone]


def _settled(w: Tensor, upper: Tensor, counts: list[int] | None) -> Tensor:
    w = w.clone()
    were_zero = w == 0
    for number, start in enumerate(range(0, w.shape[1], _BLOCK)):
        end = min(start + _BLOCK, w.shape[1])
        block, own = w[:, start:end].clone(), upper[start:end, start:end]
        errors = torch.zeros_like(block)
        zeros = were_zero[:, start:end]
        gone = zeros.clone() if counts is None else _lowest(_scores(block, own, zeros), counts[number])
        for k in range(end - start):
            if counts is None and k % 4 == 0:
                fours = _scores(block[:, k : k + 4], own[k : k + 4, k : k + 4], zeros[:, k : k + 4])
                gone[:, k : k + 4] |= _two_lowest(fours)
            stays = torch.where(gone[:, k], 0.0, block[:, k])
            errors[:, k] = (block[:, k] - stays) / own[k, k]
            block[:, k + 1 :] -= errors[:, k : k + 1] * own[k, k + 1 :]
            block[:, k] = stays
        w[:, start:end] = block
        w[:, end:] -= errors @ upper[start:end, end:]
    return w


def _scores(block: Tensor, own: Tensor, zeros: Tensor) -> Tensor:
    """The error when a weight goes now; what was zero before goes first, and nothing else has score zero."""
    tiny = torch.finfo(block.dtype).tiny
    return torch.where(zeros, 0.0, (block / own.diagonal()).square().clamp(min=tiny))


def _lowest(scores: Tensor, count: int) -> Tensor:
    return lowest(scores.flatten().cpu(), count).reshape(scores.shape).to(scores.device)


def _two_lowest(scores: Tensor) -> Tensor:
    order = torch.argsort(scores, dim=1, stable=True)[:, :2]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)


# Of single weights; `hessian` is not a score but an operation, see `second_order`.
CRITERIA = ("magnitude", "random", "gradient", "activation", "hessian")


def scores_of(
    model: nn.Module,
    targets: Sequence[Target],
    criterion: str,
    data: object,
    seed: int,
    statistics: Mapping[str, InputStatistics] | None = None,
    spec: LossSpec | None = None,
) -> list[Tensor]:
    """Scores of the weights of each target, of its shape, float64 on the CPU.

    Every score is positive where the weight is not zero, and 0 where it is: what is zero already goes first.

    Args:
        model: Where the targets are; unchanged.
        targets: What is scored.
        criterion: `magnitude`, `random`, `gradient` (first-order Taylor: weight times gradient), or `activation`
            (weight times the norm of its input; every target must have an input, see `input_statistics`).
        data: For `gradient` and `activation`.
        seed: For `random`, and for the order of the data.
        statistics: Of `activation`, by name, if they are known already.
        spec: What the user says of the loss, for `gradient`.
    """
    weights = [target.parameter.detach().to("cpu", torch.float64) for target in targets]
    if criterion == "magnitude":
        found = [weight.abs() for weight in weights]
    elif criterion == "random":
        generator = torch.Generator("cpu").manual_seed(seed)
        found = [torch.rand(weight.shape, generator=generator, dtype=torch.float64, device="cpu") for weight in weights]
    elif criterion == "activation":
        if statistics is None:
            statistics, _ = input_statistics(model, targets, data, seed)
        found = [wanda_scores(target, statistics[target.name]) for target in targets]
    else:
        gradients = _gradients(model, targets, data, seed, spec or LossSpec())
        found = [(weight * gradient).abs() for weight, gradient in zip(weights, gradients, strict=True)]
    # A weight that does not matter by the criterion still comes after one that is not there.
    smallest = torch.finfo(torch.float64).tiny
    return [
        torch.where(weight == 0, 0.0, found_.clamp(min=smallest)) for weight, found_ in zip(weights, found, strict=True)
    ]


def lamp_scores(scores: Sequence[Tensor]) -> list[Tensor]:
    """Scores that can be compared between layers.

    The square of a score, divided by the sum of all squares in its layer that are not smaller; of equal scores, the
    one that goes last counts the fewest. The last weight of any layer has score 1, so none is emptied.

    References:
        Lee et al. (2021), "Layer-adaptive Sparsity for the Magnitude-based Pruning", equation 4.
    """
    found = []
    for score in scores:
        flat = score.flatten()
        values, order = torch.sort(flat, stable=True)
        # Divided by the largest, because squares of the smallest scores vanish in floating point.
        squares = (values / values[-1].clamp(min=torch.finfo(torch.float64).tiny)).square()
        left = squares.flip(0).cumsum(0).flip(0)
        ratio = torch.where(values > 0, squares.clamp(min=1e-300) / left.clamp(min=1e-300), 0.0)
        lamp = torch.empty_like(flat)
        lamp[order] = ratio
        found.append(lamp.reshape(score.shape))
    return found


def _gradients(model: nn.Module, targets: Sequence[Target], data: object, seed: int, spec: LossSpec) -> list[Tensor]:
    """Mean gradient of the loss over one pass of the data."""
    totals = [torch.zeros(target.parameter.shape, dtype=torch.float64, device="cpu") for target in targets]

    def add(gradients: Sequence[Tensor | None]) -> None:
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += gradient.detach().to("cpu", torch.float64)

    n_batches = each_gradient(model, [target.parameter for target in targets], data, seed, spec, add)
    check_gradients(totals, "criterion='gradient'")
    return [total / n_batches for total in totals]
