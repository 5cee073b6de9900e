"""Open, read, list and delete the studies of a storage.

A study name has generations: `digits`, then `digits~2`, `digits~3`, ... A new one begins where a search cannot continue
the stored study, or where the user asks for a fresh one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nbcompress.errors import GoalError, StorageMissing, StudyChanged, StudyError, did_you_mean, option
from nbcompress.space import Space
from nbcompress.study.artifact_store import ArtifactStore
from nbcompress.study.goal import Goal, State
from nbcompress.study.processes import DEFAULT_HEARTBEATS, HeartbeatSettings, check_not_searched
from nbcompress.study.snapshot import Difference, Snapshot, differences, differences_text
from nbcompress.study.storage import DEFAULT_STORAGE, StorageHandle, open_storage
from nbcompress.study.study import Study
from nbcompress.study.trial_store import WRITTEN_KEY, TrialStore, read_attribute, to_text, write_attribute

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    Where = str | os.PathLike[str] | BaseStorage | None


# Names ----------------------------------------------------------------------------------------------------------------

# Optuna's tables hold 512 characters; the rest is for the generation.
_MAX_LENGTH = 500
_GENERATION = re.compile(r"(.*)~([1-9][0-9]*)", re.DOTALL)


def check_study_name(name: str) -> str:
    """Return `name` if a study can be stored under it.

    Raises:
        StudyError: The name is empty, too long, or holds characters that cannot be printed.
    """
    if not name.strip() or not name.isprintable():
        raise StudyError(f"A study's name is printable text, but got {name!r}.")
    if len(name) > _MAX_LENGTH:
        raise StudyError(f"A study's name has at most {_MAX_LENGTH} characters, but got {len(name)}.")
    return name


def split_name(name: str) -> tuple[str, int]:
    """Return base and generation of a name.

    Example:
        >>> split_name("digits~2"), split_name("digits")
        (('digits', 2), ('digits', 1))
    """
    match = _GENERATION.fullmatch(name)
    return (match[1], int(match[2])) if match and match[1] else (name, 1)


def join_name(base: str, generation: int) -> str:
    """Return the name of a generation; the first has no number."""
    return base if generation == 1 else f"{base}~{generation}"


def latest_name(name: str, stored: Iterable[str]) -> str:
    """Return the full name of the study that `name` means: the named generation, else the latest stored one.

    If nothing is stored, it is the name that a new study gets.
    """
    base, generation = split_name(name)
    if name != base:
        return join_name(base, generation)  # `digits~1` is stored as `digits`
    return join_name(base, max(_generations(base, stored), default=1))


def next_name(name: str, stored: Iterable[str]) -> str:
    """Return the name of the generation after the latest stored one."""
    base = split_name(name)[0]
    return join_name(base, 1 + max(_generations(base, stored), default=0))


def _generations(base: str, stored: Iterable[str]) -> list[int]:
    return [generation for other, generation in map(split_name, stored) if other == base]


# What is stored of a study --------------------------------------------------------------------------------------------

# The version of all records that are stored with a study. A reader refuses a higher one.
FORMAT = 1
HEADER_KEY = "nbcompress:study"
# Begins the keys of `StudyHeader.identity` under which earlier versions stored the hash of a plain value.
_VALUE_PREFIX = "value of "
# Begins the keys of `StudyHeader.identity` for the functions that a body reaches.
_FUNCTION_PREFIX = "version of "


@dataclass(frozen=True)
class StudyHeader:
    """What is stored of a study when it begins.

    Attributes:
        space: The parameters.
        goal: Objectives and constraints.
        identity: Facts such as a hash of the cell's body; only a warning when they change.
        created: When the study began.
        snapshot: What the search read, as JSON; None in a study of an earlier version.
    """

    space: Space
    goal: Goal
    identity: Mapping[str, Any]
    created: datetime
    snapshot: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "version": FORMAT,
            "space": self.space.to_json(),
            "goal": self.goal.to_json(),
            "identity": dict(self.identity),
            "created": self.created.isoformat(),
            **({} if self.snapshot is None else {"values": dict(self.snapshot)}),
        }


@dataclass(frozen=True)
class StudySummary:
    """One stored study, as `list_studies` shows it.

    Attributes:
        name: Name with its generation.
        counts: Number of trials by state, without states that do not occur.
        goal: Objectives and constraints.
        created: When the study began.
    """

    name: str
    counts: Mapping[State, int]
    goal: Goal
    created: datetime

    @property
    def n_trials(self) -> int:
        """Number of trials in all states."""
        return sum(self.counts.values())


# Opening --------------------------------------------------------------------------------------------------------------


def open_study(
    name: str,
    space: Space,
    goal: Goal,
    *,
    storage: Where = DEFAULT_STORAGE,
    fresh: bool = False,
    identity: Mapping[str, Any] | None = None,
    snapshot: Snapshot | None = None,
    is_generated_name: bool = False,
    accept_changes: bool = False,
    artifact_store: ArtifactStore | None = None,
    heartbeats: HeartbeatSettings = DEFAULT_HEARTBEATS,
) -> Study:
    """Continue the latest generation of a study, or begin it if it does not exist.

    If the name was generated from the searched code, the latest generation that was begun with the same snapshot is
    continued; if there is none, a new generation begins.

    Args:
        name: `digits` means the latest generation, `digits~2` that generation, `digits~1` the first.
        space: The parameters.
        goal: Objectives and constraints.
        storage: Path of a journal, a database URL, a storage object of Optuna, or None for memory.
        fresh: Begin the next generation in any case. Nothing is deleted.
        identity: JSON facts such as a hash of the cell's body. If they differ from the stored ones, it is a warning.
        snapshot: What the search reads. If a plain value differs from the stored one, it is an error, unless the name
            is generated.
        is_generated_name: Whether the name was generated, not chosen by the user.
        accept_changes: Continue although values differ; `Study.accepted` holds them.
        artifact_store: Where kept values are stored.
        heartbeats: When a process on another machine counts as dead.

    Raises:
        GoalError: A name is both a parameter and a metric, or two constraints exclude each other.
        StudyChanged: The stored study has other parameters, objectives or constraints, or was begun with other values.
        StudyError: The name or the storage cannot be used, or nbcompress did not write the stored study, or a newer
            version did.

    Example:
        >>> from dataclasses import replace
        >>> from nbcompress.space import Float
        >>> space = Space({"x": Float(0, 1)})
        >>> study = open_study("digits", space, Goal.of(minimize=["loss"]), storage=None)
        >>> trial = study.begin({"x": 0.5})
        >>> _ = study.finish(replace(trial, state=State.COMPLETE, values={"loss": 0.25}))
        >>> study.best
        <Trial 0: complete, loss 0.25 (x=0.5)>
    """
    check_study_name(name)
    for metric in goal.metrics:
        if metric in (*space.names, *space.groups):
            raise GoalError(f"No name is both a parameter and a metric, but {metric!r} is; rename one of them.")
    goal.check_satisfiable()
    given = StudyHeader(
        space, goal, identity or {}, datetime.now(UTC), None if snapshot is None else snapshot.to_json()
    )
    to_text(given.to_json(), "the identity of a study")
    handle = open_storage(storage)
    with handle.translate_errors(), handle.lock:
        stored = _study_ids(handle)
        warnings: list[str] = []
        if fresh:
            full = next_name(name, stored)
        elif is_generated_name and snapshot is not None and not accept_changes:
            full, warnings = _matching_generation(handle, name, stored, given, snapshot)
        else:
            full = latest_name(name, stored)
        study_id, header = _create_or_read(handle, check_study_name(full), given)
        difference = header.space.difference(space) or header.goal.difference(goal)
        if difference:
            raise StudyChanged(
                f"Study {full!r} in {handle.location} cannot be continued. {difference} Give the new search another "
                f"{option('study')}, or begin the next generation with {option('fresh', True)}."
            )
        differing = _differences(handle, study_id, header, snapshot)
        changed = [found for found in differing if found.kind == "value" and not found.is_close]
        if changed and not accept_changes:
            raise StudyChanged(
                f"Study {full!r} in {handle.location} cannot be continued, since what it reads is not what it was "
                f"begun with: {differences_text(changed)}. Begin the next generation with {option('fresh', True)}, "
                f"give the new search another {option('study')}, or continue all the same with "
                f"{option('accept_changes', True)}."
            )
        warnings += _identity_warnings(full, header, given) + _difference_warnings(full, differing)
        if snapshot is not None and full in stored:
            warnings += _unknown_function_warnings(full, header, snapshot, is_generated_name=is_generated_name)
        return Study(
            TrialStore(handle, study_id, header.goal, is_read_only=False, heartbeats=heartbeats),
            full,
            header.space,
            artifact_store=artifact_store,
            warnings=tuple(dict.fromkeys(warnings)),
            accepted={found.name: found.value for found in changed},
            changed_body=_changed_body(header, given),
        )


def read_study(
    name: str,
    storage: Where = DEFAULT_STORAGE,
    *,
    artifact_store: ArtifactStore | None = None,
    heartbeats: HeartbeatSettings = DEFAULT_HEARTBEATS,
) -> Study:
    """Open a stored study for reading.

    Args:
        name: As in `open_study`.
        storage: As in `open_study`.
        artifact_store: Where kept values are stored.
        heartbeats: When a process on another machine counts as dead.

    Raises:
        StudyError: There is no such study or storage. The message names the study with the nearest name.
    """
    handle = open_storage(storage, create=False)
    with handle.translate_errors():
        full = latest_name(name, _study_ids(handle))
        study_id = _find(handle, full)
        header = _read_header(handle, study_id, full)
        store = TrialStore(handle, study_id, header.goal, is_read_only=True, heartbeats=heartbeats)
        return Study(store, full, header.space, artifact_store=artifact_store, is_read_only=True)


def list_studies(
    storage: Where = DEFAULT_STORAGE, *, heartbeats: HeartbeatSettings = DEFAULT_HEARTBEATS
) -> tuple[StudySummary, ...]:
    """Return a summary of each study in a storage, in the order in which they began.

    Studies that nbcompress did not write are left out. A storage that does not exist holds no study.

    Raises:
        StudyError: The storage cannot be read.
    """
    try:
        handle = open_storage(storage, create=False)
    except StorageMissing:
        return ()
    found = []
    with handle.reading():
        for name, study_id in _study_ids(handle).items():
            attributes = handle.storage.get_study_user_attrs(study_id)
            if read_attribute(attributes, HEADER_KEY) is None:
                continue
            header = _read_header(handle, study_id, name)
            store = TrialStore(handle, study_id, header.goal, is_read_only=True, heartbeats=heartbeats)
            store.refresh()
            counts = Counter(run.trial.state for run in store.current_runs)
            found.append(StudySummary(name, dict(counts), header.goal, header.created))
    return tuple(found)


def delete_study(
    name: str, storage: Where = DEFAULT_STORAGE, *, heartbeats: HeartbeatSettings = DEFAULT_HEARTBEATS
) -> None:
    """Delete a study and the values that its trials keep.

    If a machine that ran a trial is gone, the study can be deleted when that trial is given up: a minute after this
    process first read it.

    Args:
        name: The full name, as `list_studies` shows it.
        storage: As in `open_study`.
        heartbeats: When a process on another machine counts as dead.

    Raises:
        StudyError: There is no such study, this process searches it, or another process runs a trial of it.
    """
    handle = open_storage(storage, create=False)
    with handle.translate_errors(), handle.lock:
        study_id = _find(handle, name)
        check_not_searched(handle, name)
        goal = _read_header(handle, study_id, name).goal
        store = TrialStore(handle, study_id, goal, is_read_only=True, heartbeats=heartbeats)
        store.refresh()
        running = [run for run in store.current_runs if run.trial.state is State.RUNNING]
        for run in sorted(running, key=lambda run: run.trial.number in store.unconfirmed):
            what = f"Study {name!r} is in use: trial {run.trial.number} runs in {run.worker}"
            if run.trial.number not in store.unconfirmed:
                raise StudyError(f"{what}. Stop it first.")
            seconds = math.ceil(max(store.unconfirmed.values()))
            raise StudyError(
                f"{what}, which cannot be checked from this machine. If it writes no heartbeat, "
                f"the study can be deleted in {seconds} s."
            )
        handle.storage.delete_study(study_id)
        folder = handle.kept_folder_of(name)
        if folder is not None and folder.is_dir():
            shutil.rmtree(folder)


def _study_ids(handle: StorageHandle) -> dict[str, int]:
    """Return Optuna's id of every study in a storage, by name."""
    with handle.reading():
        return {study.study_name: study._study_id for study in handle.storage.get_all_studies()}


