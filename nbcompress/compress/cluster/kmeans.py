"""k-means on a line: the shared values of one tensor.

On a line, clusters are intervals of the sorted values. So the values are sorted once, with running sums beside them;
then a step of Lloyd's algorithm costs `k` binary searches, however many millions of weights there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Start = Literal["best", "density", "linear", "random"]

STARTS: tuple[Start, ...] = ("best", "density", "linear", "random")
# Lloyd's algorithm stops when no interval changes, mostly far earlier; what is left after so many steps is slow drift.
_N_STEPS = 300


@dataclass(frozen=True)
class _Line:
    """Sorted distinct values, with running sums of count, value and square before each: length `n + 1`."""

    values: Floats
    count: Floats
    total: Floats
    square: Floats

    def error(self, edges: NDArray[np.intp]) -> Floats:
        """Sum of squared distances to the mean in each interval between `edges`."""
        count, total, square = (np.diff(one[edges]) for one in (self.count, self.total, self.square))
        mean = total / np.maximum(count, 1)
        return np.maximum(square - total * mean, 0.0)


def kmeans(values: NDArray[np.float32], k: int, start: Start = "best", seed: int = 0) -> Floats:
    """At most `k` values such that the squared distance of each of `values` to the nearest one is small.

    Args:
        values: Any number of finite values, at least one.
        k: At least 1.
        start: Where the centres begin: at quantiles (`density`), evenly over the range (`linear`), drawn from the
            values themselves (`random`), or whichever of the first two ends with the smaller error (`best`).
        seed: For `random`.

    Returns:
        Ascending distinct centres, float64. If there are no more than `k` distinct values, exactly those. A
        local minimum: each centre is the mean of the values nearest to it (up to 300 steps).

    References:
        Han, Mao and Dally (2016), "Deep Compression", section 3.1 (density, linear and random starts).
    """
    distinct, counts = np.unique(values.astype(np.float64), return_counts=True)
    if len(distinct) <= k:
        return distinct
    # Centred, so that the difference of running sums of squares keeps its digits.
    middle = float(np.average(distinct, weights=counts))
    line = _line(distinct - middle, counts)
    names = ("density", "linear") if start == "best" else (start,)
    found = [_lloyd(line, _first_edges(line, k, name, seed), k) for name in names]
    edges = min(found, key=lambda one: float(line.error(one).sum()))
    centres = np.diff(line.total[edges]) / np.diff(line.count[edges])
    return np.unique(centres + middle)


def _line(values: Floats, counts: NDArray[np.intp]) -> _Line:
    sums = [np.concatenate([[0.0], np.cumsum(one)]) for one in (counts, counts * values, counts * values**2)]
    return _Line(values, *sums)


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
    """Where the intervals of the values nearest to each centre begin; empty ones are dropped."""
    inner = np.searchsorted(line.values, (centres[1:] + centres[:-1]) / 2)
    return np.unique(np.concatenate([[0], inner, [len(line.values)]])).astype(np.intp)


def _lloyd(line: _Line, edges: NDArray[np.intp], k: int) -> NDArray[np.intp]:
    """Alternate between means and nearest means; intervals that emptied are made again by splitting the worst."""
    for _ in range(_N_STEPS):
        if len(edges) - 1 < k:
            edges = _split_worst(line, edges, k)
        centres = np.diff(line.total[edges]) / np.diff(line.count[edges])
        new = _edges_between(line, centres)
        if np.array_equal(new, edges):
            break
        edges = new
    return edges


def _split_worst(line: _Line, edges: NDArray[np.intp], k: int) -> NDArray[np.intp]:
    """Split the intervals of largest error at their means, as many as are missing and can be split."""
    worst = np.argsort(-line.error(edges), kind="stable")
    can_split = np.diff(edges)[worst] > 1
    worst = worst[can_split][: k + 1 - len(edges)]
    means = (np.diff(line.total[edges]) / np.diff(line.count[edges]))[worst]
    # Strictly inside by the count above, whatever the rounding of the mean says.
    inside = np.clip(np.searchsorted(line.values, means), edges[worst] + 1, edges[worst + 1] - 1)
    return np.unique(np.concatenate([edges, inside]))


__all__ = ["STARTS", "Start", "kmeans"]
