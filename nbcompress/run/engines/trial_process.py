"""A trial in a process of its own, which ends when the trial ends, is cut, or runs over a limit.

The engine `process` uses it in the kernel, and the workers of a cluster or a pool use it where they are. So limits,
crashes and memory are treated alike everywhere, and no trial sees what another one has left in its process.
"""

from __future__ import annotations

import atexit
import codecs
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

from nbcompress.run.engines.base import over_limit, over_memory, terminated
from nbcompress.run.engines.child import IS_WATCHED, ChildEnvironment, run_child
from nbcompress.run.memory import process_tree, used_bytes
from nbcompress.run.outcome import Outcome, PrintedText, pack
from nbcompress.run.termination import Termination, uninterrupted
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
# How long a process may take to end after it has closed its connection.
_CLOSING_SECONDS = 1.0
# What a pipe holds at most. A trial that writes more waits until it is read.
_PIPE_BYTES = 65_536
# What Python writes when it crashes begins and ends like this; the end is a list of modules written in C.
_FATAL, _END_OF_DUMP = "Fatal Python error: ", "\n\nExtension modules: "
_TITLE_LINES = 3
# Frames of these folders only call the body.
_OWN_FRAMES = tuple(os.sep + os.path.join(*path, "") for path in (("nbcompress", "run"), ("nbcompress", "cell")))
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
# How often the memory of a trial is measured if it is limited, and how often `is_cut` is asked.
_MEMORY_SECONDS, _CUT_SECONDS = 0.05, 0.2

Listen = Callable[[int, Mapping[str, float]], None]
"""Called with a step and the values that the trial has reported there."""

_starting = threading.Lock()


@dataclass
class TrialTask:
    """One trial for `TrialProcesses.run`, which may be terminated from another thread.

    Attributes:
        skeleton: The hash of the pickled evaluator.
        paths: Hash -> path, for the evaluator and the large values that it reads.
        assignment: The pickled `Assignment`.
        number: Of the trial, for the name of the process.
        limit: Seconds that it may run, or None.
        memory: Bytes that it may use, or None.
        is_cut: Asked now and then; when it returns True the trial ends as interrupted.
        worker: The host and the process that runs it; empty before it has begun.
    """

    skeleton: str
    paths: Mapping[str, str]
    assignment: bytes
    number: int
    limit: float | None = None
    memory: int | None = None
    is_cut: Callable[[], bool] | None = None
    termination: Termination | None = None
    process: Any = None
    worker: str = ""
    reports: dict[str, dict[int, float]] = field(default_factory=dict)
    output: SystemOutput = field(default_factory=lambda: SystemOutput())

    def terminate(self, termination: Termination) -> None:
        """End the trial now; the first call decides how."""
        if self.termination is None:
            self.termination = termination
            self.kill()

    def kill(self) -> None:
        """End the process and those it started. Where it is watched, its watcher does it."""
        if self.process is None or self.process.pid is None:
            return
        if IS_WATCHED:
            self.process.terminate()
        else:
            self.kill_tree()

    def kill_tree(self) -> None:
        """End the process and those it started, without its help; what has left the tree stays."""
        if not self.process.is_alive():
            return
        for process in process_tree(self.process.pid)[1:]:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, _KILL)
        self.process.kill()


class SystemOutput:
    """What a trial writes past `sys.stdout`: C code, programs that it starts, and Python when it crashes.

    Attributes:
        reader: The end of the pipe where it arrives; None once all who could write have ended.
    """

    def __init__(self) -> None:
        self.reader: Connection | None = None
        self._text = PrintedText()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> None:
        """Take what is there, and wait if there is nothing."""
        assert self.reader is not None
        try:
            data = os.read(self.reader.fileno(), _PIPE_BYTES)
        except OSError:
            data = b""
        if data:
            self._text.write(self._decoder.decode(data))
        else:
            self.close()

    def read_all(self) -> None:
        """Take what is there and close the pipe. The trial has ended, so this is at most what a pipe holds."""
        while self.reader is not None and self.reader.poll():
            self.read()
        self.close()

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def __str__(self) -> str:
        return str(self._text)

    def crash(self) -> tuple[str, str]:
        """Return the text before a crash, and where the trial was in its code, the most recent call first."""
        printed, mark, dump = str(self).partition(_FATAL)
        lines = (mark + dump.partition(_END_OF_DUMP)[0]).splitlines()
        own = [any(folder in line for folder in _OWN_FRAMES) for line in lines]
        # The first lines are a title; what has called the body comes below it.
        end = next((i for i in range(_TITLE_LINES + 1, len(lines)) if own[i]), len(lines))
        return printed, "\n".join(lines[:end]).strip()


