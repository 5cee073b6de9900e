"""The studies of files, as the JSON that JupyterLab shows: a line for each, one as a whole, and deleting one.

Files stay open between requests, so that a journal is read as it grows. A file is read by one thread at a time.
"""

from __future__ import annotations

import gc
import hashlib
import hmac
import json
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nbcompress.errors import NbcompressError, StudyError
from nbcompress.panels.text import LIVE_LIMITS, finite, shorten
from nbcompress.panels.view import ShortNames, count_trials, goal_data, stored_status, study_view
from nbcompress.run.kept import FolderArtifactStore
from nbcompress.study.goal import Trial
from nbcompress.study.opening import delete_study
from nbcompress.study.reading import ForeignStudy, is_sqlite, open_for_reading, studies_of
from nbcompress.study.storage import StorageHandle, folder_beside
from nbcompress.study.study import Study

JSON = dict[str, Any]

FOLLOWING = "This view follows the search. Its buttons are in the notebook that runs it."
AnyStudy = Study | ForeignStudy

# Open files, each with its trials in memory.
MAX_OPEN = 24
# Views of studies that do not run, as text.
MAX_TEXTS = 8
# Studies of one file that a listing shows.
MAX_STUDIES = 500


class DeletionRefused(NbcompressError):
    """A study that the server does not delete. The text is for the user."""


