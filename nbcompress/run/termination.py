"""Terminate a body that runs in this process from another thread, at its next Python instruction.

The exception is set from another thread, so it is asynchronous and could be raised after the body has returned. This
module guarantees that it is raised inside the body or not at all. (A signal would also wake a body that sleeps, but
there are none on Windows nor outside the main thread.)

An exception that was set is never withdrawn: it arrives and is caught. CPython 3.11 notes for the whole interpreter
that an exception is pending, and only its arrival removes that note; until then every function call of a traced thread
(`sys.settrace`, a profiler, a debugger, coverage) loops for ever.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import ParamSpec, TypeVar

from nbcompress.run.outcome import TrialEnded
from nbcompress.study.goal import Failure, State

Handler = Callable[[int, FrameType | None], None] | signal.Handlers


def _drop(_number: int, _frame: FrameType | None) -> None: ...


@contextmanager
def uninterrupted(handler: Handler = _drop) -> Iterator[None]:
    """A `with` block in which interrupts are dropped. Keep it short.

    With `signal.SIG_IGN` as handler, programs that are started inside ignore interrupts, too. Outside the main thread
    no signals arrive, and this does nothing.
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

    Args:
        running: Returns the terminator of the trial that runs in this context, or None.
    """

    def __init__(self, running: Callable[[], Terminator | None]) -> None:
        self.count = 0
        self._running = running
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
        terminator = self._running()
        if self.count > 1 or (terminator is not None and terminator.is_armed):
            raise KeyboardInterrupt
        if terminator is not None:
            terminator.terminate(Termination(State.INTERRUPTED))


P = ParamSpec("P")
R = TypeVar("R")

# How long traced threads wait for the exception to arrive, and how long they may run then.
_PAUSE_SECONDS = 0.05
_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc


class TrialTerminated(TrialEnded):
    """Raised inside a body that is terminated."""


@dataclass(frozen=True)
class Termination:
    """How a trial that is terminated ends: interrupted, stopped, or failed with a failure."""

    state: State
    failure: Failure | None = None


class Terminator:
    """Runs a body in the thread that creates it; `terminate` may be called from any thread.

    The exception can reach the thread only while the terminator is armed. Disarming waits until no other thread is
    about to set the exception, then lets an exception that was set arrive, and catches it. The thread of the body takes
    no lock for that, because an exception right after the lock was acquired would leave it locked.

    Args:
        limit: The seconds that the body may take, and how it ends then. The time around the body does not count.
    """

    def __init__(self, limit: tuple[float, Termination] | None = None) -> None:
        self._limit = limit
        self._thread = threading.get_ident()
        self._armed = False
        self._firing = False
        self._is_sent = False
        self._turn = threading.RLock()  # re-entrant, since an interrupt may call `terminate` inside
        self._requested: Termination | None = None

    @property
    def is_armed(self) -> bool:
        return self._armed

    @property
    def requested(self) -> Termination | None:
        """The first termination that was requested, or None."""
        return self._requested

    def call(self, body: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what `body` returns.

        Raises:
            TrialTerminated: `terminate` was called before or while the body ran. Nothing is raised later.
        """
        with self._alarm():
            try:
                try:
                    self._arm()
                    return body(*args, **kwargs)
                finally:
                    self._disarm()
            except BaseException:
                # The exception, or an interrupt, may have arrived inside `_disarm`; this call runs to its end.
                self._disarm()
                raise

    @contextmanager
    def _alarm(self) -> Iterator[None]:
        """Terminate a body that takes longer than the limit."""
        if self._limit is None:
            yield
            return
        seconds, termination = self._limit
        alarm = threading.Timer(seconds, self.terminate, [termination])
        alarm.daemon = True
        alarm.start()
        try:
            yield
        finally:
            alarm.cancel()

    def terminate(self, termination: Termination) -> None:
        """End the body; the first call decides how. A body that has not started will end at once."""
        with self._turn:
            if self._requested is not None:
                return
            self._requested = termination
        if not self._armed:
            return
        if threading.get_ident() == self._thread:
            raise TrialTerminated(termination.state, failure=termination.failure)
        threading.Thread(target=self._send, name="nbcompress-terminate", daemon=True).start()

    def deferred(self) -> deferred_termination:
        """Return a `with` block inside the body in which no termination arrives; it waits for the end of the block."""
        return deferred_termination(self)

    def _arm(self) -> None:
        self._armed = True
        if self._requested is not None:
            self._armed = False  # it is raised once
            raise TrialTerminated(self._requested.state, failure=self._requested.failure)

    def _disarm(self) -> None:
        self._armed = False
        while self._firing:
            time.sleep(0)
        if self._is_sent:
            # It is not known whether the exception has arrived, because the body may have caught it. Setting it again
            # replaces one that has not arrived, so exactly one arrives here.
            _raise_here()
            self._is_sent = False

    def _send(self) -> None:
        """Set the exception in the body's thread, repeatedly until it arrives or the body ends.

        While the body is in a call that does not return to Python, the exception stays pending, and the interpreter's
        note of it blocks traced threads. Half of the time that note is removed to let them run.
        """
        _trace_nothing()  # this thread must not be traced
        has_arrived = threading.Event()

        class Arriving(TrialTerminated):
            def __init__(self) -> None:
                has_arrived.set()
                super().__init__()

        while not has_arrived.is_set():
            self._firing = True
            try:
                if not self._armed:
                    return
                self._is_sent = True
                if _set_exception(self._thread, Arriving) == 0:
                    return
            finally:
                self._firing = False
            time.sleep(_PAUSE_SECONDS)
            _raise_here()
            time.sleep(_PAUSE_SECONDS)


class deferred_termination:  # noqa: N801 - a context manager, written as a class so that no frame of a generator is torn
    """A `with` block inside the body in which no termination arrives; it waits for the end of the block."""

    def __init__(self, terminator: Terminator) -> None:
        self._terminator = terminator
        self._was_armed = terminator.is_armed

    def __enter__(self) -> None:
        if self._was_armed:
            self._terminator._disarm()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._was_armed:
            self._terminator._arm()


def _set_exception(thread: int, error: type[BaseException]) -> int:
    """Set the exception that `thread` raises next, replacing a pending one; return 0 if the thread has ended."""
    return int(_async_exc(ctypes.c_ulong(thread), ctypes.py_object(error)))


def _trace_nothing() -> None:
    """Remove the tracer and profiler of this thread. Not with `sys.settrace`, because debugpy warns about that."""
    ctypes.pythonapi.PyEval_SetTrace(None, None)
    ctypes.pythonapi.PyEval_SetProfile(None, None)


def _raise_here() -> None:
    """Raise an exception in this thread and catch it, so that no exception is pending any more."""
    try:
        _set_exception(threading.get_ident(), TrialTerminated)
        while True:
            time.sleep(0)
    except TrialTerminated:
        pass
