"""Scores of single weights, masks of the weights to keep, and pruning with second-order updates.

The second-order part follows Optimal Brain Surgeon and SparseGPT: it removes weights of one layer and updates the
others so that the outputs of the layer change least.

Notation:
    W   weights of one layer, or of one group of a convolution, `(out, n)`
    H   second moments of its inputs, damped, `(n, n)`: half the Hessian of the squared error of the outputs
    U   upper Cholesky factor of the inverse of H: row k is all that the columns after k need to know of column k

Columns are processed from left to right. When a weight of column k is removed, the columns to its right are updated so
that the outputs change least; U makes the exact formula cheap, and columns are updated in blocks. Columns on the left
are not updated for later removals, so at the end all weights that are kept are refined together by conjugate gradients.
The mask of magnitude is refined in the same way, and the mask with the lower error is used: the outputs never change
more than with magnitude pruning.

References:
    Hassibi and Stork (1993), "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", equation 5.
    Frantar and Alistarh (2023), "SparseGPT", algorithm 1.
    Lee et al. (2021), "Layer-adaptive Sparsity for the Magnitude-based Pruning" (`lamp_scores`).
    Sun et al. (2024), "A Simple and Effective Pruning Approach for Large Language Models" (`wanda_scores`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nbcompress.compressors.layers import Target
from nbcompress.compressors.losses import LossSpec
from nbcompress.compressors.prune.activation_scores import InputStatistics, input_statistics, wanda_scores
from nbcompress.compressors.training import check_gradients, each_gradient
from nbcompress.errors import CompressionError, option

# Scores


def scores_of(
    model: nn.Module,
    targets: Sequence[Target],
    criterion: str,
    data: object,
    seed: int,
    statistics: Mapping[str, InputStatistics] | None = None,
    spec: LossSpec | None = None,
) -> list[Tensor]:
    """Return the scores of each target's weights, with the shape of the target, float64 on the CPU.

    A score is 0 where the weight is zero and positive elsewhere, so that weights that are zero already are removed
    first.

    Args:
        model: The model of the targets; it does not change.
        targets: The tensors to score.
        criterion: `magnitude`, `random`, `gradient` (first-order Taylor: weight times gradient) or `activation`
            (weight times the norm of its input; every target needs input statistics).
        data: Data for `gradient` and `activation`.
        seed: Seed of `random` and of the order of the data.
        statistics: Input statistics for `activation`, by name of the target; measured if None.
        spec: The user's loss, for `gradient`.

    Raises:
        DataError: The data does not fit.
    """
    weights = [target.parameter.detach().to("cpu", torch.float64) for target in targets]
    if criterion == "magnitude":
        scores = [weight.abs() for weight in weights]
    elif criterion == "random":
        generator = torch.Generator("cpu").manual_seed(seed)
        scores = [
            torch.rand(weight.shape, generator=generator, dtype=torch.float64, device="cpu") for weight in weights
        ]
    elif criterion == "activation":
        if statistics is None:
            statistics, _ = input_statistics(model, targets, data, seed)
        scores = [wanda_scores(target, statistics[target.name]) for target in targets]
    else:
        gradients = _gradients(model, targets, data, seed, spec or LossSpec())
        scores = [(weight * gradient).abs() for weight, gradient in zip(weights, gradients, strict=True)]
    # A weight with score 0 by the criterion still ranks above a weight that is zero.
    smallest = torch.finfo(torch.float64).tiny
    return [
        torch.where(weight == 0, 0.0, score.clamp(min=smallest)) for weight, score in zip(weights, scores, strict=True)
    ]


def lamp_scores(scores: Sequence[Tensor]) -> list[Tensor]:
    """Return scores that can be compared between layers.

    Each is the square of a score, divided by the sum of all squares in its layer that are not smaller. Of equal scores,
    later ones have smaller sums. The best weight of each layer has score 1, so no layer is emptied.

    References:
        Lee et al. (2021), "Layer-adaptive Sparsity for the Magnitude-based Pruning", equation 4.
    """
    ranked = []
    for score in scores:
        flat = score.flatten()
        values, order = torch.sort(flat, stable=True)
        # Scores are divided by the largest, because the squares of small scores underflow.
        squares = (values / values[-1].clamp(min=torch.finfo(torch.float64).tiny)).square()
        left = squares.flip(0).cumsum(0).flip(0)
        ratio = torch.where(values > 0, squares.clamp(min=1e-300) / left.clamp(min=1e-300), 0.0)
        lamp = torch.empty_like(flat)
        lamp[order] = ratio
        ranked.append(lamp.reshape(score.shape))
    return ranked


def _gradients(model: nn.Module, targets: Sequence[Target], data: object, seed: int, spec: LossSpec) -> list[Tensor]:
    """Mean gradient of the loss over one pass of the data."""
    totals = [torch.zeros(target.parameter.shape, dtype=torch.float64, device="cpu") for target in targets]

    def add(gradients: Sequence[Tensor | None]) -> None:
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += gradient.detach().to("cpu", torch.float64)

    n_batches = each_gradient(model, [target.parameter for target in targets], data, seed, spec, add)
    check_gradients(totals, option("criterion", "gradient"))
    return [total / n_batches for total in totals]


# Masks


def lowest(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` lowest of `scores`; of equal scores, the first ones.

    Args:
        scores: Shape `(n,)`, on the CPU, without NaN.
        count: From 0 to n.

    Returns:
        A bool tensor of shape `(n,)` in which exactly `count` values are True.
    """
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    edge = float(np.partition(scores.numpy(), count - 1)[count - 1])
    marked = scores < edge
    ties = torch.nonzero(scores == edge).flatten()
    marked[ties[: count - int(marked.sum())]] = True
    return marked


