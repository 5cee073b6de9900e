"""The processes that search a study: is the process of a running trial alive, and is a study being searched here?

A trial records the process that runs it. For a process on this machine the operating system says whether it is alive.
For one on another machine or in another container it cannot, so that process writes heartbeats: a counter beside the
trial, every 10 seconds. A reader gives the trial up when the counter has not changed for 60 seconds. It measures them
with its own monotonic clock, so wrong or changed clocks do not matter.
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
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from nbcompress.errors import StudyError

if TYPE_CHECKING:
    from nbcompress.study.storage import StorageHandle


# Processes ------------------------------------------------------------------------------------------------------------

# Start times of a process within so many seconds are taken as equal: the wall clock may have been set in between. Far
# below the time after which a system gives the same process id again.
_START_TOLERANCE = 5.0
# The process-id namespace of a Linux system outside of containers. Those of containers get other numbers, which mean
# nothing after a restart.
_FIRST_NAMESPACE = "pid:[4026531836]"

Liveness = Literal["alive", "dead", "unknown"]
"""What the operating system says of a process; `unknown` for one on another machine or in another container."""


@dataclass(frozen=True)
class Worker:
    """The process that runs a trial, and the study object in it.

    Attributes:
        host: Network name of the machine.
        pid: Process id.
        started: Start time of the process in seconds since the epoch. It depends on the wall clock, so it is used only
            where `ticks` are not known.
        session: Id of the study object in that process.
        ticks: Start time of the process in clock ticks since the boot; -1 where the system does not say. Together with
            `pid` and `boot` it identifies the process.
        boot: Id of the boot, or empty.
        namespace: The process-id namespace, or empty. Each container has its own.
        machine: Hash of the machine's id, which stays the same from boot to boot, or empty.
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
        """Return the fields that differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Worker:
        """Return the worker that `to_json` wrote, also that of an earlier version."""
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
        """Whether the worker is this process; the session does not matter."""
        here = _this_process(os.getpid())
        if (self.host, self.namespace, self.pid) != (here.host, here.namespace, here.pid):
            return False
        if self.ticks >= 0 and here.ticks >= 0:
            return (self.boot, self.ticks) == (here.boot, here.ticks)
        return self.boot == here.boot and abs(self.started - here.started) < _START_TOLERANCE

    def liveness(self) -> Liveness:
        """Return whether the process is alive or dead, or unknown where the system cannot say."""
        here = _this_process(os.getpid())
        if (self.host, self.namespace) != (here.host, here.namespace):
            return "unknown"
        if self.boot != here.boot:
            # The machine was booted again, unless it is another machine of the same name.
            is_same = self.machine == here.machine != "" and self.namespace == _FIRST_NAMESPACE
            return "dead" if is_same else "unknown"
        try:
            process = psutil.Process(self.pid)
            # A killed process is listed as a zombie until its parent has waited for it.
            if process.status() == psutil.STATUS_ZOMBIE:
                return "dead"
            ticks = _ticks(self.pid)
            if self.ticks >= 0 and ticks >= 0:
                return "alive" if ticks == self.ticks else "dead"
            # The clock may have been set since, so a different start time does not prove a different process.
            return "alive" if abs(process.create_time() - self.started) < _START_TOLERANCE else "unknown"
        except psutil.ZombieProcess:
            return "dead"
        except psutil.NoSuchProcess:
            return "unknown" if _is_hidden(self.pid) else "dead"
        except psutil.AccessDenied:
            return "unknown"

    @property
    def place(self) -> str:
        """The host and the process, such as `"node7:4711"`."""
        return f"{self.host}:{self.pid}"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@lru_cache(maxsize=1)
def _this_process(pid: int) -> Worker:
    # The id is an argument so that a forked child misses the cache.
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
    """Return this process as the worker of the study object `session`."""
    return replace(_this_process(os.getpid()), session=session)


def place() -> str:
    """Return the name of this machine and the id of this process, for the user."""
    return _this_process(os.getpid()).place


def _ticks(pid: int) -> int:
    text = _text_of(f"/proc/{pid}/stat")
    try:
        return int(text.rpartition(")")[2].split()[19])  # the process name before `)` may hold spaces
    except (ValueError, IndexError):
        return -1


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _machine() -> str:
    name = _text_of("/etc/machine-id")
    # Hashed, since the id itself is confidential (see `man machine-id`).
    return hashlib.sha256(f"nbcompress {name}".encode()).hexdigest()[:16] if name else ""


def _text_of(path: str) -> str:
    if sys.platform != "linux":
        return ""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _is_hidden(pid: int) -> bool:
    """Return whether a process is alive that the system hides, since it belongs to another user."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


# Heartbeats -----------------------------------------------------------------------------------------------------------


@dataclass
class _ObservedCount:
    count: int
    since: float
    has_changed: bool = False


