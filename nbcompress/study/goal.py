"""What a search is after: objectives to steer by and constraints to respect."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nbcompress.errors import GoalError, option

Direction = Literal["maximize", "minimize"]

# These columns of `study.trials` are ours, so no metric may carry their names.
RESERVED = frozenset({"number", "state", "seconds"})

_CONSTRAINT = re.compile(r"\s*([^\W\d]\w*)\s*(<=|>=)\s*(\S+)\s*")


def _check_metric(name: str) -> None:
    if not name.isidentifier():
        raise GoalError(f"A metric is named by a Python identifier, but got {name!r}.")
    if name in RESERVED:
        raise GoalError(f"The metric name {name!r} is taken by a column of the trials; choose another.")


@dataclass(frozen=True)
class Objective:
    """A metric to maximize or to minimize."""

    metric: str
    direction: Direction

    def __post_init__(self) -> None:
        _check_metric(self.metric)
        if self.direction not in ("maximize", "minimize"):
            raise GoalError(f"A direction is 'maximize' or 'minimize', but got {self.direction!r}.")

    def loss(self, value: float) -> float:
        """Return `value` with the sign that makes smaller better."""
        return -value if self.direction == "maximize" else value


@dataclass(frozen=True)
class Constraint:
    """A metric with a bound, such as `kilobytes <= 60`."""

    metric: str
    operator: Literal["<=", ">="]
    bound: float

    def __post_init__(self) -> None:
        _check_metric(self.metric)
        if self.operator not in ("<=", ">="):
            raise GoalError(f"A constraint uses <= or >=, but got {self.operator!r}.")
        if not math.isfinite(self.bound):
            raise GoalError(f"The bound of a constraint is a finite number, but got {self.bound!r}.")

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Read `"kilobytes <= 60"`.

        Raises:
            GoalError: The text is not `NAME <= NUMBER` or `NAME >= NUMBER`.
        """
        match = _CONSTRAINT.fullmatch(text)
        number: float | None = None
        if match:
            try:
                number = float(match[3])
            except ValueError:
                number = None
        if match is None or number is None:
            raise GoalError(
                f"A constraint reads 'NAME <= NUMBER' or 'NAME >= NUMBER', but got {text!r}. "
                'Write for example "kilobytes <= 60".'
            )
        return cls(match[1], "<=" if match[2] == "<=" else ">=", number)

    def slack(self, value: float) -> float:
        """Return how far `value` is beyond the bound: at most 0 when the constraint holds."""
        return value - self.bound if self.operator == "<=" else self.bound - value

    def holds(self, value: float) -> bool:
        return self.slack(value) <= 0

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {str(float(self.bound)).removesuffix('.0')}"


@dataclass(frozen=True)
class Goal:
    """All objectives (at least one, in order) and all constraints of a search."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        if not self.objectives:
            one = " or ".join(option(direction, "NAME") for direction in ("maximize", "minimize"))
            raise GoalError(f"A search needs at least one objective. Write {one}.")
        names = [one.metric for one in self.objectives]
        for name in names:
            if names.count(name) > 1:
                raise GoalError(f"The objective {name!r} is given twice.")

    @classmethod
    def of(
        cls,
        maximize: Sequence[str] = (),
        minimize: Sequence[str] = (),
        subject_to: Sequence[str] = (),
    ) -> Goal:
        """Build a goal from names and constraint texts; the maximized come first."""
        objectives = [Objective(name, "maximize") for name in maximize]
        objectives += [Objective(name, "minimize") for name in minimize]
        return cls(tuple(objectives), tuple(Constraint.parse(text) for text in subject_to))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that the goal names, objectives first, each once."""
        names = [one.metric for one in self.objectives] + [one.metric for one in self.constraints]
        return tuple(dict.fromkeys(names))

    def is_feasible(self, values: Mapping[str, float]) -> bool:
        """Say whether every constrained metric is there and within its bound."""
        return all(one.metric in values and one.holds(values[one.metric]) for one in self.constraints)

    def is_broken(self, values: Mapping[str, float]) -> bool:
        """Say whether a constraint is known to be violated; a metric that is missing violates nothing yet."""
        return any(one.metric in values and not one.holds(values[one.metric]) for one in self.constraints)

    def unmeasured(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """Return the metrics of the goal that are missing in `values` or not finite there."""
        return tuple(name for name in self.metrics if not math.isfinite(values.get(name, math.nan)))

    def difference(self, other: Goal) -> str:
        """Say in one sentence what `other` asks for and this goal does not, or `""` if they ask for the same.

        The order of objectives matters, since the first one decides which trial is best; that of constraints does not.
        """
        here, there = ({one.metric: one.direction for one in goal.objectives} for goal in (self, other))
        for name, direction in there.items():
            if name not in here:
                return f"The objective {name!r} is new: it was not {direction}d before."
            if here[name] != direction:
                return f"The objective {name!r} is {direction}d now and was {here[name]}d before."
        for name, direction in here.items():
            if name not in there:
                return f"The objective {name!r} is gone: it was {direction}d before."
        if list(here) != list(there):
            return f"The objectives come in the order {', '.join(there)} now and came in {', '.join(here)} before."
        added = [one for one in other.constraints if one not in self.constraints]
        gone = [one for one in self.constraints if one not in other.constraints]
        if added and gone:
            return f"The constraint is '{added[0]}' now and was '{gone[0]}' before."
        if added:
            return f"The constraint '{added[0]}' is new."
        return f"The constraint '{gone[0]}' is gone." if gone else ""

    def to_json(self) -> dict[str, Any]:
        return {
            "objectives": [[one.metric, one.direction] for one in self.objectives],
            "constraints": [[one.metric, one.operator, one.bound] for one in self.constraints],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Goal:
        return cls(
            tuple(Objective(*one) for one in data["objectives"]),
            tuple(Constraint(*one) for one in data["constraints"]),
        )

    def __str__(self) -> str:
        steps = [f"{one.direction} {one.metric}" for one in self.objectives]
        kept = [str(one) for one in self.constraints]
        return ", ".join(steps) + (f" subject to {', '.join(kept)}" if kept else "")
