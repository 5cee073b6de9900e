"""Read the studies of a file, ours and those of any program that uses Optuna, without locking or changing the file.

A journal is read as it grows. An SQLite file is copied into memory, so that nothing that Optuna or SQLite does while
reading can reach it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nbcompress.errors import GoalError, StorageMissing, StudyError, first_line
from nbcompress.space import Choice, Float, Int, Parameter
from nbcompress.space.conditions import Condition
from nbcompress.study.front import front
from nbcompress.study.goal import Failure, Goal, Objective, State, Trial
from nbcompress.study.opening import HEADER_KEY, join_name, read_study, split_name
from nbcompress.study.optuna_distributions import parameter_of
from nbcompress.study.storage import StorageHandle, open_storage, translate_errors, undamaged
from nbcompress.study.study import Study
from nbcompress.study.trial_list import trials_table
from nbcompress.study.trial_store import BEGIN_KEY, read_attribute

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.study import StudySummary as OptunaSummary
    from optuna.trial import FrozenTrial

_SQLITE_START = b"SQLite format 3\0"
_METRIC_NAMES_KEY = "study:metric_names"


def is_sqlite(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins as SQLite files do."""
    with open(path, "rb") as file:
        return file.read(len(_SQLITE_START)) == _SQLITE_START


def storage_of(text: str) -> str:
    """Return a storage as it is opened: the path of an SQLite file becomes its URL, anything else stays."""
    path = os.path.expanduser(text)
    is_database = "://" not in text and os.path.isfile(path) and is_sqlite(path)
    return f"sqlite:///{path}" if is_database else text


def open_for_reading(path: str | os.PathLike[str]) -> StorageHandle:
    """Open the storage in a file for reading only.

    Args:
        path: A journal, or an SQLite file with the tables of Optuna. The latter is read once, now.

    Returns:
        The storage. If it is a journal, the trials of our studies have no parameters for Optuna, only for us.

    Raises:
        StudyError: It is neither.
    """
    from optuna.exceptions import StorageInternalError
    from optuna.storages import JournalStorage
    from sqlalchemy.exc import SQLAlchemyError

    from nbcompress.study.journal import JournalFile

    where = os.path.realpath(path)
    try:
        if is_sqlite(where):
            error_types = (StorageInternalError, SQLAlchemyError)
            with translate_errors(where, error_types), undamaged(where):
                return StorageHandle(_sqlite_copy(where), where, nullcontext(), None, error_types)
    except (OSError, sqlite3.Error) as error:
        raise StudyError(f"The database {where} cannot be read: {first_line(error)}.") from error
    with undamaged(where):
        journal = JournalFile(where, create=False, lighten=_OwnTrials())
        return StorageHandle(JournalStorage(journal), where, nullcontext(), None)


class _OwnTrials:
    """Removes Optuna's copy of the parameters from the trials of our studies.

    Our own record of a trial holds them, too, and Optuna takes longer for its copy than for everything else.
    """

    def __init__(self) -> None:
        from optuna.storages.journal._storage import JournalOperation

        self._attribute, self._trial = JournalOperation.SET_STUDY_USER_ATTR, JournalOperation.CREATE_TRIAL
        self._study_ids: set[int] = set()

    def __call__(self, operation: dict[str, Any]) -> None:
        if operation["op_code"] == self._trial:
            # Another program may have copied trials of ours into a study of its own.
            if operation.get("study_id") in self._study_ids and BEGIN_KEY in (operation.get("user_attrs") or ()):
                operation.pop("params", None)
                operation.pop("distributions", None)
        elif operation["op_code"] == self._attribute and HEADER_KEY in operation["user_attr"]:
            self._study_ids.add(operation["study_id"])


