"""Finding studies in a storage: begin, continue, read, list, delete."""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nbcompress.errors import StorageMissing, StudyChanged, StudyError, did_you_mean, option
from nbcompress.space import Space
from nbcompress.study.attributes import read_attribute, to_text, write_attribute
from nbcompress.study.entries import WRITTEN, Entries
from nbcompress.study.goal import Goal
from nbcompress.study.heartbeats import HEARTBEATS, Heartbeats
from nbcompress.study.in_use import check_free
from nbcompress.study.names import check_name, join_name, latest_name, next_name, split_name
from nbcompress.study.shelf import Shelf
from nbcompress.study.storage import DEFAULT_STORAGE, Ledger, open_ledger
from nbcompress.study.study import Study
from nbcompress.study.trial import State
from nbcompress.study.values import Difference, Values, differences, in_words

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    Where = str | os.PathLike[str] | BaseStorage | None

# The version of everything that is stored with a study. A reader refuses a higher one.
FORMAT = 1
_HEAD = "nbcompress:study"
# In a study's identity: digits of a plain value.
_VALUE = "value of "


@dataclass(frozen=True)
class Head:
    """What is stored about a study when it begins."""

    space: Space
    goal: Goal
    identity: Mapping[str, Any]
    created: datetime
    values: Mapping[str, Any] | None = None  # what it read; None in a study of an earlier version

    def to_json(self) -> dict[str, Any]:
        return {
            "version": FORMAT,
            "space": self.space.to_json(),
            "goal": self.goal.to_json(),
            "identity": dict(self.identity),
            "created": self.created.isoformat(),
            **({} if self.values is None else {"values": dict(self.values)}),
        }


@dataclass(frozen=True)
class StudySummary:
    """One line about a stored study.

    Attributes:
        name: Name with its generation.
        counts: Number of trials in every state that occurs.
        goal: Objectives and constraints.
        created: When it began.
    """

    name: str
    counts: Mapping[State, int]
    goal: Goal
    created: datetime

    @property
    def n_trials(self) -> int:
        return sum(self.counts.values())


def open_study(
    name: str,
    space: Space,
    goal: Goal,
    *,
    storage: Where = DEFAULT_STORAGE,
    fresh: bool = False,
    identity: Mapping[str, Any] | None = None,
    values: Values | None = None,
    is_made: bool = False,
    accept_changes: bool = False,
    shelf: Shelf | None = None,
    heartbeats: Heartbeats = HEARTBEATS,
) -> Study:
    """Continue the latest generation of a study, or begin it if it does not exist.

    Of a name that was made from the search, it is the latest generation that was begun with the same values; if there
    is none, a new one begins.

    Args:
        name: `digits` means its latest generation; `digits~2` that one; `digits~1` the first.
        space: The parameters.
        goal: Objectives and constraints.
        storage: Path of a journal, a database URL, a storage object of Optuna, or None for memory.
        fresh: Begin the next generation in any case. Nothing is deleted.
        identity: JSON facts such as a hash of the cell's body. A difference to the stored ones only warns.
        values: What the search reads. Another plain value than the stored one is an error, unless the name is made.
        is_made: Nobody chose the name.
        accept_changes: Go on in spite of another value; `Study.accepted` has what the trials note then.
        shelf: Where kept values are.
        heartbeats: When a process that cannot be seen from here counts as dead.

    Raises:
        StudyChanged: The stored study has other parameters, objectives or constraints, or was begun with other values.
        StudyError: The name or the storage cannot be used, or the stored study is not ours or from a newer version.
    """
    check_name(name)
    for metric in goal.metrics:
        if metric in (*space.names, *space.groups):
            raise StudyError(f"{metric!r} is both a parameter and a metric; rename one of them.")
    given = Head(space, goal, identity or {}, datetime.now(UTC), None if values is None else values.to_json())
    to_text(given.to_json(), "the identity of a study")
    ledger = open_ledger(storage)
    with ledger.talking(), ledger.exclusive:
        stored = _stored_names(ledger)
        said: list[str] = []
        if fresh:
            full = next_name(name, stored)
        elif is_made and values is not None and not accept_changes:
            full, said = _agreeing(ledger, name, stored, given, values)
        else:
            full = latest_name(name, stored)
        number, head = _claim(ledger, check_name(full), given)
        difference = head.space.difference(space) or head.goal.difference(goal)
        if difference:
            raise StudyChanged(
                f"Study {full!r} in {ledger.place} cannot be continued. {difference} Give the new search another "
                f"{option('study')}, or begin the next generation with {option('fresh', True)}."
            )
        other = _differences(ledger, number, head, values)
        changed = [one for one in other if one.kind == "value" and not one.is_close]
        if changed and not accept_changes:
            raise StudyChanged(
                f"Study {full!r} in {ledger.place} cannot be continued, since what it reads is not what it was begun "
                f"with: {in_words(changed)}. Begin the next generation with {option('fresh', True)}, give the new "
                f"search another {option('study')}, or go on in spite of it with {option('accept_changes', True)}."
            )
        said += _warnings(full, head, given) + _said_of(full, other)
        if values is not None and full in stored:
            said += _doubts(full, head, values, is_made=is_made)
        return Study(
            Entries(ledger, number, head.goal, is_read_only=False, heartbeats=heartbeats),
            full,
            head.space,
            shelf=shelf,
            warnings=tuple(dict.fromkeys(said)),
            accepted={one.name: one.value for one in changed},
        )