class TrialProcesses:
    """Starts the processes of trials. They end with this process, however it ends."""

    def __init__(self) -> None:
        self._context: Any = multiprocessing.get_context(START_METHOD)
        if START_METHOD == "forkserver":
            self._context.set_forkserver_preload(_PRELOADED)
            _start_server()
        self._lifeline: tuple[Connection, Connection] | None = self._context.Pipe(duplex=False)
        # Registered after multiprocessing's own, so it runs before that one waits for our children.
        atexit.register(self.close)

    def close(self) -> None:
        """End the processes that still run. May be called twice."""
        if self._lifeline is not None:
            for end in self._lifeline:
                end.close()
            self._lifeline = None
        atexit.unregister(self.close)

    def run(self, task: TrialTask, environment: ChildEnvironment, listen: Listen) -> bytes:
        """Run a trial to its end and return its pickled `Outcome`; whatever happens to its process is an outcome."""
        try:
            packed = self._run(task, environment, listen)
        except Exception as error:  # noqa: BLE001 - no process could be started, say; the trial must come back all the same
            text = f"The process of the trial could not be run: {error}"
            packed = pack(Outcome(State.FAILED, failure=Failure(type(error).__name__, text)))
        if task.termination is not None:
            packed = pack(terminated(pickle.loads(packed), task.termination))  # noqa: S301 - sent by our own child process
        return packed

    def _run(self, task: TrialTask, environment: ChildEnvironment, listen: Listen) -> bytes:
        started = time.perf_counter()
        connection, child_connection = self._context.Pipe()
        if self._lifeline is None:
            raise RuntimeError("the engine is closed")
        task.output.reader, output = self._context.Pipe(duplex=False) if os.name == "posix" else (None, None)
        arguments = (child_connection, self._lifeline[0], output, environment)
        process = self._context.Process(target=run_child, args=arguments, name=f"trial-{task.number}")
        has_closed = False
        with connection:
            with _starting, _without_main(), _allowed_to_start(), _known_start_method():
                try:
                    process.start()
                finally:
                    for end in (child_connection, output):
                        if end is not None:
                            end.close()
            task.process = process
            try:
                if task.termination is not None:  # requested while it started
                    task.kill()
                packed = self._talk(task, connection, listen)
                if packed is None and task.termination is None:
                    process.join(_CLOSING_SECONDS)
                    has_closed = process.is_alive()
            finally:
                task.kill()
                process.join(_DEATH_SECONDS)
                task.kill_tree()
                task.output.read_all()
        if packed is None:
            seconds = time.perf_counter() - started
            printed, traceback = task.output.crash()
            crash = _crash(None if has_closed else process.exitcode, traceback)
            packed = pack(Outcome(State.FAILED, {}, task.reports, crash, printed, seconds, worker=task.worker))
        elif text := str(task.output):
            outcome = pickle.loads(packed)  # noqa: S301 - sent by our own child process
            packed = pack(replace(outcome, printed=outcome.printed + text))
        return packed

    def _talk(self, task: TrialTask, connection: Connection, listen: Listen) -> bytes | None:
        """Return the pickled outcome, or None when the process ended without one."""
        deadline: float | None = None
        try:
            request = (task.skeleton, dict(task.paths), task.assignment, task.memory)
            connection.send_bytes(pickle.dumps(request))
            while True:
                # Its death shows by itself: a process that it has forked may hold the connection open.
                sources = [connection, task.process.sentinel, task.output.reader]
                ready = wait([source for source in sources if source is not None], _seconds_to_wait(task, deadline))
                if task.output.reader in ready:
                    task.output.read()
                if connection not in ready and task.process.sentinel not in ready:
                    task.termination = task.termination or _due_termination(task, deadline)
                    if task.termination is not None:
                        return None
                    continue
                if connection not in ready and not connection.poll():
                    return None
                kind = connection.recv_bytes()
                if kind == b"outcome":
                    return connection.recv_bytes()
                if kind == b"started":
                    task.worker = connection.recv_bytes().decode()
                    deadline = None if task.limit is None else time.monotonic() + task.limit
                if kind == b"report":
                    step, values = pickle.loads(connection.recv_bytes())  # noqa: S301 - sent by our own child process
                    for metric, number in values.items():
                        task.reports.setdefault(metric, {})[step] = number
                    listen(step, values)
        except (EOFError, OSError):
            return None


