"""Trials in the kernel itself, one at a time, in the thread that runs the loop."""

from __future__ import annotations

import math

from nbcompress.run.engines.base import cut_short, evaluated, over_limit
from nbcompress.run.outcome import Assignment, Evaluate, Outcome
from nbcompress.run.termination import Cut, Guard, guarded
from nbcompress.run.trial import Listener, listening

# Who limits trials is told when one took more than twice as long.
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
        self._waiting: tuple[Assignment, Guard] | None = None
        self._limit = math.inf

    def start(self, evaluate: Evaluate, *, jobs: int, listener: Listener | None) -> None:  # noqa: ARG002
        self._evaluate, self._listener = evaluate, listener

    def submit(self, assignment: Assignment, limit: float | None) -> None:
        self._waiting = assignment, Guard(None if limit is None else (limit, over_limit(limit)))
        self._limit = math.inf if limit is None else limit

    def next(self, timeout: float) -> tuple[Assignment, Outcome] | None:  # noqa: ARG002
        if self._waiting is None:
            return None
        assignment, guard = self._waiting
        try:
            with guarded(guard), listening(self._listener):
                outcome = evaluated(self._evaluate, assignment)
        finally:
            self._waiting = None
        if outcome.seconds > FAR_OVER * self._limit + 1.0:
            self.warnings.append(LATE)
        return assignment, cut_short(outcome, guard.asked) if guard.asked else outcome

    def cut(self, number: int, cut: Cut) -> None:
        waiting = self._waiting
        if waiting is not None and waiting[0].number == number:
            waiting[1].cut(cut)

    def close(self) -> None:
        self._waiting = None
