"""A journal file for Optuna's journal storage: one operation per line, as JSON.

The format is that of Optuna's own file backend. That backend waits 30 seconds for the lock of a killed process, and
refuses a file whose last line is incomplete. This one uses a lock that the operating system releases when its holder
dies, and removes an incomplete last line before it appends. Each line that it appends also holds its own number under
`line`, which Optuna ignores, so that a missing or doubled line is noticed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import IO, Any, Self
from weakref import WeakValueDictionary

from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._storage import JournalOperation

from nbcompress.errors import StorageMissing, StudyError, option

if sys.platform == "win32":
    import msvcrt

    # On Windows a locked byte cannot be read, so we lock one that no journal ever reaches. Below 2 GiB because the C
    # run-time keeps the position in 32 bits.
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

    def _try_lock(descriptor: int) -> bool:
        os.lseek(descriptor, _FAR_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _FAR_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        # flock and not lockf: a lock by lockf is lost as soon as the process closes any other handle of this file.
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


# A process that has waited so long for a lock says so: its holder may be suspended.
_LONG_WAIT_SECONDS = 10.0


class ReentrantLock(ABC):
    """A lock between processes and between threads; re-entrant within a thread."""

    def __init__(self) -> None:
        self._thread = threading.RLock()
        self._depth = 0

    @abstractmethod
    def _take(self) -> None:
        """Wait until this process holds the lock."""

    @abstractmethod
    def _give_back(self) -> None:
        """Release the lock of this process."""

    def __enter__(self) -> Self:
        self._thread.acquire()
        try:
            if self._depth == 0:
                self._take()
            self._depth += 1
        except BaseException:
            # Also at an interrupt while waiting: other threads would wait for this one for ever.
            self._thread.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        try:
            if self._depth == 0:
                self._give_back()
        finally:
            self._thread.release()


class FileLock(ReentrantLock):
    """An exclusive lock on a file; get one with `lock_for`. The lock of a killed process is released.

    Args:
        path: Of the file.
        is_temporary: The file exists only while it is locked; after a kill it may stay, and does no harm. By default it
            exists, and the lock leaves no file behind.

    Raises:
        StudyError: On entering: the file cannot be opened for writing, or its file system cannot lock files.
    """

    def __init__(self, path: str, *, is_temporary: bool = False) -> None:
        super().__init__()
        self._path, self._is_temporary = path, is_temporary
        self._descriptor = -1

    def _take(self) -> None:
        self._descriptor = self._open_locked()

    def _give_back(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        try:
            if self._is_temporary:
                with suppress(OSError):  # on Windows another process that waits for the lock has it open
                    os.unlink(self._path)
            # Closing the file is not enough: a child forked in between would keep the lock.
            _unlock(descriptor)
        finally:
            os.close(descriptor)

    def _open_locked(self) -> int:
        while True:
            descriptor = self._open_and_lock()
            if not self._is_temporary or _is_file_at(descriptor, self._path):
                return descriptor
            os.close(descriptor)  # its last holder has removed it while this process waited

    def _open_and_lock(self) -> int:
        flags = getattr(os, "O_BINARY", 0) | (os.O_CREAT if self._is_temporary else 0)
        try:
            try:
                descriptor = os.open(self._path, flags | os.O_RDWR, 0o666)
            except PermissionError:
                if not self._is_temporary:
                    raise
                descriptor = os.open(self._path, os.O_RDONLY)  # another user has locked it at this moment
        except OSError as error:
            what = "lock file" if self._is_temporary else "journal"
            raise StudyError(f"The {what} {self._path} cannot be opened for writing: {error.strerror}.") from error
        try:
            if not _try_lock(descriptor):
                with self._saying_that_it_waits():
                    _lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise StudyError(
                f"The file system of {self._path} cannot lock files ({error.strerror}), so a study is not "
                f"safe there. Keep the study elsewhere: {option('storage', 'PATH')}."
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @contextmanager
    def _saying_that_it_waits(self) -> Iterator[None]:
        timer = threading.Timer(_LONG_WAIT_SECONDS, self._say_that_it_waits)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _say_that_it_waits(self) -> None:
        # On a thread of its own, where a warning that is turned into an error would be lost.
        print(
            f"nbcompress waits for the lock of {self._path}: another process has held it for "
            f"{_LONG_WAIT_SECONDS:.0f} s. If that process is suspended, let it go on or end it.",
            file=sys.stderr,
            flush=True,
        )


def _is_file_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


_locks: WeakValueDictionary[str, FileLock] = WeakValueDictionary()
_locks_guard = threading.Lock()


def lock_for(path: str, *, is_temporary: bool = False) -> FileLock:
    """Return the lock of the file at the real, absolute `path`: one object per file in this process.

    So two studies of the same journal in one thread share the lock, and cannot wait for each other.
    """
    with _locks_guard:
        lock = _locks.get(path)
        if lock is None:
            lock = _locks[path] = FileLock(path, is_temporary=is_temporary)
        return lock


# How every line of Optuna begins. A file that holds only a part of this is a journal whose first line is incomplete.
_LINE_START = b'{"op_code":'
_BLOCK_BYTES = 1 << 16
# Of each line that is written here, counted from 1.
_LINE_KEY = "line"


_OPERATIONS = frozenset(map(int, JournalOperation))
_decode_json = json.JSONDecoder().raw_decode


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the operation that `line` holds, or None if it is not an operation."""
    try:
        # Of bytes, the encoding would be guessed, and a file in UTF-16 would pass.
        text = line.decode("utf-8-sig" if line.startswith(BOM_UTF8) else "utf-8")
        # Twice as fast as `json.loads` for the short lines of a journal, which hold nothing beside an operation.
        data, end = _decode_json(text) if text.startswith("{") else (None, -1)
        if end != len(text):
            data = json.loads(text)
    except (ValueError, RecursionError):  # not JSON, not text, or nested too deeply
        return None
    return data if isinstance(data, dict) and type(data.get("op_code")) is int else None


