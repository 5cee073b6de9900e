"""Codebooks: the few values that all weights of a tensor share, fitted by k-means on a line.

On a line, clusters are intervals of the sorted values. So the values are sorted once, with running sums beside them.
Then a step of Lloyd's algorithm costs `k` binary searches and `k` short sums, however many millions of weights there
are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

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


# Running sums are kept at the beginning of each block of so many values at most, so that they take little memory. Sums
# within a block are added up where they are asked for: about this many numbers for all centres together.
_BLOCK, _MOST_ADDED = 256, 1 << 20
# Numbers that are widened to double precision at a time.
_PART = 1 << 20


class _Line:
    """Sorted values and their running sums.

    Args:
        values: Ascending, of shape `(n,)`.
        k: About how many places are asked for at a time.

    Attributes:
        values: As given.
        middle: The mean. Sums are of differences from it, because large sums of squares would lose digits.
    """

    def __init__(self, values: NDArray[np.float32], k: int) -> None:
        self.values, self.middle = values, float(values.mean(dtype=np.float64))
        self._block = max(1, min(_BLOCK, _MOST_ADDED // k))
        n_blocks = -(-len(values) // self._block)
        self._total, self._square = np.zeros(n_blocks + 1), np.zeros(n_blocks + 1)
        step = max(_PART // self._block, 1)
        for first in range(0, n_blocks, step):
            part = values[first * self._block : (first + step) * self._block].astype(np.float64) - self.middle
            starts = np.arange(0, len(part), self._block)
            self._total[first + 1 : first + 1 + len(starts)] = np.add.reduceat(part, starts)
            self._square[first + 1 : first + 1 + len(starts)] = np.add.reduceat(part * part, starts)
        np.cumsum(self._total, out=self._total)
        np.cumsum(self._square, out=self._square)

    def first_from(self, places: Floats) -> NDArray[np.intp]:
        """For each place on the line, the index of the first value that is not below it."""
        narrow = places.astype(np.float32)
        # Rounded up: the same values are below it, and the line needs no wide copy to be compared with.
        narrow = np.where(narrow < places, np.nextafter(narrow, np.float32(np.inf)), narrow)
        return np.searchsorted(self.values, narrow)

    def means(self, edges: NDArray[np.intp]) -> Floats:
        """Mean of each interval between `edges`."""
        centres: Floats = np.diff(self._sums(edges)[0]) / np.diff(edges) + self.middle
        return centres

    def error(self, edges: NDArray[np.intp]) -> Floats:
        """Sum of squared distances to the mean in each interval between `edges`."""
        total, square = (np.diff(sums) for sums in self._sums(edges))
        return np.maximum(square - total * total / np.diff(edges), 0.0)

    def can_split(self, edges: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether an interval holds two different values."""
        different: NDArray[np.bool_] = self.values[edges[:-1]] != self.values[edges[1:] - 1]
        return different

    def _sums(self, edges: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Sums of the values, and of their squares, before each edge."""
        block = edges // self._block
        total, square = self._total[block], self._square[block]
        for start in range(0, len(edges), _PART // self._block):
            some = slice(start, start + _PART // self._block)
            places = block[some, None] * self._block + np.arange(self._block)
            is_before = places < edges[some, None]
            rest = self.values[np.minimum(places, len(self.values) - 1)].astype(np.float64) - self.middle
            rest[~is_before] = 0.0
            total[some] += rest.sum(axis=1)
            square[some] += (rest * rest).sum(axis=1)
        return total, square


def kmeans(values: NDArray[np.float32], k: int, start: Start = "best", seed: int = 0) -> Floats:
    """Cluster numbers by k-means.

    Beside a sorted copy of the values, it needs little memory.

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
    ascending = np.sort(values)
    is_first = np.append(True, ascending[1:] != ascending[:-1])
    if np.count_nonzero(is_first) <= k:
        distinct: Floats = ascending[is_first].astype(np.float64)
        return distinct
    del is_first
    line = _Line(ascending, k)
    starts = ("density", "linear") if start == "best" else (start,)
    results = [_lloyd(line, _first_edges(line, k, name, seed), k) for name in starts]
    return np.unique(line.means(min(results, key=lambda result: float(line.error(result).sum()))))


def _first_edges(line: _Line, k: int, start: str, seed: int) -> NDArray[np.intp]:
    values = line.values
    if start == "linear":
        return _edges_between(line, np.linspace(float(values[0]), float(values[-1]), k))
    if start == "density":
        ranks = (np.arange(k) + 0.5) / k * len(values)
    else:
        ranks = np.random.default_rng(seed).uniform(0, len(values), k)
    at = np.maximum(np.ceil(ranks).astype(np.intp) - 1, 0)
    return _edges_between(line, np.unique(values[at]).astype(np.float64))


def _edges_between(line: _Line, centres: Floats) -> NDArray[np.intp]:
    """Where the interval of the values nearest to each centre begins; empty intervals are dropped."""
    inner = line.first_from((centres[1:] + centres[:-1]) / 2)
    return np.unique(np.concatenate([[0], inner, [len(line.values)]])).astype(np.intp)


def _lloyd(line: _Line, edges: NDArray[np.intp], k: int) -> NDArray[np.intp]:
    """Lloyd's algorithm. Intervals that became empty are replaced by splitting those of largest error."""
    for _ in range(_MOST_STEPS):
        while len(edges) - 1 < k and line.can_split(edges).any():
            edges = _split_worst(line, edges, k)
        new = _edges_between(line, line.means(edges))
        if np.array_equal(new, edges):
            break
        edges = new
    return edges


def _split_worst(line: _Line, edges: NDArray[np.intp], k: int) -> NDArray[np.intp]:
    """Split the intervals of largest error at their means, each once at most, until there are `k`."""
    worst = np.argsort(-line.error(edges), kind="stable")
    worst = worst[line.can_split(edges)[worst]][: k + 1 - len(edges)]
    inside = line.first_from(line.means(edges)[worst])
    # Strictly inside, even if the mean is rounded onto an end: the equal values at either end stay together.
    first, last = line.values[edges[worst]], line.values[edges[worst + 1] - 1]
    low, high = np.searchsorted(line.values, first, side="right"), np.searchsorted(line.values, last)
    return np.unique(np.concatenate([edges, np.clip(inside, low, high)]))


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
    # Part by part, because numbers in double precision and their codes take four times the memory of the tensor.
    flat, nearest = tensor.detach().reshape(-1), torch.empty(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    for part, rounded in zip(torch.split(flat, _PART), torch.split(nearest, _PART), strict=True):
        rounded.copy_(values[torch.bucketize(part.double(), middles)])
        if is_pruned:
            rounded.masked_fill_(part == 0, 0.0)
    return nearest.reshape(tensor.shape)


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