def read_study(
    name: str,
    storage: Where = DEFAULT_STORAGE,
    *,
    shelf: Shelf | None = None,
    heartbeats: Heartbeats = HEARTBEATS,
) -> Study:
    """Open a stored study for reading. Its space and its goal are in the storage.

    Raises:
        StudyError: There is no such study or storage; the text names the nearest study.
    """
    ledger = open_ledger(storage, create=False)
    with ledger.talking():
        full, number = _find(ledger, latest_name(name, _stored_names(ledger)))
        head = _read_head(ledger, number, full)
        entries = Entries(ledger, number, head.goal, is_read_only=True, heartbeats=heartbeats)
        return Study(entries, full, head.space, shelf=shelf, is_read_only=True)


def list_studies(storage: Where = DEFAULT_STORAGE, *, heartbeats: Heartbeats = HEARTBEATS) -> tuple[StudySummary, ...]:
    """Return a line about every study of ours in a storage, in the order in which they began. Others are left out.

    A storage that does not exist holds no study.
    """
    try:
        ledger = open_ledger(storage, create=False)
    except StorageMissing:
        return ()
    found = []
    with ledger.talking():
        for name, number in _stored_names(ledger).items():
            attributes = ledger.storage.get_study_user_attrs(number)
            if read_attribute(attributes, _HEAD) is None:
                continue
            head = _read_head(ledger, number, name)
            entries = Entries(ledger, number, head.goal, is_read_only=True, heartbeats=heartbeats)
            entries.reread()
            counts = Counter(run.trial.state for run in entries.current)
            found.append(StudySummary(name, dict(counts), head.goal, head.created))
    return tuple(found)


def delete_study(name: str, storage: Where = DEFAULT_STORAGE, *, heartbeats: Heartbeats = HEARTBEATS) -> None:
    """Delete a study with what its trials kept. The name is meant exactly, as `list_studies` shows it.

    A trial of a machine that cannot be seen from here, and that is gone, keeps the study until it is given up: a minute
    after this process first looked at it.

    Raises:
        StudyError: There is no such study, this process searches it, or another one that is alive runs a trial of it.
    """
    ledger = open_ledger(storage, create=False)
    with ledger.talking(), ledger.exclusive:
        full, number = _find(ledger, name)
        check_free(ledger, full)
        goal = _read_head(ledger, number, full).goal
        entries = Entries(ledger, number, goal, is_read_only=True, heartbeats=heartbeats)
        entries.reread()
        running = [run for run in entries.current if run.trial.state is State.RUNNING]
        for run in sorted(running, key=lambda one: one.trial.number in entries.unsure):
            what = f"Study {full!r} is in use: trial {run.trial.number} runs in {run.worker}"
            if run.trial.number not in entries.unsure:
                raise StudyError(f"{what}. Stop it first.")
            seconds = math.ceil(max(entries.unsure.values()))
            raise StudyError(
                f"{what}, which cannot be seen from here. If no sign of life comes from there, "
                f"the study can be deleted in {seconds} s."
            )
        ledger.storage.delete_study(number)
        folder = ledger.folder_of(full)
        if folder is not None and folder.is_dir():
            shutil.rmtree(folder)


def _stored_names(ledger: Ledger) -> dict[str, int]:
    return {study.study_name: study._study_id for study in ledger.storage.get_all_studies()}


def _find(ledger: Ledger, name: str) -> tuple[str, int]:
    stored = _stored_names(ledger)
    if name not in stored:
        there = did_you_mean(name, stored) or (f" There is {', '.join(map(repr, stored))}." if stored else "")
        raise StudyError(f"There is no study {name!r} in {ledger.place}.{there}")
    return name, stored[name]


def _claim(ledger: Ledger, name: str, given: Head) -> tuple[int, Head]:
    """Return Optuna's id and the head of a study, begun now if it does not exist."""
    from optuna.exceptions import DuplicatedStudyError
    from optuna.study import StudyDirection

    storage = ledger.storage
    number = _stored_names(ledger).get(name)
    directions = [
        StudyDirection.MAXIMIZE if one.direction == "maximize" else StudyDirection.MINIMIZE
        for one in given.goal.objectives
    ]
    if number is None:
        try:
            number = storage.create_new_study(directions, name)
        except DuplicatedStudyError:  # another process was faster
            number = storage.get_study_id_from_name(name)
    if read_attribute(storage.get_study_user_attrs(number), _HEAD) is None:
        if storage.get_all_trials(number, deepcopy=False) or storage.get_study_directions(number) != directions:
            raise StudyError(
                f"Study {name!r} in {ledger.place} was not begun by nbcompress. "
                f"Give the search another {option('study')}."
            )
        # New, or its process was killed between the two operations.
        write_attribute(
            lambda key, value: storage.set_study_user_attr(number, key, value), _HEAD, given.to_json(), "the study"
        )
    return number, _read_head(ledger, number, name)


