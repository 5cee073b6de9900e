"""Where studies are kept: from the text of `--storage` to one of Optuna's storages."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nbcompress.errors import MissingPart, StorageMissing, StudyError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

DEFAULT_STORAGE = "nbcompress.journal"

_URL = re.compile(r"[A-Za-z][\w+.-]*://")
_SQLITE_WAIT_SECONDS = 60


@dataclass(frozen=True)
class Ledger:
    """A storage of Optuna with what we need to know about it.

    Attributes:
        storage: Optuna's object.
        place: Where it is, in words for messages. Holds no password.
        exclusive: Enter it to be the only writer. Nothing to wait for in a database, which has transactions.
        folder: Folder beside it for kept values, or None when it is in memory.
        failures: What the storage raises when it cannot be reached or written.
        is_private: Whether no other process can see it.
        relaxed: Call and enter it to write what may be lost in a power cut, and not wait for the disk.
    """

    storage: BaseStorage
    place: str
    exclusive: AbstractContextManager[Any]
    folder: Path | None
    failures: tuple[type[Exception], ...] = ()
    is_private: bool = False
    relaxed: Callable[[], AbstractContextManager[Any]] = nullcontext

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Turn what the storage raises into a StudyError, and keep Optuna's chatter off the notebook meanwhile."""
        with plain_errors(self.place, self.failures):
            yield

    def folder_of(self, study: str) -> Path | None:
        """Return the folder of what the trials of a study keep; a name with special characters is quoted."""
        if self.folder is None:
            return None
        # A name that is only dots would be the folder above.
        return self.folder / (quote(study, safe=" ~+=,@()[]") if study.strip(".") else quote(study).replace(".", "%2E"))


def open_ledger(where: str | os.PathLike[str] | BaseStorage | None, *, create: bool = True) -> Ledger:
    """Open a storage.

    Args:
        where: Path of a journal file; a database URL; a storage object of Optuna; None for the memory of this process.
        create: Make a journal or an SQLite file that does not exist.

    Raises:
        StudyError: It cannot be opened.
        StorageMissing: It does not exist and `create` is False.
        MissingPart: The database needs a driver that is not installed.
    """
    if where is None:
        from optuna.storages import InMemoryStorage

        return Ledger(InMemoryStorage(), "memory", nullcontext(), None, is_private=True)
    if isinstance(where, str) and _URL.match(where):
        return _open_database(where, create=create)
    if isinstance(where, str | os.PathLike):
        return _open_journal(where, create=create)
    from optuna.storages import BaseStorage, InMemoryStorage

    if isinstance(where, BaseStorage):
        is_private = isinstance(where, InMemoryStorage)
        return Ledger(where, type(where).__name__, nullcontext(), None, is_private=is_private)
    raise StudyError(
        f"A storage is a path or a database URL, but got {where!r}. Write for example {DEFAULT_STORAGE!r}."
    )


def _open_journal(path: str | os.PathLike[str], *, create: bool) -> Ledger:
    from optuna.storages import JournalStorage

    from nbcompress.study.journal import JournalFile

    if not os.fspath(path):
        raise StudyError(f"A storage needs a path, but got an empty text. Write for example {DEFAULT_STORAGE!r}.")
    journal = JournalFile(path, create=create)
    if create:
        journal.mend()
    folder = _kept_folder(Path(journal.path))
    return Ledger(JournalStorage(journal), journal.path, journal.lock, folder, relaxed=journal.relaxed)


def _open_database(url: str, *, create: bool) -> Ledger:
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        parsed = make_url(url)
        backend = parsed.get_dialect().name
    except ArgumentError as error:
        raise StudyError(
            f"The storage {_without_password(url)!r} is neither a path nor the URL of a database that is known here. "
            "Write for example 'sqlite:///studies.db'."
        ) from error
    except ImportError as error:
        raise MissingPart(f"The storage {_without_password(url)!r} needs a driver: {error}.") from error
    options: dict[str, Any] = {}
    folder = Path.cwd() / "nbcompress.kept"
    is_private = backend == "sqlite" and parsed.database in (None, "", ":memory:")
    if backend == "sqlite" and not is_private:
        file = Path(str(parsed.database)).expanduser().resolve()
        _prepare_file(file, create=create)
        parsed = parsed.set(database=str(file))
        # No pool: a connection kept open would hold the file, and warn when it is collected.
        options = {"poolclass": NullPool, "connect_args": {"timeout": _SQLITE_WAIT_SECONDS}}
        folder = _kept_folder(file)
    place = parsed.render_as_string(hide_password=True)
    failures = (StorageInternalError, SQLAlchemyError)
    try:
        with plain_errors(place, failures):
            storage = get_storage(RDBStorage(parsed.render_as_string(hide_password=False), engine_kwargs=options))
    except ImportError as error:
        raise MissingPart(f"The storage {place!r} needs a driver that is not installed: {error}") from error
    except RuntimeError as error:
        # Optuna says so of tables that another version of it made, and how to upgrade them.
        raise StudyError(f"The storage {place} cannot be used: {error}") from error
    return Ledger(storage, place, nullcontext(), folder, failures, is_private=is_private)


def _prepare_file(file: Path, *, create: bool) -> None:
    if not create and not file.is_file():
        raise StorageMissing(f"There is no database at {file}.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"The folder {file.parent} cannot be made: {error.strerror}.") from error


def _without_password(url: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def _kept_folder(file: Path) -> Path:
    """Return `x.kept` beside `x.journal`, and `x.db.kept` beside `x.db`, so that two files never share a folder."""
    return file.with_name((file.stem if file.suffix == ".journal" else file.name) + ".kept")


@contextmanager
def plain_errors(place: str, failures: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        with _quiet():
            yield
    except failures as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise StudyError(f"The storage {place} failed: {reason}") from error


class _OwnThreadOnly(logging.Filter):
    """Hold back what one thread logs below a warning. Other threads, and the user's settings, are left alone."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread or record.levelno >= logging.WARNING


@contextmanager
def _quiet() -> Iterator[None]:
    names = ("optuna.storages._in_memory", "optuna.storages._rdb.storage", "optuna.storages.journal._storage")
    silent = _OwnThreadOnly()
    for name in names:
        logging.getLogger(name).addFilter(silent)
    try:
        yield
    finally:
        for name in names:
            logging.getLogger(name).removeFilter(silent)