@dataclass
class _OpenFile:
    """A file whose studies are in memory.

    Attributes:
        handle: Its storage.
        identity: Device, inode, length and time of change, as it was read.
        studies: By full name.
        is_journal: Whether it is read as it grows; a database was read once.
    """

    handle: StorageHandle
    identity: tuple[int, ...]
    studies: dict[str, AnyStudy]
    is_journal: bool

    def can_continue(self, identity: tuple[int, ...]) -> bool:
        """Return whether what is new in the file with that identity can be read, or nothing is new."""
        is_same_file = identity[:2] == self.identity[:2] and identity[2] >= self.identity[2]
        return identity == self.identity or (self.is_journal and is_same_file)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Search for no reference cycles meanwhile, since Python would look at all trials that were read so far many times.

    It would take a third of the time in which a study of 10,000 trials is read. If two threads read files, the first
    one that ends turns the search on again for both.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _identity(path: str) -> tuple[int, ...]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class StudyReader:
    """Reads studies; several threads may use it.

    It keeps the files that were read last in memory.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._texts: OrderedDict[tuple[str, str], tuple[tuple[int, ...], str]] = OrderedDict()
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._secret = secrets.token_bytes(32)

    def summaries(self, path: str | os.PathLike[str], where: Mapping[str, Any]) -> list[JSON]:
        """Return a line for each study of a file.

        Args:
            path: The file.
            where: What each line says about where the study is.

        Raises:
            StudyError: The file cannot be read.
        """
        studies = self._studies(os.fspath(path))
        return [{**summary(study), **where} for study in list(studies.values())[-MAX_STUDIES:]]

    def view(self, path: str | os.PathLike[str], name: str | None) -> JSON:
        """Return one study as the data of the study view.

        Args:
            path: The file.
            name: The full name of the study; None takes the one that began last.

        Raises:
            StudyError: The file cannot be read, or has no such study.
        """
        study = self.study(path, name)
        status = stored_status(study.record, study.all_trials)
        # How far a search has come is not what a view says that looks again and again.
        following = replace(status, ending=FOLLOWING) if status.running else None
        return study_view(study, baseline=_baseline(study), status=following, limits=LIVE_LIMITS)

    def view_text(self, path: str | os.PathLike[str], name: str | None) -> str:
        """Return `view` as text; that of a study that does not run is kept until its file changes."""
        where = os.path.realpath(path)
        study = self.study(where, name)
        identity = self._identity_read(where)
        with self._lock:
            known = self._texts.get((where, study.name))
        if known is not None and known[0] == identity:
            return known[1]
        text = json.dumps(self.view(where, study.name), allow_nan=False)
        if not _is_running(study) and identity is not None:
            with self._lock:
                self._texts[where, study.name] = (identity, text)
                while len(self._texts) > MAX_TEXTS:
                    self._texts.popitem(last=False)
        return text

    def _identity_read(self, where: str) -> tuple[int, ...] | None:
        """Return which state of a file is in memory."""
        with self._lock:
            known = self._files.get(where)
            return None if known is None else known.identity

    def study(self, path: str | os.PathLike[str], name: str | None) -> AnyStudy:
        """Return one study; arguments and errors as of `view`."""
        studies = self._studies(os.fspath(path))
        if not studies:
            raise StudyError("The file holds no study.")
        full = list(studies)[-1] if name is None else name
        if full not in studies:
            raise StudyError("The file has no study of this name.")
        return studies[full]

    def token(self, path: str | os.PathLike[str], name: str) -> str:
        """Return the token that confirms deleting a study as it is now.

        Raises:
            StudyError: There is no such study.
        """
        study = self.study(path, name)
        states = [trial.state.value for trial in study.all_trials]
        text = json.dumps([os.path.realpath(path), name, states])
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()

    def delete(self, path: str | os.PathLike[str], name: str, token: str) -> None:
        """Delete a study and what its trials keep.

        Raises:
            DeletionRefused: The token does not belong to the study as it is now, another program wrote the study, or
                a process searches it.
            StudyError: There is no such study.
        """
        where = os.path.realpath(path)
        study = self.study(where, name)
        if isinstance(study, ForeignStudy):
            raise DeletionRefused("This study was written by another program, so it is only shown.")
        if not hmac.compare_digest(self.token(where, name), token):
            raise DeletionRefused("The study has changed since you were asked. Look at it again, then delete it.")
        kept = folder_beside(Path(where))
        if kept.is_symlink() or (kept / name).is_symlink():
            raise DeletionRefused("What this study keeps is behind a link, so the server does not delete it.")
        storage = f"sqlite:///{where}" if is_sqlite(where) else where
        try:
            delete_study(name, storage)
        except StudyError as error:
            raise DeletionRefused(str(error).replace(where, os.path.basename(where))) from error
        with self._lock:
            self._files.pop(where, None)

    def _studies(self, path: str) -> Mapping[str, AnyStudy]:
        """Return the studies of a file as they are now."""
        where = os.path.realpath(path)
        with self._lock:
            turn = self._locks.setdefault(where, threading.Lock())
        with turn:
            try:
                return self._read(where)
            except (StudyError, RecursionError, MemoryError, OSError) as error:
                self._forget(where)
                raise StudyError(str(error) or type(error).__name__) from error
            except Exception as error:  # Optuna raises anything on operations that make no sense
                self._forget(where)
                raise StudyError(f"{type(error).__name__} while it was read: {error}") from error

    def _forget(self, where: str) -> None:
        with self._lock:
            self._files.pop(where, None)

    def _read(self, where: str) -> Mapping[str, AnyStudy]:
        identity = _identity(where)
        with self._lock:
            known = self._files.get(where)
            if known is not None:
                self._files.move_to_end(where)
        if known is None or not known.can_continue(identity):
            with _without_garbage_collection():
                handle = open_for_reading(where)
                known = _OpenFile(handle, identity, _read_studies(handle), not is_sqlite(where))
            with self._lock:
                self._files[where] = known
                while len(self._files) > MAX_OPEN:
                    self._files.popitem(last=False)
        elif known.is_journal and (known.identity != identity or any(map(_is_running, known.studies.values()))):
            self._update(known, identity)
        return known.studies

    def _update(self, known: _OpenFile, identity: tuple[int, ...]) -> None:
        """Read what was appended to a journal, and which processes have died."""
        with known.handle.translate_errors():
            stored = {summary.study_name for summary in known.handle.storage.get_all_studies()}
        ours = {name: study for name, study in known.studies.items() if isinstance(study, Study) and name in stored}
        for study in ours.values():
            study.refresh()
        if ours.keys() != stored:
            known.studies = {name: ours.get(name, study) for name, study in _read_studies(known.handle).items()}
        known.identity = identity


def _read_studies(handle: StorageHandle) -> dict[str, AnyStudy]:
    """Return every study of a file; one of ours knows what its trials keep."""
    file = Path(handle.location)
    beside = replace(handle, kept_folder=folder_beside(file))
    studies = studies_of(handle)
    for study in studies.values():
        folder = beside.kept_folder_of(study.name)
        # What is behind a link may be outside of the root.
        if isinstance(study, Study) and folder and not (folder.is_symlink() or folder.parent.is_symlink()):
            study.artifact_store = FolderArtifactStore(folder)
    return studies


def _is_running(study: AnyStudy) -> bool:
    return any(not trial.state.counts for trial in study.all_trials)


def _baseline(study: AnyStudy) -> Mapping[str, float] | None:
    baseline = study.record.get("baseline")
    return baseline if isinstance(baseline, Mapping) else None


def summary(study: AnyStudy) -> JSON:
    """Return a study as one line of a list: name, state, progress and best values."""
    trials = study.all_trials
    status = stored_status(study.record, trials)
    best = study.best
    name = ShortNames(LIVE_LIMITS.name)
    budget = study.record.get("budget")
    wanted = status.trials or (budget.get("trials") if isinstance(budget, Mapping) else None)
    ending = study.record.get("ending")
    return {
        "name": study.name,
        "label": shorten(study.name, LIVE_LIMITS.name),
        "state": "running" if status.running else "ended",
        "trials": len(trials),
        "done": sum(trial.state.counts for trial in trials),
        "wanted": wanted if isinstance(wanted, int) else None,
        "counts": count_trials(trials),
        "goal": goal_data(study.goal, name),
        "best": None if best is None else _best(best, study, name),
        "ending": shorten(str(ending.get("reason", "")), LIVE_LIMITS.message) if isinstance(ending, Mapping) else None,
        "ours": isinstance(study, Study),
    }


def _best(best: Trial, study: AnyStudy, name: ShortNames) -> JSON:
    metrics = [metric for metric in study.goal.metrics if metric in best.values]
    return {"number": best.number, "values": {name(metric): finite(best.values[metric]) for metric in metrics}}


def code_of(study: AnyStudy, path: str) -> str:
    """Return the lines of Python that open a study.

    Args:
        study: The study.
        path: Of its file, as the notebook sees it.
    """
    name, is_journal = repr(study.name), path.endswith(".journal")
    if isinstance(study, Study):
        storage = repr(path if is_journal else f"sqlite:///{path}")
        return f"from nbcompress.study import read_study\n\nstudy = read_study({name}, {storage})\nstudy.trials\n"
    storage = repr(f"sqlite:///{path}")
    if is_journal:
        storage = f"optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend({path!r}))"
    opened = f"optuna.load_study(study_name={name}, storage={storage})"
    return f"import optuna\n\nstudy = {opened}\nstudy.trials_dataframe()\n"


def write_page(path: str, name: str) -> str:
    """Return the page of a report; see `study_page`. The server runs it in a process of its own: it takes seconds."""
    from nbcompress.panels.page import study_page

    study = StudyReader().study(path, name)
    return study_page(study, baseline=_baseline(study))
