"""What a search is after: objectives to steer by and constraints to respect.

One trial: a point that was run, how it ended, and what it left behind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from nbcompress.errors import GoalError, option
from nbcompress.space.values import check_metric_name

if TYPE_CHECKING:
    from nbcompress.space import Point


class State(StrEnum):
    """How a trial stands."""

    RUNNING = "running"
    """Started and not ended, as far as its record says."""
    COMPLETE = "complete"
    """Ended with every objective measured and every constraint kept."""
    STOPPED = "stopped"
    """Ended early: by the pruner, or by the Skip control."""
    INFEASIBLE = "infeasible"
    """Broke a constraint and ended there."""
    FAILED = "failed"
    """Raised, crashed, hung over its limit, or left a metric that is missing or not finite."""
    INTERRUPTED = "interrupted"
    """Abandoned by the person, by the search's time limit or by a dead kernel; it will be run again."""

    @property
    def counts(self) -> bool:
        """Whether a trial in this state counts towards `--trials`."""
        return self not in (State.RUNNING, State.INTERRUPTED)


@dataclass(frozen=True)
class Failure:
    """Why a trial failed."""

    kind: str
    """The class of the exception, or `Timeout`, `Crash`, `NotFinite`, `NotAssigned`."""
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


@dataclass(frozen=True, repr=False)
class Trial:
    """A point that was run.

    Attributes:
        number: Position in the study, from 0, without gaps.
        state: How it ended.
        params: The active parameters, by (flat) name.
        values: The metrics it left behind, by name; partial when it ended early.
        seed: The seed that its random generators were set to.
        seconds: Wall-clock time it took, or None while it runs.
        failure: Why it failed, for failed trials.
        printed: What it printed, cut to a bounded length.
        reports: Intermediate values: metric -> step -> value.
        note: What the proposer stored with it (JSON), such as hyperparameters.
        reason: One sentence on why this point was proposed.
        kept: The values that `--keep` or `nc.keep` kept of it, each read when it is asked for. Not compared.
    """

    number: int
    state: State
    params: Mapping[str, Any]
    values: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    seconds: float | None = None
    failure: Failure | None = None
    printed: str = ""
    reports: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    note: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    kept: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        params = ", ".join(f"{name}={_short(value)}" for name, value in self.params.items())
        failure = f", {self.failure.kind}" if self.failure is not None else ""
        return f"<Trial {self.number}: {self.state.value}{failure}{', ' * bool(values)}{values} ({params})>"

    @property
    def point(self) -> Point:
        return dict(self.params)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


Direction = Literal["maximize", "minimize"]

_CONSTRAINT = re.compile(r"\s*([^\W\d]\w*)\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True)
class Objective:
    """A metric to maximize or to minimize."""

    metric: str
    direction: Direction

    def __post_init__(self) -> None:
        check_metric_name(self.metric)
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
        check_metric_name(self.metric)
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
        names = [objective.metric for objective in self.objectives]
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
        names = [objective.metric for objective in self.objectives] + [
            constraint.metric for constraint in self.constraints
        ]
        return tuple(dict.fromkeys(names))

    def is_feasible(self, values: Mapping[str, float]) -> bool:
        """Say whether every constrained metric is there and within its bound."""
        return all(
            constraint.metric in values and constraint.holds(values[constraint.metric])
            for constraint in self.constraints
        )

    def is_broken(self, values: Mapping[str, float]) -> bool:
        """Say whether a constraint is known to be violated; a metric that is missing violates nothing yet."""
        return any(
            constraint.metric in values and not constraint.holds(values[constraint.metric])
            for constraint in self.constraints
        )

    def unmeasured(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """Return the metrics of the goal that are missing in `values` or not finite there."""
        return tuple(name for name in self.metrics if not math.isfinite(values.get(name, math.nan)))

    def difference(self, other: Goal) -> str:
        """Say in one sentence what `other` asks for and this goal does not, or `""` if they ask for the same.

        The order of objectives matters, since the first one decides which trial is best; that of constraints does not.
        """
        here, there = (
            {objective.metric: objective.direction for objective in goal.objectives} for goal in (self, other)
        )
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
        added = [constraint for constraint in other.constraints if constraint not in self.constraints]
        gone = [constraint for constraint in self.constraints if constraint not in other.constraints]
        if added and gone:
            return f"The constraint is '{added[0]}' now and was '{gone[0]}' before."
        if added:
            return f"The constraint '{added[0]}' is new."
        return f"The constraint '{gone[0]}' is gone." if gone else ""

    def to_json(self) -> dict[str, Any]:
        return {
            "objectives": [[objective.metric, objective.direction] for objective in self.objectives],
            "constraints": [
                [constraint.metric, constraint.operator, constraint.bound] for constraint in self.constraints
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Goal:
        return cls(
            tuple(Objective(*objective) for objective in data["objectives"]),
            tuple(Constraint(*constraint) for constraint in data["constraints"]),
        )

    def __str__(self) -> str:
        steps = [f"{objective.direction} {objective.metric}" for objective in self.objectives]
        kept = [str(constraint) for constraint in self.constraints]
        return ", ".join(steps) + (f" subject to {', '.join(kept)}" if kept else "")