def _read_head(ledger: Ledger, number: int, name: str) -> Head:
    data = read_attribute(ledger.storage.get_study_user_attrs(number), _HEAD)
    if data is None:
        raise StudyError(f"Study {name!r} in {ledger.place} was not begun by nbcompress.")
    if data["version"] > FORMAT:
        raise StudyError(
            f"Study {name!r} in {ledger.place} has format {data['version']}, from a newer nbcompress; "
            f"this one reads up to {FORMAT}. Update nbcompress."
        )
    created = datetime.fromisoformat(data["created"])
    space, goal = Space.from_json(data["space"]), Goal.from_json(data["goal"])
    return Head(space, goal, data["identity"], created, data.get("values"))


def _agreeing(
    ledger: Ledger, name: str, stored: Mapping[str, int], given: Head, values: Values
) -> tuple[str, list[str]]:
    """Return the newest generation of `name` that was begun with what the search reads now, or the name of a new one.

    Beside it comes what is said of a new one: in what the newest differs.
    """
    base = split_name(name)[0]
    generations = sorted((split_name(one)[1] for one in stored if split_name(one)[0] == base), reverse=True)
    said: list[str] = []
    for full in (join_name(base, generation) for generation in generations):
        if read_attribute(ledger.storage.get_study_user_attrs(stored[full]), _HEAD) is None:
            return full, []  # its process was killed while it began, or it is not ours, which is said later
        head = _read_head(ledger, stored[full], full)
        other = [one for one in _differences(ledger, stored[full], head, values) if not one.is_close]
        words = in_words(other) if other else _other_digits(head, given)
        if not words:
            return full, []
        new = next_name(base, stored)
        said = said or [f"Study {new!r} begins, since {full!r} was begun with something else: {words}."]
    return next_name(base, stored), said


def _differences(ledger: Ledger, number: int, head: Head, values: Values | None) -> list[Difference]:
    """Return in what the search that begins differs from the stored one; nothing where one of both noted nothing."""
    if values is None or head.values is None:
        return []
    written = read_attribute(ledger.storage.get_study_user_attrs(number), WRITTEN) or []
    return differences(head.values, values, [tuple(path) for path in written])


def _other_digits(head: Head, given: Head) -> str:
    """Return in words which plain value differs from a study of an earlier version, which noted digits only."""
    if head.values is not None:
        return ""
    keys = [key for key in given.identity if key.startswith(_VALUE)]
    other = [key for key in keys if head.identity.get(key, given.identity[key]) != given.identity[key]]
    return f"another {other[0]}" if other else ""


def _warnings(name: str, stored: Head, given: Head) -> list[str]:
    keys = [key for key in given.identity if key in stored.identity]
    if stored.values is not None and given.values is not None:
        keys = [key for key in keys if not key.startswith(_VALUE)]  # compared one by one
    changed = [key for key in keys if stored.identity[key] != given.identity[key]]
    return [f"Study {name!r} was begun with another {key}; its earlier trials were run with that." for key in changed]


def _said_of(name: str, other: Sequence[Difference]) -> list[str]:
    """Return what the panel's head says of differences that a study goes on with."""
    said = []
    for one in other:
        if one.kind != "value":
            what = "body" if one.kind == "code" and one.path in ((), ("function",)) else f"{one.kind} of {one.name}"
            what = what.replace("code of", "version of")
            said.append(f"Study {name!r} was begun with another {what}; its earlier trials were run with that.")
        elif one.is_close:
            said.append(f"Study {name!r} goes on, since it differs by less than 1 %: {one}.")
        else:
            said.append(f"Study {name!r} goes on with another value: {one}. The trials from now on note it.")
    return said


def _doubts(name: str, stored: Head, values: Values, *, is_made: bool) -> list[str]:
    """Return what is said of a study that nobody named and that may be of another function."""
    if not is_made or values.own is None:
        return []
    advice = f"Give each search a name of its own with {option('study')}."
    if stored.values is None and not values.is_told_by_text:
        return [
            f"Study {name!r} goes on, but it may be of another function: it was begun by an earlier version, which did "
            f"not note what a function holds. {advice}"
        ]
    if values.unknown:
        return [
            f"Study {name!r} goes on, but it may be of another function: whether it holds the same "
            f"{values.unknown[0]} cannot be known. {advice}"
        ]
    return []
