"""One writer at a time: a lock on a file that the operating system takes back when its holder dies."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import TracebackType
from weakref import WeakValueDictionary

from nbcompress.errors import StudyError, option

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