def _find(handle: StorageHandle, name: str) -> int:
    """Return Optuna's id of the study with that full name.

    Raises:
        StudyError: There is none.
    """
    stored = _study_ids(handle)
    if name not in stored:
        there = did_you_mean(name, stored) or (f" There is {', '.join(map(repr, stored))}." if stored else "")
        raise StudyError(f"There is no study {name!r} in {handle.location}.{there}")
    return stored[name]


def _create_or_read(handle: StorageHandle, name: str, given: StudyHeader) -> tuple[int, StudyHeader]:
    """Return Optuna's id and the header of a study. If it does not exist, it begins now."""
    from optuna.exceptions import DuplicatedStudyError
    from optuna.study import StudyDirection

    storage = handle.storage
    study_id = _study_ids(handle).get(name)
    directions = [
        StudyDirection.MAXIMIZE if objective.direction == "maximize" else StudyDirection.MINIMIZE
        for objective in given.goal.objectives
    ]
    if study_id is None:
        try:
            study_id = storage.create_new_study(directions, name)
        except DuplicatedStudyError:  # another process has begun it since
            study_id = storage.get_study_id_from_name(name)
    if read_attribute(storage.get_study_user_attrs(study_id), HEADER_KEY) is None:
        if storage.get_all_trials(study_id, deepcopy=False) or storage.get_study_directions(study_id) != directions:
            raise StudyError(
                f"Study {name!r} in {handle.location} was not begun by nbcompress. "
                f"Give the search another {option('study')}."
            )
        # The study is new, or its process was killed between creating it and writing the header.
        write_attribute(
            lambda key, value: storage.set_study_user_attr(study_id, key, value),
            HEADER_KEY,
            given.to_json(),
            "the study",
        )
    return study_id, _read_header(handle, study_id, name)


