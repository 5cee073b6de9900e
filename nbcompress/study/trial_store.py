"""The trials of one study in its storage: what is written for a trial, and what is read of it.

A trial has one run, or several if it was interrupted and run again. Each run is one trial of Optuna's. Our records are
JSON in its user attributes: the begin record, the end record, and a counter of heartbeats. The end record decides how a
run ended. Optuna's state is set after it, for Optuna's own tools; a run that has a final state and no end record was
given up by another process (interrupted).

| our state | Optuna's |
| --- | --- |
| running | RUNNING |
| complete | COMPLETE, with the objectives as values |
| stopped, infeasible | PRUNED |
| failed, interrupted | FAIL |
"""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, finalize, ref

from nbcompress.errors import StudyError
from nbcompress.study.goal import Failure, Goal, State, Trial
from nbcompress.study.processes import DEFAULT_HEARTBEATS, HeartbeatSettings, HeartbeatWriter, Worker, this_worker
from nbcompress.study.storage import StorageHandle, undamaged

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, TrialState


# Records in attributes ------------------------------------------------------------------------------------------------

# MySQL holds 65,535 bytes in the column of an attribute, and a character of JSON text may take 12 when it is
# encoded once more (an emoji as two escapes). Our JSON is ASCII, so quoting at most doubles a piece.
_PIECE_LENGTH = 30_000


