"""What a trial does to its process is recorded with it, and nothing of it stays, under every engine that can."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from run_searches import evaluating, searched

from nbcompress.run import Assignment, Outcome
from nbcompress.run.engines import Engine, ProcessEngine, engine_of
from nbcompress.run.outcome import HEAD, TAIL
from nbcompress.run.termination import Termination
from nbcompress.study import State

PATIENCE = 60.0


@pytest.fixture(scope="module")
def executors() -> Iterator[dict[str, Any]]:
    made: dict[str, Any] = {
        "threads": ThreadPoolExecutor(1),
        "pool": ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")),
    }
    yield made
    for executor in made.values():
        executor.shutdown()


@pytest.fixture
def run(request: pytest.FixtureRequest, executors: dict[str, Any]) -> Iterator[Callable[..., Outcome]]:
    """Run a body once on the engine of the parameter; the engine is closed after the test."""
    name = getattr(request, "param", "process")
    made: list[Engine] = []

    def run_once(body: Callable[[float], Any], limit: float | None = None, cut_at: Path | None = None) -> Outcome:
        engine = engine_of(executors.get(name, name), name)
        made.append(engine)
        engine.start(evaluating(body), jobs=1, listener=None)
        engine.submit(Assignment(3, {"x": 2.0}, 5), limit)
        return awaited(engine, cut_at)

    yield run_once
    for engine in made:
        engine.close()


def awaited(engine: Engine, cut_at: Path | None = None) -> Outcome:
    """Return the outcome of the trial; it is cut as soon as there is a file `cut_at`."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if cut_at is not None and cut_at.exists():
            engine.terminate(3, Termination(State.STOPPED))
        ended = engine.next(0.05)
        if ended is not None:
            return ended[1]
    pytest.fail("no outcome came")


IN_THE_KERNEL = ["inline", "threads"]
every_engine = pytest.mark.parametrize("run", [*IN_THE_KERNEL, "process"], indirect=True)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- Ways to end ---


@every_engine
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (lambda x: sys.exit("enough"), "SystemExit: enough"),
        ((lambda f: lambda x: f(f, x))(lambda f, x: f(f, x)), "RecursionError: maximum recursion depth exceeded"),
    ],
    ids=["exit", "recursion"],
)
def test_what_ends_the_body_is_its_failure(run: Callable[..., Outcome], body: Any, text: str) -> None:
    outcome = run(body)
    assert outcome.state is State.FAILED
    assert str(outcome.failure).startswith(text)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (lambda x: os._exit(7), "ended by itself with exit code 7."),
        (lambda x: os.abort(), "was ended by the signal SIGABRT."),
        (lambda x: ctypes.string_at(0), "was ended by the signal SIGSEGV."),
        (lambda x: os.kill(os.getpid(), signal.SIGKILL), "was ended by the signal SIGKILL (out of memory, often)."),
    ],
    ids=["_exit", "abort", "segfault", "kill"],
)
def test_a_crash_is_recorded_with_its_cause(run: Callable[..., Outcome], body: Any, text: str) -> None:
    outcome = run(body)
    assert outcome.state is State.FAILED
    assert str(outcome.failure) == f"Crash: The process of the trial {text}"


def test_a_trial_that_closes_all_descriptors(run: Callable[..., Outcome]) -> None:
    def body(x: float) -> None:
        os.closerange(3, 1000)
        time.sleep(1000)

    assert str(run(body).failure) == "Crash: The process of the trial closed its connection and did not end."


def test_a_crash_in_c_code_says_where_and_keeps_what_was_written(run: Callable[..., Outcome]) -> None:
    def body(x: float) -> None:
        os.write(1, b"written before\n")
        ctypes.string_at(0)

    outcome = run(body)
    assert outcome.printed == "written before\n"
    assert outcome.failure is not None
    lines = outcome.failure.traceback.splitlines()
    assert lines[0] == "Fatal Python error: Segmentation fault"
    assert any(line.endswith("in body") and __file__ in line for line in lines)
    assert "Extension modules" not in outcome.failure.traceback
    assert "/nbcompress/run/" not in outcome.failure.traceback
    assert "multiprocessing" not in outcome.failure.traceback


@every_engine
def test_a_loop_in_python_ends_at_the_limit(run: Callable[..., Outcome]) -> None:
    def body(x: float) -> None:
        while True:
            try:
                sum(range(100))
            except Exception:  # noqa: BLE001 - it does not help
                continue

    outcome = run(body, limit=0.3)
    assert str(outcome.failure) == "Timeout: The trial ran over its limit of 0.3 s."


def test_a_sleep_in_c_that_ignores_signals_ends_at_the_limit(run: Callable[..., Outcome]) -> None:
    def body(x: float) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        ctypes.PyDLL(None).sleep(1000)  # it holds the GIL

    assert str(run(body, limit=0.3).failure) == "Timeout: The trial ran over its limit of 0.3 s."


# --- Output ---


@every_engine
def test_streams_that_a_trial_closes(run: Callable[..., Outcome]) -> None:
    def body(x: float) -> dict[str, float]:
        sys.stdout.close(), sys.stderr.close()
        print("still there")
        return {"loss": x}

    for _ in range(2):  # the next trial has its streams as well
        outcome = run(body)
        assert outcome.state is State.COMPLETE
        assert outcome.printed == "still there\n"
    assert not sys.stdout.closed


@every_engine
def test_200_mb_of_text_stay_small(run: Callable[..., Outcome]) -> None:
    def body(x: float) -> dict[str, float]:
        import resource

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        text = "x" * 5_000_000
        for _ in range(40):
            print(text)
        return {"loss": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000}

    outcome = run(body)
    assert outcome.values["loss"] < 60
    assert len(outcome.printed) < HEAD + TAIL + 100


