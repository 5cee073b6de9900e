"""Each trial in a process of its own: a crash or a hang costs one trial, and limits are hard."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

from nbcompress.run.engines.base import ResultQueue, over_limit, terminated
from nbcompress.run.engines.child import ChildEnvironment, run_child
from nbcompress.run.outcome import Assignment, Evaluate, Outcome, pack
from nbcompress.run.termination import Termination, uninterrupted
from nbcompress.run.trial import Listener
from nbcompress.study.goal import Failure, State

# These take seconds to import. The fork server imports them once, before it has threads; with `spawn` every child does.
_PRELOADED = [
    "torch",
    "nbcompress.compressors",
    "nbcompress.artifact",
    "nbcompress.measure",
    "nbcompress.run.engines.child",
]
START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
# How long to wait for the end of a killed process. Only a process that is stuck in a system call takes longer.
_DEATH_SECONDS = 5.0

_starting = threading.Lock()


def _start_server() -> None:
    """Start the server that forks the trials, with SIGINT ignored from the start.

    It shares the terminal's process group, so an interrupt while it still imports torch would end it with a
    traceback in the cell. A program that is started while interrupts are ignored goes on ignoring them.
    """
    with uninterrupted(signal.SIG_IGN):
        forkserver.ensure_running()


@dataclass
class _Child:
    """The process of one trial, for the thread that watches it."""

    assignment: Assignment
    limit: float | None
    termination: Termination | None = None
    process: Any = None
    thread: threading.Thread | None = None
    values: dict[str, dict[int, float]] = field(default_factory=dict)

    def kill(self) -> None:
        """End the process and those it started."""
        if self.process is None or self.process.pid is None:
            return
        if hasattr(os, "killpg"):
            # It may have ended, or have no group of its own yet.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()


class ProcessEngine:
    """Starts a process per trial; a thread per process waits for what it sends or for its death."""

    name = "process"
    is_serial = False
    sends = True

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._results = ResultQueue()
        self._children: dict[int, _Child] = {}
        self._lifeline: tuple[Connection, Connection] | None = None

    def start(self, evaluate: Evaluate, *, jobs: int, listener: Listener | None) -> None:
        self._payload = pack(evaluate)
        self._listener = listener
        self._threads = _threads_each(jobs)
        self._context: Any = multiprocessing.get_context(START_METHOD)
        if START_METHOD == "forkserver":
            self._context.set_forkserver_preload(_PRELOADED)
            _start_server()
        self._lifeline = self._context.Pipe(duplex=False)
        # Registered after multiprocessing's own, so it runs before that one waits for our children.
        atexit.register(self.close)

    def submit(self, assignment: Assignment, limit: float | None) -> None:
        child = _Child(assignment, limit)
        self._children[assignment.number] = child
        name = f"nbcompress-trial-{assignment.number}"
        child.thread = threading.Thread(target=self._watch, args=(child,), name=name, daemon=True)
        child.thread.start()

    def next(self, timeout: float) -> tuple[Assignment, Outcome] | None:
        return self._results.take(timeout, self._listener)

    def terminate(self, number: int, termination: Termination) -> None:
        child = self._children.get(number)
        if child is not None and child.termination is None:
            child.termination = termination
            child.kill()

    def close(self) -> None:
        children = tuple(self._children.values())
        for child in children:
            self.terminate(child.assignment.number, Termination(State.INTERRUPTED))
        for child in children:
            if child.thread is not None:
                child.thread.join(_DEATH_SECONDS)
        if self._lifeline is not None:
            for end in self._lifeline:
                end.close()
            self._lifeline = None
        atexit.unregister(self.close)

    def _watch(self, child: _Child) -> None:
        try:
            outcome = self._run(child)
        except Exception as error:  # noqa: BLE001 - no process could be started, say; the trial must come back all the same
            text = f"The process of the trial could not be run: {error}"
            outcome = Outcome(State.FAILED, failure=Failure(type(error).__name__, text))
        if child.termination is not None:
            outcome = terminated(outcome, child.termination)
        self._children.pop(child.assignment.number, None)
        self._results.post(child.assignment, outcome)

    def _run(self, child: _Child) -> Outcome:
        started = time.perf_counter()
        connection, child_connection = self._context.Pipe()
        assert self._lifeline is not None
        environment = ChildEnvironment(
            dict(os.environ), self._threads, multiprocessing.get_start_method(allow_none=True)
        )
        arguments = (child_connection, self._lifeline[0], environment)
        process = self._context.Process(target=run_child, args=arguments, name=f"trial-{child.assignment.number}")
        with connection:
            with _starting, _without_main(), child_connection:
                process.start()
            child.process = process
            try:
                if child.termination is not None:  # requested while it started
                    child.kill()
                outcome = self._talk(child, connection)
            finally:
                child.kill()
                process.join(_DEATH_SECONDS)
        if outcome is None:
            seconds = time.perf_counter() - started
            outcome = Outcome(State.FAILED, {}, child.values, _crash(process.exitcode), seconds=seconds)
        return outcome

    def _talk(self, child: _Child, connection: Connection) -> Outcome | None:
        """Return the outcome, or None when the process ended without one."""
        deadline: float | None = None
        try:
            connection.send_bytes(self._payload)
            connection.send_bytes(pack(child.assignment))
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                # Its death shows by itself: a process that it has forked may hold the connection open.
                ready = wait([connection, child.process.sentinel], left)
                if not ready:
                    assert child.limit is not None
                    child.termination = child.termination or over_limit(child.limit)
                    return None
                if connection not in ready and not connection.poll():
                    return None
                kind, value = pickle.loads(connection.recv_bytes())  # noqa: S301 - sent by our own child process
                if kind == "outcome":
                    assert isinstance(value, Outcome)
                    return value
                if kind == "started" and child.limit is not None:
                    deadline = time.monotonic() + child.limit
                if kind == "report":
                    step, values = value
                    for metric, number in values.items():
                        child.values.setdefault(metric, {})[step] = number
                    self._results.post_report(child.assignment.number, step, values)
        except (EOFError, OSError):
            return None


def _threads_each(jobs: int) -> int | None:
    """Return the number of torch threads for each of `jobs` children, which share those of the kernel."""
    torch = sys.modules.get("torch")
    return None if torch is None else max(1, torch.get_num_threads() // jobs)


def _crash(code: int | None) -> Failure:
    if code is None:
        return Failure("Crash", "The process of the trial closed its connection and did not end.")
    if code >= 0:
        return Failure("Crash", f"The process of the trial ended by itself with exit code {code}.")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    hint = " (out of memory, often)" if name == "SIGKILL" else ""
    return Failure("Crash", f"The process of the trial was ended by the signal {name}{hint}.")


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the running script while a child starts; otherwise the child would run it again to find its functions.

    What a trial needs of the script is pickled by value.
    """
    main = sys.modules["__main__"]
    if not hasattr(main, "__file__") and getattr(main, "__spec__", None) is None:
        yield  # a notebook has no script to run again
        return
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
