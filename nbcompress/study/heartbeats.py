"""Signs of life of processes that cannot be seen from here, such as those of another machine.

Whoever runs a trial writes a counter beside it every 10 seconds. Whoever reads the study remembers when it first saw
the counter at its present value, and gives the trial up when that is 60 seconds ago. Only the reader's own monotonic
clock is asked, so clocks that are wrong, or are set, do not matter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field


@dataclass
class _Sighting:
    count: int
    since: float
    has_changed: bool = False


class Sightings:
    """When this process first saw each counter at its present value."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Hashable, _Sighting] = {}

    def note(self, run: Hashable, count: int, asked: float, answered: float) -> float:
        """Note a counter that was read, and return for how many seconds it stands still.

        Args:
            run: Whose counter it is.
            count: What it says.
            asked: The time just before the storage was read. Standing still is counted up to here ...
            answered: The time just after. ... and from here, so that a slow storage makes it shorter, never longer.
        """
        with self._lock:
            known = self._known.get(run)
            if known is None:
                self._known[run] = _Sighting(count, answered)
                return 0.0
            if known.count != count:
                self._known[run] = _Sighting(count, answered, has_changed=True)
                return 0.0
            return max(0.0, asked - known.since)

    def has_beaten(self, run: Hashable) -> bool:
        """Say whether the counter was seen to change."""
        with self._lock:
            known = self._known.get(run)
            return known is not None and known.has_changed

    def forget(self, run: Hashable) -> None:
        with self._lock:
            self._known.pop(run, None)


@dataclass(frozen=True)
class Heartbeats:
    """How often a sign of life is written, and how long one is waited for.

    Attributes:
        every: Seconds from one to the next. A trial that is shorter writes none.
        patience: Seconds without a new one after which a trial is given up. Several times `every`.
        clock: The reader's clock, in seconds; never goes back.
        sightings: What was read so far, by this clock. Of the process and not of a study object, so that who asks
            again a minute later knows what it saw.
    """

    every: float = 10.0
    patience: float = 60.0
    clock: Callable[[], float] = time.monotonic
    sightings: Sightings = field(default_factory=Sightings)


HEARTBEATS = Heartbeats()


class Heart:
    """Counts for the runs of this process that last, on a thread of its own while there are any.

    Args:
        write: Stores the count of a run; returns False when there is nothing to count for any more.
        timing: How often.
    """

    def __init__(self, write: Callable[[int, int], bool], timing: Heartbeats) -> None:
        self._write, self._timing = write, timing
        self._lock = threading.Lock()
        self._is_beating = False
        self._is_over = threading.Event()
        self._runs: dict[int, tuple[float, int]] = {}  # run -> when its next count is due, and that count

    def begin(self, run: int) -> None:
        with self._lock:
            self._runs[run] = (self._timing.clock() + self._timing.every, 1)
            if self._is_beating:
                return
            self._is_beating = True
        threading.Thread(target=self._keep_beating, name="nbcompress-heartbeat", daemon=True).start()

    def end(self, run: int) -> None:
        with self._lock:
            self._runs.pop(run, None)

    def close(self) -> None:
        """Count for nothing any more."""
        with self._lock:
            self._runs.clear()
        self._is_over.set()

    def beat(self) -> None:
        """Write the counts that are due."""
        now = self._timing.clock()
        with self._lock:
            due = [(run, count) for run, (when, count) in self._runs.items() if when <= now]
        for run, count in due:
            goes_on = self._write(run, count)
            with self._lock:
                if run in self._runs and goes_on:
                    self._runs[run] = (now + self._timing.every, count + 1)
                elif run in self._runs:
                    del self._runs[run]

    def _keep_beating(self) -> None:
        while True:
            self._is_over.wait(self._timing.every)
            self.beat()
            with self._lock:
                if not self._runs:
                    self._is_beating = False
                    return
