"""Which studies are searched in this process right now: one search at a time, and none is deleted under it.

Searches of other processes are seen by the trials that they run; this is for searches in threads of one process, such
as one in the background of a notebook, also between two trials.

Who runs a trial, and whether it still lives.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psutil

from nbcompress.errors import StudyError

if TYPE_CHECKING:
    from nbcompress.study.storage import Ledger


# The start of a process is told in wall-clock time, which a clock that is set right moves. Seconds; far below the time
# after which a system gives the same process id again.
_START_TOLERANCE = 5.0


@dataclass(frozen=True)
class Worker:
    """A process on a host, and the `Study` object in it that runs the trial.

    Attributes:
        host: Network name of the machine.
        pid: Process id.
        started: When the process began, in seconds since the epoch. Tells it from a later one with the same id.
        session: Name of the study object in that process.
    """

    host: str
    pid: int
    started: float
    session: str

    def to_json(self) -> dict[str, Any]:
        return {"host": self.host, "pid": self.pid, "started": self.started, "session": self.session}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Worker:
        return cls(str(data["host"]), int(data["pid"]), float(data["started"]), str(data["session"]))

    @property
    def is_this_process(self) -> bool:
        host, pid, started = _this_process(os.getpid())
        return self.host == host and self.pid == pid and abs(self.started - started) < _START_TOLERANCE

    def is_dead(self) -> bool:
        """Say whether the process is known to have ended. Of another host nothing is known, so it is False there."""
        if self.host != platform.node():
            return False
        try:
            process = psutil.Process(self.pid)
            # A killed process that nobody has waited for is still listed.
            is_gone = process.status() == psutil.STATUS_ZOMBIE
            return is_gone or abs(process.create_time() - self.started) >= _START_TOLERANCE
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@lru_cache(maxsize=1)
def _this_process(pid: int) -> tuple[str, int, float]:
    # The id is the argument so that a forked child asks again.
    return platform.node(), pid, psutil.Process(pid).create_time()


def this_worker(session: str) -> Worker:
    return Worker(*_this_process(os.getpid()), session)


_Key = tuple[str, int, str]
_lock = threading.Lock()
_searched: set[_Key] = set()


@contextmanager
def searched(ledger: Ledger, study: str) -> Iterator[None]:
    """Note that a study is searched inside the `with` block.

    Raises:
        StudyError: Another search of it runs in this process.
    """
    key = _key(ledger, study)
    with _lock:
        _refuse(key, study)
        _searched.add(key)
    try:
        yield
    finally:
        with _lock:
            _searched.discard(key)


def check_free(ledger: Ledger, study: str) -> None:
    """Check that no search of a study runs in this process.

    Raises:
        StudyError: One does.
    """
    with _lock:
        _refuse(_key(ledger, study), study)


def _refuse(key: _Key, study: str) -> None:
    if key in _searched:
        raise StudyError(
            f"Study {study!r} is being searched in this process, perhaps in the background. "
            "Stop that search first, or wait until it has ended."
        )


def _key(ledger: Ledger, study: str) -> _Key:
    # What is in memory has no place to tell it from others.
    return ledger.place, id(ledger.storage) if ledger.folder is None else 0, study
