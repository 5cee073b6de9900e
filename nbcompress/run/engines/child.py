"""The child process of the process engine: it runs one trial and ends, and nothing that the trial started survives it.

On Linux these are two processes: one runs the trial, and the other one watches it. The system gives a process whose
parent has ended to the watcher, also if it has left its session, so the watcher knows all that a trial has started.
When the trial ends, is cut, or the kernel dies, the watcher ends them, and then itself in the way that the trial ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import NoReturn

import cloudpickle

from nbcompress.run.engines.base import evaluated, with_memory_limit
from nbcompress.run.engines.data import load_parts
from nbcompress.run.memory import limit_own_memory, process_tree
from nbcompress.run.outcome import Outcome
from nbcompress.run.trial import RunningTrial
from nbcompress.study.goal import Failure, State
from nbcompress.study.processes import place

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# Whether a trial has a process that watches it. The id of the trial's process is then that of the watcher.
IS_WATCHED = sys.platform == "linux"


@dataclass(frozen=True)
class ChildEnvironment:
    """Settings of the kernel that the process of a trial takes over.

    Attributes:
        variables: The environment variables as they are now; the fork server has those of its own start.
        threads: The number of threads of torch, or None for its default.
        start_method: How `multiprocessing` starts processes, such as those of a `DataLoader`; None is its default.
        folder: The working directory; empty for the one that the process starts in.
        path: Where modules are looked for; empty for the places of the process itself.
        worker: The host and the process of the worker that starts the trial; empty for the trial's own process.
    """

    variables: Mapping[str, str]
    threads: int | None
    start_method: str | None
    folder: str = ""
    path: tuple[str, ...] = ()
    worker: str = ""

    def apply(self) -> None:
        os.environ.clear()
        os.environ.update(self.variables)
        if self.folder:
            with contextlib.suppress(OSError):
                os.chdir(self.folder)
        sys.path[:] = [*self.path, *(entry for entry in sys.path if entry not in self.path)]
        # Otherwise the method by which this child was started would be the default for the user's processes.
        multiprocessing.set_start_method(self.start_method, force=True)


def run_child(
    connection: Connection, lifeline: Connection, output: Connection | None, environment: ChildEnvironment
) -> None:
    """Receive an evaluator and an assignment, run it, and send its reports and its outcome.

    Args:
        connection: Receives one request: hash of the evaluator, paths of blobs, pickled assignment, limit of memory.
            Sends the kind of a message and, for a report and an outcome, its pickled content.
        lifeline: Carries no data. Its other end closes when the kernel dies, and then this process ends, too.
        output: Takes what is written to the descriptors 1 and 2, by C code or programs that the trial starts, and
            where the trial was in its code if it crashes. None leaves the descriptors as they are.
        environment: Settings of the kernel.
    """
    # Collecting garbage would otherwise visit all modules that the fork server has imported, and copy their pages.
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # interrupts are left to the kernel
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    if IS_WATCHED:
        _fork_with_watcher(lifeline, [connection, output])
    else:
        _die_with_the_kernel(lifeline)
    if output is not None:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
        faulthandler.enable(output.fileno())
    environment.apply()
    lock = threading.Lock()

    def send(kind: bytes, content: bytes | None = None) -> None:
        with lock:
            connection.send_bytes(kind)
            if content is not None:
                connection.send_bytes(content)

    worker = environment.worker or place()
    outcome = packed_outcome(replace(_outcome(connection, send, environment.threads, worker), worker=worker))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # there may be none, or the trial has closed it
            stream.flush()
    send(b"outcome", outcome)
    connection.close()
    # Do not wait for threads and processes that the body left behind.
    os._exit(0)


def packed_outcome(outcome: Outcome) -> bytes:
    """Pickle an outcome. If what the trial keeps cannot be pickled, that is the trial's failure."""
    try:
        return bytes(cloudpickle.dumps(outcome))
    except Exception as error:  # noqa: BLE001 - whatever a kept value raises
        text = f"What the trial keeps cannot be sent back to the notebook: {error}"
        failure = Failure("TransportError", text)
        failed = Outcome(State.FAILED, outcome.values, outcome.reports, failure, worker=outcome.worker)
        return bytes(cloudpickle.dumps(failed))


def _outcome(connection: Connection, send: Callable[..., None], threads: int | None, worker: str) -> Outcome:
    skeleton, paths, packed, memory = pickle.loads(connection.recv_bytes())  # noqa: S301 - sent by our own parent process
    try:
        evaluate = load_parts(skeleton, paths)
        assignment = pickle.loads(packed)  # noqa: S301 - as above
    except Exception as error:  # noqa: BLE001 - an import that fails here, say, is reported like any failure
        text = f"What the trial needs could not be rebuilt in its process: {type(error).__name__}: {error}"
        return Outcome(State.FAILED, failure=Failure("TransportError", text))
    torch = sys.modules.get("torch")
    if threads is not None and torch is not None:
        torch.set_num_threads(threads)
    send(b"started", worker.encode())

    def listen(_number: int, step: int, values: Mapping[str, float]) -> None:
        send(b"report", pickle.dumps((step, dict(values))))

    if memory is not None:
        limit_own_memory(memory)
    with RunningTrial(assignment, listener=listen).entered():
        outcome = evaluated(evaluate, assignment)
    return outcome if memory is None else with_memory_limit(outcome, memory)


def _fork_with_watcher(lifeline: Connection, closed: Sequence[Connection | None]) -> None:
    """Fork; the new process returns and runs the trial, and this one watches it and never returns.

    Args:
        lifeline: See `run_child`.
        closed: Connections that the watcher has no use for.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    is_cut = threading.Event()
    waking, waked = os.pipe()
    os.set_blocking(waked, False)
    signal.set_wakeup_fd(waked, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: is_cut.set())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    watcher = os.getpid()
    trial = os.fork()
    if trial == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(waking)
        os.close(waked)
        os.setpgrp()
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != watcher:
            os._exit(1)
        return
    try:
        for connection in closed:
            if connection is not None:
                connection.close()
        _end_like(_watched(trial, is_cut, waking, lifeline))
    finally:
        os._exit(1)


def _watched(trial: int, is_cut: threading.Event, waking: int, lifeline: Connection) -> int | None:
    """Wait for the end of the trial, of the kernel, or for `is_cut`; end what is left; return the trial's status."""
    status = None
    while status is None and not is_cut.is_set():
        ready = wait([waking, lifeline])
        if lifeline in ready:
            break
        os.read(waking, 4096)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                status = ended[1] if ended[0] == trial else status
    while True:
        for process in process_tree(os.getpid())[1:]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        try:
            ended = os.waitpid(-1, 0)
        except ChildProcessError:  # there are none any more
            return status
        status = ended[1] if ended[0] == trial else status


def _end_like(status: int | None) -> NoReturn:
    """End this process with the exit code or by the signal of another one."""
    code = 1 if status is None else os.waitstatus_to_exitcode(status)
    if code < 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the other one has written the memory that is of interest
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(abs(code))


def _die_with_the_kernel(lifeline: Connection) -> None:
    """End this process, and the group of those it starts, when the kernel is gone."""

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="nbcompress-lifeline", daemon=True).start()
