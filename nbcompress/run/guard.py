"""Ending a body that runs in this process from another thread, at its next Python instruction.

CPython can set an exception in another thread. It arrives at some later instruction of that thread, which may lie
behind the end of the body; the whole care of this module is that it never does. (A signal would also wake a sleeping
body, but there are none on Windows nor outside the main thread.)

What was set is never taken back: it arrives and is caught. CPython 3.11 notes for the whole interpreter that an
exception waits somewhere, and only an arrival removes that note; as long as it stands, every function call of a traced
thread (`sys.settrace`, a profiler, a debugger, coverage) loops for ever.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import ParamSpec, TypeVar

from nbcompress.run.outcome import TrialEnded
from nbcompress.study.trial import Failure, State

P = ParamSpec("P")
R = TypeVar("R")

# How long traced threads wait at a stretch for the arrival of a cut, and how long they then have.
_PAUSE_SECONDS = 0.05
_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc


class CutShort(TrialEnded):
    """Raised inside a body that is ended from outside."""


@dataclass(frozen=True)
class Cut:
    """How a trial that is ended from outside shall stand: interrupted, stopped, or failed with a failure."""

    state: State
    failure: Failure | None = None


class Guard:
    """Runs a body in the thread that makes it; `cut` may be called from any thread.

    The exception can reach the thread only while the guard is armed. Disarming waits until no other thread is about
    to set the exception, then lets one that was set arrive, and catches it. The own thread takes no lock for that: an
    exception that arrives between taking and keeping a lock would leave it taken.

    Args:
        limit: Seconds that the body may take, and how it is cut then. What is done around the body does not count.
    """

    def __init__(self, limit: tuple[float, Cut] | None = None) -> None:
        self._limit = limit
        self._thread = threading.get_ident()
        self._armed = False
        self._firing = False
        self._is_sent = False
        self._turn = threading.RLock()  # an interrupt may call `cut` while this thread is in it
        self._cut: Cut | None = None

    @property
    def is_armed(self) -> bool:
        return self._armed

    @property
    def asked(self) -> Cut | None:
        """What the first `cut` asked for, or None."""
        return self._cut

    def call(self, body: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what `body` returns.

        Raises:
            CutShort: `cut` was called before or while it ran. Nothing arrives after this method has ended.
        """
        with self._alarm():
            try:
                try:
                    self._arm()
                    return body(*args, **kwargs)
                finally:
                    self._disarm()
            except BaseException:
                # It, or an interrupt, may have arrived in the midst of `_disarm`: this one runs to its end.
                self._disarm()
                raise

    @contextmanager
    def _alarm(self) -> Iterator[None]:
        """Cut what takes longer than the limit."""
        if self._limit is None:
            yield
            return
        seconds, cut = self._limit
        alarm = threading.Timer(seconds, self.cut, [cut])
        alarm.daemon = True
        alarm.start()
        try:
            yield
        finally:
            alarm.cancel()

    def cut(self, cut: Cut) -> None:
        """End the body; the first call decides how. Before the body starts, it will end at once."""
        with self._turn:
            if self._cut is not None:
                return
            self._cut = cut
        if not self._armed:
            return
        if threading.get_ident() == self._thread:
            raise CutShort(cut.state, failure=cut.failure)
        threading.Thread(target=self._send, name="nbcompress-cut", daemon=True).start()

    def shield(self) -> Shield:
        """A `with` block inside the body that is never torn in the middle; a cut waits for its end."""
        return Shield(self)

    def _arm(self) -> None:
        self._armed = True
        if self._cut is not None:
            self._armed = False  # it comes once
            raise CutShort(self._cut.state, failure=self._cut.failure)

    def _disarm(self) -> None:
        self._armed = False
        while self._firing:
            time.sleep(0)
        if self._is_sent:
            # Whether it has arrived is not known: the body may have caught it. Set once more it takes the place of
            # one that has not, so from here exactly one arrives.
            _raise_here()
            self._is_sent = False

    def _send(self) -> None:
        """Set the exception in the body's thread, again and again until it arrives or the body ends.

        While the body is in a call that does not come back to Python, the exception waits, and traced threads wait
        with it. So they get every other moment; what is set stays set.
        """
        _trace_nothing()  # this thread must not be one of them
        has_arrived = threading.Event()

        class Arriving(CutShort):
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


class Shield:
    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._was_armed = guard.is_armed

    def __enter__(self) -> None:
        if self._was_armed:
            self._guard._disarm()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._was_armed:
            self._guard._arm()


def _set_exception(thread: int, error: type[BaseException]) -> int:
    """Set what `thread` raises at its next instruction, in the place of what waits there; return 0 if it has ended."""
    return int(_async_exc(ctypes.c_ulong(thread), ctypes.py_object(error)))


def _trace_nothing() -> None:
    """Take this thread from debuggers and profilers. Not by `sys.settrace`: debugpy complains of whoever calls that."""
    ctypes.pythonapi.PyEval_SetTrace(None, None)
    ctypes.pythonapi.PyEval_SetProfile(None, None)


def _raise_here() -> None:
    """Let an exception arrive in this thread, and catch it. The interpreter's note that one waits goes with it."""
    try:
        _set_exception(threading.get_ident(), CutShort)
        while True:
            time.sleep(0)
    except CutShort:
        pass


_current: ContextVar[Guard | None] = ContextVar("nbcompress_guard", default=None)


def current_guard() -> Guard | None:
    """The guard of the trial that runs in this context, if its engine uses one."""
    return _current.get()


class guarded:  # noqa: N801 - reads as a statement: `with guarded(guard):`
    """Make `guard` the current one."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __enter__(self) -> Guard:
        self._token = _current.set(self._guard)
        return self._guard

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._token)
