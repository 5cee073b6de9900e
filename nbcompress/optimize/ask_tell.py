"""Ask and tell, for loops that are not ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nbcompress.errors import GoalError, SearchError, SpaceExhausted
from nbcompress.optimize.encoding import Axes
from nbcompress.optimize.history import History, Status
from nbcompress.optimize.proposers import proposer
from nbcompress.space import Point, Space


class Optimizer:
    """Proposes points (`ask`) and learns their values (`tell`); keeps nothing on disk.

    Args:
        space: A `Space`, or a dict of parameters.
        directions: `"minimize"` or `"maximize"` for each objective.
        seed: Equal seeds and equal calls give equal points.
        sampler: What proposes; see `nbcompress.optimize.proposers`.
        acquisition, kernel, mean: The surrogate's parts, for the sampler `gp`.

    Example:
        optimizer = Optimizer({"x": Float(-1, 1)}, directions=["minimize"])
        for _ in range(20):
            point = optimizer.ask()[0]
            optimizer.tell(point, [point["x"] ** 2])
    """

    def __init__(
        self,
        space: Space | Mapping[str, Any],
        directions: Sequence[str] = ("minimize",),
        seed: int = 0,
        sampler: str = "gp",
        *,
        acquisition: str = "logei",
        kernel: str = "matern52",
        mean: str = "constant",
    ) -> None:
        self.space = space if isinstance(space, Space) else Space(space)
        self.directions = (directions,) if isinstance(directions, str) else tuple(directions)
        for direction in self.directions:
            if direction not in ("minimize", "maximize"):
                raise GoalError(f"A direction is 'minimize' or 'maximize', but got {direction!r}.")
        self._proposer = proposer(
            sampler,
            self.space,
            n_objectives=len(self.directions),
            seed=seed,
            acquisition=acquisition,
            kernel=kernel,
            mean=mean,
        )
        self._axes = Axes(self.space)
        self._history = History.empty(len(self.directions))

    @property
    def history(self) -> History:
        """Everything asked and told so far; maximized values appear with the opposite sign."""
        return self._history

    def ask(self, n: int = 1) -> list[Point]:
        """Return `n` new points, or as many as a finite space still has: dicts of the active parameters.

        They are pending until told.

        Raises:
            SearchError: `n` is not a whole number of at least 1.
            SpaceExhausted: A finite space has no further point.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise SearchError(f"Ask for a whole number of points, at least 1, but got {n!r}.")
        points: list[Point] = []
        for _ in range(n):
            try:
                proposal = self._proposer.propose(len(self._history), self._history)
            except SpaceExhausted:
                if not points:
                    raise
                break
            self._history = self._history.adding(proposal.point, note=proposal.note)
            points.append(dict(proposal.point))
        return points

    def tell(self, point: Point, values: Sequence[float] | float | None) -> None:
        """Learn the values of a point, in the order of the directions; None says that it failed.

        The point need not have been asked. The oldest pending entry of the same point takes the values.

        Raises:
            PointError: The point is not in the space.
            SearchError: The values are not as many finite numbers as there are objectives.
        """
        point = self.space.check(point)
        losses = None if values is None else self._losses(values)
        status: Status = "failed" if values is None else "told"
        key = self._axes.keys(self._axes.rows([point]))[0]
        old = self._history
        pending = [i for i, status in enumerate(old.status) if status == "pending"]
        keys = self._axes.keys(self._axes.rows([old.points[i] for i in pending]))
        if key not in keys:
            self._history = old.adding(point, status, losses)
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
            if isinstance(value, (str, bool)):
                raise SearchError(f"A value is a number, but got {value!r}. Write float(...) if that is meant.")
            try:
                number = float(value)
            except (TypeError, ValueError) as err:
                raise SearchError(f"A value is a number, but got {value!r}.") from err
            if not math.isfinite(number):
                raise SearchError(f"A value is finite, but got {number}. Write tell(point, None) for one that failed.")
            losses.append(-number if direction == "maximize" else number)
        return losses
