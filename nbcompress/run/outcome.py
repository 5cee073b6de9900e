"""What goes into a trial and what comes out of it, as plain values that cross any process border."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbcompress.study.trial import Failure, State

if TYPE_CHECKING:
    from nbcompress.run.pruner import Judge
    from nbcompress.space import Point


@dataclass(frozen=True)
class Assignment:
    """One run of one point.

    Attributes:
        number: The trial's number in the study.
        point: The active parameters, by flat name.
        seed: What the random generators are set to.
        repeat: Which run of the point this is, from 0.
        judge: Decides from reported values whether the trial is worth going on; None never stops it.
    """

    number: int
    point: Point
    seed: int
    repeat: int = 0
    judge: Judge | None = None


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