def keep_masks(scores: Sequence[Tensor], amount: float, *, is_global: bool) -> list[Tensor]:
    """Return the masks of the weights to keep when the share `amount` of the weights is removed.

    Args:
        scores: One tensor of any shape for each layer, not negative; weights that are zero already have score 0.
        amount: From 0 to 1.
        is_global: Rank the weights of all layers together; otherwise remove the share from each layer.

    Returns:
        One bool tensor for each layer. Of all n weights (or of the n weights of each layer), `round(amount * n)` are
        removed, the lowest scores first. No layer loses its last weight unless `amount` is 1; fewer are removed then.
    """
    flat = [score.detach().flatten().to("cpu", torch.float64) for score in scores]
    if is_global:
        joined = _lowest_but_last(flat, amount)
        parts = list(torch.split(joined, [len(item) for item in flat]))
    else:
        parts = [_lowest_but_last([item], amount) for item in flat]
    return [(~removed).reshape(score.shape).to(score.device) for removed, score in zip(parts, scores, strict=True)]


def keep_masks_by_row(scores: Sequence[Tensor], amount: float) -> list[Tensor]:
    """Like `keep_masks`, but the share is removed from each row, the weights of one output; no row loses its last."""
    masks = []
    for score in scores:
        rows = score.detach().flatten(1).to("cpu", torch.float64)
        count = round(amount * rows.shape[1])
        if amount < 1:
            count = min(count, rows.shape[1] - 1)
        order = torch.argsort(rows, dim=1, stable=True)[:, :count]
        removed = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True)
        masks.append(~removed.reshape(score.shape).to(score.device))
    return masks


def keep_two_of_four(scores: Sequence[Tensor]) -> list[Tensor]:
    """Keep the two highest of every four consecutive scores of a row; of equal scores, the last ones.

    Args:
        scores: Tensors of shape `(out, ...)`; the length of a flattened row is a multiple of 4.
    """
    masks = []
    for score in scores:
        fours = score.detach().to("cpu", torch.float64).reshape(-1, 4)
        order = torch.argsort(fours, dim=1, stable=True)[:, :2]
        removed = torch.zeros_like(fours, dtype=torch.bool).scatter_(1, order, True)
        masks.append(~removed.reshape(score.shape).to(score.device))
    return masks


def _lowest_but_last(layers: list[Tensor], amount: float) -> Tensor:
    """Mark the lowest share of the joined scores; the best score of each layer is never marked unless `amount` is 1."""
    joined = torch.cat(layers)
    count = round(amount * len(joined))
    if amount < 1:
        start, n_kept = 0, 0
        for layer in layers:
            best = int(layer.argmax())
            if layer[best] > 0:
                joined[start + best] = torch.inf
                n_kept += 1
            start += len(layer)
        count = min(count, len(joined) - n_kept)
    return lowest(joined, count)


# Magnitudes of floats that have at most 32 bits rank like their bits, read as integers.
_HALF_BITS = 16


