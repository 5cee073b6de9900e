"""Which points a surrogate learns from when there are many.

The cost of a Gaussian process grows with the cube of its points. So of more than `MAX_POINTS` points it learns from the
best ones, near which it searches, and from a share of all others, which says where nothing is to be found. The choice
depends on the history alone, so a resumed search makes the same proposals. Heuristic, see benchmarks.md#many-trials.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from nbcompress.optimize.history import Array, History

# With up to so many ended points a surrogate learns from all of them.
MAX_POINTS = 800
# The part of them that are the best ones.
BEST_SHARE = 0.5
# The others are taken evenly from the order of trials: the golden ratio leaves no period.
_STRIDE = 0.5 * (5**0.5 - 1)


def learned_from(history: History) -> NDArray[np.bool_]:
    """Return for each point whether surrogates learn from it, shape `(n,)`; pending points are always among them."""
    chosen = history.has_status("pending")
    ended = np.flatnonzero(~chosen)
    if len(ended) <= MAX_POINTS:
        return np.ones(len(history), dtype=bool)
    order = ended[np.argsort(_badness(history)[ended], kind="stable")]
    n_best = int(BEST_SHARE * MAX_POINTS)
    chosen[order[:n_best]] = True
    others = np.sort(order[n_best:])
    # A point keeps its place when others come, so the choice changes little from trial to trial.
    place = (others * _STRIDE) % 1.0
    chosen[others[np.argsort(place, kind="stable")[: MAX_POINTS - n_best]]] = True
    return chosen


def _badness(history: History) -> Array:
    """Return a number for each point; smaller is better. Shape `(n,)`.

    Feasible points come first, by their ranks in the objectives; with several objectives a point counts by the
    weighting of ranks that favours it most. Then points that violate constraints, by how much; failed ones are last.
    """
    n, m = history.losses.shape
    badness = np.full(n, np.inf)
    feasible = history.is_feasible
    if feasible.any():
        ranks = rankdata(history.losses[feasible], axis=0) / n
        by_weight = [np.max(ranks * weights, axis=1) for weights in _weights(m)]
        badness[feasible] = np.min([rankdata(scores) for scores in by_weight], axis=0)
    told = history.has_status("told") & ~feasible
    if told.any() and history.slacks.shape[1] > 0:
        slacks = np.nan_to_num(history.slacks[told], nan=0.0).clip(0.0)
        largest = slacks.max(0)
        badness[told] = n + rankdata((slacks / np.where(largest > 0, largest, 1.0)).sum(1))
    return badness


def _weights(m: int) -> Array:
    """Return weightings of `m` objectives, one per row: each alone, and mixtures of all."""
    if m == 1:
        return np.ones((1, 1))
    steps = np.linspace(0.0, 1.0, 5)
    grid = np.stack(np.meshgrid(*[steps] * m), axis=-1).reshape(-1, m)
    return np.asarray(grid[np.isclose(grid.sum(1), 1.0)] + 1e-3)
