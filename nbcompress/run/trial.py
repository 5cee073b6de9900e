"""The trial that runs now: what it measures, reports and keeps, and how it can be terminated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from nbcompress.errors import SearchError, did_you_mean
from nbcompress.run.outcome import (
    Assignment,
    DisplayedOutputs,
    PrintedText,
    TrialEnded,
    number_of,
    step_of,
    trial_failure,
)
from nbcompress.study.goal import Failure, Goal, State

if TYPE_CHECKING:
    from nbcompress.run.termination import Terminator

Listener = Callable[[int, int, Mapping[str, float]], None]
"""Called with trial number, step and the values reported there."""

_running: ContextVar[RunningTrial | None] = ContextVar("nbcompress_running_trial", default=None)

# What a trial inside the body of another one takes over from it, where it has none of its own.
_INHERITED = ("terminator", "listener", "printed", "globals")


class RunningTrial:
    """One run of a body, while it runs.

    An engine makes it and enters it; `run_trial` begins it and collects in it what the body leaves behind.

    Attributes:
        assignment: Number, point, seed and pruning rule of this run.
        goal: Objectives and constraints, once it has begun.
        values: The metrics so far, all finite.
        reports: Intermediate values: metric -> step -> value.
        kept: What the body asked to keep.
        remarks: Sentences for the user, added by whoever runs the body.
        terminator: Ends the body from outside, if its engine can.
        listener: Called with intermediate values, or None.
        displayed: Takes what is displayed, such as figures, where a notebook passes it on.
        printed: Takes what is printed; None while it goes to the notebook.
        globals: The global names of a cell's body; magics inside look names up there.

    Args:
        assignment: Of this run.
        goal: If it is known already.
        keep: Only these names may be kept; None allows every name.
        terminator, listener: See above.
    """

    goal: Goal

    def __init__(
        self,
        assignment: Assignment,
        goal: Goal | None = None,
        *,
        keep: Collection[str] | None = None,
        terminator: Terminator | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.assignment = assignment
        self.terminator, self.listener = terminator, listener
        self.printed: PrintedText | None = None
        self.globals: dict[str, Any] | None = None
        self.has_begun = False
        self.values: dict[str, float] = {}
        self.reports: dict[str, dict[int, float]] = {}
        self.kept: dict[str, Any] = {}
        self.displayed = DisplayedOutputs()
        self.remarks: list[str] = []
        self._extremes: dict[str, tuple[float, float]] = {}  # metric -> smallest and largest reported value
        # Objectives that were not known at the latest report, so that the pruning rule could not decide.
        self._awaited: tuple[str, ...] = ()
        if goal is not None:
            self.begin(assignment, goal, keep)

    def begin(self, assignment: Assignment, goal: Goal, keep: Collection[str] | None = None) -> None:
        """Take reports from now on.

        Args:
            assignment: Of this run.
            goal: Objectives and constraints.
            keep: Only these names may be kept; None allows every name.
        """
        self.assignment, self.goal = assignment, goal
        self._keep = None if keep is None else frozenset(keep)
        self.has_begun = True

    @contextmanager
    def entered(self) -> Iterator[RunningTrial]:
        """Make this the current trial inside the `with` block."""
        outer = _running.get()
        if outer is not None and outer is not self:
            for name in _INHERITED:
                if getattr(self, name) is None:
                    setattr(self, name, getattr(outer, name))
        token = _running.set(self)
        try:
            yield self
        finally:
            _running.reset(token)

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
                pruning rule stops the trial (stopped).
        """
        if step is None:
            self._record(metrics)
            return
        step = step_of(step)
        numbers = {name: self._number(name, value) for name, value in metrics.items()}
        for name, number in numbers.items():
            self._enter_report(name, step, number)
        if self.listener is not None and numbers:
            # An exception in the middle of a panel's message or of a file would leave half of it.
            with self.terminator.deferred() if self.terminator else nullcontext():
                self.listener(self.assignment.number, step, numbers)
        pruning_rule = self.assignment.pruning_rule
        if pruning_rule is None:
            return
        self._awaited = pruning_rule.missing_objectives(self.reports, self.values)
        verdict = pruning_rule.verdict(self.reports, step, self.values, self._extremes)
        if verdict:
            raise TrialEnded(State.STOPPED, verdict)

    def _enter_report(self, metric: str, step: int, number: float) -> None:
        steps = self.reports.setdefault(metric, {})
        is_replaced = step in steps
        steps[step] = number
        if is_replaced:
            self._extremes[metric] = min(steps.values()), max(steps.values())
        else:
            low, high = self._extremes.get(metric, (number, number))
            self._extremes[metric] = min(low, number), max(high, number)

    def keep(self, **values: Any) -> None:
        """Keep values of the trial; names that may not be kept are ignored."""
        for name, value in values.items():
            if self._keep is None or name in self._keep:
                self.kept[name] = value

    def complete(self, metrics: Mapping[str, Any]) -> None:
        """Record the metrics that the body returned, and check that none is missing.

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
                raise trial_failure(
                    "NotAssigned", f"The trial ended without the metric {metric!r}; it left these: {given}.{hint}"
                )

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
            raise trial_failure(
                "MetricName", f"No name is both a parameter and a metric, but {name!r} is reported as one."
            )
        return number_of(name, value)


def current_trial() -> RunningTrial | None:
    """Return the trial that runs in this context, or None outside of one."""
    return _running.get()


def current_terminator() -> Terminator | None:
    """Return what can end the trial that runs in this context, or None."""
    trial = _running.get()
    return None if trial is None else trial.terminator


def report(step: int | None = None, **metrics: Any) -> None:
    """Report metrics of the running trial. Outside a trial this does nothing.

    Args:
        step: None for final metrics: constraints on them are checked at once, and a trial that violates one ends here
            as infeasible. With a step (such as an epoch, from 0) the metrics are intermediate: the pruner reads them.
        metrics: By name: numbers, or tensors and arrays without dimensions.

    Raises:
        TrialEnded: The trial ends here: a constraint is violated, the pruner stops it, or a value is not a finite
            number. It is no `Exception`, so that `except Exception` does not catch it.

    Example:
        >>> import nbcompress as nc
        >>> def train(x):
        ...     nc.report(kilobytes=100 * x)
        ...     for epoch in range(3):
        ...         nc.report(accuracy=x * epoch, step=epoch)
        ...     return {"kilobytes": 100 * x, "accuracy": 2 * x}
        >>> options = {"maximize": "accuracy", "subject_to": "kilobytes <= 60", "sampler": "sobol"}
        >>> study = nc.search(train, {"x": nc.Float(0, 1)}, trials=4, **options)
        >>> sorted({trial.state.value for trial in study.all_trials})
        ['complete', 'infeasible']
    """
    trial = _running.get()
    if trial is not None and trial.has_begun:
        trial.report(step, **metrics)


def keep(**values: Any) -> None:
    """Keep values of the running trial, such as a model, as long as it is on the front. Outside a trial: nothing.

    In a stored study the values are written to files, and can be read after a restart of the kernel.

    Args:
        values: By name. Tensors, modules and plain Python values can be stored, and lists and dicts of them.

    Example:
        >>> import nbcompress as nc
        >>> def train(x):
        ...     nc.keep(weights=[x, 2 * x])
        ...     return {"loss": x**2}
        >>> study = nc.search(train, {"x": nc.Float(-1, 1)}, minimize="loss", trials=3, sampler="sobol")
        >>> len(study.best.kept["weights"])
        2
    """
    trial = _running.get()
    if trial is not None and trial.has_begun:
        trial.keep(**values)


def stop_trial(reason: str = "") -> None:
    """End the running trial as *stopped*, for a reason of your own. Outside a trial this does nothing.

    A stopped trial counts as a trial and keeps the metrics that it has reported. In a cell or a function written for
    Optuna, `raise optuna.TrialPruned("why")` does the same.

    Args:
        reason: One sentence; it is shown with the trial.

    Raises:
        SearchError: The reason is no text.
        TrialEnded: The trial ends here. It is no `Exception`, so that `except Exception` does not catch it.

    Example:
        >>> import nbcompress as nc
        >>> def train(x):
        ...     if x > 0.5:
        ...         nc.stop_trial("x is too large to be useful")
        ...     return {"loss": x}
        >>> study = nc.search(train, {"x": nc.Float(0, 1)}, minimize="loss", trials=4, sampler="sobol")
        >>> sorted({trial.state.value for trial in study.all_trials})
        ['complete', 'stopped']
    """
    if not isinstance(reason, str):
        raise SearchError(f"The reason to stop a trial is a text, but got {reason!r}.")
    trial = _running.get()
    if trial is not None and trial.has_begun:
        raise TrialEnded(State.STOPPED, reason, Failure("Stopped", reason) if reason else None)