def keep_masks_by_magnitude(weights: Sequence[Tensor], amount: float, *, is_global: bool) -> list[Tensor]:
    """Return the masks of `keep_masks` for the magnitude of `weights`, layer after layer.

    Beside the masks, it needs memory for the largest layer only. The edge between removed and kept weights is found in
    two passes, which count the first and the second half of the bits of every weight.

    Args:
        weights: Finite, of at most 32 bits for each number.
        amount: See `keep_masks`.
        is_global: See `keep_masks`.
    """
    if not is_global:
        return [keep_masks_by_magnitude([weight], amount, is_global=True)[0] for weight in weights]
    n = sum(weight.numel() for weight in weights)
    count = round(amount * n)
    # The best weight of each layer stays, unless all go. In a layer of zeros, none is the best.
    best = [None if amount == 1 else _best(weight) for weight in weights]
    if amount < 1:
        count = min(count, n - sum(index is not None for index in best))
    if count <= 0:
        return [torch.ones_like(weight, dtype=torch.bool) for weight in weights]

    def bits_of(layer: int) -> Tensor:
        bits = weights[layer].detach().flatten().to("cpu", torch.float32).abs().view(torch.int32)
        if best[layer] is not None:
            bits[best[layer]] = torch.iinfo(torch.int32).max
        return bits

    layers = range(len(weights))
    totals = torch.zeros(1 << _HALF_BITS, dtype=torch.int64, device="cpu")
    for layer in layers:
        totals += torch.bincount(bits_of(layer) >> _HALF_BITS, minlength=len(totals))
    high = int(torch.searchsorted(totals.cumsum(0), count))
    n_below = int(totals[:high].sum())
    totals.zero_()
    for layer in layers:
        bits = bits_of(layer)
        low_bits = bits[(bits >> _HALF_BITS) == high] & ((1 << _HALF_BITS) - 1)
        totals += torch.bincount(low_bits, minlength=len(totals))
    low = int(torch.searchsorted(totals.cumsum(0), count - n_below))
    n_below += int(totals[:low].sum())
    edge, n_ties, masks = (high << _HALF_BITS) + low, count - n_below, []
    for layer in layers:
        bits = bits_of(layer)
        keep = bits >= edge
        ties = torch.nonzero(bits == edge).flatten()[:n_ties]
        n_ties -= len(ties)
        keep[ties] = False
        masks.append(keep.reshape(weights[layer].shape).to(weights[layer].device))
    return masks


def _best(weight: Tensor) -> int | None:
    magnitudes = weight.detach().flatten().to("cpu", torch.float32).abs()
    index = int(magnitudes.argmax())
    return index if magnitudes[index] > 0 else None


# Second-order pruning

# Share of the mean diagonal that is added to the diagonal, so that H is invertible if inputs depend on each other.
_DAMPING = 0.01
_BLOCK = 128
# Steps of conjugate gradients (a heuristic): after a few dozen steps the error hardly changes.
_N_CG_STEPS = 32


def prune_by_hessian(weight: Tensor, statistics: InputStatistics, count: int | None) -> Tensor:
    """Return `weight` with some weights set to zero and the others updated to compensate.

    Args:
        weight: Shape `(out, ...)`, finite.
        statistics: Statistics of the inputs of the flattened weight, with products.
        count: Number of weights that are zero afterwards; zeros count and stay zero. None keeps at most 2 of every 4 in
            a row.

    Returns:
        A tensor of the shape, dtype and device of `weight`.

    Raises:
        CompressionError: An updated weight overflows the dtype.
        TypeError: The statistics have no products.
    """
    if statistics.products is None:
        raise TypeError("pruning by Hessian needs the products of inputs")
    n = statistics.products.shape[-1]
    w = weight.detach().to(statistics.products.device, torch.float64).reshape(statistics.n_groups, -1, n)
    hessians = torch.stack([damped(product) for product in statistics.products])
    swept = _sweep(w, hessians, count)
    by_magnitude = torch.where(_magnitude_mask(w, count), w, 0.0)
    attempts = [_refined(w, hessians, start) for start in (swept, by_magnitude)]
    best = min(attempts, key=lambda attempt: float(_error(w, hessians, attempt)))
    values = best.reshape(weight.shape).to(weight.device, weight.dtype)
    if not bool(torch.isfinite(values).all()):
        raise CompressionError(
            f"{option('criterion', 'hessian')} gave weights beyond the range of their dtype: use float32 weights"
        )
    return values


