"""Open the storage of a study: a journal file, a database, or the memory of this process.

Every storage is one of Optuna's; a journal uses the backend in `journal.py`.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote
from weakref import finalize

from nbcompress.errors import MissingPart, NbcompressError, StorageMissing, StudyError, first_line, option

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage

T = TypeVar("T")

DEFAULT_STORAGE = "nbcompress.journal"

_URL = re.compile(r"[A-Za-z][\w+.-]*://")
_REDIS_SCHEMES = ("redis", "rediss")
_SQLITE_WAIT_SECONDS = 60
# Tables of a database are created in a few steps, and another process may be ahead in each of them.
_N_CREATION_ATTEMPTS = 4
# What parsing raises at data that is not what it should be: keys that are missing, other types, other texts.
_DAMAGE = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, AssertionError)


@dataclass(frozen=True)
class StorageHandle:
    """An open storage of Optuna, with what we need to know about it.

    Attributes:
        storage: Optuna's storage object.
        location: Path, URL or class name, for messages. It holds no password.
        lock: Context manager in which this process is the only writer of a journal, of an SQLite file, or in PostgreSQL
            or Redis. Another database has only its transactions.
        kept_folder: Folder beside the storage for the values that trials keep; None for a storage in memory.
        error_types: What the storage raises when it cannot be reached or written.
        is_private: Whether no other process can read the storage.
        without_sync: Call and enter it to write records without waiting for the disk. A power cut may lose them.
    """

    storage: BaseStorage
    location: str
    lock: AbstractContextManager[Any]
    kept_folder: Path | None
    error_types: tuple[type[Exception], ...] = ()
    is_private: bool = False
    without_sync: Callable[[], AbstractContextManager[Any]] = nullcontext

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise errors of the storage as `StudyError`, and hide Optuna's log messages meanwhile."""
        with translate_errors(self.location, self.error_types):
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """As `translate_errors`, and raise a `StudyError` if something is read that nobody writes; see `undamaged`."""
        with self.translate_errors(), undamaged(self.location):
            yield

    def kept_folder_of(self, study: str) -> Path | None:
        """Return the folder of the values that trials of a study keep. Special characters of its name are quoted."""
        if self.kept_folder is None:
            return None
        # A name of dots alone would be this folder or its parent.
        is_dots = not study.strip(".")
        quoted = quote(study).replace(".", "%2E") if is_dots else quote(study, safe=" ~+=,@()[]")
        return self.kept_folder / quoted


def open_storage(where: str | os.PathLike[str] | BaseStorage | None, *, create: bool = True) -> StorageHandle:
    """Open a storage.

    Args:
        where: Path of a journal file; a database URL; a storage object of Optuna; None for the memory of this process.
        create: Create a journal or an SQLite file that does not exist.

    Raises:
        StudyError: The storage cannot be opened.
        StorageMissing: The file does not exist and `create` is False.
        MissingPart: The database needs a driver that is not installed.
    """
    if where is None:
        from optuna.storages import InMemoryStorage

        return StorageHandle(InMemoryStorage(), "memory", nullcontext(), None, is_private=True)
    if isinstance(where, str) and _URL.match(where):
        return (
            _open_redis(where) if where.partition("://")[0] in _REDIS_SCHEMES else _open_database(where, create=create)
        )
    if isinstance(where, str | os.PathLike):
        return _open_journal(where, create=create)
    from optuna.storages import BaseStorage, InMemoryStorage

    if isinstance(where, BaseStorage):
        is_private = isinstance(where, InMemoryStorage)
        return StorageHandle(where, type(where).__name__, nullcontext(), None, is_private=is_private)
    raise StudyError(
        f"A storage is a path or a database URL, but got {where!r}. Write for example {DEFAULT_STORAGE!r}."
    )


def _open_journal(path: str | os.PathLike[str], *, create: bool) -> StorageHandle:
    from optuna.storages import JournalStorage

    from nbcompress.study.journal import JournalFile

    if not os.fspath(path):
        raise StudyError(f"A storage needs a path, but got an empty text. Write for example {DEFAULT_STORAGE!r}.")
    journal = JournalFile(path, create=create)
    with undamaged(journal.path):
        storage = JournalStorage(journal)  # reads the file; one that is refused is not repaired
    if create:
        journal.repair()
    kept_folder = folder_beside(Path(journal.path))
    return StorageHandle(storage, journal.path, journal.lock, kept_folder, without_sync=journal.without_sync)


