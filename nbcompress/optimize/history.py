"""The input and the output of a proposer: `History` and `Proposal`. Frozen values; all losses are minimized."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbcompress.errors import SearchError
from nbcompress.space import Point

Array = NDArray[np.float64]
Status = Literal["told", "failed", "pending"]

VERSION = 1

T = TypeVar("T")


def n_shared(left: Sequence[object], right: Sequence[object]) -> int:
    """Return how many items at the beginning of both are the same objects.

    What was computed from the items of a long history is kept, and extended by those that came since.
    """
    shortest = min(len(left), len(right))
    return next(compress(range(shortest), map(operator.is_not, left, right)), shortest)


def _frozen_rows(rows: ArrayLike, n: int, what: str) -> Array:
    array = np.array(rows, dtype=np.float64)
    if array.size == 0:
        array = array.reshape(n, array.shape[1] if array.ndim == 2 else 0)
    if array.ndim != 2 or array.shape[0] != n:
        raise SearchError(f"{what} must have one row for each of the {n} points, but got the shape {array.shape}.")
    if np.isinf(array).any():
        raise SearchError(
            f"{what} must be finite, or NaN for unknown, but row {np.isinf(array).any(1).argmax()} is not."
        )
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class History:
    """All points so far, in the order of their trial numbers.

    A history also keeps what was computed from it, such as fitted models: see `cached`.

    Attributes:
        points: The active parameters of each point.
        losses: Shape `(n, m)`; the objectives, with the sign that makes smaller better; NaN where unknown.
        slacks: Shape `(n, k)`; at most 0 where a constraint holds; NaN where unknown.
        status: `told` (the trial ended; some values may be unknown), `failed` (it raised, crashed or returned a value
            that is not finite), or `pending` (it has not ended).
        notes: The `Proposal.note` of each point; empty for points that no proposer returned.
        noise: Shape `(n, m + k)`; the known standard deviation of the noise of each loss and each slack, in their
            units; NaN where unknown. `(0, 0)` if none is known.

    Raises:
        SearchError: The parts differ in length, a number is infinite or a status is unknown.
    """

    points: tuple[Point, ...]
    losses: Array
    slacks: Array = field(default_factory=lambda: np.empty((0, 0)))
    status: tuple[Status, ...] = ()
    notes: tuple[Mapping[str, Any], ...] = ()
    noise: Array = field(default_factory=lambda: np.empty((0, 0)))
    _cache: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        n = len(self.points)
        slacks = np.empty((n, 0)) if np.size(self.slacks) == 0 and np.ndim(self.slacks) < 2 else self.slacks
        slacks = np.empty((n, 0)) if np.shape(slacks) == (0, 0) else slacks
        object.__setattr__(self, "points", tuple(self.points))
        object.__setattr__(self, "losses", _frozen_rows(self.losses, n, "Losses"))
        object.__setattr__(self, "slacks", _frozen_rows(slacks, n, "Slacks"))
        object.__setattr__(self, "status", tuple(self.status) or ("told",) * n)
        object.__setattr__(self, "notes", tuple(self.notes) or ({},) * n)
        for name in ("status", "notes"):
            if len(getattr(self, name)) != n:
                raise SearchError(f"A history of {n} points needs {n} {name}, but got {len(getattr(self, name))}.")
        if np.size(self.noise):
            object.__setattr__(self, "noise", _frozen_rows(self.noise, n, "Noise"))
            if (self.noise < 0).any():
                raise SearchError(f"A standard deviation is at least 0, but got {float(np.nanmin(self.noise))}.")
        for status in set(self.status) - {"told", "failed", "pending"}:
            raise SearchError(f"A status is 'told', 'failed' or 'pending', but got {status!r}.")

    @classmethod
    def empty(cls, n_objectives: int, n_constraints: int = 0) -> History:
        """Return a history without points."""
        return cls((), np.empty((0, n_objectives)), np.empty((0, n_constraints)))

    def __len__(self) -> int:
        return len(self.points)

    def with_point(
        self,
        point: Point,
        status: Status = "pending",
        losses: Sequence[float] | None = None,
        slacks: Sequence[float] | None = None,
        note: Mapping[str, Any] | None = None,
    ) -> History:
        """Return a history with one more point; losses and slacks that are left out are unknown."""
        m, k = self.losses.shape[1], self.slacks.shape[1]
        return History(
            (*self.points, point),
            np.vstack([self.losses, [math.nan] * m if losses is None else losses]),
            np.vstack([self.slacks, [math.nan] * k if slacks is None else slacks]),
            (*self.status, status),
            (*self.notes, note or {}),
            np.vstack([self.noise, np.full(m + k, math.nan)]) if self.noise.size else self.noise,
        )

    def noise_of(self, column: int) -> Array | None:
        """Return the known standard deviations of a loss, or of a slack (counted after the losses); None if none is."""
        return self.noise[:, column] if self.noise.size and np.isfinite(self.noise[:, column]).any() else None

    def has_status(self, status: Status) -> NDArray[np.bool_]:
        """Return for each point whether it has this status; shape `(n,)`."""
        return np.asarray(self.cached("status", lambda: np.array(self.status, dtype="<U7")) == status)

    @property
    def is_feasible(self) -> NDArray[np.bool_]:
        """Whether each point was told with every loss known and every constraint satisfied; shape `(n,)`."""
        with np.errstate(invalid="ignore"):
            return self.has_status("told") & np.isfinite(self.losses).all(1) & (self.slacks <= 0).all(1)

    def cached(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute` returns, computed at the first call with this key and kept as long as the history.

        So the search loop and a panel that get the same history share the models that were fitted to it.
        """
        if key not in self._cache:
            self._cache[key] = compute()
        return cast(T, self._cache[key])

    def to_json(self) -> dict[str, Any]:
        """Return the history as JSON data; `from_json` reads it."""

        def rows(array: Array) -> list[list[float | None]]:
            return [[None if math.isnan(value) else float(value) for value in row] for row in array]

        return {
            "version": VERSION,
            "points": [dict(point) for point in self.points],
            "losses": rows(self.losses),
            "slacks": rows(self.slacks),
            "shape": [self.losses.shape[1], self.slacks.shape[1]],
            "status": list(self.status),
            "notes": [dict(note) for note in self.notes],
            **({"noise": rows(self.noise)} if self.noise.size else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> History:
        """Return the history that `to_json` wrote.

        Raises:
            SearchError: The data have another version.
        """
        if data.get("version") != VERSION:
            raise SearchError(
                f"This history has version {data.get('version')!r}, but this nbcompress reads version {VERSION}."
            )
        n, (m, k) = len(data["points"]), data["shape"]

        def array(rows: list[list[float | None]], width: int) -> Array:
            cells = [math.nan if value is None else value for row in rows for value in row]
            return np.array(cells, dtype=np.float64).reshape(n, width)

        return cls(
            tuple(data["points"]),
            array(data["losses"], m),
            array(data["slacks"], k),
            tuple(data["status"]),
            tuple(data["notes"]),
            array(data["noise"], m + k) if "noise" in data else np.empty((0, 0)),
        )


def violations(slacks: Array) -> Array:
    """Return how far points violate constraints, shape `(n,)`: a sum of shares of the largest violation of each.

    Args:
        slacks: Shape `(n, k)`; at most 0 is feasible, and unknown ones count as feasible.
    """
    above = np.nan_to_num(slacks, nan=0.0).clip(0.0)
    largest = above.max(0, initial=0.0)
    return np.asarray((above / np.where(largest > 0, largest, 1.0)).sum(1))


@dataclass(frozen=True)
class Proposal:
    """The next point.

    Attributes:
        point: One value per active parameter.
        note: JSON data that is stored with the trial: what later proposals need (hyperparameters), and under `gain` the
            expected gain if there is one.
        reason: Why this point, in one sentence.
        warnings: What failed and what took its place, one sentence each.
    """

    point: Point
    note: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def expected_gain(self) -> float | None:
        """The expected improvement, in the units of the losses (of the hypervolume with several); None if unknown."""
        gain = self.note.get("gain")
        return None if gain is None else float(gain)