def _seconds_to_wait(task: TrialTask, deadline: float | None) -> float | None:
    waits = [_MEMORY_SECONDS] if task.memory is not None else []
    if task.is_cut is not None:
        waits.append(_CUT_SECONDS)
    if deadline is not None:
        waits.append(max(0.0, deadline - time.monotonic()))
    return min(waits, default=None)


def _due_termination(task: TrialTask, deadline: float | None) -> Termination | None:
    """Return why the trial has to end now, or None."""
    if deadline is not None and time.monotonic() >= deadline:
        assert task.limit is not None
        return over_limit(task.limit)
    if task.is_cut is not None and task.is_cut():
        return Termination(State.INTERRUPTED)
    if task.memory is not None and (used := _used(task)) > task.memory:
        return over_memory(task.memory, used)
    return None


def _used(task: TrialTask) -> int:
    # Most memory of the process that watches is shared with the trial and would count twice.
    return used_bytes(task.process.pid, with_own=not IS_WATCHED)


def threads_each(jobs: int) -> int | None:
    """Return the number of torch threads for each of `jobs` children, which share those of the kernel."""
    torch = sys.modules.get("torch")
    return None if torch is None else max(1, torch.get_num_threads() // jobs)


def environment_of_kernel(jobs: int) -> ChildEnvironment:
    """Return the settings of this process for the trials that run beside it."""
    return ChildEnvironment(dict(os.environ), threads_each(jobs), start_method_here())


def start_method_here() -> str | None:
    """Return how `multiprocessing` starts processes; None for its default, and for a method that a library has added.

    Loky adds one and makes it the default of its workers. Other processes do not know it.
    """
    method = multiprocessing.get_start_method(allow_none=True)
    return method if method in multiprocessing.get_all_start_methods() else None


@contextmanager
def _known_start_method() -> Iterator[None]:
    """Let the default be a method that the new process knows: `multiprocessing` sends it the name."""
    method = multiprocessing.get_start_method(allow_none=True)
    if method is None or start_method_here() is not None:
        yield
        return
    multiprocessing.set_start_method(START_METHOD, force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(method, force=True)


def _start_server() -> None:
    """Start the server that forks the trials, with SIGINT ignored from the start.

    It shares the terminal's process group, so an interrupt while it still imports torch would end it with a
    traceback in the cell. A program that is started while interrupts are ignored goes on ignoring them.
    """
    with uninterrupted(signal.SIG_IGN):
        try:
            forkserver.ensure_running()
        except ChildProcessError:
            # This process was forked from one that has a server, such as a worker of a pool: it needs one of its own.
            server: Any = forkserver._forkserver
            os.close(server._forkserver_alive_fd)
            server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None
            forkserver.ensure_running()


def _crash(code: int | None, traceback: str = "") -> Failure:
    if code is None:
        return Failure("Crash", "The process of the trial closed its connection and did not end.")
    if code >= 0:
        return Failure("Crash", f"The process of the trial ended by itself with exit code {code}.", traceback)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    hint = " (out of memory, often)" if name == "SIGKILL" else ""
    return Failure("Crash", f"The process of the trial was ended by the signal {name}{hint}.", traceback)


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


@contextmanager
def _allowed_to_start() -> Iterator[None]:
    """Let a daemonic process, such as a Dask worker, start processes.

    `multiprocessing` forbids it because they would outlive a daemon. Ours end with it: they watch a pipe of its.
    """
    config: dict[str, Any] = getattr(multiprocessing.current_process(), "_config", {})
    is_daemon = config.get("daemon")
    if is_daemon:
        config["daemon"] = False
    try:
        yield
    finally:
        if is_daemon:
            config["daemon"] = is_daemon
