"""Codebooks: the few values that all weights of a tensor share, fitted by k-means on a line.

On a line, clusters are intervals of the sorted values. So the values are sorted once, with running sums beside them.
Then a step of Lloyd's algorithm costs `k` binary searches, however many millions of weights there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nbcompress.compressors.codes import codes_of
from nbcompress.compressors.constraints import round_to_half
from nbcompress.compressors.grids import GridSpec, fit_grid, round_to_grid
from nbcompress.compressors.record import Codebook, TensorRecord
from nbcompress.errors import CompressionError

Floats = NDArray[np.float64]
Start = Literal["best", "density", "linear", "random"]

STARTS: tuple[Start, ...] = ("best", "density", "linear", "random")
# Lloyd's algorithm mostly stops far earlier, when no interval changes. After so many steps, centres hardly move.
_MOST_STEPS = 300


@dataclass(frozen=True)
class _Line:
    """Sorted distinct values and their running sums.

    Attributes:
        values: Ascending, of shape `(n,)`.
        count: How many values come before each, of shape `(n + 1,)`.
        total: The sum of those values, of the same shape.
        square: The sum of their squares, of the same shape.
    """

    values: Floats
    count: Floats
    total: Floats
    square: Floats

    def error(self, edges: NDArray[np.intp]) -> Floats:
        """Sum of squared distances to the mean in each interval between `edges`."""
        count, total, square = (np.diff(sums[edges]) for sums in (self.count, self.total, self.square))
        mean = total / np.maximum(count, 1)
        return np.maximum(square - total * mean, 0.0)


def kmeans(values: NDArray[np.float32], k: int, start: Start = "best", seed: int = 0) -> Floats:
    """Cluster numbers by k-means.

    Args:
        values: Finite numbers of shape `(n,)`, at least one.
        k: The largest number of centres, at least 1.
        start: Where the centres start: at quantiles (`density`), evenly over the range (`linear`), drawn from the
            values (`random`), or whichever of the first two ends with the smaller error (`best`).
        seed: For `random`.

    Returns:
        Ascending distinct centres, float64, at most `k` of them: a local minimum of the sum of squared distances, in
        which each centre is the mean of the values nearest to it. If there are at most `k` distinct values, exactly
        those are returned.

    References:
        Han, Mao and Dally (2016), "Deep Compression", section 3.1 (density, linear and random starts).
    """
    # Sorted in float32, which takes half of the memory and gives the same order.
    narrow, counts = np.unique(values, return_counts=True)
    distinct = narrow.astype(np.float64)
    del narrow
    if len(distinct) <= k:
        return distinct
    # Centred, because differences of large running sums of squares would lose digits.
    middle = float(np.average(distinct, weights=counts))
    distinct -= middle
    line = _line(distinct, counts)
    del distinct, counts
    starts = ("density", "linear") if start == "best" else (start,)
    results = [_lloyd(line, _first_edges(line, k, name, seed), k) for name in starts]
    edges = min(results, key=lambda result: float(line.error(result).sum()))
    centres = np.diff(line.total[edges]) / np.diff(line.count[edges])
    return np.unique(centres + middle)


def _line(values: Floats, counts: NDArray[np.intp]) -> _Line:
    return _Line(values, _running(counts), _running(counts * values), _running(counts * values**2))


def _running(column: NDArray[Any]) -> Floats:
    """Running sums, from 0."""
    sums = np.zeros(len(column) + 1)
    np.cumsum(column, out=sums[1:])
    return sums


def _first_edges(line: _Line, k: int, start: str, seed: int) -> NDArray[np.intp]:
    values = line.values
    if start == "linear":
        centres = np.linspace(values[0], values[-1], k)
    elif start == "density":
        ranks = (np.arange(k) + 0.5) / k * line.count[-1]
        centres = np.unique(values[np.searchsorted(line.count[1:], ranks)])
    else:
        ranks = np.random.default_rng(seed).uniform(0, line.count[-1], k)
        centres = np.unique(values[np.searchsorted(line.count[1:], ranks)])
    return _edges_between(line, centres)


def _edges_between(line: _Line, centres: Floats) -> NDArray[np.intp]:
    """Where the interval of the values nearest to each centre begins; empty intervals are dropped."""
    inner = np.searchsorted(line.values, (centres[1:] + centres[:-1]) / 2)
    return np.unique(np.concatenate([[0], inner, [len(line.values)]])).astype(np.intp)


def _lloyd(line: _Line, edges: NDArray[np.intp], k: int) -> NDArray[np.intp]:
    """Lloyd's algorithm. Intervals that became empty are replaced by splitting those of largest error."""
    for _ in range(_MOST_STEPS):
        if len(edges) - 1 < k:
            edges = _split_worst(line, edges, k)
        centres = np.diff(line.total[edges]) / np.diff(line.count[edges])
        new = _edges_between(line, centres)
        if np.array_equal(new, edges):
            break
        edges = new
    return edges


