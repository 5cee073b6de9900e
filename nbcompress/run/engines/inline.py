"""Trials in the kernel itself, one at a time, in the thread that runs the loop."""

from __future__ import annotations

import math

from nbcompress.run.engines.base import evaluated, over_limit, terminated
from nbcompress.run.outcome import Assignment, Evaluate, Outcome
from nbcompress.run.termination import Termination, Terminator
from nbcompress.run.trial import Listener, RunningTrial

# The user is warned if a trial takes more than this many times its limit.
FAR_OVER = 2.0
LATE = (
    "A trial ran far over its limit: inline, a call that does not come back to Python, such as a sleep or a fit, "
    "ends by itself first. The engine process ends it in time."
)


class InlineEngine:
    """Runs each trial when `next` is called. A body is ended at its next Python instruction."""

    name = "inline"
    is_serial = True
    sends = False

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._waiting: tuple[Assignment, Terminator] | None = None
        self._limit = math.inf

    def prepare(self, evaluate: Evaluate, jobs: int) -> None:
        pass

    def start(self, evaluate: Evaluate, *, jobs: int, listener: Listener | None) -> None:  # noqa: ARG002
        self._evaluate, self._listener = evaluate, listener

    def submit(self, assignment: Assignment, limit: float | None) -> None:
        self._waiting = assignment, Terminator(None if limit is None else (limit, over_limit(limit)))
        self._limit = math.inf if limit is None else limit

    def next(self, timeout: float) -> tuple[Assignment, Outcome] | None:  # noqa: ARG002
        if self._waiting is None:
            return None
        assignment, terminator = self._waiting
        try:
            with RunningTrial(assignment, terminator=terminator, listener=self._listener).entered():
                outcome = evaluated(self._evaluate, assignment)
        finally:
            self._waiting = None
        if outcome.seconds > FAR_OVER * self._limit + 1.0:
            self.warnings.append(LATE)
        return assignment, terminated(outcome, terminator.requested) if terminator.requested else outcome

    def terminate(self, number: int, termination: Termination) -> None:
        waiting = self._waiting
        if waiting is not None and waiting[0].number == number:
            waiting[1].terminate(termination)

    def close(self) -> None:
        self._waiting = None
