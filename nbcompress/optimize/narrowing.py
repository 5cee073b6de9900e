"""A part of the space that a person wants searched from now on: ranges that are narrowed, parameters that are pinned.

What was asked for is kept in the note of the next proposal, and holds until something else is asked for. So a search
that is resumed goes on within the same limits, and its proposals are again a function of seed, number and history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from nbcompress.errors import PointError, SpaceExhausted
from nbcompress.optimize.encoding import Axes
from nbcompress.optimize.history import Array, History, Proposal
from nbcompress.optimize.protocol import MAX_TRIES, Unseen
from nbcompress.space import Choice, Point, Space, Value

# The key in a proposal's note.
NOTE = "narrowed"
# A value on the edge of a range is inside, whatever the unit interval rounds to.
ROUNDING = 1e-9

Limits = Mapping[str, Sequence[Value]]
"""By parameter: lowest and highest value of a number, or the options of a choice that are left."""


class Narrowing:
    """What a person has asked for; from any thread."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._asked: dict[str, list[Value]] | None = None

    def ask(self, limits: Limits) -> None:
        """Search within these limits from the next proposal on; none of them searches the whole space again.

        Raises:
            PointError: A limit is none of its parameter's values, or a range is upside down.
        """
        self._asked = {name: _checked(self._space, name, values) for name, values in limits.items()}

    @property
    def asked(self) -> dict[str, list[Value]] | None:
        """What was asked for in this process; None if nothing was."""
        return self._asked

    def now(self, history: History) -> dict[str, list[Value]]:
        """Return the limits of the next proposal: those asked for, else those of the latest one in the history."""
        if self._asked is not None:
            return self._asked
        return next((dict(note[NOTE]) for note in reversed(history.notes) if NOTE in note), {})

    def proposal(self, axes: Axes, history: History, propose: Callable[[Unseen], Proposal]) -> Proposal:
        """Return what `propose` makes of the points that may be proposed now, with the limits in its note and reason.

        Where every point within the limits was tried, they are given up: the rest of the space is better than the
        end of the search.
        """
        limits = self.now(history)
        reason = ""
        if limits:
            where = described(limits, self._space)
            try:
                found = propose(UnseenWithin(axes, history, limits))
                return replace(found, note={**found.note, NOTE: limits}, reason=f"{found.reason}; within {where}")
            except SpaceExhausted:
                self.ask({})
                reason = f"; every point within {where} was tried"
        found = propose(Unseen(axes, history))
        was_narrowed = any(note.get(NOTE) for note in history.notes)
        note = {**found.note, NOTE: {}} if was_narrowed else found.note
        return replace(found, note=note, reason=f"{found.reason}{reason}")


def _checked(space: Space, name: str, values: Sequence[Value]) -> list[Value]:
    if name not in space:
        raise PointError(f"There is no parameter {name!r} to narrow.")
    parameter = space[name]
    canonical = [parameter.check(value) for value in values]
    if isinstance(parameter, Choice):
        if not canonical:
            raise PointError(f"{name!r} keeps at least one option.")
        return canonical
    if len(canonical) != 2 or canonical[0] > canonical[1]:  # type: ignore[operator]
        raise PointError(f"The range of {name!r} is a lowest and a highest value, but got {list(values)!r}.")
    return canonical


def described(limits: Limits, space: Space) -> str:
    """Return the limits in words: `x from 0.2 to 0.4, kind plain or deep`."""
    parts = []
    for name, values in limits.items():
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        is_range = not isinstance(space[name], Choice) and shown[0] != shown[-1]
        parts.append(
            f"{name} from {shown[0]} to {shown[-1]}" if is_range else f"{name} {' or '.join(dict.fromkeys(shown))}"
        )
    return ", ".join(parts)


class UnseenWithin(Unseen):
    """The points within limits that a history does not hold; candidates from elsewhere are moved inside."""

    def __init__(self, axes: Axes, history: History, limits: Limits) -> None:
        super().__init__(axes, history)
        self._limits = limits
        self._units: dict[int, Array] = {
            axes.names.index(name): np.array(sorted(axes.space[name].to_unit(value) for value in values))
            for name, values in limits.items()
        }
        for i, units in self._units.items():
            self.low[i], self.high[i] = units[0], units[-1]

    def inside(self, rows: Array) -> Array:
        """Return the rows with every coordinate moved to the nearest value within its limits."""
        moved = rows.copy()
        for i, units in self._units.items():
            if isinstance(self.axes.space[self.axes.names[i]], Choice):
                # Every option that is left has the same share of the axis.
                place = np.minimum((rows[:, i] * len(units)).astype(int), len(units) - 1)
                is_left = (np.abs(rows[:, i][:, None] - units) < ROUNDING).any(1)
                moved[:, i] = np.where(is_left, rows[:, i], units[place])
            else:
                moved[:, i] = rows[:, i].clip(units[0], units[-1])
        return self.axes.snap(moved)

    def __contains__(self, row: Array) -> bool:
        return bool(np.allclose(self.inside(row[None])[0], row, rtol=0.0, atol=ROUNDING)) and super().__contains__(row)

    def keep(self, rows: Array) -> Array:
        """Return the rows, moved inside, each once and in order, that the history does not hold.

        Raises:
            SpaceExhausted: There is none.
        """
        kept = super().keep(self.inside(rows))
        if len(kept) == 0:
            raise SpaceExhausted(f"Every point within {described(self._limits, self.axes.space)} was tried.")
        return kept

    def draw(self, rng: np.random.Generator) -> Point:
        rows = self.keep(self.axes.spread(rng.random((MAX_TRIES, self.axes.d))))
        return self.axes.point(rows[0])
