"""The ask-and-tell interface, for a loop that the user writes."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from nbcompress.errors import GoalError, SearchError, SpaceExhausted, check_integer, shown, warn
from nbcompress.optimize.encoding import SpaceEncoder
from nbcompress.optimize.history import History, Status
from nbcompress.optimize.proposers import proposer
from nbcompress.space import Point, Space


class Optimizer:
    """Ask-and-tell interface: proposes points (`ask`) and learns their values (`tell`). Stores nothing on disk.

    Threads may share one: a point that one of them got is pending for the others.

    Args:
        space: A `Space`, or a dict from names to `Float`, `Int` and `Choice`.
        directions: `"minimize"` or `"maximize"` for each objective.
        seed: Equal seeds and equal calls give equal points.
        sampler: `gp`, `sobol`, `random`, `grid`, `tpe`, `nsga2` or `optuna-gp`.
        acquisition, kernel, mean: For `gp`; see `nc.search`.
        surrogate: For `gp`; see `nc.search`. One for all directions.

    Raises:
        GoalError: A direction, the acquisition, the kernel or the mean is unknown; or there are too many objectives.
        SearchError: The sampler is unknown, cannot search this space, or does not have one of the options.
        SpaceError: The parameters do not form a space.

    Example:
        >>> import nbcompress as nc
        >>> optimizer = nc.Optimizer({"x": nc.Float(-1, 1)}, directions=["minimize"], seed=0)
        >>> for _ in range(10):
        ...     (point,) = optimizer.ask()
        ...     optimizer.tell(point, (point["x"] - 0.3) ** 2)
        >>> round(float(optimizer.history.losses.min()), 2)
        0.0
    """

    def __init__(
        self,
        space: Space | Mapping[str, Any],
        directions: Sequence[str] = ("minimize",),
        seed: int = 0,
        sampler: str = "gp",
        *,
        acquisition: Any = "logei",
        kernel: Any = "matern52",
        mean: Any = "constant",
        surrogate: Any = None,
    ) -> None:
        self.space = space if isinstance(space, Space) else Space(space)
        self.directions = (directions,) if isinstance(directions, str) else tuple(directions)
        for direction in self.directions:
            if direction not in ("minimize", "maximize"):
                raise GoalError(f"A direction is 'minimize' or 'maximize', but got {direction!r}.")
        if isinstance(surrogate, Mapping):
            raise GoalError(
                "surrogate as a dict is by metric, and an Optimizer has only directions. Pass one for all, or use "
                "nc.search."
            )
        self._proposer = proposer(
            sampler,
            self.space,
            n_objectives=len(self.directions),
            seed=check_integer("seed", seed),
            acquisition=acquisition,
            kernel=kernel,
            mean=mean,
            surrogate=surrogate,
            labels={f"loss {j}": f"value {j}" for j in range(len(self.directions))},
        )
        self._warned: set[str] = set()
        self._axes = SpaceEncoder(self.space)
        self._history = History.empty(len(self.directions))
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    @property
    def history(self) -> History:
        """Everything asked and told so far. Maximized values have the opposite sign."""
        return self._history

    def ask(self, n: int = 1) -> list[Point]:
        """Return `n` new points, or fewer where a finite space has no more. They are pending until told.

        Args:
            n: The number of points, at least 1.

        Returns:
            For each point a dict from the names of the active parameters to their values.

        Raises:
            SearchError: `n` is not a whole number of at least 1.
            SpaceExhausted: A finite space has no further point.
        """
        number: object = n
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
            raise SearchError(f"Ask for a whole number of points, at least 1, but got {n!r}.")
        points: list[Point] = []
        for _ in range(n):
            # A proposal and its entry in the history belong together; otherwise two threads would get one point.
            with self._lock:
                try:
                    proposal = self._proposer.propose(len(self._history), self._history)
                except SpaceExhausted:
                    if not points:
                        raise
                    break
                self._history = self._history.with_point(proposal.point, note=proposal.note)
            for text in proposal.warnings:
                if text not in self._warned:
                    self._warned.add(text)
                    warn(text)
            points.append(dict(proposal.point))
        return points

    def tell(self, point: Point, values: Sequence[float] | float | None) -> None:
        """Learn the values of a point, which need not come from `ask`.

        If the same point is pending, its oldest entry takes the values.

        Args:
            point: The active parameters.
            values: One number for each direction, in their order; None if the evaluation failed.

        Raises:
            PointError: The point is not in the space.
            SearchError: The values are not as many finite numbers as there are objectives.
        """
        point = self.space.check(point)
        losses = None if values is None else self._losses(values)
        status: Status = "failed" if values is None else "told"
        with self._lock:
            self._enter(point, status, losses)

    def _enter(self, point: Point, status: Status, losses: list[float] | None) -> None:
        """Add the values of a point to the history."""
        key = self._axes.keys(self._axes.rows([point]))[0]
        old = self._history
        pending = [i for i, known in enumerate(old.status) if known == "pending"]
        keys = self._axes.keys(self._axes.rows([old.points[i] for i in pending]))
        if key not in keys:
            self._history = old.with_point(point, status, losses)
            return
        row = pending[keys.index(key)]
        table, statuses = old.losses.copy(), list(old.status)
        table[row] = math.nan if losses is None else losses
        statuses[row] = status
        self._history = History(old.points, table, old.slacks, tuple(statuses), old.notes)

    def _losses(self, values: Sequence[float] | float) -> list[float]:
        given: list[Any] = list(values) if np.ndim(values) else [values]  # type: ignore[arg-type]
        if len(given) != len(self.directions):
            raise SearchError(
                f"Tell {len(self.directions)} values, one for each direction, but got {len(given)}: {values!r}."
            )
        losses = []
        for value, direction in zip(given, self.directions, strict=True):
            if isinstance(value, (str, bool, np.bool_)):
                raise SearchError(f"A value is a number, but got {shown(value)}. Write float(...) if that is meant.")
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            except (TypeError, ValueError) as err:
                raise SearchError(f"A value is a number, but got {shown(value)}.") from err
            if not math.isfinite(number):
                raise SearchError(f"A value is finite, but got {number}. Write tell(point, None) for one that failed.")
            losses.append(-number if direction == "maximize" else number)
        return losses
