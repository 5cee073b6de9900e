"""Where the acquisition is largest, over mixed and conditional spaces.

1. Score a quasi-random set and the neighbours of the best known points in one batch.
2. Polish the best few along the continuous coordinates, discrete ones pinned.
3. Sweep single changes of discrete coordinates, and polish again, until nothing gains.

A discrete coordinate is never moved to a value in between and rounded. A small finite space is scored whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbcompress.optimize.acquisition import Acquisition
from nbcompress.optimize.batched_bfgs import minimise
from nbcompress.optimize.encoding import Axes, Embedding
from nbcompress.optimize.history import Array
from nbcompress.optimize.proposers.baselines import shifted_rows
from nbcompress.optimize.protocol import Unseen

MAX_WHOLE = 2048
N_ROUNDS = 6
# Neighbours move each coordinate by these shares of the axis, in turn; and about this many coordinates at a time.
NEIGHBOUR_WIDTHS = (0.2, 0.05, 0.01)
MOVED_AT_ONCE = 4.0
# Two of the points to polish differ by at least this in some coordinate.
APART = 0.05
# A climb begins with a step of this share of an axis, and ends where the acquisition (a logarithm) hardly changes.
FIRST_STEP, SLOPE_TOLERANCE, GAIN_TOLERANCE = 0.05, 1e-2, 3e-3
# A climb that would not be the best in so many steps more is given up. On eight problems (64 proposals) that saves a
# third of the calls, half of them on Hartmann 6, and costs at most .034 of the logarithm, but once 2.
PATIENCE = 5.0


@dataclass(frozen=True)
class Effort:
    """How hard to search; the numbers are heuristics.

    Attributes:
        n_spread: Points of the quasi-random set, a power of two.
        n_neighbours: Neighbours of each of the best known points.
        n_polished: Places that are climbed from.
        n_swept: The best of these climbs, whose discrete coordinates are changed.
        evaluations: Of one climb along the continuous coordinates; all starts climb at once.
    """

    n_spread: int = 1024
    n_neighbours: int = 64
    n_polished: int = 10
    n_swept: int = 3
    evaluations: int = 40


# For an acquisition that costs milliseconds a point (Monte-Carlo samples), not microseconds.
SPARING = Effort(n_spread=128, n_neighbours=16, n_polished=2, evaluations=15)


class CandidateSearch:
    """The search for one proposal."""

    def __init__(
        self, embedding: Embedding, acquisition: Acquisition, unseen: Unseen, rng: np.random.Generator, effort: Effort
    ) -> None:
        self.axes: Axes = embedding.axes
        self.embedding, self.acquisition, self.unseen, self.rng = embedding, acquisition, unseen, rng
        self.effort = effort

    def best(self, near: Array) -> tuple[Array, float]:
        """Return the full row of the unseen point with the largest acquisition found, and its value.

        Args:
            near: Shape `(b, d)`; full rows of the best known points.
        """
        n_points = self.axes.n_points
        if n_points is not None and n_points <= MAX_WHOLE:
            rows = self.unseen.keep(self.axes.all_rows())
            scores = self._score(rows)
            best = int(scores.argmax())
            return rows[best], float(scores[best])
        rows = np.vstack([shifted_rows(self.axes, self.rng, self.effort.n_spread), self._neighbours(near)])
        rows = self.unseen.keep(rows)
        if len(rows) == 0:
            rows = self.axes.rows([self.unseen.draw(self.rng)])
        scores = self._score(rows)
        chosen = self._apart(rows, scores)
        rows, scores = self._climb(rows[chosen], scores[chosen])
        best = int(scores.argmax())
        return rows[best], float(scores[best])

    def _score(self, rows: Array) -> Array:
        scores = self.acquisition.score(self.embedding.features(rows))
        # An acquisition of minus infinity is a point without hope; NaN must not win a comparison.
        return np.nan_to_num(scores, nan=-np.inf, posinf=np.inf, neginf=-np.inf)

    def _neighbours(self, near: Array) -> Array:
        """Return `n_neighbours` full rows around each of `near`, shape `(b, d)`."""
        around = np.repeat(near, self.effort.n_neighbours, axis=0)
        n, d = around.shape
        moved = self.rng.random((n, d)) < min(1.0, MOVED_AT_ONCE / d)
        moved[np.arange(n), self.rng.integers(d, size=n)] = True
        width = np.resize(NEIGHBOUR_WIDTHS, n)[:, None]
        rows = self.axes.snap(around + width * self.rng.standard_normal((n, d)))
        inactive = ~self.axes.is_active(around)
        # Any other value of an unordered choice is as near as the next; what a choice activates comes from anywhere.
        if inactive.any() or not self.axes.is_ordered.all():
            anywhere = self.axes.spread(self.rng.random((n, d)))
            rows = np.where(inactive | ~self.axes.is_ordered, anywhere, rows)
        return np.where(moved | inactive, rows, around)

    def _apart(self, rows: Array, scores: Array) -> list[int]:
        """Return the indices of the best few rows that are not all in one place, and of the best for each choice.

        Where other options lead, the acquisition may be higher than any row there shows.
        """
        order = np.argsort(-scores, kind="stable")
        chosen: list[int] = []
        for i in np.flatnonzero(~self.axes.is_ordered):
            _, first = np.unique(rows[order, i], return_index=True)
            chosen += order[first].tolist()
        chosen = list(dict.fromkeys(chosen))[: self.effort.n_polished]
        wanted = len(chosen) + self.effort.n_polished
        order = order[: 20 * self.effort.n_polished]
        distances = np.abs(rows[order][:, None] - rows[chosen]).max(2, initial=0.0).min(1, initial=np.inf)
        while len(chosen) < wanted and (distances > APART).any():
            chosen.append(int(order[(distances > APART).argmax()]))
            distances = np.minimum(distances, np.abs(rows[order] - rows[chosen[-1]]).max(1, initial=0.0))
        return chosen

    def _climb(self, rows: Array, scores: Array) -> tuple[Array, Array]:
        """Polish all starts; sweep and polish again the best of them, as long as that gains."""
        rows, scores = self._polish(rows, scores)
        best = np.argsort(-scores, kind="stable")[: self.effort.n_swept]
        rows, scores = rows[best], scores[best]
        on = np.arange(len(rows))
        for _ in range(N_ROUNDS):
            changed, better = self._sweep(rows[on], scores[on])
            gained = better > scores[on]
            if not gained.any():
                break
            on = on[gained]
            rows[on], scores[on] = self._polish(changed[gained], better[gained])
        return rows, scores

    def _polish(self, rows: Array, scores: Array) -> tuple[Array, Array]:
        """Climb along the active continuous coordinates; a start that leads to no better unseen point stays."""
        active = self.axes.is_active(rows)
        free = self.axes.is_continuous & active
        if not free.any():
            return rows, scores

        def loss(u: Array, on: NDArray[np.intp]) -> tuple[Array, Array]:
            value, gradient = self.acquisition.score_with_gradients(self.embedding.features(u, active[on]))
            by_rows = self.embedding.pull_back(u, active[on], gradient)
            return -value, -np.where(free[on], by_rows, 0.0)

        low, high = np.where(free, self.unseen.low, rows), np.where(free, self.unseen.high, rows)
        found, losses = minimise(
            loss, rows, low, high, evaluations=self.effort.evaluations, first_step=FIRST_STEP,
            gradient_tolerance=SLOPE_TOLERANCE, value_tolerance=GAIN_TOLERANCE, patience=PATIENCE,
        )  # fmt: skip
        better = (-losses > scores) & np.array([row in self.unseen for row in found])
        return np.where(better[:, None], found, rows), np.where(better, -losses, scores)

    def _sweep(self, rows: Array, scores: Array) -> tuple[Array, Array]:
        """Return for each row the best of all its changes of one active discrete coordinate, and its score."""
        changes: list[Array] = []
        owners: list[NDArray[np.intp]] = []
        for k, active in enumerate(self.axes.is_active(rows)):
            for i in np.flatnonzero(~self.axes.is_continuous & active):
                changes.append(self.axes.changes(rows[k], int(i)))
                owners.append(np.full(len(changes[-1]), k))
        if not changes:
            return rows, scores
        every, owner = np.vstack(changes), np.concatenate(owners)
        values = self._score(every)
        best_rows, best = rows.copy(), scores.copy()
        for k in range(len(rows)):
            own = np.flatnonzero(owner == k)
            for index in own[np.argsort(-values[own], kind="stable")]:
                if values[index] <= best[k]:
                    break
                if every[index] in self.unseen:
                    best_rows[k], best[k] = every[index], values[index]
                    break
        return best_rows, best
