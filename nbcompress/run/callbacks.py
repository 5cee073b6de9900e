"""Those who watch a search, such as a panel.

Stop, Pause and Skip: said from any thread, heard by the loop.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from nbcompress.study.goal import Trial

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


EndKind = Literal[
    "done", "until", "exhausted", "timeout", "stopped", "interrupted", "same failure", "elsewhere", "broken"
]


@dataclass(frozen=True)
class Ending:
    """Why a search ended.

    Attributes:
        kind: In one word, for programs.
        reason: In a sentence, for the person.
        warnings: What else the person should know, a sentence each.
    """

    kind: EndKind
    reason: str
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.reason


class Observer(Protocol):
    """Is told what happens, after it is recorded, on the loop's thread. A method that it lacks is not called."""

    def trial_started(self, trial: Trial) -> None: ...

    def trial_ended(self, trial: Trial) -> None: ...

    def reported(self, number: int, step: int, values: Mapping[str, float]) -> None: ...

    def ended(self, ending: Ending) -> None: ...


class Observers:
    """Tells all observers. One that raises is told nothing more: a panel's mistake must not cost a search."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = list(observers)
        self.warnings: list[str] = []

    def tell(self, event: str, *arguments: Any) -> None:
        for observer in tuple(self._observers):
            method = getattr(observer, event, None)
            if method is None:
                continue
            try:
                method(*arguments)
            except Exception as error:
                self._observers.remove(observer)
                name = type(observer).__name__
                logging.getLogger(__name__).debug("%s failed", name, exc_info=True)
                self.warnings.append(f"{name} could not show the search any more: {type(error).__name__}: {error}")
