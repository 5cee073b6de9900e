"""Encode a space as numbers: points as rows of the unit cube, and rows as feature vectors for a kernel.

A *full row* has a number in every column. The column of an inactive parameter has no meaning; `is_active` says which
columns count. So a search can change a choice and finds a value for every parameter that becomes active.

`Embedding` maps every parameter to a few Euclidean coordinates, its *features*, which share one lengthscale. A kernel
of Euclidean distance is positive semi-definite on any vectors, so it is valid on every space, mixed or conditional:

    parameter                     features                                        distance of two active values
    number, ordered choice        u                                               |u - u'|
    unordered choice              one-hot / sqrt(2)                               0 or 1 (Hamming)
    conditional number            (sin, cos)(angle u) / angle, inactive (0, 0)    2 sin(angle |u - u'| / 2) / angle
    conditional unordered choice  one-hot / sqrt(2), inactive 0                   0 or 1

A choice of very many options has a fixed random code of signs for each option instead of one-hot, so features do not
grow with the options: two different options are at a distance of nearly 1, and an inactive one at 1 / sqrt(2).

A value that is active in only one of two points carries no information: the distance between active and inactive is
the same for every value (1 / angle for a number, 1 / sqrt(2) for a choice), and 0 between inactive and inactive.

References:
    Swersky, Duvenaud, Snoek, Hutter, Osborne (2014), "Raiders of the Lost Architecture: Kernels for Bayesian
    Optimization in Conditional Parameter Spaces" (the arc).
"""

from __future__ import annotations

import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbcompress.optimize.history import Array, n_shared
from nbcompress.space import Point, Space, Value

Flags = NDArray[np.bool_]

# Guards what encoders keep of the latest history. Not one lock each, since proposers can be pickled and copied.
_known_lock = threading.Lock()

# A discrete parameter with more values than this is rounded by arithmetic; a list of its values would cost more.
MAX_LEVELS = 1000
# An unordered choice with more options has codes of this many signs instead of one-hot features. Squared distances of
# codes are 1 within 0.09 (one standard deviation). Heuristic.
MAX_ONE_HOT, CODE_LENGTH = 1000, 128
# Two points are equal if they agree to this many decimals in every coordinate.
KEY_DECIMALS = 10
# The middle of an axis; also the value in the columns of the inactive parameters of a known point.
CENTER = 0.5
# The part of a circle that a conditional number is mapped to. On a quarter circle the chord is within 10 % of the arc,
# so lengthscales mean the same as for plain numbers. Heuristic.
ARC_ANGLE = np.pi / 2


@dataclass(frozen=True, eq=False)
class KnownPoints:
    """The keys of the first points of a sequence; a longer sequence shares the dict.

    Attributes:
        first: The index of the first point of each key.
        n: The number of points.
        n_distinct: The number of different keys among them.
    """

    first: Mapping[bytes, int]
    n: int
    n_distinct: int

    def __contains__(self, key: object) -> bool:
        return self.first.get(key, self.n) < self.n  # type: ignore[call-overload,no-any-return]

    def __len__(self) -> int:
        return self.n_distinct


