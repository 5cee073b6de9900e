"""The laws that every engine keeps."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from run_searches import evaluating

from nbcompress.errors import SearchError, TransportError
from nbcompress.run import Assignment, Outcome, keep, report
from nbcompress.run.engines import Engine, EngineError, InlineEngine, ProcessEngine, ThreadsEngine, engine_of
from nbcompress.run.engines.cluster import ClusterEngine
from nbcompress.run.termination import Termination
from nbcompress.study import Failure, State

PATIENCE = 60.0


class BareFuture:
    """What some clusters hand back: something with a result, and no more."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def result(self) -> Any:
        return self._future.result()


class BareExecutor:
    """Has `submit` and nothing else."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> BareFuture:
        return BareFuture(self._pool.submit(function, *arguments))


@pytest.fixture(scope="module")
def executors() -> Iterator[dict[str, Any]]:
    made: dict[str, Any] = {
        "threads": ThreadPoolExecutor(4),
        "processes": ProcessPoolExecutor(2, mp_context=get_context("spawn")),
        "bare": BareExecutor(),
    }
    yield made
    for executor in (made["threads"], made["processes"], made["bare"]._pool):
        executor.shutdown()


ALL = ["inline", "process", "threads", "processes", "bare"]


@pytest.fixture(params=ALL)
def engine(
    request: pytest.FixtureRequest, executors: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    # The worker of a pool says when it has told everything: no trial waits for that in vain.
    monkeypatch.setattr("nbcompress.run.engines.pool._SECONDS_TO_READ", 100 * PATIENCE)
    made = engine_of(executors.get(request.param, request.param), request.param)
    yield made
    made.close()


def run_one(engine: Engine, body: Callable[[float], Any], *, limit: float | None = None, x: float = 2.0) -> Outcome:
    engine.start(evaluating(body), jobs=1, listener=None)
    engine.submit(Assignment(3, {"x": x}, 5), limit)
    assignment, outcome = awaited(engine)
    assert assignment.number == 3
    return outcome


def awaited(engine: Engine) -> tuple[Assignment, Outcome]:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        ended = engine.next(0.05)
        if ended is not None:
            return ended
    pytest.fail("no outcome came")


def test_it_brings_back_what_the_trial_left(engine: Engine) -> None:
    def body(x: float) -> dict[str, float]:
        print("hello")
        report(loss=1.5, step=0)
        keep(weights=torch.ones(3), answer=42)
        return {"loss": x + 1, "other": os.getpid()}

    before = time.monotonic()
    outcome = run_one(engine, body)
    assert outcome.state is State.COMPLETE
    assert outcome.values["loss"] == 3.0
    # Where it ran and when, by the clock of this process.
    host, _, process = outcome.worker.rpartition(":")
    assert host == platform.node()
    # On a pool it is the worker, which starts a process for the trial.
    starts_another = isinstance(engine, ClusterEngine)
    assert (int(process) != outcome.values["other"]) is starts_another
    assert outcome.began is not None
    assert outcome.ended is not None
    assert before <= outcome.began < outcome.ended <= time.monotonic()
    assert outcome.ended - outcome.began == pytest.approx(outcome.seconds)
    assert outcome.reports == {"loss": {0: 1.5}}
    assert outcome.printed == "hello\n"
    assert outcome.kept["answer"] == 42
    assert torch.equal(outcome.kept["weights"], torch.ones(3))
    assert 0 < outcome.seconds < PATIENCE
    assert engine.next(0.0) is None


def test_seeds_are_the_assignment_s(engine: Engine) -> None:
    outcome = run_one(engine, lambda x: {"loss": float(torch.rand(()))})
    torch_seed = torch.Generator().manual_seed(5)
    assert outcome.values["loss"] == pytest.approx(float(torch.rand((), generator=torch_seed)), abs=1e-7)


def test_an_exception_is_a_failed_trial(engine: Engine) -> None:
    def body(x: float) -> dict[str, float]:
        raise ValueError("no good")

    outcome = run_one(engine, body)
    assert outcome.state is State.FAILED
    assert str(outcome.failure) == "ValueError: no good"
    assert outcome.failure is not None
    assert "in body" in outcome.failure.traceback


def test_leaving_the_interpreter_is_a_failed_trial(engine: Engine) -> None:
    assert str(run_one(engine, lambda x: exit(3)).failure) == "SystemExit: 3"


def test_a_mistake_around_the_body_is_a_failed_trial(engine: Engine) -> None:
    def evaluate(assignment: Assignment) -> Outcome:
        raise LookupError("in the evaluator")

    engine.start(evaluate, jobs=1, listener=None)
    engine.submit(Assignment(0, {"x": 1.0}, 5), None)
    outcome = awaited(engine)[1]
    assert outcome.state is State.FAILED
    assert str(outcome.failure) == "LookupError: in the evaluator"


def test_a_limit(engine: Engine) -> None:
    def body(x: float) -> dict[str, float]:
        report(loss=2.0, step=0)
        end = time.monotonic() + 100
        while time.monotonic() < end:
            time.sleep(0.01)
        return {"loss": x}

    started = time.monotonic()
    outcome = run_one(engine, body, limit=0.3)
    assert outcome.state is State.FAILED
    assert outcome.failure == Failure("Timeout", "The trial ran over its limit of 0.3 s.")
    assert time.monotonic() - started < 50  # a process may have to start first


def test_a_limit_that_is_not_reached(engine: Engine) -> None:
    assert run_one(engine, lambda x: {"loss": x}, limit=30.0).state is State.COMPLETE


@pytest.mark.parametrize("state", [State.STOPPED, State.INTERRUPTED])
def test_termination_from_another_thread(engine: Engine, state: State) -> None:
    def body(x: float) -> dict[str, float]:
        end = time.monotonic() + 100
        while time.monotonic() < end:
            time.sleep(0.01)
        return {"loss": x}

    engine.start(evaluating(body), jobs=1, listener=None)
    engine.submit(Assignment(3, {"x": 2.0}, 5), None)
    timer = threading.Timer(0.2, engine.terminate, [3, Termination(state)])
    timer.start()
    assert awaited(engine)[1].state is state
    timer.join()
    engine.terminate(3, Termination(state))  # it is gone: nothing happens
    engine.terminate(99, Termination(state))
    assert engine.next(0.0) is None


def test_close_twice(engine: Engine) -> None:
    engine.start(evaluating(lambda x: {"loss": x}), jobs=1, listener=None)
    engine.close()
    engine.close()


@pytest.mark.parametrize("name", ["process", "threads", "processes", "bare"])
def test_several_at_a_time(name: str, executors: dict[str, Any]) -> None:
    engine = engine_of(executors.get(name, name), name)
    engine.start(evaluating(lambda x: {"loss": x * 10}), jobs=2, listener=None)
    for number in range(5):
        engine.submit(Assignment(number, {"x": float(number)}, 5), None)
    found = {ended[0].number: ended[1].values for ended in (awaited(engine) for _ in range(5))}
    engine.close()
    assert found == {number: {"loss": number * 10.0} for number in range(5)}


@pytest.mark.parametrize("name", ALL)
def test_reports_are_heard_while_it_runs(name: str, executors: dict[str, Any]) -> None:
    engine, heard = engine_of(executors.get(name, name), name), []

    def body(x: float) -> dict[str, float]:
        for step in range(3):
            report(loss=x, step=step)
        return {"loss": x}

    engine.start(evaluating(body), jobs=1, listener=lambda *what: heard.append(what))
    engine.submit(Assignment(3, {"x": 2.0}, 5), None)
    awaited(engine)
    engine.close()
    assert heard == [(3, step, {"loss": 2.0}) for step in range(3)]


@pytest.mark.parametrize("name", ["process", "processes"])
def test_what_cannot_be_sent_is_named_before_the_start(name: str, executors: dict[str, Any]) -> None:
    engine, lock = engine_of(executors.get(name, name), name), threading.Lock()

    def body(x: float) -> dict[str, float]:
        with lock:
            return {"loss": x}

    with pytest.raises(TransportError, match=r"'lock' \(a lock\) cannot be sent to another process"):
        engine.start(evaluating(body), jobs=1, listener=None)


@pytest.mark.parametrize("name", ["process", "processes"])
def test_what_cannot_be_sent_back_is_a_failed_trial(name: str, executors: dict[str, Any]) -> None:
    def body(x: float) -> dict[str, float]:
        keep(lock=threading.Lock())
        return {"loss": x}

    outcome = run_one(engine_of(executors.get(name, name), name), body)
    assert outcome.state is State.FAILED
    assert outcome.failure is not None
    assert "What the trial keeps cannot be sent back to the notebook" in outcome.failure.message
    assert outcome.values == {"loss": 2.0}


class TestProcess:
    """What only a process of its own can do."""

    @pytest.mark.parametrize(
        ("body", "text"),
        [
            (lambda x: os._exit(7), "Crash: The process of the trial ended by itself with exit code 7."),
            (lambda x: os.kill(os.getpid(), 11), "Crash: The process of the trial was ended by the signal SIGSEGV."),
            (
                lambda x: os.kill(os.getpid(), 9),
                "Crash: The process of the trial was ended by the signal SIGKILL (out of memory, often).",
            ),
        ],
        ids=["exit", "segfault", "kill"],
    )
    def test_a_crash_is_one_failed_trial(self, body: Any, text: str) -> None:
        engine = ProcessEngine()
        outcome = run_one(engine, body)
        assert outcome.state is State.FAILED
        assert str(outcome.failure) == text
        engine.submit(Assignment(3, {"x": 2.0}, 5), None)
        assert awaited(engine)[1].state is State.FAILED
        engine.close()

    def test_a_hang_inside_c_ends_at_the_limit(self) -> None:
        engine = ProcessEngine()
        started = time.monotonic()
        outcome = run_one(engine, lambda x: time.sleep(1000), limit=0.3)
        assert outcome.failure is not None
        assert outcome.failure.kind == "Timeout"
        assert time.monotonic() - started < 25
        engine.close()

    def test_reports_of_a_crashed_trial_stay(self) -> None:
        def body(x: float) -> None:
            report(loss=0.5, step=1)
            time.sleep(0.2)
            os._exit(1)

        engine = ProcessEngine()
        assert run_one(engine, body).reports == {"loss": {1: 0.5}}
        engine.close()

    def test_it_sees_the_environment_and_the_threads_of_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NBCOMPRESS_TEST", "17")
        engine = ProcessEngine()
        outcome = run_one(engine, lambda x: {"loss": int(os.environ["NBCOMPRESS_TEST"]), "n": torch.get_num_threads()})
        assert outcome.values == {"loss": 17.0, "n": float(torch.get_num_threads())}
        engine.close()

    def test_what_a_trial_leaves_running_ends_with_it(self) -> None:
        def body(x: float) -> dict[str, float]:
            import subprocess
            import sys

            left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
            return {"loss": left.pid}

        engine = ProcessEngine()
        left = int(run_one(engine, body).values["loss"])
        engine.close()
        wait_until(lambda: not is_alive(left))

    def test_a_crash_is_seen_though_a_forked_process_holds_on(self) -> None:
        def body(x: float) -> None:
            child = os.fork()
            if child == 0:
                time.sleep(1000)
            os._exit(5)

        engine = ProcessEngine()
        started = time.monotonic()
        assert str(run_one(engine, body).failure).endswith("exit code 5.")
        assert time.monotonic() - started < 20
        engine.close()

    def test_workers_of_a_loader_start_as_in_the_notebook(self) -> None:
        class Squares(torch.utils.data.Dataset[float]):  # a class of the notebook: only a fork can pass it on
            def __len__(self) -> int:
                return 8

            def __getitem__(self, index: int) -> float:
                return float(index**2)

        def body(x: float) -> dict[str, float]:
            loader = torch.utils.data.DataLoader(Squares(), batch_size=4, num_workers=1)
            return {"loss": sum(float(batch.sum()) for batch in loader)}

        engine = ProcessEngine()
        assert run_one(engine, body).values == {"loss": 140.0}
        engine.close()

    def test_as_it_starts_on_other_systems(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("nbcompress.run.engines.trial_process.START_METHOD", "spawn")
        engine = ProcessEngine()
        assert run_one(engine, lambda x: {"loss": x}).values == {"loss": 2.0}
        engine.close()

    def test_close_ends_what_runs(self) -> None:
        engine = ProcessEngine()
        engine.start(evaluating(lambda x: time.sleep(1000)), jobs=2, listener=None)
        for number in range(2):
            engine.submit(Assignment(number, {"x": 2.0}, 5), None)
        started = time.monotonic()
        engine.close()
        assert time.monotonic() - started < 20
        assert [awaited(engine)[1].state for _ in range(2)] == [State.INTERRUPTED] * 2


def is_alive(process: int) -> bool:
    import psutil

    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


class TestExecutor:
    def test_it_is_the_user_s_and_stays_open(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            run_one(engine_of(pool), lambda x: {"loss": x})
            engine_of(pool).close()
            assert pool.submit(int, "3").result() == 3

    def test_a_pool_whose_worker_is_killed_is_replaced_and_the_trial_runs_again(self, tmp_path: Path) -> None:
        marker = str(tmp_path / "begun")

        def body(x: float) -> dict[str, float]:
            if not os.path.exists(marker):
                open(marker, "w").close()
                report(loss=x, step=0)
                time.sleep(1000)
            return {"loss": x}

        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            engine = engine_of(pool, "pool")

            def kill(*_: object) -> None:
                for process in pool._processes.values():
                    process.kill()

            engine.start(evaluating(body), jobs=1, listener=kill)
            engine.submit(Assignment(3, {"x": 2.0}, 5), None)
            assert awaited(engine)[1].values == {"loss": 2.0}
            assert engine.warnings == ["A worker of pool died; the search went on with a new pool like it."]
            engine.close()

    def test_workers_that_cannot_connect_do_without_reports_while_they_run(
        self, executors: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = engine_of(executors["processes"], "pool")
        big = torch.ones(100_000)
        engine.prepare(evaluating(lambda x: report(loss=x, step=0) or {"loss": float(big.sum())}), 1)
        monkeypatch.setattr(engine._backend, "_addresses", [("127.0.0.1", 9)])
        engine.start(evaluating(lambda x: {}), jobs=1, listener=None)
        engine.submit(Assignment(3, {"x": 2.0}, 5), None)
        outcome = awaited(engine)[1]
        engine.close()
        assert outcome.values == {"loss": 100_000.0}
        assert outcome.reports == {"loss": {0: 2.0}}
        assert engine.warnings[0].startswith("The workers of pool cannot connect to the notebook (")

    def test_a_worker_elsewhere_gets_the_data_once(
        self, executors: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = engine_of(executors["bare"], "pool")  # its threads read this process, so that it can look elsewhere
        monkeypatch.setattr("nbcompress.run.engines.worker.Site.is_here", False)
        big, asked = torch.ones(100_000), []
        engine.start(evaluating(lambda x: {"loss": float(big.sum())}), jobs=1, listener=None)
        blobs = dict(engine._backend._blobs)

        class Counting(dict[str, Any]):
            def __getitem__(self, digest: str) -> Any:
                asked.append(digest)
                return blobs[digest]

        engine._backend.share(Counting(blobs))
        for number in range(3):
            engine.submit(Assignment(number, {"x": 2.0}, 5), None)
            assert awaited(engine)[1].values == {"loss": 100_000.0}
        engine.close()
        assert sorted(asked) == sorted(blobs)

    def test_one_that_was_shut_down(self) -> None:
        pool = ThreadPoolExecutor(1)
        pool.shutdown()
        engine = engine_of(pool, "pool")
        engine.start(evaluating(lambda x: {"loss": x}), jobs=1, listener=None)
        with pytest.raises(EngineError, match="The executor pool takes no more trials"):
            engine.submit(Assignment(4, {"x": 1.0}, 5), None)

    def test_threads_say_that_seeds_are_shared(self) -> None:
        with ThreadPoolExecutor(2) as pool:
            engine = engine_of(pool)
            engine.start(evaluating(lambda x: {"loss": x}), jobs=2, listener=None)
            assert "share its random generators" in engine.warnings[0]

    def test_a_thread_is_free_again_after_its_trial_was_given_up(self) -> None:
        def body(x: float) -> dict[str, float]:
            while x < 1:
                pass
            return {"loss": x}

        with ThreadPoolExecutor(1) as pool:
            engine = engine_of(pool)
            assert run_one(engine, body, limit=0.1, x=0.0).state is State.FAILED
            engine.submit(Assignment(4, {"x": 2.0}, 5), None)
            assert awaited(engine)[1].values == {"loss": 2.0}


def test_names() -> None:
    assert isinstance(engine_of("inline"), InlineEngine)
    assert isinstance(engine_of("process"), ProcessEngine)
    assert isinstance(engine_of(ThreadPoolExecutor(1)), ThreadsEngine)
    assert isinstance(engine_of(Executor()), ClusterEngine)
    with pytest.raises(SearchError, match=r"An engine is inline, process or .* Did you mean 'process'\?"):
        engine_of("proces")
    with pytest.raises(SearchError, match="but got 3"):
        engine_of(3)
