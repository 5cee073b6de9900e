"""What every sampler is: a pure function from what was tried to the next point."""

from __future__ import annotations

from itertools import count
from typing import Protocol, runtime_checkable

import numpy as np

from nbcompress.errors import SpaceExhausted
from nbcompress.optimize.encoding import KEY_DECIMALS, Axes
from nbcompress.optimize.history import Array, History, Proposal
from nbcompress.space import Point

# How often a sampler may hit known points before the rest of a finite space is listed.
MAX_TRIES = 64


@runtime_checkable
class Proposer(Protocol):
    """Answers what to try next.

    An implementation keeps no state between calls that changes an answer: equal seeds, numbers and histories (with
    their notes) give equal points. It never proposes a point of the history again.
    """

    def propose(self, number: int, history: History) -> Proposal:
        """Return the point for trial `number`.

        Raises:
            SpaceExhausted: Every point of a finite space is in the history.
        """
        ...


class Unseen:
    """The points of a space that a history does not hold.

    Attributes:
        low, high: Shape `(d,)`; the box of the unit cube that they lie in.
    """

    def __init__(self, axes: Axes, history: History) -> None:
        self.axes = axes
        self.low, self.high = np.zeros(axes.d), np.ones(axes.d)
        self.known = axes.rows(history.points)
        self._seen = set(axes.keys(self.known))
        n_points = axes.n_points
        if n_points is not None and len(self._seen) >= n_points:
            raise SpaceExhausted(
                f"All {n_points} points of the space were tried. Widen a parameter, or add one, to go on."
            )

    def __contains__(self, row: Array) -> bool:
        return self.axes.keys(row[None])[0] not in self._seen

    def keep(self, rows: Array) -> Array:
        """Return the rows, in order, that the history does not hold."""
        suspects = np.arange(len(rows))
        always = np.flatnonzero(self.axes.is_continuous & ~self.axes.is_conditional)
        if len(always) > 0:
            # Nearly every row differs from all known ones here already; keys cost more.
            i = always[0]
            suspects = np.flatnonzero(np.isin(rows[:, i].round(KEY_DECIMALS), self.known[:, i].round(KEY_DECIMALS)))
        kept = np.ones(len(rows), dtype=bool)
        kept[suspects] = [key not in self._seen for key in self.axes.keys(rows[suspects])]
        return rows[kept]

    def draw(self, rng: np.random.Generator) -> Point:
        """Return a random point that the history does not hold."""
        is_finite = self.axes.n_points is not None
        for attempt in count():
            if is_finite and attempt == MAX_TRIES:
                break
            row = self.axes.spread(rng.random((1, self.axes.d)))[0]
            if row in self:
                return self.axes.point(row)
        rest = list(self.axes.unseen_points(self._seen))
        return rest[int(rng.integers(len(rest)))]


def generator(seed: int, number: int, purpose: int = 0) -> np.random.Generator:
    """Return the random generator of one proposal; other purposes are independent streams."""
    return np.random.default_rng([abs(seed), int(seed < 0), number, purpose])
