"""Trials of machines that cannot be seen: alive as long as they count, by the reader's own clock."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nbcompress.errors import StudyError
from nbcompress.space import Float, Space
from nbcompress.study import Goal, State, Study, delete_study, list_studies, open_study, read_study
from nbcompress.study.heartbeats import Heart, Heartbeats, Sightings
from nbcompress.study.worker import Worker, this_worker

SPACE = Space({"x": Float(0, 1)})
GOAL = Goal.of(minimize=["loss"])
POINT = {"x": 0.5}


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Host:
    """A machine with a clock of its own; all of them are this process."""

    def __init__(self, storage: str, name: str, now: float) -> None:
        self.storage, self.name, self.clock = storage, name, Clock(now)
        self.heartbeats = Heartbeats(clock=self.clock)

    def open(self) -> Study:
        return open_study("s", SPACE, GOAL, storage=self.storage, heartbeats=self.heartbeats)

    def begin(self, study: Study, number: int | None = None) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nbcompress.study.entries.this_worker", self.worker)
            return study.begin(POINT, number=number)

    def worker(self, session: str) -> Worker:
        return replace(this_worker(session), host=self.name)


@pytest.fixture(params=["journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "a.journal") if request.param == "journal" else f"sqlite:///{tmp_path / 'a.db'}"


@pytest.fixture
def here(storage: str) -> Host:
    return Host(storage, this_worker("").host, 1e6)


@pytest.fixture
def there(storage: str) -> Host:
    return Host(storage, "there", -5.0)


def state(study: Study, number: int = 0) -> State:
    study.refresh()
    return study.all_trials[number].state


def test_a_machine_that_is_gone_is_given_up_after_a_minute(here: Host, there: Host) -> None:
    there.begin(there.open())
    study = here.open()
    assert state(study) is State.RUNNING
    assert study.unsure == {0: 60.0}
    here.clock.now += 59
    assert state(study) is State.RUNNING
    assert study.unsure == {0: 1.0}
    here.clock.now += 1
    assert state(study) is State.INTERRUPTED
    assert study.unsure == {}
    begun = study.begin(POINT, number=0)
    assert state(there.open()) is State.RUNNING  # whoever has not looked for a minute is told, too
    study.finish(replace(begun, state=State.COMPLETE, values={"loss": 1.0}))
    assert state(there.open()) is State.COMPLETE


def test_one_that_counts_lives(here: Host, there: Host) -> None:
    remote, study = there.open(), here.open()
    begun = there.begin(remote)
    assert state(study) is State.RUNNING
    for _ in range(30):
        there.clock.now += 10
        here.clock.now += 55
        remote._entries.beat()
        assert state(study) is State.RUNNING
        assert study.unsure == {}
    remote.finish(replace(begun, state=State.COMPLETE, values={"loss": 1.0}))
    here.clock.now += 1000
    assert state(study) is State.COMPLETE


def test_one_that_counted_and_is_gone(here: Host, there: Host) -> None:
    remote, study = there.open(), here.open()
    there.begin(remote)
    assert state(study) is State.RUNNING
    there.clock.now += 10
    remote._entries.beat()
    here.clock.now += 59
    assert state(study) is State.RUNNING
    here.clock.now += 59
    assert state(study) is State.RUNNING
    here.clock.now += 1
    assert state(study) is State.INTERRUPTED


def test_a_slow_storage_gives_nobody_up(here: Host, there: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    there.begin(there.open())
    study = here.open()
    read = study._entries.ledger.storage.get_all_trials

    def slow(*arguments: Any, **options: Any) -> Any:
        found = read(*arguments, **options)
        here.clock.now += 100
        return found

    monkeypatch.setattr(study._entries.ledger.storage, "get_all_trials", slow)
    assert state(study) is State.RUNNING


def test_what_returns_late_is_recorded_if_nobody_was_faster(here: Host, there: Host) -> None:
    remote, study = there.open(), here.open()
    begun = there.begin(remote)
    assert state(study) is State.RUNNING
    here.clock.now += 60
    here.open()  # settles it
    assert state(remote) is State.INTERRUPTED
    ended = remote.finish(replace(begun, state=State.COMPLETE, values={"loss": 1.0}, seconds=2.0))
    assert (ended.state, ended.values, ended.seconds) == (State.COMPLETE, {"loss": 1.0}, 2.0)
    assert remote.lost == frozenset()
    assert state(study) is State.COMPLETE


def test_what_returns_too_late_is_not(here: Host, there: Host) -> None:
    remote, study = there.open(), here.open()
    begun = there.begin(remote)
    assert state(study) is State.RUNNING
    here.clock.now += 60
    again = study.begin(POINT, number=0)
    assert remote.is_taken_over(0)
    ended = remote.finish(replace(begun, state=State.COMPLETE, values={"loss": 1.0}))
    assert ended.state is State.RUNNING
    assert remote.lost == {0}
    study.finish(replace(again, state=State.COMPLETE, values={"loss": 2.0}))
    assert [trial.values for trial in read_study("s", here.storage).all_trials] == [{"loss": 2.0}]


def test_an_end_that_is_written_while_others_give_it_up_counts(
    here: Host, there: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a database, where nothing keeps two processes from writing at the same time.
    remote, study = there.open(), here.open()
    begun = there.begin(remote)
    assert state(study) is State.RUNNING
    here.clock.now += 60
    write_state = remote._entries._write_state

    def slow(*arguments: Any) -> None:
        study._entries.settle()
        write_state(*arguments)

    monkeypatch.setattr(remote._entries, "_write_state", slow)
    ended = remote.finish(replace(begun, state=State.COMPLETE, values={"loss": 1.0}))
    assert ended.state is State.COMPLETE
    assert state(study) is State.COMPLETE


def test_a_study_is_deleted_once_its_lost_trial_is_given_up(here: Host, there: Host) -> None:
    there.begin(there.open())

    def delete() -> None:
        delete_study("s", here.storage, heartbeats=here.heartbeats)

    for seconds in (60, 20):
        with pytest.raises(StudyError) as caught:
            delete()
        assert str(caught.value) == (
            f"Study 's' is in use: trial 0 runs in process {this_worker('').pid} on there, which cannot be seen from "
            f"here. If no sign of life comes from there, the study can be deleted in {seconds} s."
        )
        here.clock.now += 40
    (summary,) = list_studies(here.storage, heartbeats=here.heartbeats)
    assert summary.counts == {State.INTERRUPTED: 1}
    delete()
    assert list_studies(here.storage) == ()


def test_a_study_of_a_machine_that_counts_is_not_deleted(here: Host, there: Host) -> None:
    remote = there.open()
    there.begin(remote)
    for _ in range(5):
        with pytest.raises(StudyError, match="is in use: trial 0 runs in process"):
            delete_study("s", here.storage, heartbeats=here.heartbeats)
        here.clock.now += 59
        there.clock.now += 10
        remote._entries.beat()


def test_counting_ends_with_the_trial_and_with_the_study_object(there: Host) -> None:
    study = there.open()
    begun = there.begin(study)
    there.clock.now += 10
    study._entries.beat()
    study._entries.beat()
    study.finish(replace(begun, state=State.STOPPED))
    there.clock.now += 10
    study._entries.beat()
    assert counts(study) == [1]
    entries = study._entries
    there.begin(study)
    heart = entries._heart
    assert heart is not None
    del study, entries
    gc.collect()
    there.clock.now += 10
    heart.beat()
    assert counts(read_study("s", there.storage)) == [1, 0]


def test_a_short_trial_writes_nothing(there: Host) -> None:
    study = there.open()
    begun = there.begin(study)
    there.clock.now += 9.9
    study._entries.beat()
    study.finish(replace(begun, state=State.COMPLETE, values={"loss": 1.0}))
    assert counts(study) == [0]


def test_what_nobody_else_sees_is_not_counted() -> None:
    for storage in (None, "sqlite://"):
        assert open_study("s", SPACE, GOAL, storage=storage)._entries._heart is None


def counts(study: Study) -> list[int]:
    return [trial.user_attrs.get("nbcompress:beats", 0) for trial in study.optuna_study().trials]


def test_a_storage_that_fails_does_not_stop_the_counting(there: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    study = there.open()
    there.begin(study)
    with monkeypatch.context() as patch:
        patch.setattr(study._entries.ledger.storage, "set_trial_user_attr", raising(OSError("gone")))
        there.clock.now += 10
        study._entries.beat()
    there.clock.now += 10
    study._entries.beat()
    assert counts(study) == [2]


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: Any) -> None:
        raise error

    return call


def test_a_deleted_study_is_not_counted_for(tmp_path: Path) -> None:
    there = Host(f"sqlite:///{tmp_path / 'a.db'}", "there", 0.0)
    study = there.open()
    there.begin(study)
    study._entries.ledger.storage.delete_study(study._entries._identity)
    there.clock.now += 10
    study._entries.beat()
    assert study._entries._heart is not None
    assert study._entries._heart._runs == {}


def test_a_thread_counts_by_itself_and_ends() -> None:
    written: list[tuple[int, int]] = []
    enough = threading.Event()

    def write(run: int, count: int) -> bool:
        written.append((run, count))
        if count == 3:
            enough.set()
        return count < 3

    before = threading.active_count()
    heart = Heart(write, Heartbeats(every=0.001))
    heart.begin(7)
    assert enough.wait(30)
    assert written == [(7, 1), (7, 2), (7, 3)]
    end = time.monotonic() + 30
    while threading.active_count() > before:
        assert time.monotonic() < end
        time.sleep(0.001)
    heart.begin(8)
    heart.close()


def test_sightings_tell_runs_apart() -> None:
    sightings = Sightings()
    assert sightings.note("a", 0, 0.0, 1.0) == 0.0
    assert sightings.note("b", 0, 5.0, 5.0) == 0.0
    assert sightings.note("a", 0, 11.0, 12.0) == 10.0
    assert not sightings.has_beaten("a")
    assert sightings.note("a", 1, 20.0, 20.0) == 0.0
    assert sightings.has_beaten("a")
    assert not sightings.has_beaten("b")
    sightings.forget("a")
    assert not sightings.has_beaten("a")
    assert sightings.note("a", 1, 90.0, 90.0) == 0.0
