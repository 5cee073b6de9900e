"""Run a body once as a trial: every way it can end becomes an `Outcome`."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from nbcompress.errors import warnings_to
from nbcompress.progress import bars_shown
from nbcompress.run.capture import captured_output, free_memory, seeded
from nbcompress.run.outcome import Assignment, Outcome, TrialEnded
from nbcompress.run.settings import settings_kept
from nbcompress.run.trial import RunningTrial, current_trial
from nbcompress.study.goal import Failure, Goal, State

Body = Callable[[RunningTrial], Mapping[str, Any]]

# Frames of these folders only call the body; nobody looks for a mistake there.
_OWN = tuple(f"{Path(__file__).parent.parent / floor}{os.sep}" for floor in ("run", "cell"))
_TRACEBACK_LIMIT = 8_000


def run_trial(body: Body, assignment: Assignment, *, goal: Goal, keep: Collection[str] | None = None) -> Outcome:
    """Run `body` once; every way it can end is an outcome, and nothing is raised.

    Inside, the random generators are set from the assignment's seed, `report` and `keep` act on this trial, and
    printed text goes to the outcome. Settings that the body changes, such as torch's default dtype, are put back. Only
    `body` itself can be terminated from outside (by a limit, Stop, Skip or an interrupt): set up and undo outside of
    it.

    Args:
        body: Gets the running trial and returns the final metrics that it has not reported yet.
        assignment: Number, point and seed.
        goal: Objectives and constraints, which the metrics are checked against.
        keep: Names that may be kept; None allows all.
    """
    trial = current_trial()
    if trial is None or trial.has_begun:  # no engine has entered one for this run
        trial = RunningTrial(assignment)
    trial.begin(assignment, goal, keep)
    with (
        trial.entered(),
        settings_kept(trial),
        bars_shown(False),
        warnings_to(trial.remarks.append),
        captured_output(trial) as printed,
        seeded(assignment.seed),
    ):
        started = time.perf_counter()
        state, failure = _ending(body, trial)
        seconds = time.perf_counter() - started
    free_memory()
    return Outcome(
        state,
        trial.values,
        trial.reports,
        failure,
        str(printed),
        seconds,
        trial.kept if state is State.COMPLETE else {},
        trial.displayed.bundles(),
        tuple(trial.remarks),
    )


def _ending(body: Body, trial: RunningTrial) -> tuple[State, Failure | None]:
    terminator = trial.terminator
    try:
        metrics = terminator.call(body, trial) if terminator else body(trial)
        trial.complete(metrics)
    except TrialEnded as ended:
        # An exception from another thread only says that it came. What was requested says how the trial ends.
        requested = terminator.requested if terminator else None
        return (requested.state, requested.failure) if requested else (ended.state, ended.failure)
    except KeyboardInterrupt as error:
        # Whether a person interrupted, or the body raised it by itself and has failed, is known to the loop.
        return State.INTERRUPTED, failure_of(error)
    except BaseException as error:  # noqa: BLE001 - whatever a body raises, SystemExit too, is this trial's failure
        if is_trial_pruned(error):
            return State.STOPPED, Failure("TrialPruned", str(error)) if str(error) else None
        return State.FAILED, failure_of(error)
    else:
        return State.COMPLETE, None


def is_trial_pruned(error: BaseException) -> bool:
    """Return whether this is Optuna's `TrialPruned`, by name, since Optuna is not imported for that."""
    return any(
        base.__name__ == "TrialPruned" and base.__module__.partition(".")[0] == "optuna" for base in type(error).__mro__
    )


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
