"""Storages on a server for a team: locks of PostgreSQL and Redis, and a journal in Redis.

Optuna's operations are single ones, and ours consist of several: read which points run, then begin another one. A lock
makes each of them one operation, so that no two processes run the same point and the total is exact. The server
releases the lock of a process that dies.

The journal has the keys and the format of Optuna's own backend for Redis. That backend reads a pickle from the server,
which could run code here, and one key at a time.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any
from weakref import finalize

from optuna.storages.journal import BaseJournalBackend

from nbcompress.errors import StudyError
from nbcompress.study.journal import ReentrantLock, checked_operation

if TYPE_CHECKING:
    from redis import Redis
    from sqlalchemy.engine import URL

# Of PostgreSQL's advisory locks; one of ours for each database. Any constant will do.
_ADVISORY_KEY = 7_226_501_904
# A lock in Redis that its holder has not given back lasts so long, since Redis does not notice that a process died.
_REDIS_LOCK_SECONDS = 30.0
_REDIS_RETRY_SECONDS = 0.02
_REDIS_LOCK = "nbcompress:lock"
# So many operations are read at once.
_BATCH = 1000


class ServerLock(ReentrantLock):
    """A lock on a server.

    Args:
        hold: Returns a context manager in which this process holds the lock.
    """

    def __init__(self, hold: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__()
        self._hold = hold
        self._held: AbstractContextManager[None] = nullcontext()

    def _take(self) -> None:
        held = self._hold()
        held.__enter__()
        self._held = held

    def _give_back(self) -> None:
        held, self._held = self._held, nullcontext()
        held.__exit__(None, None, None)


def postgresql_lock(url: URL) -> ServerLock:
    """Return the lock of a PostgreSQL database. It belongs to a connection, so the server releases it with that."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    engine = create_engine(url, pool_size=1, pool_pre_ping=True, isolation_level="AUTOCOMMIT")

    @contextmanager
    def hold() -> Iterator[None]:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_KEY})
            try:
                yield
            finally:
                with suppress(SQLAlchemyError):  # without a connection there is no lock either
                    connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_KEY})

    lock = ServerLock(hold)
    finalize(lock, engine.dispose)  # closes its connection
    return lock


class RedisJournal(BaseJournalBackend):
    """A journal in Redis, as the backend of `optuna.storages.JournalStorage`.

    Args:
        url: Such as `redis://localhost:6379/0`.
        location: The URL without its password, for messages.

    Raises:
        ImportError: The driver is not installed.
        ValueError: It is no such URL.
    """

    def __init__(self, url: str, location: str) -> None:
        import redis

        self._redis: Redis = redis.Redis.from_url(url, socket_keepalive=True)
        self._location = location
        self.error_types: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        self.lock = ServerLock(self._held)
        self._append = self._redis.register_script(
            "for _, log in ipairs(ARGV) do "
            "local i = redis.call('incr', KEYS[1]) redis.call('set', ':log:' .. i, log) end"
        )

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return all operations from `log_number_from` on.

        Raises:
            StudyError: An operation is missing, damaged or of a later version of Optuna.
        """
        last = self._redis.get(":log_number")
        count = 0 if last is None else int(last) + 1
        if count < log_number_from:
            raise StudyError(f"The journal in {self._location} was deleted while it was in use.")
        logs = []
        for start in range(log_number_from, count, _BATCH):
            numbers = range(start, min(start + _BATCH, count))
            found: list[bytes | None] = self._redis.mget([f":log:{number}" for number in numbers])  # type: ignore[assignment]
            for number, text in zip(numbers, found, strict=True):
                log = None if text is None else checked_operation(text, f"Operation {number} in {self._location}")
                if log is None:
                    raise StudyError(f"The journal in {self._location} is damaged: operation {number} cannot be read.")
                logs.append(log)
        return logs

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations, as one step that nothing comes between."""
        self._redis.setnx(":log_number", -1)
        self._append(keys=[":log_number"], args=[json.dumps(log, separators=(",", ":")) for log in logs])

    @contextmanager
    def _held(self) -> Iterator[None]:
        token = uuid.uuid4().hex
        while not self._redis.set(_REDIS_LOCK, token, nx=True, px=math.ceil(1000 * _REDIS_LOCK_SECONDS)):
            time.sleep(_REDIS_RETRY_SECONDS)
        try:
            yield
        finally:
            with suppress(*self.error_types):  # it ends by itself
                # Another process may hold it by now, if this one was suspended for long.
                self._redis.eval(
                    "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end",
                    1,
                    _REDIS_LOCK,
                    token,
                )
