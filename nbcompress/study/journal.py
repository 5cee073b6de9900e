"""The journal: one line of JSON per operation, in the format of Optuna's journal files.

Optuna's own file backend waits 30 seconds for the lock of a killed process and refuses a file whose last line is
half written. This one reads and writes the same lines, locks with `locks.FileLock`, and mends the end of the file
under that lock before anything is appended. A half-written line is never of use, so cutting it loses nothing.

One writer at a time: a lock on a file that the operating system takes back when its holder dies.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any
from weakref import WeakValueDictionary

from optuna.storages.journal import BaseJournalBackend

from nbcompress.errors import StorageMissing, StudyError, option

if sys.platform == "win32":
    import msvcrt

    # Windows locks are mandatory, so we lock one byte that no journal ever reaches. Below 2 GiB because
    # the C run-time keeps the position in 32 bits.
    _FAR_BYTE = 0x7FFFFFFE
    _RETRY_SECONDS = 0.005

    def _lock(descriptor: int) -> None:
        while True:
            os.lseek(descriptor, _FAR_BYTE, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            except PermissionError:
                time.sleep(_RETRY_SECONDS)
            else:
                return

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _FAR_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        # flock and not lockf: a record lock is lost as soon as any other handle of the process on this file closes.
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class FileLock:
    """An exclusive lock on an existing file, between processes and between threads.

    A thread may enter it again while it holds it. Nothing is left on disk: a process that is killed
    has released it, so nobody waits for a stale lock. Get one with `lock_for`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread = threading.RLock()
        self._depth = 0
        self._descriptor = -1

    def __enter__(self) -> FileLock:
        self._thread.acquire()
        try:
            if self._depth == 0:
                self._descriptor = self._open_locked()
            self._depth += 1
        except BaseException:
            # Also an interrupt while waiting: the other threads must not wait for us for ever.
            self._thread.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        try:
            if self._depth == 0:
                descriptor, self._descriptor = self._descriptor, -1
                try:
                    # Closing alone is not enough: a child forked in between would keep the lock.
                    _unlock(descriptor)
                finally:
                    os.close(descriptor)
        finally:
            self._thread.release()

    def _open_locked(self) -> int:
        try:
            descriptor = os.open(self._path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise StudyError(f"The journal {self._path} cannot be opened for writing: {error.strerror}.") from error
        try:
            _lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise StudyError(
                f"The file system of {self._path} cannot lock files ({error.strerror}), so a journal is not "
                f"safe there. Keep the study elsewhere: {option('storage', 'PATH')}."
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


_locks: WeakValueDictionary[str, FileLock] = WeakValueDictionary()
_locks_guard = threading.Lock()


def lock_for(path: str) -> FileLock:
    """Return the lock of the file at the real, absolute `path`: one object per file in this process.

    Two studies of one journal in one thread thus share a lock and cannot wait for each other.
    """
    with _locks_guard:
        lock = _locks.get(path)
        if lock is None:
            lock = _locks[path] = FileLock(path)
        return lock


# How every line that Optuna writes begins. A file that is only the first letters of this was killed in its first line.
_OPENING = b'{"op_code":'
_BLOCK_BYTES = 1 << 16


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the operation in `line`, or None if it is none."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):  # not JSON, not text, or nested without end
        return None
    return data if isinstance(data, dict) and isinstance(data.get("op_code"), int) else None


class JournalFile(BaseJournalBackend):
    """A journal at a path, for `optuna.storages.JournalStorage`.

    Guarantees: a kill at any moment loses at most the operation that is being written; a power cut at most those that
    were appended `relaxed` after the last other one; a file that is not a journal is never changed.

    Args:
        path: Where the file is or will be. Made absolute and real, so that a later `chdir` does not matter.
        create: Make the file, and its folder, if they are missing.

    Raises:
        StudyError: The file is missing, cannot be read, is no journal, or is damaged before its last line.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        self.path = os.path.realpath(os.path.expanduser(path))
        self._starts = [0]  # where operation i begins; one more entry than operations seen
        if create:
            _create(self.path)
        elif not os.path.isfile(self.path):
            raise StorageMissing(f"There is no journal at {self.path}.")
        self.lock: FileLock = lock_for(self.path)
        self._mood = threading.local()
        with self._opened("rb") as file:
            status = os.fstat(file.fileno())
            self._identity = (status.st_dev, status.st_ino)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return all operations from `log_number_from` on. What is half written at the end is not there yet."""
        number = min(log_number_from, len(self._starts) - 1)
        with self._opened("rb") as file:
            self._check_same(file)
            file.seek(self._starts[number])
            # Without a newline a line is not written yet, or never will be.
            *lines, rest = file.read().split(b"\n")
        if number == 0:
            self._check_is_journal((lines or [rest])[0], is_alone=len(lines) + bool(rest) <= 1)
        logs = []
        for index, line in enumerate(lines):
            log = _parsed(line)
            if log is None:
                if index == len(lines) - 1 and not rest:
                    break  # the next writer cuts it
                raise StudyError(
                    f"The journal {self.path} is damaged: line {number + 1} is not an operation. "
                    "Everything before it is sound; remove the line and those behind it, or take another "
                    f"{option('storage')}."
                )
            if number == len(self._starts) - 1:
                self._starts.append(self._starts[number] + len(line) + 1)
            if number >= log_number_from:
                logs.append(log)
            number += 1
        return logs

    @contextmanager
    def relaxed(self) -> Iterator[None]:
        """Do not wait for the disk meanwhile, in this thread: a sync takes as long as all the rest together."""
        self._mood.is_relaxed = True
        try:
            yield
        finally:
            self._mood.is_relaxed = False

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write operations at the end and, unless `relaxed`, wait until they and all before them are on disk.

        Raises:
            StudyError: The disk is full, the file is gone, or was replaced. What was there before is still there.
        """
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self.lock, self._opened("r+b") as file:
            self._check_same(file)
            end = self._mend(file)
            try:
                file.seek(end)
                _write_all(file, text)
                if not getattr(self._mood, "is_relaxed", False):
                    os.fsync(file.fileno())
            except OSError as error:
                file.truncate(end)
                raise StudyError(f"The journal {self.path} cannot be written: {error.strerror}.") from error

    def mend(self) -> None:
        """Cut a half-written end off now."""
        with self.lock, self._opened("r+b") as file:
            self._check_same(file)
            self._mend(file)

    def _mend(self, file: IO[bytes]) -> int:
        """Leave the file with whole lines only and return its length. The lock is held."""
        end = file.seek(0, os.SEEK_END)
        if end == self._starts[-1]:
            return end  # read to here before, so every line is sound
        start = _start_of_last_line(file, end)
        file.seek(start)
        line = file.read()
        if _parsed(line) is not None:
            if not line.endswith(b"\n"):
                # Whole but for its newline: a prefix of an operation is never an operation, so nothing is missing.
                file.seek(end)
                file.write(b"\n")
                end += 1
            return end
        file.seek(0)
        first = file.readline()
        self._check_is_journal(first, is_alone=len(first) == end)
        file.truncate(start)
        return start

    def _opened(self, mode: str) -> IO[bytes]:
        try:
            # Unbuffered, so that an error leaves nothing behind that a later close would write.
            return open(self.path, mode, buffering=0)
        except FileNotFoundError as error:
            raise StudyError(f"The journal {self.path} was removed while it was in use.") from error
        except OSError as error:
            raise StudyError(f"The journal {self.path} cannot be opened: {error.strerror}.") from error

    def _check_same(self, file: IO[bytes]) -> None:
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino) != self._identity or status.st_size < self._starts[-1]:
            raise StudyError(f"The journal {self.path} was replaced while it was in use. Open the study again.")

    def _check_is_journal(self, first: bytes, *, is_alone: bool) -> None:
        """Refuse a file whose first line is no operation, unless it is alone and may be the beginning of one."""
        text = first.strip()
        is_begun = is_alone and (text.startswith(_OPENING) or _OPENING.startswith(text))
        if _parsed(text) is None and not is_begun:
            raise StudyError(
                f"The file {self.path} is not a journal, and it is left as it is. "
                f"Name another file with {option('storage')}."
            )


def _create(path: str) -> None:
    if os.path.isdir(path):
        raise StudyError(f"A journal is a file, but {path} is a folder. Write for example {path}/nbcompress.journal.")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "ab"):
            pass
    except OSError as error:
        what = "written" if os.path.exists(path) else "made"
        raise StudyError(f"The journal {path} cannot be {what}: {error.strerror}.") from error


def _write_all(file: IO[bytes], text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[file.write(rest) :]


def _start_of_last_line(file: IO[bytes], end: int) -> int:
    """Return where the last line begins; a newline at the very end closes it and opens no other."""
    position = end
    behind = end - 1  # a newline here is the line's own
    while position > 0:
        size = min(_BLOCK_BYTES, position)
        position -= size
        file.seek(position)
        found = file.read(size).rfind(b"\n", 0, behind - position)
        if found >= 0:
            return position + found + 1
    return 0