def _split_worst(line: _Line, edges: NDArray[np.intp], k: int) -> NDArray[np.intp]:
    """Split the intervals of largest error at their means until there are `k`, or none can be split."""
    worst = np.argsort(-line.error(edges), kind="stable")
    can_split = np.diff(edges)[worst] > 1
    worst = worst[can_split][: k + 1 - len(edges)]
    means = (np.diff(line.total[edges]) / np.diff(line.count[edges]))[worst]
    # Strictly inside, even if the mean is rounded onto an end. `can_split` guarantees that there is such an edge.
    inside = np.clip(np.searchsorted(line.values, means), edges[worst] + 1, edges[worst + 1] - 1)
    return np.unique(np.concatenate([edges, inside]))


def fit_codebook(
    tensor: Tensor, k: int, is_pruned: bool, *, is_half: bool = False, start: Start = "best", seed: int = 0
) -> Codebook:
    """Fit a codebook to `tensor`.

    Args:
        tensor: Finite values of any shape, at least one.
        k: The largest number of values.
        is_pruned: Zeros of the tensor stay zeros: zero is one of the values, and there is at least one other.
        is_half: Round the values to half precision.
        start: See `kmeans`.
        seed: See `kmeans`.
    """
    values = tensor.detach().to("cpu", torch.float32).flatten().numpy()
    if is_pruned and not values.all():
        nonzero = values[values != 0]
        centres = kmeans(nonzero, max(k - 1, 1), start, seed) if len(nonzero) else np.empty(0)
        centres = np.append(centres, 0.0)
    else:
        centres = kmeans(values, k, start, seed)
    shared = torch.from_numpy(centres).to(torch.float32)
    if is_half:
        half = round_to_half(shared)
        shared = shared if half is None else half
    # A tensor of few bits may not be able to hold two near values apart.
    return Codebook(torch.unique(shared.to(tensor.dtype).to(torch.float32)))


def round_to_codebook(tensor: Tensor, codebook: Codebook, is_pruned: bool) -> Tensor:
    """Replace every value of `tensor` by the nearest one of `codebook`.

    In a pruned tensor zeros stay, and no other weight becomes zero.
    """
    values = codebook.values.to(tensor.device)
    if is_pruned and bool((values != 0).any()):
        values = values[values != 0]
    middles = (values[1:].double() + values[:-1].double()) / 2
    codes = torch.bucketize(tensor.detach().double(), middles)
    nearest = values[codes].to(tensor.dtype)
    return torch.where(tensor == 0, tensor, nearest) if is_pruned else nearest


def quantize_codebook(tensor: Tensor, record: TensorRecord, spec: GridSpec) -> tuple[Codebook, Tensor]:
    """Round the shared values of a clustered tensor to a grid of one group.

    Args:
        tensor: Values in the codebook of `record`.
        record: The constraint of the tensor, with a codebook.
        spec: Bits and symmetry of the grid; its group is ignored.

    Returns:
        The new codebook, in which values that became equal are one, and the tensor's new values.

    Raises:
        CompressionError: There is no codebook, or a value is not in it.
    """
    if record.codebook is None:
        raise CompressionError("a tensor without a codebook has no shared values to quantize")
    codes = codes_of(tensor, record).long()
    values = record.codebook.values
    grid = fit_grid(tensor, replace(spec, group="tensor"), is_pruned=record.is_pruned)
    on_grid = round_to_grid(values.to(tensor.dtype), grid, is_pruned=record.is_pruned)
    return Codebook(torch.unique(on_grid.to(torch.float32)), grid), on_grid.to(tensor.device)[codes]
