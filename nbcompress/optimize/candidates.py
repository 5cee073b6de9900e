"""Where the acquisition is largest, over mixed and conditional spaces.

1. Score a quasi-random set and the neighbours of the best known points in one batch.
2. Polish the best few along the continuous coordinates, discrete ones pinned.
3. Sweep single changes of discrete coordinates, and polish again, until nothing gains.

A discrete coordinate is never moved to a value in between and rounded. A small finite space is scored whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from nbcompress.optimize.acquisition import Acquisition
from nbcompress.optimize.axes import Axes
from nbcompress.optimize.embedding import Embedding
from nbcompress.optimize.history import Array
from nbcompress.optimize.proposers.sobol import sobol_rows
from nbcompress.optimize.protocol import Unseen

MAX_WHOLE = 2048
N_ROUNDS = 3
# Neighbours move each coordinate by these shares of the axis, in turn; and about this many coordinates at a time.
NEIGHBOUR_WIDTHS = (0.2, 0.05, 0.01)
MOVED_AT_ONCE = 4.0
# Two of the points to polish differ by at least this in some coordinate.
APART = 0.05


@dataclass(frozen=True)
class Effort:
    """How hard to search; the numbers are heuristics.

    Attributes:
        n_spread: Points of the quasi-random set, a power of two.
        n_neighbours: Neighbours of each of the best known points.
        n_polished: Places that are climbed from.
        iterations: Of one climb along the continuous coordinates.
    """

    n_spread: int = 1024
    n_neighbours: int = 64
    n_polished: int = 5
    iterations: int = 40


# For an acquisition that costs milliseconds a point (Monte-Carlo samples), not microseconds.
SPARING = Effort(n_spread=128, n_neighbours=16, n_polished=2, iterations=15)


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
        rows = np.vstack(
            [sobol_rows(self.axes, self.rng, self.effort.n_spread), *[self._neighbours(row) for row in near]]
        )
        rows = self.unseen.keep(rows)
        if len(rows) == 0:
            rows = self.axes.rows([self.unseen.draw(self.rng)])
        scores = self._score(rows)
        found = [self._climb(rows[i], float(scores[i])) for i in self._apart(rows, scores)]
        return max(found, key=lambda one: one[1])

    def _score(self, rows: Array) -> Array:
        scores = self.acquisition.score(self.embedding.features(rows))
        # An acquisition of minus infinity is a point without hope; NaN must not win a comparison.
        return np.nan_to_num(scores, nan=-np.inf, posinf=np.inf, neginf=-np.inf)

    def _neighbours(self, row: Array) -> Array:
        n = self.effort.n_neighbours
        shape = (n, self.axes.d)
        moved = self.rng.random(shape) < min(1.0, MOVED_AT_ONCE / self.axes.d)
        moved[np.arange(n), self.rng.integers(self.axes.d, size=n)] = True
        width = np.resize(NEIGHBOUR_WIDTHS, n)[:, None]
        near = self.axes.snap(row + width * self.rng.standard_normal(shape))
        # Any other value of an unordered choice is as near as the next; what a choice activates comes from anywhere.
        anywhere = self.axes.spread(self.rng.random(shape))
        anywhere_only = ~self.axes.is_ordered | ~self.axes.is_active(row[None])[0]
        return np.where(moved | ~self.axes.is_active(row[None]), np.where(anywhere_only, anywhere, near), row)

    def _apart(self, rows: Array, scores: Array) -> list[int]:
        """Return the indices of the best few rows that are not all in one place."""
        chosen: list[int] = []
        for i in np.argsort(-scores, kind="stable")[: 20 * self.effort.n_polished].tolist():
            if all(np.abs(rows[i] - rows[j]).max(initial=0.0) > APART for j in chosen):
                chosen.append(i)
            if len(chosen) == self.effort.n_polished:
                break
        return chosen

    def _climb(self, row: Array, score: float) -> tuple[Array, float]:
        for _ in range(N_ROUNDS):
            row, score = self._polish(row, score)
            changed, better = self._sweep(row, score)
            if better <= score:
                return row, score
            row, score = changed, better
        return self._polish(row, score)

    def _polish(self, row: Array, score: float) -> tuple[Array, float]:
        """Climb along the active continuous coordinates; return the start if that leads to no better unseen point."""
        active = self.axes.is_active(row[None])[0]
        free = np.flatnonzero(self.axes.is_continuous & active)
        if len(free) == 0 or not np.isfinite(score):
            return row, score

        def loss(u: Array) -> tuple[float, Array]:
            full = row.copy()
            full[free] = u
            feature = self.embedding.features(full[None], active[None])[0]
            value, gradient = self.acquisition.score_with_gradient(feature)
            return -value, -self.embedding.pull_back(full, active, gradient)[free]

        found = minimize(
            loss, row[free], jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * len(free),
            options={"maxiter": self.effort.iterations},
        )  # fmt: skip
        better = row.copy()
        better[free] = np.clip(found.x, 0.0, 1.0)
        if np.isfinite(found.fun) and -found.fun > score and better in self.unseen:
            return better, -float(found.fun)
        return row, score

    def _sweep(self, row: Array, score: float) -> tuple[Array, float]:
        """Try every single change of every active discrete coordinate, one coordinate after the other."""
        for i in np.flatnonzero(~self.axes.is_continuous):
            if not self.axes.is_active(row[None])[0, i]:
                continue
            rows = self.unseen.keep(self.axes.changes(row, int(i)))
            if len(rows) == 0:
                continue
            scores = self._score(rows)
            best = int(scores.argmax())
            if scores[best] > score:
                row, score = rows[best], float(scores[best])
        return row, score