def _open_database(url: str, *, create: bool) -> StorageHandle:
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError
    from sqlalchemy.pool import NullPool

    from nbcompress.study.journal import lock_for

    try:
        parsed = make_url(url)
        backend = parsed.get_dialect().name
    except (ArgumentError, ValueError):  # their texts may hold parts of the URL
        raise StudyError(
            f"The storage {without_password(url)!r} is neither a path nor the URL of a database that is known here. "
            "Write for example 'sqlite:///studies.db'."
        ) from None
    except ImportError as error:
        raise MissingPart(f"The storage {without_password(url)!r} needs a driver: {error}.") from error
    options: dict[str, Any] = {}
    kept_folder = Path.cwd() / "nbcompress.kept"
    lock: AbstractContextManager[Any] = nullcontext()
    creation_lock = lock
    is_private = backend == "sqlite" and parsed.database in (None, "", ":memory:")
    if backend == "sqlite" and not is_private:
        file = Path(str(parsed.database)).expanduser().resolve()
        _prepare_file(file, create=create)
        parsed = parsed.set(database=str(file))
        # No pool: an open connection would hold the file, and warn when it is garbage collected.
        options = {"poolclass": NullPool, "connect_args": {"timeout": _SQLITE_WAIT_SECONDS}}
        kept_folder = folder_beside(file)
        # SQLite's own locks cover one operation, and ours several. It is beside the file, since a process that closes
        # the file once more loses SQLite's locks.
        lock = lock_for(f"{file}.lock", is_temporary=True)
        # Two processes may create the tables at the same time. Nothing is created in a folder for reading.
        creation_lock = lock if os.access(file.parent, os.W_OK) else creation_lock
    location = without_password(parsed.render_as_string(hide_password=True))
    if backend == "postgresql":
        from nbcompress.study.server_storage import postgresql_lock

        lock = creation_lock = _or_missing_part(lambda: postgresql_lock(parsed), location)
    error_types = (StorageInternalError, SQLAlchemyError)
    try:
        with translate_errors(location, error_types), creation_lock:
            complete = parsed.render_as_string(hide_password=False)
            storage = _or_missing_part(
                lambda: _with_tables(lambda: closing_at_end(RDBStorage(complete, engine_kwargs=options))), location
            )
            storage = get_storage(storage)
    except RuntimeError as error:
        # The tables were made by another version of Optuna; its message says how to upgrade them.
        raise StudyError(f"The storage {location} cannot be used: {error}") from error
    return StorageHandle(storage, location, lock, kept_folder, error_types, is_private=is_private)


def _open_redis(url: str) -> StorageHandle:
    from optuna.storages import JournalStorage

    from nbcompress.study.server_storage import RedisJournal

    location = without_password(url)
    try:
        journal = _or_missing_part(lambda: RedisJournal(url, location), location)
    except ValueError:  # its text may hold parts of the URL
        raise StudyError(
            f"The storage {location!r} is not the URL of a Redis server. Write for example 'redis://localhost:6379/0'."
        ) from None
    with translate_errors(location, journal.error_types):
        storage = JournalStorage(journal)
    return StorageHandle(storage, location, journal.lock, Path.cwd() / "nbcompress.kept", journal.error_types)


def _or_missing_part(make: Callable[[], T], location: str) -> T:
    """Return what `make` returns; a driver that cannot be imported is an error that names it."""
    try:
        return make()
    except ImportError as error:
        raise MissingPart(f"The storage {location!r} needs a driver that is not installed: {error}") from error


def closing_at_end(storage: RDBStorage) -> BaseStorage:
    """Return a storage that closes its connections when it is garbage collected; Python warns of open ones."""
    finalize(storage, storage.engine.dispose)
    return storage


def _with_tables(open_tables: Callable[[], BaseStorage]) -> BaseStorage:
    """Return what `open_tables` returns; it is called again if another process has just created the same tables."""
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    for _ in range(_N_CREATION_ATTEMPTS - 1):
        try:
            return open_tables()
        except IntegrityError:
            continue
        except (OperationalError, ProgrammingError) as error:
            if "already exists" not in str(error):
                raise
    return open_tables()


def _prepare_file(file: Path, *, create: bool) -> None:
    if not create and not file.is_file():
        raise StorageMissing(f"There is no database at {file}.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"The folder {file.parent} cannot be created: {error.strerror}.") from error


def without_password(url: str) -> str:
    """Return a URL without what may be a password: in it a `/` or `@` need not be quoted."""
    hidden = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    return re.sub(r"(?i)([?&](?:password|passwd|sslpassword)=)[^&#]*", r"\1***", hidden)


def folder_beside(file: Path) -> Path:
    """Return `x.kept` for `x.journal`, and `x.db.kept` for `x.db`: two files never share a folder."""
    return file.with_name((file.stem if file.suffix == ".journal" else file.name) + ".kept")


@contextmanager
def translate_errors(location: str, error_types: tuple[type[Exception], ...]) -> Iterator[None]:
    """Raise `error_types` as one-line `StudyError`, and hide Optuna's log messages meanwhile."""
    try:
        with _optuna_is_quiet():
            yield
    except error_types as error:
        reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        raise StudyError(f"The storage {location} failed: {reason}") from error


@contextmanager
def undamaged(location: str) -> Iterator[None]:
    """Raise a one-line `StudyError` if what is read inside is not what Optuna and nbcompress write.

    A file may be damaged, or made by somebody else. Nothing checks all of its JSON before it is used, so whatever its
    parsing raises says that it is wrong. Use it only around reading: a mistake of ours would look like a damaged file.
    """
    try:
        yield
    except NbcompressError:
        raise
    except _DAMAGE as error:
        raise StudyError(
            f"The storage {location} is damaged: it holds something that neither Optuna nor nbcompress writes "
            f"({first_line(error)[:200]}). Use a copy of it, or another {option('storage')}."
        ) from error


class _HideInfo(logging.Filter):
    """Hide messages below a warning of the thread that makes the filter. Other threads still log."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread or record.levelno >= logging.WARNING


@contextmanager
def _optuna_is_quiet() -> Iterator[None]:
    names = ("optuna.storages._in_memory", "optuna.storages._rdb.storage", "optuna.storages.journal._storage")
    hide_info = _HideInfo()  # a filter, and not a level: the user's settings stay as they are
    for name in names:
        logging.getLogger(name).addFilter(hide_info)
    try:
        yield
    finally:
        for name in names:
            logging.getLogger(name).removeFilter(hide_info)
