"""Maximize an acquisition function over mixed and conditional spaces.

1. Score a quasi-random set and the neighbors of the best known points in one batch.
2. Optimize the best few along the continuous coordinates, with the discrete ones fixed.
3. Try all single changes of discrete coordinates and optimize again, until nothing gains.

A discrete coordinate never takes a value in between that is rounded later. A small finite space is scored as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbcompress.optimize.acquisition import AcquisitionFunction
from nbcompress.optimize.batched_bfgs import batched_minimize
from nbcompress.optimize.candidates import UntriedPoints
from nbcompress.optimize.encoding import Embedding, SpaceEncoder
from nbcompress.optimize.history import Array
from nbcompress.optimize.proposers.baselines import shifted_rows

# Every point of a finite space with at most this many points is scored.
MAX_EXHAUSTIVE = 2048
MAX_SWEEPS = 6
# Neighbors differ by these shares of the axis, in turn, and in about this many coordinates at a time.
NEIGHBOR_WIDTHS = (0.2, 0.05, 0.01)
MOVED_COORDINATES = 4.0
# Starts differ by at least this in some coordinate.
MIN_DISTANCE = 0.05
# First step (as a share of an axis) and tolerances of the continuous optimization; the acquisition is a logarithm.
FIRST_STEP, GRADIENT_TOLERANCE, VALUE_TOLERANCE = 0.05, 1e-2, 3e-3
# `patience` of `batched_minimize`. Heuristic, see benchmarks.md#acquisition-optimizer.
PATIENCE = 5.0


@dataclass(frozen=True)
class AcquisitionOptimizerOptions:
    """How much to search. The defaults are heuristics.

    Attributes:
        n_quasi_random: Points of the quasi-random set; a power of two.
        n_neighbors: Neighbors of each of the best known points.
        n_starts: Starts of the continuous optimization.
        n_refined: How many of the best optimized starts also change their discrete coordinates.
        evaluations: The most acquisition calls of one continuous optimization; all starts share a call.
    """

    n_quasi_random: int = 1024
    n_neighbors: int = 64
    n_starts: int = 10
    n_refined: int = 3
    evaluations: int = 40


DEFAULT_OPTIONS = AcquisitionOptimizerOptions()
# For an acquisition function that costs milliseconds per point (Monte-Carlo samples) instead of microseconds.
SAMPLED_ACQUISITION_OPTIONS = AcquisitionOptimizerOptions(
    n_quasi_random=128, n_neighbors=16, n_starts=2, evaluations=15
)


def optimize_acquisition(
    embedding: Embedding,
    acquisition: AcquisitionFunction,
    untried: UntriedPoints,
    rng: np.random.Generator,
    best_known: Array,
    options: AcquisitionOptimizerOptions = DEFAULT_OPTIONS,
) -> tuple[Array, float]:
    """Return the untried point with the largest acquisition value found, as a full row, and that value.

    Args:
        embedding: From full rows to features.
        acquisition: What to maximize.
        untried: The points that may be returned.
        rng: For the quasi-random set and the neighbors.
        best_known: Shape `(b, d)`; full rows of the best known points.
        options: How much to search.
    """
    return _AcquisitionOptimizer(embedding, acquisition, untried, rng, options).best(best_known)


class _AcquisitionOptimizer:
    """One run of `optimize_acquisition`."""

    def __init__(
        self,
        embedding: Embedding,
        acquisition: AcquisitionFunction,
        untried: UntriedPoints,
        rng: np.random.Generator,
        options: AcquisitionOptimizerOptions,
    ) -> None:
        self.encoder: SpaceEncoder = embedding.encoder
        self.embedding, self.acquisition, self.untried, self.rng = embedding, acquisition, untried, rng
        self.options = options

    def best(self, best_known: Array) -> tuple[Array, float]:
        n_points = self.encoder.n_points
        if n_points is not None and n_points <= MAX_EXHAUSTIVE:
            rows = self.untried.keep(self.encoder.all_rows())
            scores = self._score(rows)
            best = int(scores.argmax())
            return rows[best], float(scores[best])
        quasi_random = shifted_rows(self.encoder, self.rng, self.options.n_quasi_random)
        rows = self.untried.keep(np.vstack([quasi_random, self._neighbors(best_known)]))
        if len(rows) == 0:
            rows = self.encoder.rows([self.untried.draw(self.rng)])
        scores = self._score(rows)
        starts = self._select_starts(rows, scores)
        rows, scores = self._local_search(rows[starts], scores[starts])
        best = int(scores.argmax())
        return rows[best], float(scores[best])

    def _score(self, rows: Array) -> Array:
        scores = self.acquisition.score(self.embedding.features(rows))
        # Minus infinity is a valid value (probability 0); NaN must not win a comparison.
        return np.nan_to_num(scores, nan=-np.inf, posinf=np.inf, neginf=-np.inf)

    def _neighbors(self, best_known: Array) -> Array:
        """Return `n_neighbors` full rows around each row of `best_known` `(b, d)`."""
        around = np.repeat(best_known, self.options.n_neighbors, axis=0)
        n, d = around.shape
        moved = self.rng.random((n, d)) < min(1.0, MOVED_COORDINATES / d)
        moved[np.arange(n), self.rng.integers(d, size=n)] = True
        width = np.resize(NEIGHBOR_WIDTHS, n)[:, None]
        rows = self.encoder.snap(around + width * self.rng.standard_normal((n, d)))
        inactive = ~self.encoder.is_active(around)
        # All options of an unordered choice are equally near, and a parameter that becomes active may have any value.
        if inactive.any() or not self.encoder.is_ordered.all():
            anywhere = self.encoder.from_cube(self.rng.random((n, d)))
            rows = np.where(inactive | ~self.encoder.is_ordered, anywhere, rows)
        return np.where(moved | inactive, rows, around)

    def _select_starts(self, rows: Array, scores: Array) -> list[int]:
        """Return the indices of the best rows that differ enough, after the best row of every option of each choice.

        The acquisition near a row with another option may be higher than the row itself shows.
        """
        order = np.argsort(-scores, kind="stable")
        chosen: list[int] = []
        for i in np.flatnonzero(~self.encoder.is_ordered):
            _, first = np.unique(rows[order, i], return_index=True)
            chosen += order[first].tolist()
        chosen = list(dict.fromkeys(chosen))[: self.options.n_starts]
        wanted = len(chosen) + self.options.n_starts
        order = order[: 20 * self.options.n_starts]
        distances = np.abs(rows[order][:, None] - rows[chosen]).max(2, initial=0.0).min(1, initial=np.inf)
        while len(chosen) < wanted and (distances > MIN_DISTANCE).any():
            chosen.append(int(order[(distances > MIN_DISTANCE).argmax()]))
            distances = np.minimum(distances, np.abs(rows[order] - rows[chosen[-1]]).max(1, initial=0.0))
        return chosen

    def _local_search(self, rows: Array, scores: Array) -> tuple[Array, Array]:
        """Optimize all starts, then the best of them with changed discrete coordinates, as long as that gains."""
        rows, scores = self._optimize_continuous(rows, scores)
        best = np.argsort(-scores, kind="stable")[: self.options.n_refined]
        rows, scores = rows[best], scores[best]
        index = np.arange(len(rows))
        for _ in range(MAX_SWEEPS):
            changed, better = self._sweep_discrete(rows[index], scores[index])
            gained = better > scores[index]
            if not gained.any():
                break
            index = index[gained]
            rows[index], scores[index] = self._optimize_continuous(changed[gained], better[gained])
        return rows, scores

    def _optimize_continuous(self, rows: Array, scores: Array) -> tuple[Array, Array]:
        """Optimize the active continuous coordinates; a start that leads to no better untried point stays."""
        active = self.encoder.is_active(rows)
        free = self.encoder.is_continuous & active
        if not free.any():
            return rows, scores

        def loss(u: Array, start: NDArray[np.intp]) -> tuple[Array, Array]:
            value, gradient = self.acquisition.score_with_gradients(self.embedding.features(u, active[start]))
            by_rows = self.embedding.pull_back(u, active[start], gradient)
            return -value, -np.where(free[start], by_rows, 0.0)

        low, high = np.where(free, self.untried.low, rows), np.where(free, self.untried.high, rows)
        optimized, losses = batched_minimize(
            loss,
            rows,
            low,
            high,
            evaluations=self.options.evaluations,
            first_step=FIRST_STEP,
            gradient_tolerance=GRADIENT_TOLERANCE,
            value_tolerance=VALUE_TOLERANCE,
            patience=PATIENCE,
        )
        better = (-losses > scores) & np.array([row in self.untried for row in optimized])
        return np.where(better[:, None], optimized, rows), np.where(better, -losses, scores)

    def _sweep_discrete(self, rows: Array, scores: Array) -> tuple[Array, Array]:
        """Return for each row its best untried change of one active discrete coordinate, and the score."""
        changes: list[Array] = []
        owners: list[NDArray[np.intp]] = []
        for k, active in enumerate(self.encoder.is_active(rows)):
            for i in np.flatnonzero(~self.encoder.is_continuous & active):
                changes.append(self.encoder.single_changes(rows[k], int(i)))
                owners.append(np.full(len(changes[-1]), k))
        if not changes:
            return rows, scores
        every, owner = np.vstack(changes), np.concatenate(owners)
        values = self._score(every)
        best_rows, best = rows.copy(), scores.copy()
        for k in range(len(rows)):
            of_row = np.flatnonzero(owner == k)
            for index in of_row[np.argsort(-values[of_row], kind="stable")]:
                if values[index] <= best[k]:
                    break
                if every[index] in self.untried:
                    best_rows[k], best[k] = every[index], values[index]
                    break
        return best_rows, best