def checked_operation(line: bytes, where: str) -> dict[str, Any] | None:
    """Return the operation that `line` holds, or None if it is not an operation.

    Raises:
        StudyError: It is an operation that the installed Optuna does not know. The message begins with `where`.
    """
    log = _parsed(line)
    if log is not None and log["op_code"] not in _OPERATIONS:
        raise StudyError(
            f"{where} is an operation {log['op_code']}, which the installed Optuna does not know: a later one has "
            f"written it. Update Optuna, or use another {option('storage')}."
        )
    return log


class JournalFile(BaseJournalBackend):
    """A journal at a path, as the backend of `optuna.storages.JournalStorage`.

    If the process is killed, at most the operation that is being written is lost; at a power cut, at most those that
    were appended `without_sync` after the last one with it. A file that is not a journal is never changed.

    Args:
        path: Path of the file. It is resolved at once, so that a later `chdir` does not matter.
        create: Create the file, and its folder, if they are missing.
        lighten: Is called with each operation that is read, and may remove in place what a reader does not need.

    Raises:
        StudyError: The file is missing, cannot be read, is not a journal, is damaged before its last line, or was
            written by a later version of Optuna.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        lighten: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._lighten = lighten
        self.path = os.path.realpath(os.path.expanduser(path))
        self._starts = [0]  # position of operation i in the file; one more entry than operations read
        if create:
            _create(self.path)
        elif not os.path.isfile(self.path):
            raise StorageMissing(f"There is no journal at {self.path}.")
        self.lock: FileLock = lock_for(self.path)
        self._options = threading.local()
        with self._open("rb") as file:
            status = os.fstat(file.fileno())
            self._identity = (status.st_dev, status.st_ino)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return all operations from `log_number_from` on, without an incomplete one at the end.

        Raises:
            StudyError: The file is damaged, was removed or replaced, or is not a journal.
        """
        number = min(log_number_from, len(self._starts) - 1)
        with self._open("rb") as file:
            self._check_same(file)
            file.seek(self._starts[number])
            # What follows the last newline is incomplete: it is being written, or its writer was killed.
            *lines, rest = file.read().split(b"\n")
        if number == 0:
            self._check_is_journal((lines or [rest])[0], is_alone=len(lines) + bool(rest) <= 1)
        logs = []
        for index, line in enumerate(lines):
            is_last = index == len(lines) - 1 and not rest
            if not line.strip() and not is_last:  # a blank line, such as an editor adds, holds nothing
                if number == len(self._starts) - 1:
                    self._starts[number] += len(line) + 1
                continue
            log = checked_operation(line, f"Line {number + 1} of the journal {self.path}")
            if log is None:
                if is_last:
                    break  # incomplete; the next writer removes it
                raise self._damaged(number, "is not an operation")
            stated = log.pop(_LINE_KEY, number + 1)
            if stated != number + 1:
                raise self._damaged(number, f"was written as line {stated}, so a line is missing, doubled or moved")
            if number == len(self._starts) - 1:
                self._starts.append(self._starts[number] + len(line) + 1)
            if number >= log_number_from:
                if self._lighten is not None:
                    self._lighten(log)
                logs.append(log)
            number += 1
        return logs

    def _damaged(self, number: int, what: str) -> StudyError:
        return StudyError(
            f"The journal {self.path} is damaged: line {number + 1} {what}. Everything before it is valid; "
            f"remove that line and all lines after it, or use another {option('storage')}."
        )

    @contextmanager
    def without_sync(self) -> Iterator[None]:
        """Append without waiting for the disk, in this thread: that wait takes longer than the writing."""
        self._options.skips_sync = True
        try:
            yield
        finally:
            self._options.skips_sync = False

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations and, unless `without_sync`, wait until the file is on disk.

        Raises:
            StudyError: The disk is full, or the file was removed or replaced. Earlier operations are not lost.
        """
        with self.lock, self._open("r+b") as file:
            self._check_same(file)
            end = self._repair(file)
            first = self._n_lines(file, end) + 1
            numbered = [{**log, _LINE_KEY: line} for line, log in enumerate(logs, first)]
            text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in numbered).encode()
            try:
                file.seek(end)
                _write_all(file, text)
                if not getattr(self._options, "skips_sync", False):
                    os.fsync(file.fileno())
            except OSError as error:
                file.truncate(end)
                raise StudyError(f"The journal {self.path} cannot be written: {error.strerror}.") from error

    def _n_lines(self, file: IO[bytes], end: int) -> int:
        """Return the number of operations in a file of that length without an incomplete one."""
        file.seek(self._starts[-1])
        lines = file.read(end - self._starts[-1]).split(b"\n")
        return len(self._starts) - 1 + sum(bool(line.strip()) for line in lines)

    def repair(self) -> None:
        """Remove an incomplete last line."""
        with self.lock, self._open("r+b") as file:
            self._check_same(file)
            self._repair(file)

    def _repair(self, file: IO[bytes]) -> int:
        """Remove an incomplete last line and return the length of the file. The caller holds the lock."""
        end = file.seek(0, os.SEEK_END)
        if end == self._starts[-1]:
            return end  # this object has read the file to its end
        start = _start_of_last_line(file, end)
        file.seek(start)
        line = file.read()
        if _parsed(line) is not None:
            if not line.endswith(b"\n"):
                # Only the newline is missing: a part of an operation is never a valid operation itself.
                file.seek(end)
                file.write(b"\n")
                end += 1
            return end
        file.seek(0)
        first = file.readline()
        self._check_is_journal(first, is_alone=len(first) == end)
        file.truncate(start)
        return start

    def _open(self, mode: str) -> IO[bytes]:
        try:
            # Unbuffered: after an error, closing the file must not write the rest.
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
        """Raise an error if the first line is not an operation; a single line may be the start of one."""
        text = first.strip()
        is_incomplete = is_alone and (text.startswith(_LINE_START) or _LINE_START.startswith(text))
        if _parsed(text) is None and not is_incomplete:
            raise StudyError(
                f"The file {self.path} is not a journal, and it was not changed. "
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
        what = "written" if os.path.exists(path) else "created"
        raise StudyError(f"The journal {path} cannot be {what}: {error.strerror}.") from error


def _write_all(file: IO[bytes], text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[file.write(rest) :]


def _start_of_last_line(file: IO[bytes], end: int) -> int:
    """Return where the last line begins. A newline at the end of the file belongs to that line."""
    position = end
    line_end = end - 1
    while position > 0:
        size = min(_BLOCK_BYTES, position)
        position -= size
        file.seek(position)
        found = file.read(size).rfind(b"\n", 0, line_end - position)
        if found >= 0:
            return position + found + 1
    return 0
