"""Trials and goals: how a trial ended with which metrics, and which metrics are optimized or bounded."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from nbcompress.errors import GoalError, option
from nbcompress.space.values import check_metric_name

if TYPE_CHECKING:
    from nbcompress.space import Point


class State(StrEnum):
    """The state of a trial."""

    RUNNING = "running"
    """The trial started; no end is recorded."""
    COMPLETE = "complete"
    """The trial measured every objective and met every constraint."""
    STOPPED = "stopped"
    """The trial was ended early: by the pruner, or by the Skip control."""
    INFEASIBLE = "infeasible"
    """The trial violated a constraint."""
    FAILED = "failed"
    """The trial raised an error, crashed, ran into its time limit, or left a metric missing or not finite."""
    INTERRUPTED = "interrupted"
    """The user, the search's time limit or a dead process ended the trial. It will be run again."""

    @property
    def counts(self) -> bool:
        """Whether a trial in this state counts as one of the `--trials`."""
        return self not in (State.RUNNING, State.INTERRUPTED)


@dataclass(frozen=True)
class Failure:
    """Why a trial failed.

    Attributes:
        kind: The class of the exception, or `Timeout`, `Crash`, `NotFinite`, `NotAssigned`.
        message: The text of the exception.
        traceback: Its traceback as text, or empty.
    """

    kind: str
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


