"""Which weights go: exact counts, ties broken by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def lowest(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` lowest of `scores`; among equal ones, those that come first.

    Args:
        scores: One axis, no NaN, at least `count` long, on the CPU.
        count: From 0.

    Returns:
        bool of the shape of `scores` with exactly `count` times True.
    """
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    edge = float(np.partition(scores.numpy(), count - 1)[count - 1])
    marked = scores < edge
    ties = torch.nonzero(scores == edge).flatten()
    marked[ties[: count - int(marked.sum())]] = True
    return marked


def keep_masks(scores: Sequence[Tensor], amount: float, *, is_global: bool) -> list[Tensor]:
    """What stays when the share `amount` of all weights goes.

    Args:
        scores: One tensor of any shape for each layer, not negative; 0 stands for weights that are zero already.
        amount: From 0 to 1.
        is_global: One ranking for all layers; otherwise the share goes from each.

    Returns:
        One bool tensor for each layer. In all (or in each layer) `round(amount * n)` weights go, the lowest scores
        first. No layer loses its last weight unless `amount` is 1, even if fewer go for that.
    """
    flat = [one.detach().flatten().to("cpu", torch.float64) for one in scores]
    if is_global:
        joined = _lowest_but_last(flat, amount)
        parts = list(torch.split(joined, [len(one) for one in flat]))
    else:
        parts = [_lowest_but_last([one], amount) for one in flat]
    return [(~gone).reshape(one.shape).to(one.device) for gone, one in zip(parts, scores, strict=True)]


def keep_masks_by_row(scores: Sequence[Tensor], amount: float) -> list[Tensor]:
    """As `keep_masks`, where the share goes from each row, the weights of one output, and each row keeps its last."""
    found = []
    for one in scores:
        rows = one.detach().flatten(1).to("cpu", torch.float64)
        count = round(amount * rows.shape[1])
        if amount < 1:
            count = min(count, rows.shape[1] - 1)
        order = torch.argsort(rows, dim=1, stable=True)[:, :count]
        gone = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True)
        found.append(~gone.reshape(one.shape).to(one.device))
    return found


def keep_two_of_four(scores: Sequence[Tensor]) -> list[Tensor]:
    """The two highest of every four consecutive scores in a row stay; of equal ones, those that come last.

    Args:
        scores: Tensors of shape `(out, ...)` whose rows, flattened, divide by 4.
    """
    found = []
    for one in scores:
        fours = one.detach().to("cpu", torch.float64).reshape(-1, 4)
        order = torch.argsort(fours, dim=1, stable=True)[:, :2]
        gone = torch.zeros_like(fours, dtype=torch.bool).scatter_(1, order, True)
        found.append(~gone.reshape(one.shape).to(one.device))
    return found


def _lowest_but_last(layers: list[Tensor], amount: float) -> Tensor:
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


__all__ = ["keep_masks", "keep_masks_by_row", "keep_two_of_four", "lowest"]
