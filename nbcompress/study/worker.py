"""Who runs a trial, and whether it still lives."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import psutil

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
        return {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}

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
