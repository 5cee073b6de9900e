"""Heartbeats of other machines, searches of the same study in one process, and the liveness of processes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbcompress.errors import StudyError
from nbcompress.space import Float, Space
from nbcompress.study import Goal, State, Study, delete_study, list_studies, open_study, read_study
from nbcompress.study.processes import HeartbeatMonitor, HeartbeatSettings, HeartbeatWriter, Worker, this_worker

SPACE = Space({"x": Float(0, 1)})
GOAL = Goal.of(minimize=["loss"])
POINT = {"x": 0.5}


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Host:
    """A simulated machine: this process under another host name and with another clock."""

    def __init__(self, storage: str, name: str, now: float) -> None:
        self.storage, self.name, self.clock = storage, name, Clock(now)
        self.heartbeats = HeartbeatSettings(clock=self.clock)

    def open(self) -> Study:
        return open_study("s", SPACE, GOAL, storage=self.storage, heartbeats=self.heartbeats)

    def begin(self, study: Study, number: int | None = None) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nbcompress.study.trial_store.this_worker", self.worker)
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
    assert study.unconfirmed == {0: 60.0}
    here.clock.now += 59
    assert state(study) is State.RUNNING
    assert study.unconfirmed == {0: 1.0}
    here.clock.now += 1
    assert state(study) is State.INTERRUPTED
    assert study.unconfirmed == {}
    begun = study.begin(POINT, number=0)
    assert state(there.open()) is State.RUNNING  # also for a reader that has just opened the study
    study.finish(replace(begun, state=State.COMPLETE, values={"loss": 1.0}))
    assert state(there.open()) is State.COMPLETE


def test_heartbeats_keep_a_trial_running(here: Host, there: Host) -> None:
    remote, study = there.open(), here.open()
    begun = there.begin(remote)
    assert state(study) is State.RUNNING
    for _ in range(30):
        there.clock.now += 10
        here.clock.now += 55
        remote._store.write_heartbeats()
        assert state(study) is State.RUNNING
        assert study.unconfirmed == {}
    remote.finish(replace(begun, state=State.COMPLETE, values={"loss": 1.0}))
    here.clock.now += 1000
    assert state(study) is State.COMPLETE


def test_a_trial_whose_heartbeats_end_is_given_up(here: Host, there: Host) -> None:
    remote, study = there.open(), here.open()
    there.begin(remote)
    assert state(study) is State.RUNNING
    there.clock.now += 10
    remote._store.write_heartbeats()
    here.clock.now += 59
    assert state(study) is State.RUNNING
    here.clock.now += 59
    assert state(study) is State.RUNNING
    here.clock.now += 1
    assert state(study) is State.INTERRUPTED


def test_a_slow_storage_gives_no_trial_up(here: Host, there: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    there.begin(there.open())
    study = here.open()
    read = study._store.handle.storage.get_all_trials

    def slow(*arguments: Any, **options: Any) -> Any:
        found = read(*arguments, **options)
        here.clock.now += 100
        return found

    monkeypatch.setattr(study._store.handle.storage, "get_all_trials", slow)
    assert state(study) is State.RUNNING


def test_a_late_result_is_recorded_if_the_trial_was_not_run_again(here: Host, there: Host) -> None:
    remote, study = there.open(), here.open()
    begun = there.begin(remote)
    assert state(study) is State.RUNNING
    here.clock.now += 60
    here.open()  # writes that the trial is given up
    assert state(remote) is State.INTERRUPTED
    ended = remote.finish(replace(begun, state=State.COMPLETE, values={"loss": 1.0}, seconds=2.0))
    assert (ended.state, ended.values, ended.seconds) == (State.COMPLETE, {"loss": 1.0}, 2.0)
    assert remote.discarded == frozenset()
    assert state(study) is State.COMPLETE


def test_a_late_result_is_discarded_if_the_trial_was_run_again(here: Host, there: Host) -> None:
    remote, study = there.open(), here.open()
    begun = there.begin(remote)
    assert state(study) is State.RUNNING
    here.clock.now += 60
    again = study.begin(POINT, number=0)
    assert remote.is_taken_over(0)
    ended = remote.finish(replace(begun, state=State.COMPLETE, values={"loss": 1.0}))
    assert ended.state is State.RUNNING
    assert remote.discarded == {0}
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
    write_state = remote._store._write_state

    def slow(*arguments: Any) -> None:
        study._store.finalize_stale_runs()
        write_state(*arguments)

    monkeypatch.setattr(remote._store, "_write_state", slow)
    ended = remote.finish(replace(begun, state=State.COMPLETE, values={"loss": 1.0}))
    assert ended.state is State.COMPLETE
    assert state(study) is State.COMPLETE


def test_a_study_can_be_deleted_once_its_trial_is_given_up(here: Host, there: Host) -> None:
    there.begin(there.open())

    def delete() -> None:
        delete_study("s", here.storage, heartbeats=here.heartbeats)

    for seconds in (60, 20):
        with pytest.raises(StudyError) as caught:
            delete()
        assert str(caught.value) == (
            f"Study 's' is in use: trial 0 runs in process {this_worker('').pid} on there, which cannot be checked "
            f"from this machine. If it writes no heartbeat, the study can be deleted in {seconds} s."
        )
        here.clock.now += 40
    (summary,) = list_studies(here.storage, heartbeats=here.heartbeats)
    assert summary.counts == {State.INTERRUPTED: 1}
    delete()
    assert list_studies(here.storage) == ()


def test_heartbeats_keep_a_study_from_being_deleted(here: Host, there: Host) -> None:
    remote = there.open()
    there.begin(remote)
    for _ in range(5):
        with pytest.raises(StudyError, match="is in use: trial 0 runs in process"):
            delete_study("s", here.storage, heartbeats=here.heartbeats)
        here.clock.now += 59
        there.clock.now += 10
        remote._store.write_heartbeats()


def test_heartbeats_end_with_the_trial_and_with_the_study_object(there: Host) -> None:
    study = there.open()
    begun = there.begin(study)
    there.clock.now += 10
    study._store.write_heartbeats()
    study._store.write_heartbeats()
    study.finish(replace(begun, state=State.STOPPED))
    there.clock.now += 10
    study._store.write_heartbeats()
    assert counts(study) == [1]
    store = study._store
    there.begin(study)
    writer = store._heartbeat_writer
    assert writer is not None
    del study, store
    gc.collect()
    there.clock.now += 10
    writer.write_due()
    assert counts(read_study("s", there.storage)) == [1, 0]


def test_a_short_trial_writes_no_heartbeat(there: Host) -> None:
    study = there.open()
    begun = there.begin(study)
    there.clock.now += 9.9
    study._store.write_heartbeats()
    study.finish(replace(begun, state=State.COMPLETE, values={"loss": 1.0}))
    assert counts(study) == [0]


def test_a_private_storage_has_no_heartbeats() -> None:
    for storage in (None, "sqlite://"):
        assert open_study("s", SPACE, GOAL, storage=storage)._store._heartbeat_writer is None


def counts(study: Study) -> list[int]:
    return [trial.user_attrs.get("nbcompress:beats", 0) for trial in study.optuna_study().trials]


def test_an_error_of_the_storage_does_not_stop_the_heartbeats(there: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    study = there.open()
    there.begin(study)
    with monkeypatch.context() as patch:
        patch.setattr(study._store.handle.storage, "set_trial_user_attr", raising(OSError("gone")))
        there.clock.now += 10
        study._store.write_heartbeats()
    there.clock.now += 10
    study._store.write_heartbeats()
    assert counts(study) == [2]


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: Any) -> None:
        raise error

    return call


def test_a_deleted_study_gets_no_heartbeats(tmp_path: Path) -> None:
    there = Host(f"sqlite:///{tmp_path / 'a.db'}", "there", 0.0)
    study = there.open()
    there.begin(study)
    study._store.handle.storage.delete_study(study._store._study_id)
    there.clock.now += 10
    study._store.write_heartbeats()
    assert study._store._heartbeat_writer is not None
    assert study._store._heartbeat_writer._runs == {}


def test_a_thread_writes_heartbeats_and_ends() -> None:
    written: list[tuple[int, int]] = []
    enough = threading.Event()

    def write(run: int, count: int) -> bool:
        written.append((run, count))
        if count == 3:
            enough.set()
        return count < 3

    before = threading.active_count()
    writer = HeartbeatWriter(write, HeartbeatSettings(interval=0.001))
    writer.begin(7)
    assert enough.wait(60)
    assert written == [(7, 1), (7, 2), (7, 3)]
    end = time.monotonic() + 30
    while threading.active_count() > before:
        assert time.monotonic() < end
        time.sleep(0.001)
    writer.begin(8)
    writer.close()


def test_the_monitor_distinguishes_runs() -> None:
    monitor = HeartbeatMonitor()
    assert monitor.seconds_unchanged("a", 0, 0.0, 1.0) == 0.0
    assert monitor.seconds_unchanged("b", 0, 5.0, 5.0) == 0.0
    assert monitor.seconds_unchanged("a", 0, 11.0, 12.0) == 10.0
    assert not monitor.has_changed("a")
    assert monitor.seconds_unchanged("a", 1, 20.0, 20.0) == 0.0
    assert monitor.has_changed("a")
    assert not monitor.has_changed("b")
    monitor.forget("a")
    assert not monitor.has_changed("a")
    assert monitor.seconds_unchanged("a", 1, 90.0, 90.0) == 0.0


TEXT = "Study 's' is being searched in this process"


def opened(storage: Path | None, **options: bool) -> Study:
    return open_study("s", Space({"x": Float(0, 1)}), Goal.of(minimize=["loss"]), storage=storage, **options)


def test_a_study_is_searched_once_at_a_time(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "journal"), opened(tmp_path / "journal")
    with first.search_lock():
        with pytest.raises(StudyError, match=TEXT):
            second.check_not_searched()
        with pytest.raises(StudyError, match=TEXT), second.search_lock():
            pass
        opened(tmp_path / "journal", fresh=True).check_not_searched()
        opened(tmp_path / "other").check_not_searched()
        with pytest.raises(StudyError, match=TEXT):  # the refused search did not remove the mark
            second.check_not_searched()
    with second.search_lock():
        pass


def test_a_study_is_not_deleted_while_it_is_searched(tmp_path: Path) -> None:
    with opened(tmp_path / "journal").search_lock(), pytest.raises(StudyError, match=TEXT):
        delete_study("s", tmp_path / "journal")
    delete_study("s", tmp_path / "journal")
    assert list_studies(tmp_path / "journal") == ()


def test_studies_in_memory_are_distinguished() -> None:
    with opened(None).search_lock(), opened(None).search_lock():
        pass


linux = pytest.mark.skipif(sys.platform != "linux", reason="tells ticks, boots and namespaces")


def here_worker(**changes: Any) -> Worker:
    return replace(this_worker("s"), **changes)


def test_this_process_lives() -> None:
    worker = here_worker()
    assert worker.is_this_process
    assert worker.liveness() == "alive"
    assert worker.pid == os.getpid()
    assert Worker.from_json(worker.to_json()) == worker


def test_a_record_of_an_earlier_version_is_read() -> None:
    worker = Worker.from_json({"host": "h", "pid": 3, "started": 1.5, "session": "s"})
    assert worker == Worker("h", 3, 1.5, "s")
    assert worker.to_json() == {"host": "h", "pid": 3, "started": 1.5, "session": "s"}


@linux
def test_a_later_process_with_the_same_id_is_another() -> None:
    worker = here_worker(ticks=this_worker("s").ticks - 1)
    assert not worker.is_this_process
    assert worker.liveness() == "dead"


@linux
@pytest.mark.parametrize("seconds", [-1e6, -3600.0, -1.0, 3600.0])
def test_a_changed_clock_does_not_matter(seconds: float) -> None:
    worker = here_worker(started=this_worker("s").started + seconds)
    assert worker.is_this_process
    assert worker.liveness() == "alive"


def test_a_changed_clock_without_ticks_means_unknown() -> None:
    worker = here_worker(started=this_worker("s").started - 3600, ticks=-1)
    assert not worker.is_this_process
    assert worker.liveness() == "unknown"
    assert here_worker(started=this_worker("s").started - 1, ticks=-1).liveness() == "alive"


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "elsewhere"},
        {"namespace": "pid:[4026532999]"},
        {"boot": "another", "machine": "another"},
        {"boot": "another", "machine": ""},
    ],
    ids=str,
)
@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1], ids=["this process", "no process"])
def test_other_machines_and_containers_are_unknown(changes: dict[str, str], pid: int) -> None:
    worker = here_worker(**changes, pid=pid)
    assert not worker.is_this_process
    assert worker.liveness() == "unknown"
    assert str(worker) == f"process {pid} on {worker.host}"


@pytest.mark.parametrize(("namespace", "liveness"), [("pid:[4026531836]", "dead"), ("pid:[4026532999]", "unknown")])
def test_a_machine_that_was_booted_again(monkeypatch: pytest.MonkeyPatch, namespace: str, liveness: str) -> None:
    earlier = here_worker(boot="first", machine="m", namespace=namespace)
    later = replace(earlier, boot="second")
    monkeypatch.setattr("nbcompress.study.processes._this_process", lambda _: later)
    assert later.is_this_process
    assert not earlier.is_this_process
    assert earlier.liveness() == liveness


@linux
def test_a_process_that_the_system_hides_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr(psutil, "Process", hidden)
    assert here_worker().liveness() == "unknown"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no zombies")
def test_a_process_that_ended_is_dead_before_and_after_it_is_waited_for() -> None:
    code = "from nbcompress.study.processes import this_worker as w; import json; print(json.dumps(w('s').to_json()))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    text = process.stdout.read()
    process.stdout.close()
    import json
    import time

    worker = Worker.from_json(json.loads(text))
    deadline = time.monotonic() + 20
    while worker.liveness() != "dead":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.wait()
    assert worker.liveness() == "dead"
