"""Processes that share a study, and processes that are killed in the middle of writing to it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nbcompress.space import Float, Space
from nbcompress.study import Goal, State, list_studies, open_study, read_study

SPACE = Space({"x": Float(0, 1)})
GOAL = Goal.of([], ["loss"])

# Runs trials for ever (or a given number), and prints the number of each trial that it has finished.
WRITER = """
import sys
from dataclasses import replace
from nbcompress.space import Float, Space
from nbcompress.study import Goal, State, open_study

storage, n_trials, pause = sys.argv[1], int(sys.argv[2]), sys.argv[3]
study = open_study("s", Space({"x": Float(0, 1)}), Goal.of([], ["loss"]), storage=storage)
print("open", flush=True)
for _ in range(n_trials):
    again = [trial for trial in study.all_trials if trial.state is State.INTERRUPTED]
    trial = study.begin(again[0].params, number=again[0].number) if again else study.begin({"x": 0.5})
    if pause == "pause":
        print("begun", flush=True)
        input()
    study.finish(replace(trial, state=State.COMPLETE, values={"loss": 1.0}, printed="x" * 5000))
    print(trial.number, flush=True)
"""


def writer(storage: str, n_trials: int = 10**6, pause: str = "") -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, storage, str(n_trials), pause]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> list[int]:
    """Kill the writer and return the numbers of the trials that it printed as finished."""
    process.kill()
    rest, _ = process.communicate()
    return [int(word) for word in rest.split() if word.isdigit()]


@pytest.fixture(params=["journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "a.journal") if request.param == "journal" else f"sqlite:///{tmp_path / 'a.db'}"


def test_no_finished_trial_is_lost_when_its_process_is_killed(storage: str) -> None:
    chance = random.Random(0)
    finished: set[int] = set()
    for _ in range(6):
        process = writer(storage)
        assert process.stdout.readline() == "open\n"
        time.sleep(chance.uniform(0.0, 0.3))
        finished |= set(kill(process))
        started = time.perf_counter()
        study = open_study("s", SPACE, GOAL, storage=storage)
        # Optuna's own lock would keep us waiting for 30 seconds.
        assert time.perf_counter() - started < 10
        states = {trial.number: trial.state for trial in study.all_trials}
        assert list(states) == list(range(len(states)))
        assert {number for number in finished if states[number] is not State.COMPLETE} == set()
        assert set(states.values()) <= {State.COMPLETE, State.INTERRUPTED}
        assert list(states.values()).count(State.INTERRUPTED) <= 1
    for trial in study.all_trials:
        if trial.state is State.INTERRUPTED:
            begun = study.begin(trial.params, number=trial.number)
            study.finish(replace(begun, state=State.COMPLETE, values={"loss": 2.0}))
    assert {trial.state for trial in read_study("s", storage).all_trials} == {State.COMPLETE}


def test_the_journal_of_a_killed_writer_may_end_anywhere(tmp_path: Path) -> None:
    """A kill rarely comes within a write, so the file is cut at many places instead."""
    whole = tmp_path / "whole.journal"
    study = open_study("s", SPACE, GOAL, storage=whole)
    for _ in range(3):
        study.finish(replace(study.begin({"x": 0.5}), state=State.COMPLETE, values={"loss": 1.0}))
    content = whole.read_bytes()
    lines = content.splitlines(keepends=True)
    ends = [0]
    for line in lines:
        ends.append(ends[-1] + len(line))
    places = sorted({0, *ends, *(end - 1 for end in ends[1:]), *range(0, len(content), 37)})
    for place in places:
        path = tmp_path / f"{place}.journal"
        path.write_bytes(content[:place])
        n_ended = sum(
            1 for line, end in zip(lines, ends[1:], strict=True) if b"nbcompress:end" in line and end - 1 <= place
        )
        study = open_study("s", SPACE, GOAL, storage=path)
        complete = [trial for trial in study.all_trials if trial.state is State.COMPLETE]
        assert [trial.number for trial in complete] == list(range(n_ended))
        study.abandon()
        study.finish(replace(study.begin({"x": 0.25}), state=State.COMPLETE, values={"loss": 3.0}))
        again = open_study("s", SPACE, GOAL, storage=path)
        # A deleted object of this process began the other trials: they are interrupted.
        assert len([trial for trial in again.all_trials if trial.state is State.COMPLETE]) == n_ended + 1
        optuna_trials = again.optuna_study().trials
        assert [trial.state.name for trial in optuna_trials].count("COMPLETE") == n_ended + 1


def test_a_killed_process_leaves_an_interrupted_trial_and_a_living_one_a_running(storage: str) -> None:
    process = writer(storage, pause="pause")
    assert [process.stdout.readline() for _ in range(2)] == ["open\n", "begun\n"]
    study = open_study("s", SPACE, GOAL, storage=storage)
    assert [trial.state for trial in study.all_trials] == [State.RUNNING]
    process.kill()
    # Killed and not waited for: the system still lists it.
    time.sleep(0.5)
    study.refresh()
    assert [trial.state for trial in study.all_trials] == [State.INTERRUPTED]
    process.communicate()
    begun = study.begin({"x": 0.5}, number=0)
    study.finish(replace(begun, state=State.COMPLETE, values={"loss": 1.0}))
    assert [trial.state for trial in read_study("s", storage).all_trials] == [State.COMPLETE]


def test_two_processes_number_their_trials_without_gaps(storage: str) -> None:
    open_study("s", SPACE, GOAL, storage=storage)
    processes = [writer(storage, n_trials=12) for _ in range(2)]
    told = [[int(word) for word in process.communicate()[0].split() if word.isdigit()] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [len(numbers) for numbers in told] == [12, 12]
    assert sorted(told[0] + told[1]) == list(range(24))
    study = read_study("s", storage)
    assert [trial.number for trial in study.all_trials] == list(range(24))
    assert {trial.state for trial in study.all_trials} == {State.COMPLETE}


def test_two_processes_may_begin_one_study_at_once(storage: str) -> None:
    open_study("other", SPACE, GOAL, storage=storage)
    processes = [writer(storage, n_trials=2) for _ in range(3)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(read_study("s", storage).all_trials) == 6


CREATOR = """
import sys
from nbcompress.space import Float, Space
from nbcompress.study import Goal, open_study

import optuna.storages, sqlalchemy
input()
for name in ("s", "t"):
    open_study(name, Space({"x": Float(0, 1)}), Goal.of([], ["loss"]), storage=sys.argv[1])
"""


def test_processes_that_create_a_study_at_the_same_time_all_open_it(storage: str, tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", CREATOR, storage], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, b"")
    assert [study.name for study in list_studies(storage)] == ["s", "t"]
    assert [path.suffix for path in tmp_path.iterdir()] in ([".journal"], [".db"])


@pytest.mark.parametrize("error", ["UNIQUE constraint failed", "table studies already exists"])
def test_a_database_whose_tables_another_process_creates_meanwhile_is_opened(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import IntegrityError, OperationalError

    kind = IntegrityError if error.startswith("UNIQUE") else OperationalError
    create, failures = RDBStorage.__init__, [kind("INSERT", {}, Exception(error))] * 2

    def overtaken(self: RDBStorage, *arguments: Any, **options: Any) -> None:
        if failures:
            raise failures.pop()
        create(self, *arguments, **options)

    monkeypatch.setattr(RDBStorage, "__init__", overtaken)
    study = open_study("s", SPACE, GOAL, storage=f"sqlite:///{tmp_path / 'a.db'}")
    assert (len(study.all_trials), failures) == (0, [])