def test_200_mb_past_python_stay_small(run: Callable[..., Outcome]) -> None:
    def body(x: float) -> dict[str, float]:
        print("by Python")
        subprocess.run(["head", "-c", "200000000", "/dev/zero"], check=True)
        os.write(2, "é the end\n".encode())
        return {"loss": x}

    outcome = run(body)
    assert outcome.printed.startswith("by Python\n\0\0\0")
    assert outcome.printed.endswith("\0é the end\n")
    assert len(outcome.printed) < HEAD + TAIL + 100


# --- What a trial leaves running ---

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(1000)"]


def leaving(folder: str) -> Callable[[], None]:
    """Return a function that starts processes in every way, and writes their ids down.

    It is a closure, which travels whole: the process of a trial need not import this module, which takes seconds.
    """

    def leave() -> None:
        pids = [subprocess.Popen(SLEEP).pid, subprocess.Popen(SLEEP, start_new_session=True).pid]
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            daemon = os.fork()
            if daemon == 0:
                time.sleep(1000)
            Path(folder, "daemon").write_text(str(daemon))
            os._exit(0)
        os.wait()
        pids.append(int(Path(folder, "daemon").read_text()))
        Path(folder, "begun").write_text(" ".join(map(str, pids)))
        os.rename(Path(folder, "begun"), Path(folder, "pids"))

    return leave


def left(folder: Path) -> list[int]:
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    assert len(pids) == 3
    return pids


@pytest.mark.parametrize(
    ("run", "ending"),
    [("process", "returns"), ("process", "crashes"), ("process", "is cut"), ("pool", "is cut")],
    indirect=["run"],
)
def test_no_process_of_a_trial_survives_it(run: Callable[..., Outcome], ending: str, tmp_path: Path) -> None:
    leave = leaving(str(tmp_path))

    def body(x: float) -> dict[str, float]:
        leave()
        threading.Thread(target=time.sleep, args=(1000,)).start()
        if ending == "crashes":
            os._exit(3)
        while ending == "is cut":
            time.sleep(0.01)
        return {"loss": x}

    outcome = run(body, cut_at=tmp_path / "pids" if ending == "is cut" else None)
    assert outcome.state is {"returns": State.COMPLETE, "crashes": State.FAILED, "is cut": State.STOPPED}[ending]
    end = time.monotonic() + PATIENCE
    while ending == "is cut" and any(is_alive(pid) for pid in left(tmp_path)):
        assert time.monotonic() < end  # the worker of a pool ends them after the search has its outcome
        time.sleep(0.02)
    assert not any(is_alive(pid) for pid in left(tmp_path))


def run_and_wait(folder: str) -> None:
    leave = leaving(folder)

    def body(x: float) -> None:
        leave()
        time.sleep(1000)

    engine = ProcessEngine()
    engine.start(evaluating(body), jobs=1, listener=None)
    engine.submit(Assignment(3, {"x": 2.0}, 5), None)
    engine.next(PATIENCE)


def test_no_process_of_a_trial_survives_the_kernel(tmp_path: Path) -> None:
    kernel = multiprocessing.get_context("fork").Process(target=run_and_wait, args=(str(tmp_path),))
    kernel.start()
    end = time.monotonic() + PATIENCE
    while not (tmp_path / "pids").exists():
        assert kernel.is_alive()
        assert time.monotonic() < end
        time.sleep(0.02)
    kernel.kill()
    kernel.join()
    while any(is_alive(pid) for pid in left(tmp_path)):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_inline_names_what_is_left() -> None:
    started: list[Any] = []
    go_on = threading.Event()

    def body(x: float) -> dict[str, float]:
        thread = threading.Thread(target=go_on.wait, daemon=True)
        thread.start()
        started.extend([thread, subprocess.Popen(SLEEP)])
        ended = threading.Thread(target=int)
        ended.start(), ended.join(), subprocess.run(["true"], check=True)
        return {"loss": x}

    try:
        _, ending = searched(body, trials=2)
    finally:
        go_on.set()
        for left_running in started[1::2]:
            left_running.kill(), left_running.wait()
    thread, process = (text for text in ending.warnings if "left a" in text)
    assert thread.startswith("A trial left a thread running: wait. Inline it goes on beside later trials")
    assert thread.endswith("(trials 0 and 1)")
    assert process.startswith("A trial left a process running: python")


def test_inline_says_nothing_where_nothing_is_left() -> None:
    _, ending = searched(lambda x: {"loss": float(subprocess.run(["true"], check=True).returncode)}, trials=2)
    assert ending.warnings == ()


def test_a_way_to_start_processes_that_a_library_has_added(run: Callable[..., Outcome]) -> None:
    """As loky does in its workers: the process of a trial does not know it, and its loaders start as by default."""

    class Context(type(multiprocessing.get_context("fork"))):  # type: ignore[misc]
        _name = "strange"

    contexts = multiprocessing.context._concrete_contexts  # type: ignore[attr-defined]
    before = multiprocessing.get_start_method(allow_none=True)
    contexts["strange"] = Context()
    try:
        multiprocessing.set_start_method("strange", force=True)
        outcome = run(lambda x: {"loss": float(multiprocessing.get_start_method() == "fork")})
        assert multiprocessing.get_start_method() == "strange"
    finally:
        multiprocessing.set_start_method(before, force=True)
        del contexts["strange"]
    assert outcome.values == {"loss": 1.0}