def _read_header(handle: StorageHandle, study_id: int, name: str) -> StudyHeader:
    with handle.reading():
        data = read_attribute(handle.storage.get_study_user_attrs(study_id), HEADER_KEY)
        if data is None:
            raise StudyError(f"Study {name!r} in {handle.location} was not begun by nbcompress.")
        if data["version"] > FORMAT:
            raise StudyError(
                f"Study {name!r} in {handle.location} has format {data['version']}, from a newer nbcompress; "
                f"this one reads up to {FORMAT}. Update nbcompress."
            )
        created = datetime.fromisoformat(data["created"])
        space, goal = Space.from_json(data["space"]), Goal.from_json(data["goal"])
        return StudyHeader(space, goal, dict(data["identity"]), created, data.get("values"))


def _matching_generation(
    handle: StorageHandle, name: str, stored: Mapping[str, int], given: StudyHeader, snapshot: Snapshot
) -> tuple[str, list[str]]:
    """Return the latest generation of `name` that was begun with this snapshot, or the name of a new one.

    Returns:
        The full name; and if it is new, a warning that says how the latest stored generation differs.
    """
    base = split_name(name)[0]
    warnings: list[str] = []
    for full in (join_name(base, generation) for generation in sorted(_generations(base, stored), reverse=True)):
        if read_attribute(handle.storage.get_study_user_attrs(stored[full]), HEADER_KEY) is None:
            return full, []  # killed while it began, or written by another tool: `_create_or_read` decides
        header = _read_header(handle, stored[full], full)
        differing = [found for found in _differences(handle, stored[full], header, snapshot) if not found.is_close]
        text = differences_text(differing) if differing else _changed_hash(header, given)
        if not text:
            return full, []
        new = next_name(base, stored)
        warnings = warnings or [f"Study {new!r} begins, since {full!r} was begun with something else: {text}."]
    return next_name(base, stored), warnings


