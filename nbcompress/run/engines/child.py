"""The child process of the process engine: it runs one trial and ends."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

import cloudpickle

from nbcompress.run.engines.base import evaluated, with_memory_limit
from nbcompress.run.engines.data import load_parts
from nbcompress.run.memory import limit_own_memory
from nbcompress.run.outcome import Outcome
from nbcompress.run.trial import RunningTrial
from nbcompress.study.goal import Failure, State

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ChildEnvironment:
    """Settings of the kernel that the process of a trial takes over.

    Attributes:
        variables: The environment variables as they are now; the fork server has those of its own start.
        threads: The number of threads of torch, or None for its default.
        start_method: How `multiprocessing` starts processes, such as those of a `DataLoader`; None is its default.
        folder: The working directory; empty for the one that the process starts in.
        path: Where modules are looked for; empty for the places of the process itself.
    """

    variables: Mapping[str, str]
    threads: int | None
    start_method: str | None
    folder: str = ""
    path: tuple[str, ...] = ()

    def apply(self) -> None:
        os.environ.clear()
        os.environ.update(self.variables)
        if self.folder:
            with contextlib.suppress(OSError):
                os.chdir(self.folder)
        sys.path[:] = [*self.path, *(entry for entry in sys.path if entry not in self.path)]
        # Otherwise the method by which this child was started would be the default for the user's processes.
        multiprocessing.set_start_method(self.start_method, force=True)


def run_child(connection: Connection, lifeline: Connection, environment: ChildEnvironment) -> None:
    """Receive an evaluator and an assignment, run it, and send its reports and its outcome.

    Args:
        connection: Receives one request: hash of the evaluator, paths of blobs, pickled assignment, limit of memory.
            Sends the kind of a message and, for a report and an outcome, its pickled content.
        lifeline: Carries no data. Its other end closes when the kernel dies, and then this process ends, too.
        environment: Settings of the kernel.
    """
    # Collecting garbage would otherwise visit all modules that the fork server has imported, and copy their pages.
    gc.freeze()
    _die_with_the_kernel(lifeline)
    environment.apply()
    lock = threading.Lock()

    def send(kind: bytes, content: bytes | None = None) -> None:
        with lock:
            connection.send_bytes(kind)
            if content is not None:
                connection.send_bytes(content)

    outcome = _outcome(connection, send, environment.threads)
    send(b"outcome", packed_outcome(outcome))
    connection.close()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    # Do not wait for threads and processes that the body left behind.
    os._exit(0)


def packed_outcome(outcome: Outcome) -> bytes:
    """Pickle an outcome. If what the trial keeps cannot be pickled, that is the trial's failure."""
    try:
        return bytes(cloudpickle.dumps(outcome))
    except Exception as error:  # noqa: BLE001 - whatever a kept value raises
        text = f"What the trial keeps cannot be sent back to the notebook: {error}"
        failure = Failure("TransportError", text)
        return bytes(cloudpickle.dumps(Outcome(State.FAILED, outcome.values, outcome.reports, failure)))


def _outcome(connection: Connection, send: Callable[..., None], threads: int | None) -> Outcome:
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
    send(b"started")

    def listen(_number: int, step: int, values: Mapping[str, float]) -> None:
        send(b"report", pickle.dumps((step, dict(values))))

    if memory is not None:
        limit_own_memory(memory)
    with RunningTrial(assignment, listener=listen).entered():
        outcome = evaluated(evaluate, assignment)
    return outcome if memory is None else with_memory_limit(outcome, memory)


def _die_with_the_kernel(lifeline: Connection) -> None:
    """End this process, and the group of those it starts, when the kernel is gone; leave interrupts to the kernel."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    if sys.platform == "linux":
        # The thread below cannot run while a C extension holds the GIL; the signal of the system always works.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="nbcompress-lifeline", daemon=True).start()