class SpaceEncoder:
    """Encodes the points of a space with `d` parameters as full rows, and decodes them.

    Attributes:
        names: The parameters, in the order of the columns.
        is_continuous, is_ordered, is_conditional: Shape `(d,)`; the kind of each parameter.
        n_points: The number of points of a finite space, or None.
        n_values: The number of values of each parameter; None for a continuous one.
        levels: The sorted unit values of each discrete parameter; None if it is continuous or has too many.
    """

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
        self._latest_rows: tuple[tuple[Point, ...], Array] = ((), np.empty((0, self.d)))
        self._latest_known: tuple[tuple[Point, ...], dict[bytes, int], list[int]] = ((), {}, [])

    @property
    def d(self) -> int:
        return len(self.names)

    def is_active(self, rows: Array) -> Flags:
        """Return which parameters are active in full rows `(n, d)`; same shape."""
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

    def from_cube(self, cube: Array) -> Array:
        """Turn uniform points of the unit cube, shape `(n, d)`, into full rows where all values are equally likely.

        Each coordinate is rounded to the nearest value. The axis is first stretched by half a gap at both ends;
        otherwise the first and the last value would get only half their share.
        """
        rows = cube.copy()
        for i, levels in enumerate(self.levels):
            if levels is not None and len(levels) > 1:
                low, high = (levels[1] - levels[0]) / 2, (levels[-1] - levels[-2]) / 2
                rows[:, i] = cube[:, i] * (1 + low + high) - low
        return self.snap(rows)

    def center(self) -> Array:
        """Return the full row in the middle of every range, with the first option of every unordered choice."""
        return np.asarray(self.snap(np.where(self.is_ordered, CENTER, 0.0)[None])[0])

    def snap(self, rows: Array) -> Array:
        """Return full rows with every discrete coordinate moved to its nearest value."""
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
        """Return points as full rows, shape `(n, d)`; inactive columns hold the middle."""
        # Every proposal encodes the whole history again, so its rows are kept for the next one.
        known, known_rows = self._latest_rows
        n = n_shared(known, points)
        rows = np.concatenate([known_rows[:n], self._encoded(points[n:])])
        if len(points) >= len(known):
            self._latest_rows = tuple(points), rows.copy()
        return rows

    def _encoded(self, points: Sequence[Point]) -> Array:
        # Points are also known by their items. That is safe: a choice refuses options that compare equal in Python.
        items = [tuple(point.items()) for point in points]
        new = {item: point for item, point in zip(items, points, strict=True) if item not in self._rows}
        if new:
            encoded = np.asarray(self.space.encode(new.values()), dtype=np.float64)
            rows = self.snap(np.where(np.isnan(encoded), CENTER, encoded))
            self._rows.update(zip(new, rows, strict=True))
        return np.array([self._rows[item] for item in items]).reshape(len(items), self.d)

    def keys(self, rows: Array) -> list[bytes]:
        """Return one key per full row. Rows of the same point have equal keys: inactive columns do not count."""
        marked = np.where(self.is_active(rows), rows.round(KEY_DECIMALS) + 0.0, -1.0)
        return [row.tobytes() for row in marked]

    def known_points(self, points: Sequence[Point], rows: Array) -> KnownPoints:
        """Return the points, whose full rows are `rows`, as a set of keys."""
        with _known_lock:
            known, first, n_distinct = self._latest_known
            n = n_shared(known, points)
            if n < len(known):
                n, first, n_distinct = 0, {}, []
            for index, key in enumerate(self.keys(rows[n:]), n):
                first.setdefault(key, index)
                n_distinct.append(len(first))
            self._latest_known = tuple(points), first, n_distinct
        return KnownPoints(first, len(points), n_distinct[len(points) - 1] if len(points) > 0 else 0)

    def point(self, row: Array) -> Point:
        """Return the point of one full row; inactive columns are ignored."""
        return self.space.decode(row)

    def single_changes(self, row: Array, i: int) -> Array:
        """Return full rows that differ from `row` only in the discrete coordinate `i`, shape `(k, d)`."""
        levels = self.levels[i]
        if levels is None:
            # Too many values to list: steps of all sizes in both directions, and an even grid.
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

    def untried_points(self, seen: Container[bytes]) -> Iterator[Point]:
        """Yield the points of a finite space whose keys are not in `seen`, in the order of the space."""
        for point in self.space.points():
            if self.keys(self.rows([point]))[0] not in seen:
                yield point


