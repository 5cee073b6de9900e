"""One run of a body, and every way it can end.

The trial that runs now: what it measured, reported and keeps.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from nbcompress.errors import did_you_mean
from nbcompress.run.capture import free_memory, printed_text, seeded
from nbcompress.run.outcome import Assignment, Outcome, TrialEnded, number_of, refused, step_of
from nbcompress.run.termination import current_guard
from nbcompress.study.goal import Failure, Goal, State

Listener = Callable[[int, int, Mapping[str, float]], None]
"""Called with trial number, step and the values reported there."""

_current: ContextVar[TrialContext | None] = ContextVar("nbcompress_trial", default=None)
_listener: ContextVar[Listener | None] = ContextVar("nbcompress_listener", default=None)


class TrialContext:
    """What one run of a body leaves behind, collected while it runs.

    Attributes:
        goal: Objectives and constraints.
        assignment: Number, point, seed and judge of this run.
        values: The metrics so far, all finite.
        reports: Intermediate values: metric -> step -> value.
        kept: What the body asked to keep.
        remarks: Sentences for the person, added by whoever runs the body.

    Args:
        keep: Only these names may be kept; None allows every name.
    """

    def __init__(self, goal: Goal, assignment: Assignment, *, keep: Collection[str] | None = None) -> None:
        self.goal, self.assignment = goal, assignment
        self._keep = None if keep is None else frozenset(keep)
        self.values: dict[str, float] = {}
        self.reports: dict[str, dict[int, float]] = {}
        self.kept: dict[str, Any] = {}
        self.remarks: list[str] = []
        # Objectives that the judge did not know at the latest report.
        self._awaited: tuple[str, ...] = ()

    def check(self, metric: str, value: Any) -> float:
        """Record a final metric and return it as a float.

        Raises:
            TrialEnded: It is no finite number (failed), or it breaks a constraint (infeasible).
        """
        self._record({metric: value})
        return self.values[metric]

    def report(self, step: int | None = None, **metrics: Any) -> None:
        """Record final metrics (no step) or intermediate ones (with a step).

        Raises:
            TrialEnded: A value is no finite number (failed), a final one breaks a constraint (infeasible), or the
                judge finds the trial not worth going on (stopped).
        """
        if step is None:
            self._record(metrics)
            return
        step = step_of(step)
        numbers = {name: self._number(name, value) for name, value in metrics.items()}
        for name, number in numbers.items():
            self.reports.setdefault(name, {})[step] = number
        listener = _listener.get()
        if listener is not None and numbers:
            guard = current_guard()
            # A cut in the midst of a panel's message or of a file would leave half of it.
            with guard.shield() if guard else nullcontext():
                listener(self.assignment.number, step, numbers)
        judge = self.assignment.judge
        if judge is None:
            return
        self._awaited = judge.unseen(self.reports, self.values)
        verdict = judge.verdict(self.reports, step, self.values)
        if verdict:
            raise TrialEnded(State.STOPPED, verdict)

    def keep(self, **values: Any) -> None:
        """Remember values that outlive the trial if it is on the front; those that were not asked for are let go."""
        for name, value in values.items():
            if self._keep is None or name in self._keep:
                self.kept[name] = value

    def complete(self, metrics: Mapping[str, Any]) -> None:
        """Record what the body ended with, and check that nothing is missing.

        Raises:
            TrialEnded: As `check`; or an objective or a constrained metric is missing (failed).
        """
        if self._awaited:
            self.remarks.append(
                f"No trial was stopped early while {' and '.join(self._awaited)} was not known. Where it can be known "
                f"before the training, write report({self._awaited[0]}=...) there; else report it with a step, too."
            )
        self._record(metrics)
        for metric in self.goal.metrics:
            if metric not in self.values:
                given = ", ".join(self.values) or "none"
                hint = did_you_mean(metric, self.values)
                raise refused(
                    "NotAssigned", f"The trial ended without the metric {metric!r}; it left these: {given}.{hint}"
                )

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make this the current trial inside the `with` block."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def _record(self, metrics: Mapping[str, Any]) -> None:
        # All are recorded before one may end the trial: an infeasible trial keeps the metrics it has.
        numbers = {name: self._number(name, value) for name, value in metrics.items()}
        self.values.update(numbers)
        for constraint in self.goal.constraints:
            if constraint.metric in numbers and not constraint.holds(numbers[constraint.metric]):
                got = f"{constraint.metric} is {numbers[constraint.metric]:.6g}"
                raise TrialEnded(State.INFEASIBLE, f"{constraint} must hold, but {got}.")

    def _number(self, name: str, value: Any) -> float:
        if name in self.assignment.point:
            raise refused("MetricName", f"No name is both a parameter and a metric, but {name!r} is reported as one.")
        return number_of(name, value)


def current_trial() -> TrialContext | None:
    """The trial that runs in this context, or None outside of one."""
    return _current.get()


def report(step: int | None = None, **metrics: Any) -> None:
    """Tell the search what the running trial measured; outside a trial this does nothing.

    Args:
        step: None for final metrics: a constraint on one of them is checked at once, and a trial that breaks it
            ends here. With a step (an epoch, say) the values are intermediate; only the pruner reads them.
        metrics: Numbers, or tensors and arrays without dimensions, by name.

    Example:
        >>> report(kilobytes=48.5)
        >>> report(accuracy=0.91, step=3)
    """
    trial = _current.get()
    if trial is not None:
        trial.report(step, **metrics)


def keep(**values: Any) -> None:
    """Keep these values if the running trial is on the front; outside a trial this does nothing.

    Example:
        >>> keep(small=None)
    """
    trial = _current.get()
    if trial is not None:
        trial.keep(**values)


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Send intermediate values of the trials inside the `with` block to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


Body = Callable[[TrialContext], Mapping[str, Any]]

# Frames of these folders only carry the body; nobody looks for a mistake there.
_OWN = tuple(f"{Path(__file__).parent.parent / floor}{os.sep}" for floor in ("run", "cell"))
_TRACEBACK_LIMIT = 8_000


def run_trial(body: Body, assignment: Assignment, *, goal: Goal, keep: Collection[str] | None = None) -> Outcome:
    """Run `body` once; every way it can end is an outcome, and nothing is raised.

    Inside, the random generators are set from the assignment's seed, `report` and `keep` act on this trial, and
    printed text goes to the outcome. Only `body` itself can be cut short from outside (by a limit, Stop, Skip or an
    interrupt): set up and undo outside of it.

    Args:
        body: Gets the trial's context and returns the final metrics that it has not reported yet.
        assignment: Number, point and seed.
        goal: Objectives and constraints, which the metrics are checked against.
        keep: Names that may be kept; None allows all.
    """
    context = TrialContext(goal, assignment, keep=keep)
    with printed_text() as printed, seeded(assignment.seed), context.entered():
        started = time.perf_counter()
        state, failure = _ending(body, context)
        seconds = time.perf_counter() - started
    free_memory()
    return Outcome(
        state,
        context.values,
        context.reports,
        failure,
        str(printed),
        seconds,
        context.kept if state is State.COMPLETE else {},
        tuple(context.remarks),
    )


def _ending(body: Body, context: TrialContext) -> tuple[State, Failure | None]:
    guard = current_guard()
    try:
        metrics = guard.call(body, context) if guard else body(context)
        context.complete(metrics)
    except TrialEnded as ended:
        # Raised from outside, it says only that it came; how the trial stands is what was asked for.
        asked = guard.asked if guard else None
        return (asked.state, asked.failure) if asked else (ended.state, ended.failure)
    except KeyboardInterrupt:
        return State.INTERRUPTED, None
    except BaseException as error:  # noqa: BLE001 - whatever a body raises, SystemExit too, is this trial's failure
        return State.FAILED, failure_of(error)
    else:
        return State.COMPLETE, None


def failure_of(error: BaseException, *, hide_own: bool = True) -> Failure:
    """Describe an exception; the traceback shows the body's frames and those it called, not ours around it."""
    shown = traceback.TracebackException.from_exception(error, compact=True)
    if hide_own:
        _hide_own(shown)
    text = "".join(shown.format())
    if len(text) > _TRACEBACK_LIMIT:
        half = _TRACEBACK_LIMIT // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    # The frames hold the body's tensors; a failed trial must not keep them alive.
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    return Failure(type(error).__name__, str(error), text)


def _hide_own(shown: traceback.TracebackException) -> None:
    shown.stack = traceback.StackSummary.from_list(
        [frame for frame in shown.stack if not frame.filename.startswith(_OWN)]
    )
    for other in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        if other is not None:
            _hide_own(other)