def _differences(
    handle: StorageHandle, study_id: int, header: StudyHeader, snapshot: Snapshot | None
) -> list[Difference]:
    """Return the differences between the stored snapshot and the present one; none if one of them is missing."""
    if snapshot is None or header.snapshot is None:
        return []
    written = read_attribute(handle.storage.get_study_user_attrs(study_id), WRITTEN_KEY) or []
    return differences(header.snapshot, snapshot, [tuple(path) for path in written])


def _changed_hash(header: StudyHeader, given: StudyHeader) -> str:
    """Return in words which plain value differs, for a study of an earlier version, which stored only hashes."""
    if header.snapshot is not None:
        return ""
    keys = [key for key in given.identity if key.startswith(_VALUE_PREFIX)]
    changed = [key for key in keys if header.identity.get(key, given.identity[key]) != given.identity[key]]
    return f"another {changed[0]}" if changed else ""


def _changed_body(stored: StudyHeader, given: StudyHeader) -> str | None:
    """Return a hash of the given body if the study was begun with another one, or with other functions in it."""
    keys = ["body", *sorted(key for key in given.identity if key.startswith(_FUNCTION_PREFIX))]
    common = [key for key in keys if key in stored.identity and key in given.identity]
    changed = [key for key in common if _is_another(stored.identity[key], given.identity[key])]
    if not changed or "body" not in common:
        return None
    if changed == ["body"]:  # what earlier versions stored with a trial
        return str(given.identity["body"])
    text = json.dumps([given.identity[key] for key in keys])
    return hashlib.sha256(text.encode()).hexdigest()[: len(str(given.identity["body"]))]


