"""Which studies are searched in this process right now: one search at a time, and none is deleted under it.

Searches of other processes are seen by the trials that they run; this is for searches in threads of one process, such
as one in the background of a notebook, also between two trials.

Who runs a trial, and whether it still lives.

Signs of life of processes that cannot be seen from here, such as those of another machine.

Whoever runs a trial writes a counter beside it every 10 seconds. Whoever reads the study remembers when it first saw
the counter at its present value, and gives the trial up when that is 60 seconds ago. Only the reader's own monotonic
clock is asked, so clocks that are wrong, or are set, do not matter.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from nbcompress.errors import StudyError

if TYPE_CHECKING:
    from nbcompress.study.storage import Ledger


# The start of a process is told in wall-clock time, which a clock that is set right moves. Seconds; far below the time
# after which a system gives the same process id again.
_START_TOLERANCE = 5.0
# The process ids of a Linux system itself. Those of containers have other numbers, which mean nothing after a restart.
_FIRST_NAMESPACE = "pid:[4026531836]"

Fate = Literal["alive", "dead", "unseen"]
"""What the system says of a process. Nothing (`unseen`) of one on another machine or in another container."""


@dataclass(frozen=True)
class Worker:
    """A process on a host, and the `Study` object in it that runs the trial.

    Attributes:
        host: Network name of the machine.
        pid: Process id.
        started: When the process began, in seconds since the epoch. A clock that is set moves it, so it is asked only
            where `ticks` are not known.
        session: Name of the study object in that process.
        ticks: When the process began, in the system's own ticks since it started; -1 where it does not tell. With the
            process id it tells the process from all others of one run of the system.
        boot: Name of that run of the system, or empty.
        namespace: Name of the processes among which `pid` counts, or empty. A container has its own.
        machine: Name that the machine keeps from one run of the system to the next, or empty.
    """

    host: str
    pid: int
    started: float
    session: str
    ticks: int = -1
    boot: str = ""
    namespace: str = ""
    machine: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Worker:
        return cls(
            host=str(data["host"]),
            pid=int(data["pid"]),
            started=float(data["started"]),
            session=str(data["session"]),
            ticks=int(data.get("ticks", -1)),
            boot=str(data.get("boot", "")),
            namespace=str(data.get("namespace", "")),
            machine=str(data.get("machine", "")),
        )

    @property
    def is_this_process(self) -> bool:
        here = _this_process(os.getpid())
        if (self.host, self.namespace, self.pid) != (here.host, here.namespace, here.pid):
            return False
        if self.ticks >= 0 and here.ticks >= 0:
            return (self.boot, self.ticks) == (here.boot, here.ticks)
        return self.boot == here.boot and abs(self.started - here.started) < _START_TOLERANCE

    def fate(self) -> Fate:
        """Say whether the process is known to live or to have ended."""
        here = _this_process(os.getpid())
        if (self.host, self.namespace) != (here.host, here.namespace):
            return "unseen"
        if self.boot != here.boot:
            # The machine was started anew, unless it is another one of that name.
            is_same = self.machine == here.machine != "" and self.namespace == _FIRST_NAMESPACE
            return "dead" if is_same else "unseen"
        try:
            process = psutil.Process(self.pid)
            # A killed process that nobody has waited for is still listed.
            if process.status() == psutil.STATUS_ZOMBIE:
                return "dead"
            ticks = _ticks(self.pid)
            if self.ticks >= 0 and ticks >= 0:
                return "alive" if ticks == self.ticks else "dead"
            # The clock may have been set since, so another start does not tell another process for sure.
            return "alive" if abs(process.create_time() - self.started) < _START_TOLERANCE else "unseen"
        except psutil.ZombieProcess:
            return "dead"
        except psutil.NoSuchProcess:
            return "unseen" if _is_hidden(self.pid) else "dead"
        except psutil.AccessDenied:
            return "unseen"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@lru_cache(maxsize=1)
def _this_process(pid: int) -> Worker:
    # The id is the argument so that a forked child asks again.
    return Worker(
        host=platform.node(),
        pid=pid,
        started=psutil.Process(pid).create_time(),
        session="",
        ticks=_ticks(pid),
        boot=_text_of("/proc/sys/kernel/random/boot_id"),
        namespace=_namespace(),
        machine=_machine(),
    )


def this_worker(session: str) -> Worker:
    here = _this_process(os.getpid())
    return Worker(here.host, here.pid, here.started, session, here.ticks, here.boot, here.namespace, here.machine)


def _ticks(pid: int) -> int:
    text = _text_of(f"/proc/{pid}/stat")
    try:
        return int(text.rpartition(")")[2].split()[19])  # the name before the bracket may hold anything
    except (ValueError, IndexError):
        return -1


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _machine() -> str:
    name = _text_of("/etc/machine-id")
    # The name itself is not for others to know.
    return hashlib.sha256(f"nbcompress {name}".encode()).hexdigest()[:16] if name else ""


def _text_of(path: str) -> str:
    if sys.platform != "linux":
        return ""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _is_hidden(pid: int) -> bool:
    """Say whether the system hides a process of another user that lives."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


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
