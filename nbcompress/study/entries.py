"""The entries of one study in its storage: what is read there and what is written, and who is alive to write it."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from weakref import WeakSet, finalize, ref

from nbcompress.errors import StudyError
from nbcompress.study.attributes import read_attribute, write_attribute
from nbcompress.study.goal import Goal
from nbcompress.study.heartbeats import HEARTBEATS, Heart, Heartbeats
from nbcompress.study.runs import BEATS, Run, begin_trial, end_items, in_order, optuna_state, read_run
from nbcompress.study.storage import Ledger
from nbcompress.study.trial import State, Trial
from nbcompress.study.worker import this_worker

_RECORD = "nbcompress:record:"
_QUEUE = "nbcompress:queue:"
# Where the body wrote into what it read, as lists of names and keys.
WRITTEN = "nbcompress:written"

# What this process may still be running trials for. A running trial of this process whose entries are not among them
# was abandoned: its study object is gone, and nobody will ever end it.
_alive: WeakSet[Entries] = WeakSet()


class Entries:
    """All entries of one study, read incrementally and written one operation at a time.

    Attributes:
        ledger: The storage.
        current: The run that counts for every number, as of the last `reread`.
        taken: Keys of the queued points that some run carries.
        record: Facts about the search, by name, as of the last `reread` or `add_to_record`.
        unsure: Numbers of the trials that run in processes that cannot be seen from here and that gave no sign of
            life since they were first looked at, with the seconds that are left until they are given up.
    """

    def __init__(
        self, ledger: Ledger, identity: int, goal: Goal, *, is_read_only: bool, heartbeats: Heartbeats = HEARTBEATS
    ) -> None:
        self.ledger, self.goal = ledger, goal
        self.unsure: dict[int, float] = {}
        self._heartbeats = heartbeats
        self.current: list[Run] = []
        self.taken: set[str] = set()
        self.record: dict[str, Any] = {}
        self._identity = identity
        self._session = uuid.uuid4().hex
        self._thread = threading.RLock()
        self._settled: dict[int, Run] = {}  # runs that no longer change, by Optuna's id
        self._heart: Heart | None = None
        if not is_read_only:
            _alive.add(self)
            if not ledger.is_private:
                self._heart = Heart(_beating(ref(self)), heartbeats)
                finalize(self, self._heart.close).atexit = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Be the only thread of this study."""
        with self._thread, self.ledger.talking():
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only thread and, where the storage is a journal, the only process that looks and then writes."""
        with self.reading(), self.ledger.exclusive:
            yield

    def reread(self) -> None:
        """Learn what was written since, also by other processes."""
        attributes = self._attributes()
        asked = self._heartbeats.clock()
        with self._existing():
            stored = self.ledger.storage.get_all_trials(self._identity, deepcopy=False)
        answered = self._heartbeats.clock()
        runs = []
        unsure: dict[int, float] = {}
        for frozen in stored:
            run = self._settled.get(frozen._trial_id) or read_run(frozen)
            if run is None:
                continue
            if not run.has_end:
                seconds = self._seconds_left(run, asked, answered)
                if seconds <= 0:
                    run = replace(run, trial=replace(run.trial, state=State.INTERRUPTED))
                elif seconds < math.inf and not self._heartbeats.sightings.has_beaten(self._key(run)):
                    unsure[run.identity] = seconds
            elif run.identity not in self._settled:
                self._heartbeats.sightings.forget(self._key(run))
            runs.append(run)
        numbered, self.current = in_order(runs)
        self.unsure = {run.trial.number: unsure[run.identity] for run in self.current if run.identity in unsure}
        self._settled = {run.identity: run for run in numbered if run.is_settled}
        self.taken = {run.queued for run in runs if run.queued}
        self.record = _record_of(attributes)

    def begin(self, template: Trial, queued: str, distributions: Mapping[str, Any], repeats: int | None) -> int:
        """Write that a run begins and return Optuna's id of it."""
        frozen = begin_trial(template, this_worker(self._session), repeats, queued, distributions)
        with self._existing(), self.ledger.relaxed():  # its end is written behind it, and waits for both
            identity = self.ledger.storage.create_new_trial(self._identity, frozen)
        if self._heart is not None:
            self._heart.begin(identity)
        return identity

    def end(self, identity: int, trial: Trial) -> bool:
        """Write how a run ended: first our record, which counts, then Optuna's state, which follows it.

        Returns:
            False if another process had given the run up before, so that its end is not recorded.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        if self._heart is not None:
            self._heart.end(identity)
        try:
            with self._existing():
                self._write_end(identity, trial)
        except UpdateFinishedTrialError:
            return False
        with suppress(UpdateFinishedTrialError):  # given up a moment ago: our record counts all the same
            self._write_state(identity, trial)
        return True

    def beat(self) -> None:
        """Write the signs of life that are due. A thread does so by itself."""
        if self._heart is not None:
            self._heart.beat()

    def running_here(self) -> dict[int, int]:
        """Return the trials that this object runs, by number, with Optuna's ids of their runs."""
        return {
            run.trial.number: run.identity
            for run in self.current
            if run.trial.state is State.RUNNING and run.worker.session == self._session
        }

    def settle(self) -> None:
        """Write the end of runs whose process died, or is given up, before it could."""
        from optuna.exceptions import UpdateFinishedTrialError

        self.reread()
        loose = [run for run in self.current if not run.is_settled and run.trial.state is not State.RUNNING]
        for run in loose:
            # In a database another process may do the same at the same time; either may win. No end record is written
            # for others: should the process live, its own must not be written over.
            with suppress(UpdateFinishedTrialError):
                self._write_state(run.identity, run.trial)
        if loose:
            self.reread()

    def queue(self) -> dict[str, dict[str, Any]]:
        """Return every point that was ever queued, by key, in order."""
        attributes = self._attributes()
        return {key: attributes[key] for key in sorted(attributes) if key.startswith(_QUEUE)}

    def add_to_queue(self, point: Mapping[str, Any]) -> None:
        key = f"{_QUEUE}{len(self.queue()):06d}"
        self.ledger.storage.set_study_user_attr(self._identity, key, dict(point))

    def add_to_record(self, name: str, value: object) -> None:
        def write(key: str, data: Any) -> None:
            self.ledger.storage.set_study_user_attr(self._identity, key, data)

        with self._existing():
            write_attribute(write, _RECORD + name, value, f"the record {name!r}")
        self.record = _record_of(self._attributes())

    def written(self) -> set[tuple[str, ...]]:
        """Return where the body wrote into what it read."""
        return {tuple(path) for path in read_attribute(self._attributes(), WRITTEN) or []}

    def add_written(self, paths: set[tuple[str, ...]]) -> None:
        def write(key: str, data: Any) -> None:
            self.ledger.storage.set_study_user_attr(self._identity, key, data)

        known = self.written()
        if paths - known:
            with self._existing():
                write_attribute(write, WRITTEN, sorted(map(list, known | paths)), "what a body writes into")

    def _write_end(self, identity: int, trial: Trial) -> None:
        for key, value in end_items(trial):
            self.ledger.storage.set_trial_user_attr(identity, key, value)

    def _write_state(self, identity: int, trial: Trial) -> None:
        is_complete = trial.state is State.COMPLETE
        values = [trial.values[one.metric] for one in self.goal.objectives] if is_complete else None
        with self.ledger.relaxed():  # can be told again from our record
            self.ledger.storage.set_trial_state_values(identity, optuna_state(trial.state), values)

    def _seconds_left(self, run: Run, asked: float, answered: float) -> float:
        """Return for how long the worker of a run without an end still counts as alive: 0 if it does not any more."""
        worker = run.worker
        if worker.is_this_process:
            return math.inf if any(one._session == worker.session for one in _alive) else 0.0
        fate = worker.fate()
        if fate == "unseen":
            return self._heartbeats.patience - self._heartbeats.sightings.note(
                self._key(run), run.beats, asked, answered
            )
        return math.inf if fate == "alive" else 0.0

    def _key(self, run: Run) -> tuple[str, str, int]:
        return self.ledger.place, run.worker.session, run.identity

    def _write_beat(self, identity: int, count: int) -> bool:
        """Write a sign of life of a run; return whether it still runs as far as the storage knows."""
        from optuna.exceptions import UpdateFinishedTrialError

        # Not under the lock of this study: on a slow storage nobody waits for a sign of life.
        try:
            with self.ledger.talking(), self.ledger.exclusive, self.ledger.relaxed():
                self.ledger.storage.set_trial_user_attr(identity, BEATS, count)
        except (UpdateFinishedTrialError, KeyError):
            return False
        except Exception:  # noqa: BLE001 - a storage that fails is told by whoever records the trial's end
            return True
        return True

    def _attributes(self) -> dict[str, Any]:
        with self._existing():
            return self.ledger.storage.get_study_user_attrs(self._identity)

    @contextmanager
    def _existing(self) -> Iterator[None]:
        """Say plainly that the study, which was there when it was opened, is gone."""
        try:
            yield
        except KeyError as error:
            raise StudyError(f"The study was deleted from {self.ledger.place} while it was in use.") from error


def _beating(entries: ref[Entries]) -> Callable[[int, int], bool]:
    """Return what writes signs of life as long as `entries` are used, and does not keep them in use."""

    def write(identity: int, count: int) -> bool:
        alive = entries()
        return alive is not None and alive._write_beat(identity, count)

    return write


def _record_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    names = [key.removeprefix(_RECORD) for key in attributes if key.startswith(_RECORD)]
    return {name: read_attribute(attributes, _RECORD + name) for name in names if "/" not in name}
