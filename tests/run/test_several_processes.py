"""Several processes search one study: no point is run twice, and no trial is run beyond those asked for."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
from run_searches import ONE, SPACE, Walk, evaluating, walk

from nbcompress.errors import StudyError, TrialConflict
from nbcompress.optimize import History, Proposal
from nbcompress.run.engines import InlineEngine
from nbcompress.run.loop import Search
from nbcompress.run.options import SearchOptions
from nbcompress.study import State, Study, open_study, read_study

SEARCHER = """
import sys
import nbcompress as nc

storage, sampler, study = sys.argv[1:]

def loss(x, k):
    return {"loss": (x - 0.3) ** 2 + k}

space = {"x": nc.Float(0, 1), "k": nc.Int(0, 5)}
input()
start = [{"x": 0.5, "k": 1}]
nc.search(loss, space, minimize="loss", trials=24, storage=storage, study=study, sampler=sampler, start=start)
"""


@pytest.fixture(params=["journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "a.journal") if request.param == "journal" else f"sqlite:///{tmp_path / 'a.db'}"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with servers.postgresql() as url:
        yield url


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    with servers.redis() as url:
        yield url


@pytest.mark.parametrize("sampler", ["gp", "sobol"])
def test_three_processes_share_the_trials(storage: str, sampler: str) -> None:
    share_the_trials(storage, sampler)


@pytest.mark.parametrize("server", ["postgresql", "redis"])
def test_three_processes_share_the_trials_on_a_server(server: str, request: pytest.FixtureRequest) -> None:
    share_the_trials(request.getfixturevalue(server), "gp")


def share_the_trials(storage: str, sampler: str) -> None:
    """Check that three searches, which begin at the same time, run each point once and no more than asked for."""
    arguments = [sys.executable, "-c", SEARCHER, storage, sampler, "s"]
    searchers = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for searcher in searchers:
        assert searcher.stdin is not None
        searcher.stdin.write("\n")
        searcher.stdin.flush()
    for searcher in searchers:
        _, errors = searcher.communicate()
        # A process that ends while the last trial runs in another one says so.
        lines = [line for line in errors.splitlines() if "run in another process" not in line]
        lines = [line for line in lines if "none was run again" not in line]
        assert (searcher.returncode, lines) == (0, [])
    trials = read_study("s", storage).all_trials
    assert [trial.state for trial in trials] == [State.COMPLETE] * 24
    assert len({tuple(trial.params.items()) for trial in trials}) == 24


@pytest.mark.parametrize("server", ["postgresql", "redis"])
def test_a_trial_of_a_dead_process_is_run_again_at_once(server: str, request: pytest.FixtureRequest) -> None:
    storage = request.getfixturevalue(server)

    def begin_and_die() -> None:
        open_study("killed", SPACE, ONE, storage=storage).begin({"x": 0.25})
        os._exit(9)

    process = multiprocessing.get_context("fork").Process(target=begin_and_die)
    process.start()
    process.join()
    assert process.exitcode == 9
    assert [trial.state for trial in read_study("killed", storage).all_trials] == [State.INTERRUPTED]
    search = Search(
        open_study("killed", SPACE, ONE, storage=storage),
        Walk(),
        evaluating(lambda x: {"loss": x}),
        InlineEngine(),
        SearchOptions(trials=2),
    )
    search.run()
    trials = read_study("killed", storage).all_trials
    assert [(trial.number, trial.state) for trial in trials] == [(0, State.COMPLETE), (1, State.COMPLETE)]
    assert trials[0].params == {"x": 0.25}


@pytest.mark.parametrize("server", ["postgresql", "redis"])
def test_a_password_is_never_shown(
    server: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    url = request.getfixturevalue(server)
    study = open_study("shown", SPACE, ONE, storage=url)
    shown = [study.storage, repr(study), *study.record.values()]
    port = url.rpartition(":")[2].partition("/")[0]
    wrong = [url.replace(servers.PASSWORD, f"x{servers.PASSWORD}"), url.replace(port, "1"), url.replace(port, "1x")]
    for text in (*wrong, url.replace(servers.PASSWORD, f"{servers.PASSWORD}/@:x")):
        with pytest.raises(StudyError) as caught:
            open_study("shown", SPACE, ONE, storage=text)
        error: BaseException | None = caught.value
        while error is not None:
            shown.append(str(error))
            error = error.__cause__
        assert "***" in str(caught.value)
    assert servers.PASSWORD not in " ".join(map(str, shown)) + caplog.text


def opened(storage: str) -> Study:
    return open_study("test", SPACE, ONE, storage=storage)


class Overtaken(Walk):
    """While it proposes the points of some trials, another process begins the same points."""

    def __init__(self, other: Study, numbers: set[int]) -> None:
        super().__init__()
        self.other, self.numbers = other, numbers

    def propose(self, number: int, history: History) -> Proposal:
        if number in self.numbers:
            self.other.begin({"x": walk(number)})
        return super().propose(number, history)


def search(storage: str, proposer: Walk, **options: Any) -> tuple[Study, str]:
    study = opened(storage)
    ending = Search(
        study, proposer, evaluating(lambda x: {"loss": x}), InlineEngine(), SearchOptions(trials=5, **options)
    ).run()
    return study, ending.kind


def test_a_point_that_began_elsewhere_in_the_meantime_is_pending(storage: str) -> None:
    proposer = Overtaken(opened(storage), {0, 2})
    study, kind = search(storage, proposer)
    assert kind == "elsewhere"
    assert [trial.state.value for trial in study.all_trials] == ["running", "complete", "running", *["complete"] * 2]
    assert [trial.params["x"] for trial in study.all_trials] == [walk(number) for number in range(5)]
    after_conflict = [history for number, history in proposer.seen if number == 1]
    assert [history.status for history in after_conflict] == [("pending",)]


def test_the_last_trial_that_began_elsewhere_is_not_begun_here(storage: str) -> None:
    other = opened(storage)

    class Late(Walk):
        def propose(self, number: int, history: History) -> Proposal:
            if number == 4:
                other.begin({"x": 0.123})
            return super().propose(number, history)

    study, kind = search(storage, Late())
    assert kind == "elsewhere"
    assert [trial.state.value for trial in study.all_trials] == [*["complete"] * 4, "running"]


def test_a_start_point_is_run_by_one_of_them(storage: str) -> None:
    other = opened(storage)
    start = ({"x": 0.25}, {"x": 0.25}, {"x": 0.75})
    other.begin({"x": 0.25})
    study, _ = search(storage, Walk(), start=start)
    assert [trial.params["x"] for trial in study.all_trials][:3] == [0.25, 0.25, 0.75]


def test_a_queued_point_that_both_took_is_run_once(storage: str) -> None:
    study, other = opened(storage), opened(storage)
    study.queue({"x": 0.25})
    taken = [study.take_queued(), other.take_queued()]
    assert taken == [{"x": 0.25}] * 2
    study.begin({"x": 0.25}, n_known=0)
    with pytest.raises(TrialConflict) as caught:
        other.begin({"x": 0.25}, n_known=0)
    assert str(caught.value) == "The point {'x': 0.25} is run by another process already, in trial 0."
    assert other.take_queued() is None
    with pytest.raises(TrialConflict) as caught:
        other.begin({"x": 0.5}, n_known=1, limit=1)
    assert str(caught.value) == "Study 'test' has 1 of 1 trials already."
    assert len(other.all_trials) == 1
