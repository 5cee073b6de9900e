"""Metrics: which values count as a number, and what is said about the others.

What goes into a trial and what comes out of it, as plain values that cross any process border.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

from nbcompress.space import RESERVED
from nbcompress.study.goal import Failure, State

if TYPE_CHECKING:
    from nbcompress.run.early_stopping import PruningRule
    from nbcompress.space import Point


@dataclass(frozen=True)
class Assignment:
    """One run of one point.

    Attributes:
        number: The trial's number in the study.
        point: The active parameters, by flat name.
        seed: What the random generators are set to.
        repeat: Which run of the point this is, from 0.
        pruning_rule: Decides from reported values whether the trial should go on; None never stops it.
    """

    number: int
    point: Point
    seed: int
    repeat: int = 0
    pruning_rule: PruningRule | None = None


@dataclass(frozen=True)
class Outcome:
    """How one run ended.

    Attributes:
        state: Any state but *running*.
        values: The metrics it left behind, all finite; partial when it ended early.
        reports: Intermediate values: metric -> step -> value.
        failure: Why it failed, for failed runs.
        printed: What it wrote to stdout and stderr, cut to a bounded length.
        seconds: Wall-clock time of the body.
        kept: What it asked to keep, by name.
        remarks: Sentences that the person should see once, such as a change of the notebook that was undone.
    """

    state: State
    values: Mapping[str, float] = field(default_factory=dict)
    reports: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    failure: Failure | None = None
    printed: str = ""
    seconds: float = 0.0
    kept: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


Evaluate = Callable[[Assignment], Outcome]
"""Runs one assignment. It never raises for what the body does: every way a body can end is an outcome."""


class Evaluator(Protocol):
    """An `Evaluate` that knows what its trials read."""

    def __call__(self, assignment: Assignment) -> Outcome: ...

    def reads(self) -> dict[str, Any]:
        """Return the values that trials read from outside, by name."""

    def written(self) -> frozenset[tuple[str, ...]]:
        """Return the places of these values that trials write into."""


class TrialEnded(BaseException):
    """Ends the current trial from inside. No `Exception`, so that a body's `except Exception` cannot swallow it.

    Attributes:
        state: The state in which the trial ends: infeasible, stopped, failed or interrupted.
        failure: Why, when it failed.
        reason: One sentence.
    """

    def __init__(self, state: State = State.INTERRUPTED, reason: str = "", failure: Failure | None = None) -> None:
        self.state, self.reason, self.failure = state, reason, failure
        super().__init__(state.value, reason)


def trial_failure(kind: str, message: str) -> TrialEnded:
    """Return what ends the current trial as failed, with `message` as its failure."""
    return TrialEnded(State.FAILED, message, Failure(kind, message))


def number_of(name: str, value: Any) -> float:
    """Return the metric `value` as a finite float.

    Args:
        name: The metric's name, for the sentence.
        value: A real Python number, a tensor or array of no dimensions, or what says by `__float__` which number it is,
            as the result of `nc.accuracy` does. A bool is none.

    Raises:
        TrialEnded: The name is taken, or the value is no number or not finite; the trial ends as failed.
    """
    if name in RESERVED:
        raise trial_failure(
            "MetricName", f"The metric name {name!r} is taken by a column of the trials; choose another."
        )
    number = _scalar(value)
    if isinstance(number, bool) or type(number).__name__ == "bool_":
        raise trial_failure(
            "NotANumber", f"The metric {name!r} is a number, but got the bool {value!r}. Write float({name})."
        )
    if not isinstance(number, Real) and (hasattr(number, "shape") or not hasattr(type(number), "__float__")):
        raise trial_failure("NotANumber", f"The metric {name!r} is a number, but got {_described(value)}.")
    try:
        result = float(number)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise trial_failure("NotFinite", f"The metric {name!r} is a finite number, but got {result!r}.")
    return result


def _scalar(value: Any) -> Any:
    """Take the number out of a tensor, an array or a NumPy scalar without dimensions; leave the rest as it is."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    return value


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    if shape is not None:
        return f"the {kind} of shape {tuple(shape)}. Take one value of it, such as its .mean()"
    text = repr(value)
    return f"the {kind} {text if len(text) <= 60 else text[:57] + '...'}"


def step_of(step: Any) -> int:
    """Return `step` as an int.

    Raises:
        TrialEnded: It is no integer of at least 0; the trial ends as failed.
    """
    number = _scalar(step)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        hint = "" if isinstance(step, int) else " Metrics are given by name: report(accuracy=0.9)."
        raise trial_failure("Step", f"The step of a report is an integer of at least 0, but got {step!r}.{hint}")
    return number
