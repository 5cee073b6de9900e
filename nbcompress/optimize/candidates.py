"""Which points may be proposed: the ones not tried yet, within the ranges that the user asked for.

The ranges are stored in the note of the next proposal and hold until the user asks for others. So a resumed search
continues within the same ranges, and its proposals still depend only on seed, trial number and history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from nbcompress.errors import PointError, SpaceExhausted
from nbcompress.optimize.encoding import KEY_DECIMALS, SpaceEncoder
from nbcompress.optimize.history import Array, History, Proposal, n_shared
from nbcompress.space import Choice, Point, Space, Value

# After this many random draws of known points, the remaining points of a finite space are listed.
MAX_RANDOM_DRAWS = 64
# The key of the ranges in a proposal's note.
NOTE = "narrowed"
# Tolerance in unit coordinates: a value on the edge of a range is inside, also after rounding.
ROUNDING = 1e-9

Ranges = Mapping[str, Sequence[Value]]
"""By parameter: the lowest and the highest value of a number, or the remaining options of a choice."""


class UntriedPoints:
    """The points of a space that a history does not hold.

    Attributes:
        low, high: Shape `(d,)`; the box of the unit cube that holds them.

    Raises:
        SpaceExhausted: The history holds every point of a finite space.
    """

    def __init__(self, encoder: SpaceEncoder, history: History) -> None:
        self.encoder = encoder
        self.low, self.high = np.zeros(encoder.d), np.ones(encoder.d)
        self._known_rows = encoder.rows(history.points)
        self._known_keys = encoder.known_points(history.points, self._known_rows)
        n_points = encoder.n_points
        if n_points is not None and len(self._known_keys) >= n_points:
            raise SpaceExhausted(
                f"All {n_points} points of the space were tried. Widen a parameter, or add one, to go on."
            )

    def __contains__(self, row: Array) -> bool:
        return self.encoder.keys(row[None])[0] not in self._known_keys

    def keep(self, rows: Array) -> Array:
        """Return the rows, in their order, that the history does not hold."""
        suspects = np.arange(len(rows))
        always = np.flatnonzero(self.encoder.is_continuous & ~self.encoder.is_conditional)
        if len(always) > 0:
            # Nearly every row differs from all known rows in this coordinate already; keys cost more.
            i = always[0]
            known = self._known_rows[:, i].round(KEY_DECIMALS)
            suspects = np.flatnonzero(np.isin(rows[:, i].round(KEY_DECIMALS), known))
        kept = np.ones(len(rows), dtype=bool)
        kept[suspects] = [key not in self._known_keys for key in self.encoder.keys(rows[suspects])]
        return rows[kept]

    def draw(self, rng: np.random.Generator) -> Point:
        """Return a random point that the history does not hold."""
        is_finite = self.encoder.n_points is not None
        for attempt in count():
            if is_finite and attempt == MAX_RANDOM_DRAWS:
                break
            row = self.encoder.from_cube(rng.random((1, self.encoder.d)))[0]
            if row in self:
                return self.encoder.point(row)
        rest = list(self.encoder.untried_points(self._known_keys))
        return rest[int(rng.integers(len(rest)))]


class UntriedPointsWithin(UntriedPoints):
    """The points within ranges that a history does not hold. Rows from elsewhere are moved inside the ranges."""

    def __init__(self, encoder: SpaceEncoder, history: History, ranges: Ranges) -> None:
        super().__init__(encoder, history)
        self._ranges = ranges
        self._units: dict[int, Array] = {
            encoder.names.index(name): np.array(sorted(encoder.space[name].to_unit(value) for value in values))
            for name, values in ranges.items()
        }
        for i, units in self._units.items():
            self.low[i], self.high[i] = units[0], units[-1]

    def inside(self, rows: Array) -> Array:
        """Return the rows with every coordinate moved to the nearest value within its range."""
        moved = rows.copy()
        for i, units in self._units.items():
            if isinstance(self.encoder.space[self.encoder.names[i]], Choice):
                # Every remaining option gets the same share of the axis.
                index = np.minimum((rows[:, i] * len(units)).astype(int), len(units) - 1)
                is_remaining = (np.abs(rows[:, i][:, None] - units) < ROUNDING).any(1)
                moved[:, i] = np.where(is_remaining, rows[:, i], units[index])
            else:
                moved[:, i] = rows[:, i].clip(units[0], units[-1])
        return self.encoder.snap(moved)

    def __contains__(self, row: Array) -> bool:
        return bool(np.allclose(self.inside(row[None])[0], row, rtol=0.0, atol=ROUNDING)) and super().__contains__(row)

    def keep(self, rows: Array) -> Array:
        """Return the rows, moved inside the ranges, that the history does not hold.

        Raises:
            SpaceExhausted: No row is left.
        """
        kept = super().keep(self.inside(rows))
        if len(kept) == 0:
            raise SpaceExhausted(f"Every point within {ranges_text(self._ranges, self.encoder.space)} was tried.")
        return kept

    def draw(self, rng: np.random.Generator) -> Point:
        """Return a random point within the ranges that the history does not hold.

        Raises:
            SpaceExhausted: All draws were known points.
        """
        rows = self.keep(self.encoder.from_cube(rng.random((MAX_RANDOM_DRAWS, self.encoder.d))))
        return self.encoder.point(rows[0])


class Narrowing:
    """The ranges that a search is narrowed to. Its methods may be called from any thread."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._requested: dict[str, list[Value]] | None = None
        # The notes that were read last, the latest ranges among them, and whether any were not empty.
        self._latest: tuple[tuple[Mapping[str, Any], ...], dict[str, list[Value]], bool] = ((), {}, False)

    def narrow_to(self, ranges: Ranges) -> None:
        """Search within these ranges from the next proposal on; empty ranges search the whole space again.

        Raises:
            PointError: A value is not valid for its parameter, or a lowest value is above the highest.
        """
        self._requested = {name: _checked(self._space, name, values) for name, values in ranges.items()}

    @property
    def requested(self) -> dict[str, list[Value]] | None:
        """The ranges that were requested in this process; None if there was no request."""
        return self._requested

    def current(self, history: History) -> dict[str, list[Value]]:
        """Return the ranges of the next proposal: the requested ones, or else the latest in the history's notes."""
        if self._requested is not None:
            return self._requested
        return self._read(history)[0]

    def _read(self, history: History) -> tuple[dict[str, list[Value]], bool]:
        """Return the latest ranges in the history's notes, and whether the search was ever narrowed."""
        known, ranges, was_narrowed = self._latest
        n = n_shared(known, history.notes)
        if n < len(known):
            n, ranges, was_narrowed = 0, {}, False
        for note in history.notes[n:]:
            if NOTE in note:
                ranges = dict(note[NOTE])
                was_narrowed = was_narrowed or bool(ranges)
        self._latest = history.notes, ranges, was_narrowed
        return dict(ranges), was_narrowed

    def proposal(
        self, encoder: SpaceEncoder, history: History, propose: Callable[[UntriedPoints], Proposal]
    ) -> Proposal:
        """Return a proposal within the current ranges, which are stored in its note and named in its reason.

        If every point within the ranges was tried, the whole space is searched again instead of ending the search.

        Args:
            encoder: Of the space.
            history: All points so far.
            propose: Returns a proposal among the points that it is given.
        """
        ranges = self.current(history)
        reason = ""
        if ranges:
            where = ranges_text(ranges, self._space)
            try:
                found = propose(UntriedPointsWithin(encoder, history, ranges))
                return replace(found, note={**found.note, NOTE: ranges}, reason=f"{found.reason}; within {where}")
            except SpaceExhausted:
                self.narrow_to({})
                reason = f"; every point within {where} was tried"
        found = propose(UntriedPoints(encoder, history))
        note = {**found.note, NOTE: {}} if self._read(history)[1] else found.note
        return replace(found, note=note, reason=f"{found.reason}{reason}")


def _checked(space: Space, name: str, values: Sequence[Value]) -> list[Value]:
    if name not in space:
        raise PointError(f"There is no parameter {name!r} to narrow.")
    parameter = space[name]
    canonical = [parameter.check(value) for value in values]
    if isinstance(parameter, Choice):
        if not canonical:
            raise PointError(f"At least one option of {name!r} must remain.")
        return canonical
    if len(canonical) != 2 or canonical[0] > canonical[1]:  # type: ignore[operator]
        raise PointError(f"The range of {name!r} is a lowest and a highest value, but got {list(values)!r}.")
    return canonical


def ranges_text(ranges: Ranges, space: Space) -> str:
    """Return the ranges as text: `x from 0.2 to 0.4, kind plain or deep`."""
    parts = []
    for name, values in ranges.items():
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        is_range = not isinstance(space[name], Choice) and shown[0] != shown[-1]
        parts.append(
            f"{name} from {shown[0]} to {shown[-1]}" if is_range else f"{name} {' or '.join(dict.fromkeys(shown))}"
        )
    return ", ".join(parts)