def to_text(data: object, what: str) -> str:
    """Return `data` as ASCII JSON.

    Raises:
        StudyError: `data` is not JSON. The message names it as `what`.
    """
    try:
        return json.dumps(data, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise StudyError(f"What is stored with a study is plain JSON, but {what} is not: {error}.") from error


def write_attribute(write: Callable[[str, Any], None], key: str, data: object, what: str) -> None:
    """Store `data` under `key` as one attribute, or in pieces if its JSON is long.

    The pieces are written before `key` itself, so a reader sees the whole record or none.
    """
    for name, value in attribute_items(key, data, what):
        write(name, value)


def attribute_items(key: str, data: object, what: str) -> list[tuple[str, Any]]:
    """Return the attributes that store `data` under `key`, in the order in which to write them."""
    text = to_text(data, what)
    if len(text) <= _PIECE_LENGTH:
        return [(key, data)]
    pieces = [text[start : start + _PIECE_LENGTH] for start in range(0, len(text), _PIECE_LENGTH)]
    return [*((f"{key}/{i}", piece) for i, piece in enumerate(pieces)), (key, {"pieces": len(pieces)})]


def read_attribute(attributes: Mapping[str, Any], key: str) -> Any:
    """Return what was stored under `key`, or None."""
    data = attributes.get(key)
    if isinstance(data, dict) and data.keys() == {"pieces"}:
        return json.loads("".join(attributes[f"{key}/{i}"] for i in range(data["pieces"])))
    return data


def pack_number(value: float) -> float | str:
    """Return a float as JSON can hold it: NaN and infinities become `"nan"`, `"inf"`, `"-inf"`."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


# Runs -----------------------------------------------------------------------------------------------------------------

BEGIN_KEY = "nbcompress:begin"
END_KEY = "nbcompress:end"
HEARTBEATS_KEY = "nbcompress:beats"

# Longer printed texts and tracebacks lose their middle, since both ends say most. In characters.
MAX_TEXT = 10_000
_MAX_MESSAGE = 2_000


@dataclass(frozen=True)
class Run:
    """One run of a trial, as stored.

    Attributes:
        trial_id: Optuna's id of the run.
        trial: The trial as this run records it. `numbered_runs` sets its number.
        worker: The process that runs or ran it.
        rerun_of: The number of the trial that is run again; None for the first run of a trial.
        queue_key: Key of the queued point that is run, or an empty string.
        has_ended: Whether the end record is written, or Optuna's state is final.
        is_final: Whether Optuna's state is final.
        n_heartbeats: How many heartbeats its process has written.
    """

    trial_id: int
    trial: Trial
    worker: Worker
    rerun_of: int | None
    queue_key: str
    has_ended: bool
    is_final: bool
    n_heartbeats: int = 0


def begin_trial(
    trial: Trial, worker: Worker, rerun_of: int | None, queue_key: str, distributions: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    """Return the trial of Optuna's that records the begin of a run. The storage writes it in one operation."""
    from datetime import datetime

    from optuna.trial import FrozenTrial, TrialState

    begin = {
        # Optuna stores parameters as floats and takes True for 1, so the exact point is stored here.
        "point": dict(trial.params),
        "seed": trial.seed,
        "note": dict(trial.note),
        "reason": trial.reason,
        "worker": worker.to_json(),
        **({} if trial.started is None else {"started": round(trial.started, 3)}),
        **({} if rerun_of is None else {"repeats": rerun_of}),
        **({"queued": queue_key} if queue_key else {}),
    }
    return FrozenTrial(
        number=-1,  # set by the storage
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params=dict(trial.params),
        distributions={name: distributions[name] for name in trial.params},
        user_attrs=dict(attribute_items(BEGIN_KEY, begin, "the note of a trial")),
        system_attrs={},
        intermediate_values={},
    )


def end_attributes(trial: Trial) -> list[tuple[str, Any]]:
    """Return the attributes of the end record, in the order in which to write them. The last one makes it valid."""
    failure = trial.failure
    end = {
        "state": trial.state.value,
        "values": {name: pack_number(value) for name, value in trial.values.items()},
        "seconds": None if trial.seconds is None else float(trial.seconds),
        "printed": shorten(trial.printed, MAX_TEXT),
        "reports": {
            metric: [[int(step), pack_number(value)] for step, value in steps.items()]
            for metric, steps in trial.reports.items()
        },
        "spreads": {name: pack_number(value) for name, value in trial.spreads.items()},
        "runs": trial.n_runs if trial.n_runs > 1 else None,
        "time": None
        if trial.started is None or trial.ended is None
        else [round(trial.started, 3), round(trial.ended, 3)],
        "worker": trial.worker,
        "failure": failure
        and [failure.kind, shorten(failure.message, _MAX_MESSAGE), shorten(failure.traceback, MAX_TEXT)],
    }
    end = {name: value for name, value in end.items() if value not in (None, "", {})}
    return attribute_items(END_KEY, end, "the end of a trial")


def read_run(frozen: FrozenTrial, number: int = -1) -> Run | None:
    """Return the run that a trial of Optuna's records, or None if nbcompress did not write it.

    Args:
        frozen: Optuna's trial.
        number: Of our trial, if this is its first run. Later runs have stored it.
    """
    begin = read_attribute(frozen.user_attrs, BEGIN_KEY)
    if begin is None:
        return None
    end = read_attribute(frozen.user_attrs, END_KEY)
    if end is not None:
        result = _read_end(end)
    else:
        # If it has ended without a record, another process, or another tool of Optuna, gave it up.
        result = {"state": State.INTERRUPTED if frozen.state.is_finished() else State.RUNNING}
    if "started" in begin:
        result.setdefault("started", float(begin["started"]))
    trial = Trial(
        number=int(begin.get("repeats", number)),
        params=dict(begin["point"]),
        seed=int(begin["seed"]),
        note=dict(begin["note"]),
        reason=str(begin["reason"]),
        **result,
    )
    return Run(
        trial_id=frozen._trial_id,
        trial=trial,
        worker=Worker.from_json(begin["worker"]),
        rerun_of=begin.get("repeats"),
        queue_key=begin.get("queued", ""),
        has_ended=end is not None or frozen.state.is_finished(),
        is_final=frozen.state.is_finished(),
        n_heartbeats=int(frozen.user_attrs.get(HEARTBEATS_KEY, 0)),
    )


def _read_end(end: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a trial that its end record holds."""
    fields: dict[str, Any] = {
        "state": State(end["state"]),
        "values": {name: float(value) for name, value in end.get("values", {}).items()},
        "worker": str(end.get("worker", "")),
        "printed": str(end.get("printed", "")),
        "spreads": {name: float(value) for name, value in end.get("spreads", {}).items()},
        "n_runs": int(end.get("runs", 1)),
        "reports": {
            metric: {int(step): float(value) for step, value in steps}
            for metric, steps in end.get("reports", {}).items()
        },
    }
    if "time" in end:
        fields["started"], fields["ended"] = map(float, end["time"])
    if "seconds" in end:
        fields["seconds"] = float(end["seconds"])
    if "failure" in end:
        fields["failure"] = Failure(*map(str, end["failure"]))
    return fields


def optuna_state(state: State) -> TrialState:
    """Return Optuna's state for ours."""
    from optuna.trial import TrialState

    return {
        State.RUNNING: TrialState.RUNNING,
        State.COMPLETE: TrialState.COMPLETE,
        State.STOPPED: TrialState.PRUNED,
        State.INFEASIBLE: TrialState.PRUNED,
        State.FAILED: TrialState.FAIL,
        State.INTERRUPTED: TrialState.FAIL,
    }[state]


# Trials in these states may be run again under their numbers.
RERUN_STATES = (State.INTERRUPTED, State.FAILED)


def current_run(runs: Sequence[Run]) -> Run:
    """Return the run of a trial that counts: the first that neither was interrupted nor failed, else the last."""
    return next((run for run in runs if run.trial.state not in RERUN_STATES), runs[-1])


def shorten(text: str, length: int) -> str:
    """Return `text`; if it is longer than `length`, its middle is replaced by how much is left out."""
    if len(text) <= length:
        return text
    head = length // 3
    tail = length - head
    return f"{text[:head]}\n... {len(text) - length} characters left out ...\n{text[-tail:]}"


# The store ------------------------------------------------------------------------------------------------------------

_RECORD_PREFIX = "nbcompress:record:"
_QUEUE_PREFIX = "nbcompress:queue:"
# Paths that the cell's body or the function writes into, among what it reads; lists of names and keys.
WRITTEN_KEY = "nbcompress:written"

# So many new trials are read one by one.
_MAX_SINGLE_READS = 20

# The stores of this process that may run trials. A running trial of this process whose store is not among them was
# abandoned: its study object is deleted, and nobody will record its end.
_open_stores: WeakSet[TrialStore] = WeakSet()


class TrialStore:
    """Reads and writes the trials of one study.

    Attributes:
        handle: The storage.
        current_runs: The current run of each trial by number, as of the last `refresh`.
        changed: The numbers of trials whose current runs have changed; a reader clears it.
        taken_keys: Keys of the queued points that were run.
        record: Facts about the search by name, as of the last `refresh` or `add_to_record`.
        unconfirmed: Trials of processes that cannot be checked from here and that wrote no heartbeat since they were
            first read. By number, the seconds until such a trial counts as interrupted.
    """

    def __init__(
        self,
        handle: StorageHandle,
        study_id: int,
        goal: Goal,
        *,
        is_read_only: bool,
        heartbeats: HeartbeatSettings = DEFAULT_HEARTBEATS,
    ) -> None:
        self.handle, self.goal = handle, goal
        self.unconfirmed: dict[int, float] = {}
        self._heartbeats = heartbeats
        self.current_runs: list[Run] = []
        self.changed: set[int] = set()
        self.taken_keys: set[str] = set()
        self.record: dict[str, Any] = {}
        self._study_id = study_id
        self._session = uuid.uuid4().hex
        self._lock = threading.RLock()
        self._runs: list[list[Run]] = []  # the runs of each trial, by number
        self._open_runs: dict[int, tuple[int, int]] = {}  # runs that may change: Optuna's id -> place in `_runs`
        self._begun: dict[int, float] = {}  # when a run of this object began: Optuna's id -> monotonic clock
        self._n_read = 0  # trials of Optuna's
        self._heartbeat_writer: HeartbeatWriter | None = None
        if not is_read_only:
            _open_stores.add(self)
            if not handle.is_private:
                self._heartbeat_writer = HeartbeatWriter(_heartbeat_function(ref(self)), heartbeats)
                finalize(self, self._heartbeat_writer.close).atexit = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other threads of this study, and translate errors of the storage."""
        with self._lock, self.handle.translate_errors():
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Exclude other threads and other processes, for reading and then writing. A database server has no lock."""
        with self.locked(), self.handle.lock:
            yield

    @contextmanager
    def let_go_at_errors(self) -> Iterator[None]:
        """If the ends of its trials cannot be recorded inside, let the next search of this process run them again.

        Otherwise they would count as running for as long as somebody holds this object, such as a notebook.
        """
        try:
            yield
        except BaseException:
            _open_stores.discard(self)
            raise

    def refresh(self) -> None:
        """Read what this and other processes have written since.

        Trials are numbered by their first runs, in the order of the storage, so numbers have no gaps even if several
        processes write. Only what may have changed is read, so that the cost does not grow with the study.
        """
        with undamaged(self.handle.location):
            self._refresh()

    def _refresh(self) -> None:
        attributes = self._attributes()
        asked = self._heartbeats.clock()
        with self._study_exists():
            stored = self._read_changes()
        answered = self._heartbeats.clock()
        unconfirmed: dict[int, float] = {}
        changed: set[int] = set()
        for frozen in stored:
            run = read_run(frozen, self._number_of(frozen._trial_id))
            if run is None:
                continue
            if run.trial.state is State.COMPLETE and (missing := self.goal.missing_metrics(run.trial.values)):
                raise ValueError(f"a complete trial without the metric {missing[0]!r}")
            if not run.has_ended:
                seconds = self._seconds_left(run, asked, answered)
                if seconds <= 0:
                    run = replace(run, trial=replace(run.trial, state=State.INTERRUPTED))
                elif seconds < math.inf and not self._heartbeats.monitor.has_changed(self._monitor_key(run)):
                    unconfirmed[run.trial_id] = seconds
            else:
                self._heartbeats.monitor.forget(self._monitor_key(run))
            number = self._put(run)
            if number is not None:
                changed.add(number)
        for number in sorted(changed):
            run = current_run(self._runs[number])
            self.current_runs[number : number + 1] = [run]
        self.unconfirmed = {
            run.trial.number: unconfirmed[run.trial_id]
            for run in self._open_current_runs()
            if run.trial_id in unconfirmed
        }
        self.record = _record_of(attributes)
        self.changed |= changed

    def _read_changes(self) -> list[FrozenTrial]:
        """Return the stored runs that are new or were not final when they were read, in the order of the storage."""
        storage = self.handle.storage
        stored: list[FrozenTrial] = []
        if self._n_read > 0:
            stored = [storage.get_trial(trial_id) for trial_id in sorted(self._open_runs)]
            for _ in range(_MAX_SINGLE_READS):
                try:
                    trial_id = storage.get_trial_id_from_study_id_trial_number(self._study_id, self._n_read)
                except KeyError:  # no such trial yet
                    return stored
                stored.append(storage.get_trial(trial_id))
                self._n_read += 1
        # The first time, or many are new: all at once.
        every = storage.get_all_trials(self._study_id, deepcopy=False)
        stored += every[self._n_read :]
        self._n_read = len(every)
        return stored

    def _number_of(self, trial_id: int) -> int:
        """Return the number of the trial that a run belongs to; of a new run, if it is the first one of its trial."""
        return self._open_runs[trial_id][0] if trial_id in self._open_runs else len(self._runs)

    def _put(self, run: Run) -> int | None:
        """Enter a run that is new or was not final; return the number of its trial if that may have changed."""
        if run.trial_id not in self._open_runs:
            number = len(self._runs) if run.rerun_of is None else run.rerun_of
            if run.rerun_of is None:
                self._runs.append([])
            elif number >= len(self._runs):
                return None  # only in a damaged storage
            self._open_runs[run.trial_id] = number, len(self._runs[number])
            if run.queue_key:
                self.taken_keys.add(run.queue_key)
        number, index = self._open_runs[run.trial_id]
        runs = self._runs[number]
        if run.is_final:
            del self._open_runs[run.trial_id]
        if runs[index : index + 1] == [run]:
            return None
        runs[index : index + 1] = [run]
        return number

    def begin(self, template: Trial, queue_key: str, distributions: Mapping[str, Any], rerun_of: int | None) -> int:
        """Write the begin record of a run and return Optuna's id of it."""
        template = replace(template, started=time.time() if template.started is None else template.started)
        frozen = begin_trial(template, this_worker(self._session), rerun_of, queue_key, distributions)
        with self._study_exists(), self.handle.without_sync():  # the end record waits for the disk, and covers this one
            trial_id = self.handle.storage.create_new_trial(self._study_id, frozen)
        self._begun[trial_id] = time.monotonic()
        if self._heartbeat_writer is not None:
            self._heartbeat_writer.begin(trial_id)
        return trial_id

    def end(self, trial_id: int, trial: Trial) -> bool:
        """Write the end record of a run, then Optuna's state.

        Returns:
            False if another process gave the run up before, so that its end is not recorded.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        if self._heartbeat_writer is not None:
            self._heartbeat_writer.end(trial_id)
        begun = self._begun.get(trial_id)
        if trial.ended is None and trial.started is not None and begun is not None:
            trial = replace(trial, ended=trial.started + time.monotonic() - begun)
        try:
            with self._study_exists():
                self._write_end(trial_id, trial)
        except UpdateFinishedTrialError:
            return False
        self._begun.pop(trial_id, None)
        with suppress(UpdateFinishedTrialError):  # given up a moment ago; our end record counts all the same
            self._write_state(trial_id, trial)
        return True

    def write_heartbeats(self) -> None:
        """Write the heartbeats that are due. Normally a thread does so."""
        if self._heartbeat_writer is not None:
            self._heartbeat_writer.write_due()

    def running_here(self) -> dict[int, int]:
        """Return Optuna's ids of the trials that this object runs, by number."""
        return {
            run.trial.number: run.trial_id
            for run in self._open_current_runs()
            if run.trial.state is State.RUNNING and run.worker.session == self._session
        }

    def finalize_stale_runs(self) -> None:
        """Write Optuna's final state of runs that ended without it, since their process died or was given up."""
        from optuna.exceptions import UpdateFinishedTrialError

        self.refresh()
        stale = [run for run in self._open_current_runs() if run.trial.state is not State.RUNNING]
        for run in stale:
            # In a database another process may write the same at the same time; either may win. No end record is
            # written here: if the process lives after all, it writes its own.
            with suppress(UpdateFinishedTrialError):
                self._write_state(run.trial_id, run.trial)
        if stale:
            self.refresh()

    def _open_current_runs(self) -> list[Run]:
        """Return the current runs whose state in the storage is not final, by number."""
        numbers = sorted({number for number, _ in self._open_runs.values()})
        return [run for run in (self.current_runs[number] for number in numbers) if not run.is_final]

    def queued_points(self) -> dict[str, dict[str, Any]]:
        """Return all points that were ever queued, by key, in order."""
        attributes = self._attributes()
        return {key: attributes[key] for key in sorted(attributes) if key.startswith(_QUEUE_PREFIX)}

    def add_to_queue(self, point: Mapping[str, Any]) -> None:
        """Store a point at the end of the queue."""
        key = f"{_QUEUE_PREFIX}{len(self.queued_points()):06d}"
        self.handle.storage.set_study_user_attr(self._study_id, key, dict(point))

    def add_to_record(self, name: str, value: object) -> None:
        """Store a fact about the search, as JSON. An earlier one of that name is replaced."""

        def write(key: str, data: Any) -> None:
            self.handle.storage.set_study_user_attr(self._study_id, key, data)

        with self._study_exists():
            write_attribute(write, _RECORD_PREFIX + name, value, f"the record {name!r}")
        self.record = _record_of(self._attributes())

    def written(self) -> set[tuple[str, ...]]:
        """Return the paths that the searched code writes into."""
        return {tuple(path) for path in read_attribute(self._attributes(), WRITTEN_KEY) or []}

    def add_written(self, paths: set[tuple[str, ...]]) -> None:
        """Store paths that the searched code writes into."""

        def write(key: str, data: Any) -> None:
            self.handle.storage.set_study_user_attr(self._study_id, key, data)

        known = self.written()
        if paths - known:
            with self._study_exists():
                write_attribute(write, WRITTEN_KEY, sorted(map(list, known | paths)), "what a body writes into")

    def _write_end(self, trial_id: int, trial: Trial) -> None:
        for key, value in end_attributes(trial):
            self.handle.storage.set_trial_user_attr(trial_id, key, value)

    def _write_state(self, trial_id: int, trial: Trial) -> None:
        is_complete = trial.state is State.COMPLETE
        values = [trial.values[objective.metric] for objective in self.goal.objectives] if is_complete else None
        with self.handle.without_sync():  # it follows from our end record, so it may be lost
            self.handle.storage.set_trial_state_values(trial_id, optuna_state(trial.state), values)

    def _seconds_left(self, run: Run, asked: float, answered: float) -> float:
        """Return for how many seconds more the process of a run without an end counts as alive; at most 0 if dead."""
        worker = run.worker
        if worker.is_this_process:
            return math.inf if any(store._session == worker.session for store in _open_stores) else 0.0
        liveness = worker.liveness()
        if liveness == "unknown":
            monitor, key = self._heartbeats.monitor, self._monitor_key(run)
            return self._heartbeats.grace_period - monitor.seconds_unchanged(key, run.n_heartbeats, asked, answered)
        return math.inf if liveness == "alive" else 0.0

    def _monitor_key(self, run: Run) -> tuple[str, str, int]:
        return self.handle.location, run.worker.session, run.trial_id

    def _write_heartbeat(self, trial_id: int, count: int) -> bool:
        """Write a heartbeat of a run; return whether the run still goes on, as far as the storage knows."""
        from optuna.exceptions import UpdateFinishedTrialError

        # Not under the lock of this study's threads: on a slow storage none of them waits for a heartbeat.
        try:
            with self.handle.translate_errors(), self.handle.lock, self.handle.without_sync():
                self.handle.storage.set_trial_user_attr(trial_id, HEARTBEATS_KEY, count)
        except (UpdateFinishedTrialError, KeyError):
            return False
        except Exception:  # noqa: BLE001 - an error of the storage is raised where the trial's end is recorded
            return True
        return True

    def _attributes(self) -> dict[str, Any]:
        with self._study_exists():
            return self.handle.storage.get_study_user_attrs(self._study_id)

    @contextmanager
    def _study_exists(self) -> Iterator[None]:
        """Raise a `StudyError` if the study was deleted since it was opened."""
        try:
            yield
        except KeyError as error:
            if any(study._study_id == self._study_id for study in self.handle.storage.get_all_studies()):
                raise
            raise StudyError(f"The study was deleted from {self.handle.location} while it was in use.") from error


def _heartbeat_function(store: ref[TrialStore]) -> Callable[[int, int], bool]:
    """Return a function that writes heartbeats while the store is used. It does not keep the store alive."""

    def write(trial_id: int, count: int) -> bool:
        found = store()
        return found is not None and found._write_heartbeat(trial_id, count)

    return write


def _record_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    names = [key.removeprefix(_RECORD_PREFIX) for key in attributes if key.startswith(_RECORD_PREFIX)]
    return {name: read_attribute(attributes, _RECORD_PREFIX + name) for name in names if "/" not in name}
