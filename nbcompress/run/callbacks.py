"""Observers of a search, such as a panel; and its controls: Stop, Pause and Skip, from any thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from nbcompress.study.goal import Trial

Command = Literal["stop", "pause", "resume", "skip"]
CommandListener = Callable[[Command], None]


class Controls:
    """The buttons of a search. Every method may be called from any thread, also before and after the search.

    Attributes:
        paused_seconds: How long the search has waited in pauses while no trial ran; only the search sets it.
    """

    def __init__(self) -> None:
        self.paused_seconds = 0.0
        self._lock = threading.Lock()
        self._listeners: list[CommandListener] = []
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
    def listening(self, listener: CommandListener) -> Iterator[None]:
        """Call `listener` for each command given inside the `with` block, on the thread that gives it."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)

    def _tell(self, command: Command) -> None:
        with self._lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener(command)


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
        kept: Where the kept values are, such as `best: study.kept["small"]`, or empty.
        test: What the best model has on data that no trial saw, or empty.
        n_ended: How many trials ended in this search.
        seconds: How long the search took, without pauses; None if no trial was begun.
        traceback: The traceback of the failure that ended the search, with the lines of the body; else empty.
    """

    kind: EndKind
    reason: str
    warnings: tuple[str, ...] = ()
    kept: str = ""
    test: str = ""
    n_ended: int = 0
    seconds: float | None = None
    traceback: str = ""

    def __str__(self) -> str:
        return " ".join(text for text in (self.reason, self.test, self.kept) if text)


class Observer(Protocol):
    """Is called after something is recorded, on the thread of the loop. It need not have all of these methods."""

    def trial_started(self, trial: Trial) -> None: ...

    def trial_ended(self, trial: Trial) -> None: ...

    def reported(self, number: int, step: int, values: Mapping[str, float]) -> None: ...

    def ended(self, ending: Ending) -> None: ...


@dataclass(frozen=True)
class _Handlers:
    """The methods of an observer; one that it lacks does nothing."""

    observer: str
    trial_started: Callable[[Trial], object]
    trial_ended: Callable[[Trial], object]
    reported: Callable[[int, int, Mapping[str, float]], object]
    ended: Callable[[Ending], object]

    @classmethod
    def of(cls, observer: Observer) -> _Handlers:
        def handler(name: str) -> Callable[..., object]:
            found: Callable[..., object] = getattr(observer, name, _ignore)
            return found

        return cls(
            type(observer).__name__,
            handler("trial_started"),
            handler("trial_ended"),
            handler("reported"),
            handler("ended"),
        )


def _ignore(*_: object) -> None: ...


class Observers:
    """Calls all observers. One that raises is not called again: an error in a panel must not end a search."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._handlers = [_Handlers.of(observer) for observer in observers]
        self.warnings: list[str] = []

    def trial_started(self, trial: Trial) -> None:
        self._call(lambda handlers: handlers.trial_started(trial))

    def trial_ended(self, trial: Trial) -> None:
        self._call(lambda handlers: handlers.trial_ended(trial))

    def reported(self, number: int, step: int, values: Mapping[str, float]) -> None:
        self._call(lambda handlers: handlers.reported(number, step, values))

    def ended(self, ending: Ending) -> None:
        self._call(lambda handlers: handlers.ended(ending))

    def _call(self, notify: Callable[[_Handlers], object]) -> None:
        for handlers in tuple(self._handlers):
            try:
                notify(handlers)
            except Exception as error:
                self._handlers.remove(handlers)
                logging.getLogger(__name__).debug("%s failed", handlers.observer, exc_info=True)
                what = f"{type(error).__name__}: {error}"
                self.warnings.append(f"{handlers.observer} could not show the search any more: {what}")