def _is_another(stored: Any, given: Any) -> bool:
    """Return whether two facts differ; compiled code of different versions of Python cannot be compared."""
    if isinstance(stored, Mapping) and isinstance(given, Mapping) and stored.get("python") != given.get("python"):
        return False
    return bool(stored != given)


def _identity_warnings(name: str, stored: StudyHeader, given: StudyHeader) -> list[str]:
    keys = [key for key in given.identity if key in stored.identity]
    if stored.snapshot is not None and given.snapshot is not None:
        keys = [key for key in keys if not key.startswith(_VALUE_PREFIX)]  # the snapshots are compared instead
    changed = [key for key in keys if _is_another(stored.identity[key], given.identity[key])]
    return [f"Study {name!r} was begun with another {key}; its earlier trials were run with that." for key in changed]


def _difference_warnings(name: str, differing: Sequence[Difference]) -> list[str]:
    """Return a warning for each difference with which a study is continued."""
    warnings = []
    for found in differing:
        if found.kind != "value":
            is_body = found.kind == "code" and found.path in ((), ("function",))
            kind = "version" if found.kind == "code" else found.kind
            what = "body" if is_body else f"{kind} of {found.name}"
            warnings.append(f"Study {name!r} was begun with another {what}; its earlier trials were run with that.")
        elif found.is_close:
            warnings.append(f"Study {name!r} is continued, since it differs by less than 1 %: {found}.")
        else:
            warnings.append(f"Study {name!r} is continued with another value: {found}. The next trials record it.")
    return warnings


def _unknown_function_warnings(
    name: str, stored: StudyHeader, snapshot: Snapshot, *, is_generated_name: bool
) -> list[str]:
    """Return a warning if a study with a generated name may belong to another function than the searched one."""
    if not is_generated_name or snapshot.function is None:
        return []
    advice = "Give each search a study name of its own."
    if stored.snapshot is None and not snapshot.is_identified_by_source:
        return [
            f"Study {name!r} is continued, but it may belong to another function: it was begun by an earlier version, "
            f"which did not record the values that a function holds. {advice}"
        ]
    if snapshot.unknown:
        return [
            f"Study {name!r} is continued, but it may belong to another function: "
            f"{snapshot.unknown[0]} cannot be compared. {advice}"
        ]
    return []