class HeartbeatMonitor:
    """Remembers when this process first read the present heartbeat count of each run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._observed: dict[Hashable, _ObservedCount] = {}

    def seconds_unchanged(self, run: Hashable, count: int, asked: float, answered: float) -> float:
        """Record a count that was read; return for how many seconds it has not changed.

        Args:
            run: The run.
            count: Its heartbeat count.
            asked: Time just before the storage was read; the end of the interval without a change.
            answered: Time just after; the start of a new interval. So a slow storage makes intervals shorter, never
                longer.
        """
        with self._lock:
            observed = self._observed.get(run)
            if observed is None:
                self._observed[run] = _ObservedCount(count, answered)
                return 0.0
            if observed.count != count:
                self._observed[run] = _ObservedCount(count, answered, has_changed=True)
                return 0.0
            return max(0.0, asked - observed.since)

    def has_changed(self, run: Hashable) -> bool:
        """Return whether this process has read two different counts of a run."""
        with self._lock:
            observed = self._observed.get(run)
            return observed is not None and observed.has_changed

    def forget(self, run: Hashable) -> None:
        """Drop what was recorded of a run."""
        with self._lock:
            self._observed.pop(run, None)


@dataclass(frozen=True)
class HeartbeatSettings:
    """How often heartbeats are written, and how long a reader waits for the next one.

    Attributes:
        interval: Seconds between two heartbeats. A shorter trial writes none.
        grace_period: Seconds without a new heartbeat after which a trial is given up. Several times `interval`.
        clock: The clock of this process in seconds; monotonic.
        monitor: What was read so far, by this clock. It belongs to the process and not to a study object, so that a
            study that is opened again a minute later uses what was read before.
    """

    interval: float = 10.0
    grace_period: float = 60.0
    clock: Callable[[], float] = time.monotonic
    monitor: HeartbeatMonitor = field(default_factory=HeartbeatMonitor)


DEFAULT_HEARTBEATS = HeartbeatSettings()


class HeartbeatWriter:
    """Writes the heartbeats of runs, on a thread of its own while there are runs.

    Args:
        write: Stores the count of a run; returns False when the run needs no more heartbeats.
        settings: How often to write.
    """

    def __init__(self, write: Callable[[int, int], bool], settings: HeartbeatSettings) -> None:
        self._write, self._settings = write, settings
        self._lock = threading.Lock()
        self._has_thread = False
        self._is_closed = threading.Event()
        self._runs: dict[int, tuple[float, int]] = {}  # run -> when its next heartbeat is due, and its count

    def begin(self, run: int) -> None:
        """Write heartbeats for a run from now on."""
        with self._lock:
            self._runs[run] = (self._settings.clock() + self._settings.interval, 1)
            if self._has_thread:
                return
            self._has_thread = True
        threading.Thread(target=self._loop, name="nbcompress-heartbeat", daemon=True).start()

    def end(self, run: int) -> None:
        """Write no more heartbeats for a run."""
        with self._lock:
            self._runs.pop(run, None)

    def close(self) -> None:
        """Write no more heartbeats for any run."""
        with self._lock:
            self._runs.clear()
        self._is_closed.set()

    def write_due(self) -> None:
        """Write the heartbeats that are due."""
        now = self._settings.clock()
        with self._lock:
            due = [(run, count) for run, (when, count) in self._runs.items() if when <= now]
        for run, count in due:
            goes_on = self._write(run, count)
            with self._lock:
                if run in self._runs and goes_on:
                    self._runs[run] = (now + self._settings.interval, count + 1)
                elif run in self._runs:
                    del self._runs[run]

    def _loop(self) -> None:
        while True:
            self._is_closed.wait(self._settings.interval)
            self.write_due()
            with self._lock:
                if not self._runs:
                    self._has_thread = False
                    return


# Searches of this process ---------------------------------------------------------------------------------------------

# Searches of other processes show by the trials that they run. These are the ones in threads of this process, such as a
# search in the background of a notebook; between two trials nothing else shows them.
_Key = tuple[str, int, str]
_searched_lock = threading.Lock()
_searched: set[_Key] = set()


@contextmanager
def search_lock(handle: StorageHandle, study: str) -> Iterator[None]:
    """Mark a study as being searched inside the `with` block.

    Raises:
        StudyError: Another search of it runs in this process.
    """
    key = _searched_key(handle, study)
    with _searched_lock:
        _refuse_searched(key, study)
        _searched.add(key)
    try:
        yield
    finally:
        with _searched_lock:
            _searched.discard(key)


def check_not_searched(handle: StorageHandle, study: str) -> None:
    """Check that no search of a study runs in this process.

    Raises:
        StudyError: A search of it runs.
    """
    with _searched_lock:
        _refuse_searched(_searched_key(handle, study), study)


def _refuse_searched(key: _Key, study: str) -> None:
    if key in _searched:
        raise StudyError(
            f"Study {study!r} is being searched in this process, perhaps in the background. "
            "Stop that search first, or wait until it has ended."
        )


def _searched_key(handle: StorageHandle, study: str) -> _Key:
    # All storages in memory have the same location, so the object tells them apart.
    return handle.location, id(handle.storage) if handle.kept_folder is None else 0, study
