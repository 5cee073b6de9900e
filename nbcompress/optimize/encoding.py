"""A space as numbers: whole batches of points as rows of the unit cube.

A *full row* has a number in every column, also for inactive parameters, where it means nothing. So a search can switch
a choice and find a value ready for what becomes active. `is_active` says which columns count.

Points as vectors whose distances the kernel reads.

Every parameter becomes a few Euclidean coordinates, its *features*; all of them share that parameter's lengthscale.
A kernel of Euclidean distance is positive semi-definite on any vectors, so it is on every space, mixed or conditional:

    parameter                     features                                        distance of two active values
    number, ordered choice        u                                               |u - u'|
    unordered choice              one-hot / sqrt(2)                               0 or 1 (Hamming)
    conditional number            (sin, cos)(angle u) / angle, inactive (0, 0)    2 sin(angle |u - u'| / 2) / angle
    conditional unordered choice  one-hot / sqrt(2), inactive 0                   0 or 1

So a value that is not active in both points says nothing: the distance between active and inactive is the same for
every value (1 / angle for a number, 1 / sqrt(2) for a choice), and between inactive and inactive it is 0.

References:
    Swersky, Duvenaud, Snoek, Hutter, Osborne (2014), "Raiders of the Lost Architecture: Kernels for Bayesian
    Optimization in Conditional Parameter Spaces" (the arc).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nbcompress.optimize.history import Array
from nbcompress.space import Point, Space, Value

# The part of a circle that a conditional number runs along. At a quarter circle the chord is within 10 % of the arc,
# so lengthscales mean the same as for plain numbers. A heuristic.
ANGLE = np.pi / 2


class Embedding:
    """Turns full rows into features.

    Attributes:
        owner: Shape `(D,)`; the parameter that each feature belongs to.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        owner: list[int] = []
        columns: list[slice] = []
        for i in range(axes.d):
            n_values = axes.n_values[i]
            width = (n_values or 0) if not axes.is_ordered[i] else 2 if axes.is_conditional[i] else 1
            columns.append(slice(len(owner), len(owner) + width))
            owner += [i] * width
        self.owner: NDArray[np.intp] = np.array(owner, dtype=np.intp)
        self._columns = columns
        self._lines = [i for i in range(axes.d) if axes.is_ordered[i] and not axes.is_conditional[i]]
        self._arcs = [i for i in range(axes.d) if axes.is_ordered[i] and axes.is_conditional[i]]
        self._choices = [i for i in range(axes.d) if not axes.is_ordered[i]]
        self._line_columns = [columns[i].start for i in self._lines]
        self._is_plain = len(self._lines) == axes.d  # then features are the rows

    @property
    def n_features(self) -> int:
        return len(self.owner)

    def features(self, rows: Array, active: Flags | None = None) -> Array:
        """Return the features of full rows of shape `(n, d)`: shape `(n, D)`."""
        if self._is_plain:
            return rows
        active = self.axes.is_active(rows) if active is None else active
        features = np.zeros((len(rows), self.n_features))
        features[:, self._line_columns] = rows[:, self._lines]
        for i in self._arcs:
            angle = ANGLE * rows[:, i]
            features[:, self._columns[i]] = np.stack([np.sin(angle), np.cos(angle)], 1) / ANGLE * active[:, [i]]
        for i in self._choices:
            k = self._columns[i].stop - self._columns[i].start
            chosen = np.rint(rows[:, i] * max(k - 1, 1)).astype(np.intp)
            features[np.arange(len(rows)), self._columns[i].start + chosen] = np.where(active[:, i], np.sqrt(0.5), 0.0)
        return features

    def pull_back(self, rows: Array, active: Flags, gradients: Array) -> Array:
        """Turn gradients by features, shape `(n, D)`, into ones by the coordinates of full rows, shape `(n, d)`.

        Unordered choices and inactive parameters get 0: there is no direction to go.
        """
        if self._is_plain:
            return gradients
        by_rows = np.zeros_like(rows)
        by_rows[:, self._lines] = gradients[:, self._line_columns]
        for i in self._arcs:
            angle = ANGLE * rows[:, i]
            by_sin, by_cos = gradients[:, self._columns[i]].T
            by_rows[:, i] = np.where(active[:, i], by_sin * np.cos(angle) - by_cos * np.sin(angle), 0.0)
        return by_rows


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
        self.is_continuous: Flags = np.array([parameter.is_continuous for parameter in parameters], dtype=bool)
        self.is_ordered: Flags = np.array([parameter.is_ordered for parameter in parameters], dtype=bool)
        self.is_conditional: Flags = np.array([bool(space.parents(name)) for name in self.names], dtype=bool)
        self.n_points: int | None = space.n_points
        self.n_values = [parameter.n_values for parameter in parameters]
        self.levels: list[Array | None] = [
            np.array(sorted(parameter.to_unit(value) for value in parameter.values()))
            if parameter.n_values is not None and parameter.n_values <= MAX_LEVELS
            else None
            for parameter in parameters
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
        for choice in {tuple(index) for index in choices.tolist()}:
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