def _sqlite_copy(path: str) -> BaseStorage:
    """Return a storage over a copy of an SQLite file in memory.

    Raises:
        StudyError: The file has no tables of Optuna.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy.pool import StaticPool

    # With a write-ahead log SQLite makes files beside the database unless it takes it as fixed.
    is_fixed = not os.path.exists(f"{path}-wal")
    url = f"file:{quote(path)}?mode=ro" + ("&immutable=1" if is_fixed else "")
    copy = sqlite3.connect(":memory:", check_same_thread=False)
    with closing(sqlite3.connect(url, uri=True)) as original:
        original.backup(copy)
    tables = {name for (name,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"studies", "trials", "trial_params"} <= tables:
        copy.close()
        raise StudyError(f"The database {path} holds no studies of Optuna.")
    options = {"creator": lambda: copy, "poolclass": StaticPool}
    return RDBStorage("sqlite://", engine_kwargs=options, skip_compatibility_check=True, skip_table_creation=True)


def studies_of(handle: StorageHandle) -> dict[str, Study | ForeignStudy]:
    """Return every study of a storage by its full name, in the order in which they began.

    Raises:
        StudyError: One of ours cannot be read.
    """
    found: dict[str, Study | ForeignStudy] = {}
    with handle.reading():
        for summary in handle.storage.get_all_studies():
            name = summary.study_name
            attributes = handle.storage.get_study_user_attrs(summary._study_id)
            if read_attribute(attributes, HEADER_KEY) is None:
                found[name] = foreign_study(handle, summary)
            else:
                base, generation = split_name(name)
                full = f"{base}~{generation}" if generation == 1 else join_name(base, generation)
                found[name] = read_study(full, handle.storage)
    return found


def read_foreign_study(name: str, storage: str | os.PathLike[str]) -> ForeignStudy | None:
    """Return a study that another program stored with Optuna; None if there is none of that name.

    Args:
        name: Its name.
        storage: Path of a journal or an SQLite file, or a database URL.

    Raises:
        StudyError: The storage cannot be read.
    """
    return foreign_studies(storage).get(name)


def foreign_studies(storage: str | os.PathLike[str]) -> dict[str, ForeignStudy]:
    """Return the studies of a storage that nbcompress did not write, by name; none if it does not exist.

    Raises:
        StudyError: The storage cannot be read.
    """
    try:
        handle = _handle_for_reading(storage)
        with handle.reading():
            return {
                summary.study_name: foreign_study(handle, summary)
                for summary in handle.storage.get_all_studies()
                if read_attribute(handle.storage.get_study_user_attrs(summary._study_id), HEADER_KEY) is None
            }
    except StorageMissing:
        return {}


def _handle_for_reading(storage: str | os.PathLike[str]) -> StorageHandle:
    text = os.fspath(storage)
    path = text.removeprefix("sqlite:///") if text.startswith("sqlite:///") else text
    if "://" in path:
        return open_storage(path, create=False)
    if not os.path.isfile(os.path.expanduser(path)):
        raise StorageMissing(f"There is no file {path}.")
    return open_for_reading(os.path.expanduser(path))


# Studies of other programs --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ObservedSpace:
    """The parameters that the trials of a study have. Programs of Optuna declare them while a trial runs.

    Attributes:
        parameters: By name. Those that this package cannot express are not in it.
        conditions: Always empty: it is not known why a trial lacks a parameter.
    """

    parameters: Mapping[str, Parameter]
    conditions: Mapping[str, Condition] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        return self.parameters[name]


@dataclass(frozen=True)
class ForeignStudy:
    """A study that another program stored with Optuna, as it was when it was read.

    Attributes:
        name: Its name.
        storage: Path or URL of its storage, without a password.
        goal: Its directions. Optuna stores how far a trial breaks a constraint and no bound, so it has no constraints.
        space: The parameters that its trials have.
        all_trials: Its trials that have begun.
    """

    name: str
    storage: str
    goal: Goal
    space: ObservedSpace
    all_trials: tuple[Trial, ...]

    is_read_only = True
    warnings: tuple[str, ...] = ()

    @property
    def record(self) -> Mapping[str, Any]:
        return {"program": "a program that uses Optuna"}

    @cached_property
    def front(self) -> list[Trial]:
        """As of a `Study`."""
        return front(self.all_trials, self.goal)

    @property
    def best(self) -> Trial | None:
        """As of a `Study`."""
        return next(iter(self.front), None)

    @property
    def trials(self) -> pd.DataFrame:
        """As of a `Study`."""
        space: Any = self.space
        return trials_table(self.all_trials, space, self.goal)

    def __repr__(self) -> str:
        n = len(self.all_trials)
        best = "" if self.best is None else f"\nbest: {self.best}"
        return f"Study {self.name!r} of a program that uses Optuna: {n} trial{'s' * (n != 1)}, read only{best}"


def foreign_study(handle: StorageHandle, summary: OptunaSummary | Any) -> ForeignStudy:
    """Return a study that nbcompress did not write.

    Args:
        handle: Its storage.
        summary: What the storage lists of it.
    """
    frozen = handle.storage.get_all_trials(summary._study_id, deepcopy=False)
    system = handle.storage.get_study_system_attrs(summary._study_id)
    goal = _goal_of(summary.directions, system.get(_METRIC_NAMES_KEY))
    begun = [trial for trial in frozen if trial.state.name != "WAITING"]
    space = ObservedSpace(_parameters_of([trial.distributions for trial in begun]))
    trials = tuple(_trial_of(trial, number, goal) for number, trial in enumerate(begun))
    return ForeignStudy(summary.study_name, handle.location, goal, space, trials)


def _goal_of(directions: Sequence[Any], names: object) -> Goal:
    """Return the goal; a metric without a usable name is called `value`, or `value_0`, `value_1`, ..."""
    plain = ["value"] if len(directions) == 1 else [f"value_{index}" for index in range(len(directions))]
    given = names if isinstance(names, list) and len(names) == len(plain) else plain
    kinds = ["maximize" if direction.name == "MAXIMIZE" else "minimize" for direction in directions]
    try:
        return Goal(tuple(map(Objective, given, kinds)))  # type: ignore[arg-type]
    except GoalError:
        return Goal(tuple(map(Objective, plain, kinds)))  # type: ignore[arg-type]


def _parameters_of(tables: Sequence[Mapping[str, BaseDistribution]]) -> dict[str, Parameter]:
    """Return a parameter for each name, over all values that any trial could have."""
    found: dict[str, list[Parameter]] = {}
    seen: set[tuple[str, str]] = set()
    for table in tables:
        for name, distribution in table.items():
            key = (name, repr(distribution))
            if key not in seen:
                seen.add(key)
                parameter = parameter_of(distribution)
                if parameter is not None:
                    found.setdefault(name, []).append(parameter)
    return {name: _union(parameters) for name, parameters in found.items()}


def _union(parameters: Sequence[Parameter]) -> Parameter:
    """Return one parameter with the values of all; of those of another kind than the last one it takes nothing."""
    last = parameters[-1]
    same = [parameter for parameter in parameters if type(parameter) is type(last)]
    if len(same) == 1:
        return last
    if isinstance(last, Choice):
        options = {repr(option): option for each in same if isinstance(each, Choice) for option in each.options}
        return Choice(*options.values())
    ranges = [each for each in same if isinstance(each, Float | Int)]
    low, high = min(each.low for each in ranges), max(each.high for each in ranges)
    is_log = isinstance(last, Float | Int) and last.log
    return Int(int(low), int(high), is_log) if isinstance(last, Int) else Float(low, high, is_log)


def _trial_of(frozen: FrozenTrial, number: int, goal: Goal) -> Trial:
    states = {"COMPLETE": State.COMPLETE, "PRUNED": State.STOPPED, "FAIL": State.FAILED, "RUNNING": State.RUNNING}
    state = states[frozen.state.name]
    values = frozen.values if state is State.COMPLETE else None
    if state is State.COMPLETE and any(value > 0 for value in frozen.constraints.values()):
        state = State.INFEASIBLE
    named = dict(zip((objective.metric for objective in goal.objectives), values or (), strict=bool(values)))
    failure = None
    if state is State.COMPLETE and any(abs(value) == float("inf") for value in named.values()):
        state, failure = State.FAILED, Failure("NotFinite", "an objective is infinite")
    duration = frozen.duration
    first = goal.objectives[0].metric
    steps = {int(step): float(value) for step, value in frozen.intermediate_values.items()}
    return Trial(
        number,
        state,
        dict(frozen.params),
        named,
        seconds=None if duration is None else duration.total_seconds(),
        started=_seconds_of(frozen.datetime_start),
        ended=_seconds_of(frozen.datetime_complete),
        failure=failure,
        reports={first: steps} if steps else {},
    )


def _seconds_of(moment: datetime | None) -> float | None:
    """Return a time of Optuna's, which is local, in seconds since 1970."""
    return None if moment is None else moment.timestamp()


__all__ = [
    "ForeignStudy",
    "ObservedSpace",
    "foreign_studies",
    "foreign_study",
    "is_sqlite",
    "open_for_reading",
    "read_foreign_study",
    "storage_of",
    "studies_of",
]