class Embedding:
    """Maps full rows to features.

    Attributes:
        owner: Shape `(D,)`; the parameter that each feature belongs to.
    """

    def __init__(self, encoder: SpaceEncoder) -> None:
        self.encoder = encoder
        self._codes: dict[int, NDArray[np.int8]] = {}
        owner: list[int] = []
        columns: list[slice] = []
        for i in range(encoder.d):
            n_values = encoder.n_values[i]
            if encoder.is_ordered[i]:
                width = 2 if encoder.is_conditional[i] else 1
            else:
                width = n_values or 0
                if width > MAX_ONE_HOT:
                    self._codes[i] = _codes(width)
                    width = CODE_LENGTH
            columns.append(slice(len(owner), len(owner) + width))
            owner += [i] * width
        self.owner: NDArray[np.intp] = np.array(owner, dtype=np.intp)
        self._columns = columns
        self._plain = [i for i in range(encoder.d) if encoder.is_ordered[i] and not encoder.is_conditional[i]]
        self._arcs = [i for i in range(encoder.d) if encoder.is_ordered[i] and encoder.is_conditional[i]]
        self._choices = [i for i in range(encoder.d) if not encoder.is_ordered[i]]
        self._plain_columns = [columns[i].start for i in self._plain]
        self._is_identity = len(self._plain) == encoder.d  # the features are the rows

    @property
    def has_codes(self) -> bool:
        """Whether a choice has so many options that random codes stand for them."""
        return bool(self._codes)

    @property
    def n_features(self) -> int:
        return len(self.owner)

    def features(self, rows: Array, active: Flags | None = None) -> Array:
        """Return the features of full rows `(n, d)`: shape `(n, D)`.

        Args:
            rows: Full rows.
            active: What `is_active(rows)` returns, if it is known already.
        """
        if self._is_identity:
            return rows
        active = self.encoder.is_active(rows) if active is None else active
        features = np.zeros((len(rows), self.n_features))
        features[:, self._plain_columns] = rows[:, self._plain]
        for i in self._arcs:
            angle = ARC_ANGLE * rows[:, i]
            features[:, self._columns[i]] = np.stack([np.sin(angle), np.cos(angle)], 1) / ARC_ANGLE * active[:, [i]]
        for i in self._choices:
            k = self.encoder.n_values[i] or 0
            chosen = np.rint(rows[:, i] * max(k - 1, 1)).astype(np.intp)
            if i in self._codes:
                features[:, self._columns[i]] = self._codes[i][chosen] * (active[:, [i]] * np.sqrt(0.5 / CODE_LENGTH))
                continue
            features[np.arange(len(rows)), self._columns[i].start + chosen] = np.where(active[:, i], np.sqrt(0.5), 0.0)
        return features

    def points(self, features: Array) -> list[Point]:
        """Return the points nearest to features `(n, D)`, which need not be those of any point.

        A number takes the nearest value, a conditional one by its angle, a choice the option of the largest feature.
        """
        encoder = self.encoder
        rows = np.full((len(features), encoder.d), CENTER)
        rows[:, self._plain] = features[:, self._plain_columns]
        for i in self._arcs:
            sine, cosine = features[:, self._columns[i]].T
            angle = np.arctan2(sine.clip(0.0), cosine.clip(0.0))
            rows[:, i] = (angle / ARC_ANGLE).round(KEY_DECIMALS + 2)  # so that a point comes back as it was
        for i in self._choices:
            own = features[:, self._columns[i]]
            chosen = (own @ self._codes[i].T.astype(np.float64) if i in self._codes else own).argmax(1)
            rows[:, i] = chosen / max((encoder.n_values[i] or 1) - 1, 1)
        return [encoder.point(row) for row in encoder.snap(rows)]

    def labels(self) -> list[str]:
        """Return what each feature is called: the parameter, and its part if there are several."""
        names = [self.encoder.names[i] for i in self.owner]
        counts = {name: names.count(name) for name in names}
        seen: dict[str, int] = {}
        labels = []
        for name in names:
            seen[name] = seen.get(name, -1) + 1
            labels.append(f"{name}[{seen[name]}]" if counts[name] > 1 else name)
        return labels

    @property
    def is_choice(self) -> Flags:
        """Whether each feature is of an unordered choice, shape `(D,)`."""
        return np.isin(self.owner, self._choices)

    @property
    def is_plain(self) -> Flags:
        """Whether each feature is a number itself, shape `(D,)`."""
        return np.isin(self.owner, self._plain)

    def pull_back(self, rows: Array, active: Flags, gradients: Array) -> Array:
        """Turn gradients by features `(n, D)` into gradients by the coordinates of full rows `(n, d)` (chain rule).

        They are 0 for unordered choices and inactive parameters.
        """
        if self._is_identity:
            return gradients
        by_rows = np.zeros_like(rows)
        by_rows[:, self._plain] = gradients[:, self._plain_columns]
        for i in self._arcs:
            angle = ARC_ANGLE * rows[:, i]
            by_sin, by_cos = gradients[:, self._columns[i]].T
            by_rows[:, i] = np.where(active[:, i], by_sin * np.cos(angle) - by_cos * np.sin(angle), 0.0)
        return by_rows


def _codes(n: int) -> NDArray[np.int8]:
    """Return the codes of `n` options, shape `(n, CODE_LENGTH)`: random signs, always the same."""
    random = np.random.default_rng(n).bytes(n * CODE_LENGTH // 8)
    bits = np.unpackbits(np.frombuffer(random, dtype=np.uint8)).reshape(n, CODE_LENGTH)
    return (2 * bits.astype(np.int8) - 1).astype(np.int8)
