"""The entries of one study in its storage: what is read there and what is written, and who is alive to write it.

Our records inside Optuna's attributes: JSON under keys of ours, cut into pieces where a database limits a text.

Runs: what Optuna calls a trial. A trial of ours has one run, or several when it was interrupted and run again.

A run's beginning and end are two records among the attributes of Optuna's trial; a third one counts signs of life of a
run that lasts. The end record is what counts; Optuna's own state follows it and is only there for Optuna's tools. A run
that has that state and no end record was given up by others (interrupted).

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
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, finalize, ref

from nbcompress.errors import StudyError
from nbcompress.study.goal import Failure, Goal, State, Trial
from nbcompress.study.processes import HEARTBEATS, Heart, Heartbeats, Worker, this_worker
from nbcompress.study.storage import Ledger

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, TrialState


# MySQL holds 65,535 bytes in the column of an attribute, and a character of JSON text may take 12 when it is
# encoded once more (an emoji as two escapes). Our JSON is ASCII, so quoting at most doubles a piece.
_PIECE_LENGTH = 30_000


def to_text(data: object, what: str) -> str:
    """Return `data` as ASCII JSON.

    Raises:
        StudyError: It is not JSON; `what` names it.
    """
    try:
        return json.dumps(data, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise StudyError(f"What is stored with a study is plain JSON, but {what} is not: {error}.") from error


def write_attribute(write: Callable[[str, Any], None], key: str, data: object, what: str) -> None:
    """Store `data` under `key`. Pieces go first, so the record is there as a whole or not at all."""
    for name, value in attribute_items(key, data, what):
        write(name, value)


def attribute_items(key: str, data: object, what: str) -> list[tuple[str, Any]]:
    """Return the attributes to set, in this order, to store `data` under `key`."""
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
    """Return a float as JSON allows it: NaN and infinities become `"nan"`, `"inf"`, `"-inf"`."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


BEGIN = "nbcompress:begin"
END = "nbcompress:end"
BEATS = "nbcompress:beats"

# Characters of a printed text or a traceback that are kept. Both ends tell most, so the middle goes.
MAX_TEXT = 10_000
_MAX_MESSAGE = 2_000


@dataclass(frozen=True)
class Run:
    """One run of a trial, as stored.

    Attributes:
        identity: Optuna's id of it.
        trial: What it says. Its number holds only for a first run of known rank and is set by `in_order`.
        worker: Who runs or ran it.
        repeats: The number of the trial that it runs again, or None for a first run.
        queued: Key of the queued point that it runs, or an empty string.
        has_end: Whether its end is recorded.
        is_settled: Whether Optuna's state is final too.
        beats: How many signs of life its worker has written.
    """

    identity: int
    trial: Trial
    worker: Worker
    repeats: int | None
    queued: str
    has_end: bool
    is_settled: bool
    beats: int = 0


def begin_trial(
    trial: Trial, worker: Worker, repeats: int | None, queued: str, distributions: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    """Return the running trial that Optuna stores, in one operation, when a run begins."""
    from datetime import datetime

    from optuna.trial import FrozenTrial, TrialState

    begin = {
        # Optuna's own parameters pass through floats and compare True with 1, so the point is stored exactly.
        "point": dict(trial.params),
        "seed": trial.seed,
        "note": dict(trial.note),
        "reason": trial.reason,
        "worker": worker.to_json(),
        **({} if repeats is None else {"repeats": repeats}),
        **({"queued": queued} if queued else {}),
    }
    return FrozenTrial(
        number=-1,  # the storage gives it
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params=dict(trial.params),
        distributions={name: distributions[name] for name in trial.params},
        user_attrs=dict(attribute_items(BEGIN, begin, "the note of a trial")),
        system_attrs={},
        intermediate_values={},
    )


def end_items(trial: Trial) -> list[tuple[str, Any]]:
    """Return the attributes that record how a trial ended. The last one makes it count."""
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
        "failure": failure
        and [failure.kind, shorten(failure.message, _MAX_MESSAGE), shorten(failure.traceback, MAX_TEXT)],
    }
    end = {name: value for name, value in end.items() if value not in (None, "", {})}
    return attribute_items(END, end, "the end of a trial")


def read_run(frozen: FrozenTrial) -> Run | None:
    """Return the run that Optuna's trial holds, or None if it is not one of ours (such as one enqueued elsewhere)."""
    begin = read_attribute(frozen.user_attrs, BEGIN)
    if begin is None:
        return None
    trial = Trial(
        number=int(begin.get("repeats", -1)),
        state=State.RUNNING,
        params=begin["point"],
        seed=int(begin["seed"]),
        note=begin["note"],
        reason=begin["reason"],
    )
    end = read_attribute(frozen.user_attrs, END)
    if end is not None:
        trial = replace(
            trial,
            state=State(end["state"]),
            values={name: float(value) for name, value in end.get("values", {}).items()},
            seconds=end.get("seconds"),
            failure=Failure(*end["failure"]) if "failure" in end else None,
            printed=end.get("printed", ""),
            reports={
                metric: {int(step): float(value) for step, value in steps}
                for metric, steps in end.get("reports", {}).items()
            },
        )
    elif frozen.state.is_finished():
        # Some other tool of Optuna gave it up.
        trial = replace(trial, state=State.INTERRUPTED)
    return Run(
        identity=frozen._trial_id,
        trial=trial,
        worker=Worker.from_json(begin["worker"]),
        repeats=begin.get("repeats"),
        queued=begin.get("queued", ""),
        has_end=end is not None or frozen.state.is_finished(),
        is_settled=frozen.state.is_finished(),
        beats=int(frozen.user_attrs.get(BEATS, 0)),
    )


def optuna_state(state: State) -> TrialState:
    from optuna.trial import TrialState

    return {
        State.RUNNING: TrialState.RUNNING,
        State.COMPLETE: TrialState.COMPLETE,
        State.STOPPED: TrialState.PRUNED,
        State.INFEASIBLE: TrialState.PRUNED,
        State.FAILED: TrialState.FAIL,
        State.INTERRUPTED: TrialState.FAIL,
    }[state]


def in_order(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Number the runs, and choose the one that counts for every trial.

    The number of a trial is the rank of its first run among first runs, in the order in which the storage took them,
    so numbers have no gaps whoever writes. Of several runs the first that was not interrupted counts, else the last.

    Returns:
        All runs with their numbers, and the chosen ones by number.
    """
    numbered: list[Run] = []
    chosen: list[Run] = []
    for run in runs:
        if run.repeats is None:
            if run.trial.number != len(chosen):
                run = replace(run, trial=replace(run.trial, number=len(chosen)))
            chosen.append(run)
        elif run.repeats < len(chosen) and chosen[run.repeats].trial.state is State.INTERRUPTED:
            chosen[run.repeats] = run
        numbered.append(run)
    return numbered, chosen


def shorten(text: str, length: int) -> str:
    """Return `text` with its middle cut out, if it is longer than `length`; it says how much is missing."""
    if len(text) <= length:
        return text
    head = length // 3
    tail = length - head
    return f"{text[:head]}\n... {len(text) - length} characters left out ...\n{text[-tail:]}"


_RECORD = "nbcompress:record:"
_QUEUE = "nbcompress:queue:"

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

    def _write_end(self, identity: int, trial: Trial) -> None:
        for key, value in end_items(trial):
            self.ledger.storage.set_trial_user_attr(identity, key, value)

    def _write_state(self, identity: int, trial: Trial) -> None:
        is_complete = trial.state is State.COMPLETE
        values = [trial.values[objective.metric] for objective in self.goal.objectives] if is_complete else None
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