@dataclass(frozen=True, repr=False)
class Trial:
    """One evaluation of a point. It is immutable; a search or a study makes it.

    Attributes:
        number: Position in the study, from 0, without gaps.
        state: How it ended, or that it runs.
        params: The active parameters, by flat name.
        values: The metrics, by name; incomplete if the trial ended early.
        seed: The seed of its random generators.
        seconds: Wall-clock time in seconds, or None while it runs.
        failure: Why it failed, for failed trials; why it was stopped, for a trial that stopped itself with a reason.
        printed: What it printed, shortened.
        reports: Intermediate values: metric -> step -> value.
        note: What the proposer stored with the trial (JSON), such as hyperparameters.
        reason: One sentence on why this point was proposed.
        spreads: The standard deviations of the metrics between the runs of the point, where it was run several times.
        n_runs: How many runs the metrics are means of.
        started: When it began to run, in seconds since 1970 by the clock of the notebook; None in older studies.
        ended: When it ended, likewise. `started`, `ended` and `worker` are not compared by `==`.
        worker: The host and the process that ran it, such as `"node7:4711"`; empty if that is not known.
        kept: The values that `--keep` or `nc.keep` kept, each loaded at access. Not compared by `==`.

    Example:
        >>> from nbcompress.study import State
        >>> trial = Trial(3, State.COMPLETE, {"lr": 0.1}, {"loss": 0.25})
        >>> trial
        <Trial 3: complete, loss 0.25 (lr=0.1)>
        >>> trial.point
        {'lr': 0.1}
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
    spreads: Mapping[str, float] = field(default_factory=dict)
    n_runs: int = 1
    started: float | None = field(default=None, compare=False)
    ended: float | None = field(default=None, compare=False)
    worker: str = field(default="", compare=False)
    kept: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        params = ", ".join(f"{name}={_short(value)}" for name, value in self.params.items())
        failure = f", {self.failure.kind}" if self.failure is not None else ""
        return f"<Trial {self.number}: {self.state.value}{failure}{', ' * bool(values)}{values} ({params})>"

    @property
    def point(self) -> Point:
        """The parameters as a new dict."""
        return dict(self.params)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


Direction = Literal["maximize", "minimize"]

_CONSTRAINT = re.compile(r"\s*([^\W\d]\w*)\s*(<=|>=)\s*(.*\S)\s*")
_BASELINE = re.compile(r"baseline(?:\s*([-+*/])\s*(\S+))?")
_OPERATIONS: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


@dataclass(frozen=True)
class Objective:
    """A metric to maximize or to minimize.

    Raises:
        GoalError: The name or the direction cannot be used.
    """

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
    """A metric with a bound, such as `kilobytes <= 60`.

    Raises:
        GoalError: The name, the operator or the bound cannot be used.
    """

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
    def parse(cls, text: str, baseline: Mapping[str, float] | None = None) -> Constraint:
        """Return the constraint that a text such as `"kilobytes <= 60"` says.

        Args:
            text: `NAME <= NUMBER` or `NAME >= NUMBER`. NUMBER may be relative to the metric of the original model:
                `baseline`, `baseline - 0.01` or `baseline * 0.5`.
            baseline: Metrics of the original model.

        Raises:
            GoalError: The text reads otherwise, or the baseline lacks the metric.

        Example:
            >>> Constraint.parse("kilobytes <= 60").bound
            60.0
            >>> Constraint.parse("accuracy >= baseline - 0.01", {"accuracy": 0.97}).bound
            0.96
        """
        match = _CONSTRAINT.fullmatch(text)
        relative = _BASELINE.fullmatch(match[3]) if match else None
        number = None if match is None else _number(match[3] if relative is None else relative[2] or "0")
        if match is None or number is None:
            raise GoalError(
                f"A constraint reads 'NAME <= NUMBER' or 'NAME >= NUMBER', but got {text!r}. "
                'Write for example "kilobytes <= 60".'
            )
        if relative is not None:
            number = _relative(text, match[1], relative[1], number, baseline)
        return cls(match[1], "<=" if match[2] == "<=" else ">=", number)

    def slack(self, value: float) -> float:
        """Return how far `value` is beyond the bound: at most 0 where the constraint holds."""
        return value - self.bound if self.operator == "<=" else self.bound - value

    def holds(self, value: float) -> bool:
        """Return whether `value` is within the bound."""
        return self.slack(value) <= 0

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {str(float(self.bound)).removesuffix('.0')}"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _relative(text: str, metric: str, operation: str | None, number: float, baseline: object) -> float:
    """Return the bound of a constraint that is relative to the baseline.

    Raises:
        GoalError: The baseline has no number for the metric, or there is no such bound.
    """
    try:
        original = float(baseline[metric])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        raise GoalError(
            f"The constraint {text!r} needs {metric!r} of the original model. Give it with "
            f"{option(f'baseline={{{metric!r}: NUMBER}}')}."
        ) from None
    if operation is None:
        return original
    try:
        bound = _OPERATIONS[operation](original, number)
    except ZeroDivisionError:
        raise GoalError(f"The bound of a constraint is a finite number, but got {text!r}.") from None
    # 0.95 - 0.01 is 0.94, without the last digits of floating point.
    return float(f"{bound:.12g}")


@dataclass(frozen=True)
class Goal:
    """The objectives and constraints of a search.

    Attributes:
        objectives: At least one. The first decides which trial is best.
        constraints: Bounds on metrics, objectives or others.

    Raises:
        GoalError: There is no objective, or one is given twice.

    Example:
        >>> goal = Goal.of(maximize=["accuracy"], subject_to=["kilobytes <= 60"])
        >>> goal.metrics
        ('accuracy', 'kilobytes')
        >>> str(goal)
        'maximize accuracy subject to kilobytes <= 60'
    """

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        if not self.objectives:
            ways = " or ".join(option(direction, "NAME") for direction in ("maximize", "minimize"))
            raise GoalError(f"A search needs at least one objective. Write {ways}.")
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
        baseline: Mapping[str, float] | None = None,
    ) -> Goal:
        """Return a goal from names of metrics and texts of constraints. Maximized objectives come first.

        Args:
            maximize: Metrics to maximize.
            minimize: Metrics to minimize.
            subject_to: Constraints such as `"kilobytes <= 60"` or `"accuracy >= baseline - 0.01"`.
            baseline: Metrics of the original model.

        Raises:
            GoalError: A name or a text cannot be used.
        """
        objectives = [Objective(name, "maximize") for name in maximize]
        objectives += [Objective(name, "minimize") for name in minimize]
        return cls(tuple(objectives), tuple(Constraint.parse(text, baseline) for text in subject_to))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that the goal names, without duplicates: objectives first, then constraints."""
        names = [objective.metric for objective in self.objectives] + [
            constraint.metric for constraint in self.constraints
        ]
        return tuple(dict.fromkeys(names))

    def is_feasible(self, values: Mapping[str, float]) -> bool:
        """Return whether every constrained metric is there and within its bound."""
        return all(
            constraint.metric in values and constraint.holds(values[constraint.metric])
            for constraint in self.constraints
        )

    def is_broken(self, values: Mapping[str, float]) -> bool:
        """Return whether a constraint is known to be violated. A missing metric violates nothing yet."""
        return any(
            constraint.metric in values and not constraint.holds(values[constraint.metric])
            for constraint in self.constraints
        )

    def check_satisfiable(self) -> None:
        """Check that no two constraints exclude each other. Not done for a stored study, which stays readable.

        Raises:
            GoalError: They do.
        """
        lower_bounds = [constraint for constraint in self.constraints if constraint.operator == ">="]
        upper_bounds = [constraint for constraint in self.constraints if constraint.operator == "<="]
        for lower in lower_bounds:
            for upper in upper_bounds:
                if lower.metric == upper.metric and lower.bound > upper.bound:
                    raise GoalError(
                        f"No value satisfies both '{lower}' and '{upper}', so every trial would be infeasible. "
                        f"Leave out one of them in {option('subject_to')}."
                    )

    def checked(self, trial: Trial) -> Trial:
        """Return a trial with plain floats as values; a complete one with the state that its values allow."""
        trial = replace(trial, values={name: float(value) for name, value in trial.values.items()})
        if trial.state is not State.COMPLETE:
            return trial
        if self.is_broken(trial.values):
            return replace(trial, state=State.INFEASIBLE)
        missing = self.missing_metrics(trial.values)
        if not missing:
            return trial
        name = missing[0]
        if name in trial.values:
            failure = Failure("NotFinite", f"the metric {name!r} is {trial.values[name]}")
        else:
            failure = Failure("NotAssigned", f"the metric {name!r} was not assigned")
        return replace(trial, state=State.FAILED, failure=failure)

    def missing_metrics(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """Return the metrics of the goal that `values` lacks, or that are not finite there."""
        return tuple(name for name in self.metrics if not math.isfinite(values.get(name, math.nan)))

    def difference(self, other: Goal) -> str:
        """Return one sentence on how `other`, a later goal, differs from this one; `""` if they are equivalent.

        The order of objectives matters, since the first one decides which trial is best; that of constraints does not.
        """
        before, now = (
            {objective.metric: objective.direction for objective in goal.objectives} for goal in (self, other)
        )
        for name, direction in now.items():
            if name not in before:
                return f"The objective {name!r} is new: it was not {direction}d before."
            if before[name] != direction:
                return f"The objective {name!r} is {direction}d now and was {before[name]}d before."
        for name, direction in before.items():
            if name not in now:
                return f"The objective {name!r} is gone: it was {direction}d before."
        if list(before) != list(now):
            return f"The objectives come in the order {', '.join(now)} now and came in {', '.join(before)} before."
        added = [constraint for constraint in other.constraints if constraint not in self.constraints]
        removed = [constraint for constraint in self.constraints if constraint not in other.constraints]
        if added and removed:
            return f"The constraint is '{added[0]}' now and was '{removed[0]}' before."
        if added:
            return f"The constraint '{added[0]}' is new."
        return f"The constraint '{removed[0]}' is gone." if removed else ""

    def to_json(self) -> dict[str, Any]:
        """Return the goal as plain JSON."""
        return {
            "objectives": [[objective.metric, objective.direction] for objective in self.objectives],
            "constraints": [
                [constraint.metric, constraint.operator, constraint.bound] for constraint in self.constraints
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Goal:
        """Return the goal that `to_json` wrote."""
        return cls(
            tuple(Objective(*objective) for objective in data["objectives"]),
            tuple(Constraint(*constraint) for constraint in data["constraints"]),
        )

    def __str__(self) -> str:
        objectives = ", ".join(f"{objective.direction} {objective.metric}" for objective in self.objectives)
        constraints = ", ".join(map(str, self.constraints))
        return f"{objectives} subject to {constraints}" if constraints else objectives
