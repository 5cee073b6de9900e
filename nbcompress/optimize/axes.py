"""A space as numbers: whole batches of points as rows of the unit cube.

A *full row* has a number in every column, also for inactive parameters, where it means nothing. So a search can switch
a choice and find a value ready for what becomes active. `is_active` says which columns count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nbcompress.optimize.history import Array
from nbcompress.space import Point, Space, Value

Flags = NDArray[np.bool_]

# A discrete parameter with more values than this is not listed but rounded: the list would cost more than it helps.
MAX_LEVELS = 1000
# Two points are the same when they differ by less than this in every coordinate (in decimals).
KEY_DECIMALS = 10
# Of an axis; it also stands in the column of an inactive parameter of a known point.
MIDDLE = 0.5


class Axes:
    """The numeric side of a space with `d` parameters."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.names: tuple[str, ...] = tuple(space.names)
        parameters = [space[name] for name in self.names]
        self.is_continuous: Flags = np.array([one.is_continuous for one in parameters], dtype=bool)
        self.is_ordered: Flags = np.array([one.is_ordered for one in parameters], dtype=bool)
        self.is_conditional: Flags = np.array([bool(space.parents(name)) for name in self.names], dtype=bool)
        self.n_points: int | None = space.n_points
        self.n_values = [one.n_values for one in parameters]
        self.levels: list[Array | None] = [
            np.array(sorted(one.to_unit(value) for value in one.values()))
            if one.n_values is not None and one.n_values <= MAX_LEVELS
            else None
            for one in parameters
        ]
        self._parents = [i for i, name in enumerate(self.names) if any(name in space.parents(n) for n in self.names)]
        self._active: dict[tuple[float, ...], Flags] = {}
        self._rows: dict[tuple[tuple[str, Value], ...], Array] = {}

    @property
    def d(self) -> int:
        return len(self.names)

    def is_active(self, rows: Array) -> Flags:
        """Say which parameters are active in full rows of shape `(n, d)`; same shape."""
        flags = np.ones(rows.shape, dtype=bool)
        if not self._parents:
            return flags
        choices = rows[:, self._parents].round(KEY_DECIMALS)
        for choice in {tuple(one) for one in choices.tolist()}:
            chosen = (choices == choice).all(1)
            if choice not in self._active:
                point = self.space.decode(rows[chosen.argmax()])
                self._active[choice] = np.array([name in point for name in self.names], dtype=bool)
            flags[chosen] = self._active[choice]
        return flags

    def spread(self, cube: Array) -> Array:
        """Turn points of the unit cube, shape `(n, d)`, into full rows so that all values of a parameter are as likely.

        Every value owns the part of the axis that is nearer to it than to any other; the axis is stretched by half a
        gap at both ends, since rounding alone would give the first and the last value only half their share.
        """
        rows = cube.copy()
        for i, levels in enumerate(self.levels):
            if levels is not None and len(levels) > 1:
                low, high = (levels[1] - levels[0]) / 2, (levels[-1] - levels[-2]) / 2
                rows[:, i] = cube[:, i] * (1 + low + high) - low
        return self.snap(rows)

    def middle(self) -> Array:
        """Return the full row in the middle of every range; of an unordered choice it takes the first option."""
        return np.asarray(self.snap(np.where(self.is_ordered, MIDDLE, 0.0)[None])[0])

    def snap(self, rows: Array) -> Array:
        """Move every discrete coordinate of full rows to its nearest value."""
        rows = rows.clip(0.0, 1.0)
        for i, levels in enumerate(self.levels):
            if levels is not None:
                if len(levels) == 1:
                    rows[:, i] = levels[0]
                else:
                    rows[:, i] = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, rows[:, i])]
            elif not self.is_continuous[i]:
                parameter = self.space[self.names[i]]
                rows[:, i] = [parameter.to_unit(parameter.from_unit(u)) for u in rows[:, i].tolist()]
        return rows

    def rows(self, points: Sequence[Point]) -> Array:
        """Return the full rows of points, shape `(n, d)`; inactive columns hold the middle."""
        # Every proposal meets the whole history again. Equal values of one parameter are the same value (a choice
        # refuses options that Python holds equal), so points can be looked up by their items.
        items = [tuple(point.items()) for point in points]
        new = {item: point for item, point in zip(items, points, strict=True) if item not in self._rows}
        if new:
            encoded = np.asarray(self.space.encode(new.values()), dtype=np.float64)
            rows = self.snap(np.where(np.isnan(encoded), MIDDLE, encoded))
            self._rows.update(zip(new, rows, strict=True))
        return np.array([self._rows[item] for item in items]).reshape(len(items), self.d)

    def keys(self, rows: Array) -> list[bytes]:
        """Return one key per full row; equal keys are the same point (inactive columns do not count)."""
        marked = np.where(self.is_active(rows), rows.round(KEY_DECIMALS) + 0.0, -1.0)
        return [row.tobytes() for row in marked]

    def point(self, row: Array) -> Point:
        """Return the point of one full row."""
        return self.space.decode(row)

    def changes(self, row: Array, i: int) -> Array:
        """Return full rows that differ from `row` in the discrete coordinate `i` alone, shape `(k, d)`."""
        levels = self.levels[i]
        if levels is None:
            # Too many values to list: steps of all sizes, both ways, and an even sweep.
            steps = 2.0 ** -np.arange(1, 30)
            levels = np.concatenate([row[i] - steps, row[i] + steps, np.linspace(0, 1, 65)])
            levels = levels[(levels >= 0) & (levels <= 1)]
        rows = np.repeat(row[None], len(levels), axis=0)
        rows[:, i] = levels
        rows = self.snap(rows) if self.levels[i] is None else rows
        return np.asarray(rows[rows[:, i] != row[i]])

    def all_rows(self) -> Array:
        """Return the full rows of every point of a finite space."""
        return self.rows(list(self.space.points()))

    def unseen_points(self, seen: set[bytes]) -> Iterator[Point]:
        """Walk through the points of a finite space that are not in `seen`, in the order of the space."""
        for point in self.space.points():
            if self.keys(self.rows([point]))[0] not in seen:
                yield point
