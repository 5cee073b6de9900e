"""The person's interrupt (Ctrl-C, the toolbar's square): it may end a body, never tear our own book-keeping."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from nbcompress.run.guard import Cut, current_guard
from nbcompress.study.trial import State

Handler = Callable[[int, FrameType | None], None] | signal.Handlers


def _drop(_number: int, _frame: FrameType | None) -> None: ...


@contextmanager
def uninterrupted(handler: Handler = _drop) -> Iterator[None]:
    """A `with` block in which interrupts are dropped: it is short, and half of what it does would be worse.

    With `signal.SIG_IGN`, programs that are started inside ignore interrupts as well.

    Outside the main thread no signals arrive, and this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class Interrupts:
    """A `with` block in which the first interrupt is counted and the second one raises.

    The first one raises `KeyboardInterrupt` only inside a trial's body; anywhere else it is noted, so that what is
    being recorded is recorded whole, and the loop reads `count`. Outside the main thread no signals arrive, and this
    does nothing.
    """

    def __init__(self) -> None:
        self.count = 0
        self._previous: object = None
        self._installed = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            previous = signal.getsignal(signal.SIGINT)
            # Someone who ignores interrupts, or handles them outside of Python, means it.
            if callable(previous):
                self._previous = previous
                signal.signal(signal.SIGINT, self._interrupted)
                self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)  # type: ignore[arg-type]

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        guard = current_guard()
        if self.count > 1 or (guard is not None and guard.is_armed):
            raise KeyboardInterrupt
        if guard is not None:
            guard.cut(Cut(State.INTERRUPTED))
