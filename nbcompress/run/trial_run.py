"""One run of a body, and every way it can end."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from nbcompress.run.guard import current_guard
from nbcompress.run.memory import free_memory
from nbcompress.run.outcome import Assignment, Outcome, TrialEnded
from nbcompress.run.printing import printed_text
from nbcompress.run.seeds import seeded
from nbcompress.run.trial_context import TrialContext
from nbcompress.study.goal import Goal
from nbcompress.study.trial import Failure, State

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
    shown.stack = traceback.StackSummary.from_list([one for one in shown.stack if not one.filename.startswith(_OWN)])
    for other in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        if other is not None:
            _hide_own(other)
