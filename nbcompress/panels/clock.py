"""How long a search has taken, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nbcompress.panels.view import Course
from nbcompress.study.trial import Trial


@dataclass
class Clock:
    """The course of one run of a search.

    Attributes:
        trials: How many trials were asked for in all.
        seconds: The time limit, or None.
        now: A clock in seconds.
    """

    trials: int | None
    seconds: float | None = None
    now: Callable[[], float] = time.monotonic
    _begun: float = field(init=False)
    _at_start: int = 0
    _done: int = 0

    def __post_init__(self) -> None:
        self._begun = self.now()

    def start(self, trials: Sequence[Trial]) -> None:
        """Start the clock; these trials were there before."""
        self._begun = self.now()
        self._at_start = self._done = sum(one.state.counts for one in trials)

    def ended(self, trial: Trial) -> None:
        """Count a trial that ended."""
        self._done += trial.state.counts

    def running(self) -> Course:
        """Return the course of a search that goes on."""
        elapsed = self.now() - self._begun
        return Course(True, None, self.trials, self.seconds, elapsed, self._left(elapsed))

    def over(self, ending: str | None) -> Course:
        """Return the course of a search that has ended; one that ran nothing took no time worth telling."""
        elapsed = self.now() - self._begun if self._done > self._at_start else None
        return Course(False, ending, self.trials, self.seconds, elapsed)

    def _left(self, elapsed: float) -> float | None:
        new = self._done - self._at_start
        if self.trials is None or not new:
            return None
        left = max(0, self.trials - self._done) * elapsed / new
        return left if self.seconds is None else min(left, max(0.0, self.seconds - elapsed))