def damped(products: Tensor) -> Tensor:
    """Add a share of the mean of the diagonal to the diagonal of a matrix of second moments."""
    mean = products.diagonal().mean()
    damping = _DAMPING * mean if mean > 0 else torch.ones_like(mean)
    return products + damping * torch.eye(len(products), dtype=products.dtype, device=products.device)


def _sweep(w: Tensor, hessians: Tensor, count: int | None) -> Tensor:
    """SparseGPT for each group of the layer."""
    factors = torch.stack([inverse_factor(hessian) for hessian in hessians])
    # By how much the error grows if one weight is removed and the others compensate: w^2 / [H^-1].
    saliency = w.square() / factors.square().sum(1)[:, None]
    counts = None if count is None else _counts_per_block(saliency, count)
    return torch.stack([_sweep_columns(w[k], factors[k], None if counts is None else counts[k]) for k in range(len(w))])


def inverse_factor(hessian: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the inverse of a positive definite matrix."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper


def _magnitude_mask(w: Tensor, count: int | None) -> Tensor:
    return keep_two_of_four([w.abs()])[0] if count is None else ~_lowest(w.abs(), count)


def _refined(w: Tensor, hessians: Tensor, start: Tensor) -> Tensor:
    """Lower the error of `start` by conjugate gradients over its nonzero weights, each row by itself."""
    solution, kept = start.clone(), start != 0
    diagonal = hessians.diagonal(dim1=1, dim2=2)[:, None]
    slope = ((w - solution) @ hessians) * kept
    direction = slope / diagonal
    power = (slope * direction).sum(2, keepdim=True)
    for _ in range(_N_CG_STEPS):
        change = (direction @ hessians) * kept
        curvature = (direction * change).sum(2, keepdim=True)
        step = torch.where(curvature > 0, power / curvature, 0.0)
        solution += step * direction
        slope -= step * change
        last, power = power, (slope.square() / diagonal).sum(2, keepdim=True)
        direction = slope / diagonal + torch.where(last > 0, power / last, 0.0) * direction
    return solution


def _error(w: Tensor, hessians: Tensor, pruned: Tensor) -> Tensor:
    """The squared error of the outputs."""
    return (((w - pruned) @ hessians) * (w - pruned)).sum()


def _counts_per_block(saliency: Tensor, count: int) -> list[list[int]]:
    """The number of weights to remove in each group and block of columns, when all are ranked together."""
    removed = _lowest(saliency, count) | (saliency == 0)  # weights that are zero have saliency 0
    return [[int(block.sum()) for block in index.split(_BLOCK, dim=1)] for index in removed]


def _sweep_columns(w: Tensor, upper: Tensor, counts: list[int] | None) -> Tensor:
    """Algorithm 1 of SparseGPT: remove `counts[b]` weights of block b, and update the columns to the right."""
    w = w.clone()
    were_zero = w == 0
    for number, start in enumerate(range(0, w.shape[1], _BLOCK)):
        end = min(start + _BLOCK, w.shape[1])
        block, factor = w[:, start:end].clone(), upper[start:end, start:end]
        errors = torch.zeros_like(block)
        zeros = were_zero[:, start:end]
        removed = zeros.clone() if counts is None else _lowest(_scores(block, factor, zeros), counts[number])
        for k in range(end - start):
            if counts is None and k % 4 == 0:
                fours = _scores(block[:, k : k + 4], factor[k : k + 4, k : k + 4], zeros[:, k : k + 4])
                removed[:, k : k + 4] |= _two_lowest(fours)
            kept = torch.where(removed[:, k], 0.0, block[:, k])
            errors[:, k] = (block[:, k] - kept) / factor[k, k]
            block[:, k + 1 :] -= errors[:, k : k + 1] * factor[k, k + 1 :]
            block[:, k] = kept
        w[:, start:end] = block
        w[:, end:] -= errors @ upper[start:end, end:]
    return w


def _scores(block: Tensor, factor: Tensor, zeros: Tensor) -> Tensor:
    """The error if a weight is removed now; 0 only for weights that were zero before, so that they come first."""
    tiny = torch.finfo(block.dtype).tiny
    return torch.where(zeros, 0.0, (block / factor.diagonal()).square().clamp(min=tiny))


def _lowest(scores: Tensor, count: int) -> Tensor:
    return lowest(scores.flatten().cpu(), count).reshape(scores.shape).to(scores.device)


def _two_lowest(scores: Tensor) -> Tensor:
    order = torch.argsort(scores, dim=1, stable=True)[:, :2]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)
