"""Optimal brain surgery on one layer: what stays makes up for what goes.

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

import torch
from torch import Tensor

from nbcompress.compress.prune.counting import keep_two_of_four, lowest
from nbcompress.compress.prune.input_scores import InputStatistics
from nbcompress.errors import CompressionError

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
    hessians = torch.stack([_damped(one) for one in statistics.products])
    found = _by_surgery(w, hessians, count)
    plain = torch.where(_kept_by_magnitude(w, count), w, 0.0)
    attempts = [_improved(w, hessians, one) for one in (found, plain)]
    best = min(attempts, key=lambda one: float(_error(w, hessians, one)))
    values = best.reshape(weight.shape).to(weight.device, weight.dtype)
    if not bool(torch.isfinite(values).all()):
        raise CompressionError("criterion='hessian' gave weights beyond the range of their dtype: use float32 weights")
    return values


def _damped(products: Tensor) -> Tensor:
    mean = products.diagonal().mean()
    damping = _DAMPING * mean if mean > 0 else torch.ones_like(mean)
    return products + damping * torch.eye(len(products), dtype=products.dtype, device=products.device)


def _by_surgery(w: Tensor, hessians: Tensor, count: int | None) -> Tensor:
    factors = torch.stack([_factor(one) for one in hessians])
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
    return [[int(block.sum()) for block in one.split(_BLOCK, dim=1)] for one in gone]


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


__all__ = ["surgeon_pruned"]
