"""Stop, Pause and Skip: said from any thread, heard by the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Command = Literal["stop", "pause", "resume", "skip"]
Hearer = Callable[[Command], None]


class Controls:
    """The buttons of a search. Every method may be called from any thread, also before and after the search."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hearers: list[Hearer] = []
        self._stopped = threading.Event()
        self._running = threading.Event()
        self._running.set()

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    @property
    def is_paused(self) -> bool:
        return not self._running.is_set()

    def stop(self) -> None:
        """Abandon what runs (*interrupted*) and end the search."""
        self._stopped.set()
        self._tell("stop")

    def pause(self) -> None:
        """Let what runs end, then wait for `resume`."""
        self._running.clear()
        self._tell("pause")

    def resume(self) -> None:
        self._running.set()
        self._tell("resume")

    def skip(self) -> None:
        """End the trial that has run longest as *stopped*; the search goes on."""
        self._tell("skip")

    @contextmanager
    def heard_by(self, hearer: Hearer) -> Iterator[None]:
        """Call `hearer` for each command given inside the `with` block, on the thread that gives it."""
        with self._lock:
            self._hearers.append(hearer)
        try:
            yield
        finally:
            with self._lock:
                self._hearers.remove(hearer)

    def _tell(self, command: Command) -> None:
        with self._lock:
            hearers = tuple(self._hearers)
        for hearer in hearers:
            hearer(command)
