"""The memory that a trial may use: sizes as text, what its processes use, and the limit inside its process."""

from __future__ import annotations

import re
from contextlib import suppress
from numbers import Real
from pathlib import Path

import psutil

from nbcompress.errors import SearchError, option

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", re.IGNORECASE)
_PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
# A process of Python with torch needs this much before the trial does anything.
SMALLEST = 50 * 10**6
# The limit inside the process counts memory that is asked for, used or not, such as the stacks of threads. It stands
# above the limit on used memory, and stops what would jump over that one between two measurements.
_HEADROOM, _HEADROOM_SHARE = 256 * 10**6, 1.25


def bytes_of(size: object, keyword: str = "trial_memory") -> int:
    """Return a size such as `"4GB"`, `"500 MB"`, `"2GiB"` or a number of bytes as a number of bytes.

    Raises:
        SearchError: It is none of these, or below 50 MB, which no process of Python with torch keeps to.
    """
    number: float | None = None
    if isinstance(size, str) and (match := _SIZE.fullmatch(size.strip())):
        number = float(match[1]) * _PREFIXES[(match[2] or "").lower()]
    elif not isinstance(size, (str, bool)) and isinstance(size, Real):
        number = float(size)
    if number is None or not SMALLEST <= number < 2**60:
        raise SearchError(f"{option(keyword)} is a size of at least 50MB, such as 4GB or 2GiB, but got {size!r}.")
    return int(number)


def size_text(n_bytes: float) -> str:
    """Return `4 GB` or `512 MB`; GB and MB count thousands."""
    return f"{n_bytes / 1e9:.3g} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.3g} MB"


def used_bytes(pid: int, *, with_own: bool = True) -> int:
    """Return the memory of a process and of those that it started, in bytes; 0 if it is gone.

    Files that are mapped, such as libraries and the data of the search, do not count where the system tells them apart.

    Args:
        pid: The id of the process.
        with_own: False counts only those that it started.
    """
    return sum(_own_bytes(process) for process in process_tree(pid) if with_own or process != pid)


def _own_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        with suppress(psutil.Error):
            return int(psutil.Process(pid).memory_info().rss)
        return 0
    fields = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon", "RssShmem", "VmSwap")))
    return sum(int(text.split()[0]) * 1024 for text in fields.values())


def process_tree(pid: int) -> list[int]:
    """Return a process and those that it started, and so on, by their ids."""
    found = [pid]
    for current in found:  # it grows
        found.extend(children_of(current))
    return found


def children_of(pid: int, thread: int | None = None) -> list[int]:
    """Return the processes that a process has started and that still are its children.

    Args:
        pid: The id of the process.
        thread: The system's id of a thread: only what this thread has started, where the system tells it apart, which
            takes less time.
    """
    try:
        lists = list(Path(f"/proc/{pid}/task").glob(f"{thread or '*'}/children"))
        children = [int(child) for path in lists for child in path.read_text(encoding="ascii").split()]
    except OSError:  # it is gone
        return []
    if lists:
        return children
    with suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def limit_own_memory(n_bytes: int) -> None:
    """Let this process ask for at most so many bytes more than it has. Where the system has no such limit: nothing."""
    try:
        import resource

        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        has = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
        limit = has + int(n_bytes * _HEADROOM_SHARE) + _HEADROOM
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
    except (ImportError, OSError, StopIteration, ValueError):
        return
