"""The other end of the process engine: runs one trial in a process of its own, then ends."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from nbcompress.run.engines.base import evaluated
from nbcompress.run.outcome import Outcome
from nbcompress.run.trial import RunningTrial
from nbcompress.study.goal import Failure, State

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Surroundings:
    """What a trial's process takes over from the kernel.

    Attributes:
        environment: The environment variables as they are now; the fork server has those of its own start.
        threads: How many threads torch may use; None leaves it alone.
        start_method: How `multiprocessing` starts processes, those of a `DataLoader` for instance; None is its
            default.
    """

    environment: Mapping[str, str]
    threads: int | None
    start_method: str | None

    def take_over(self) -> None:
        os.environ.clear()
        os.environ.update(self.environment)
        # A child inherits the method by which it was started itself, and that is our business alone.
        multiprocessing.set_start_method(self.start_method, force=True)


def run_child(connection: Connection, lifeline: Connection, surroundings: Surroundings) -> None:
    """Receive an evaluator and an assignment, run it, send what it reports and how it ends.

    Args:
        connection: Two byte strings come (evaluator, assignment), pairs of kind and value go.
        lifeline: Never carries anything. Its other end closes when the kernel dies, and then this process ends too.
        surroundings: What to take over from the kernel.
    """
    _die_with_the_kernel(lifeline)
    surroundings.take_over()
    lock = threading.Lock()

    def send(kind: str, value: Any) -> None:
        data = cloudpickle.dumps((kind, value))
        with lock:
            connection.send_bytes(data)

    outcome = _outcome(connection, send, surroundings.threads)
    try:
        send("outcome", outcome)
    except Exception as error:  # noqa: BLE001 - a kept value that cannot be pickled is the trial's failure, whatever it raises
        text = f"What the trial keeps cannot be sent back to the notebook: {error}"
        send("outcome", Outcome(State.FAILED, outcome.values, outcome.reports, Failure("TransportError", text)))
    connection.close()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    # Threads and processes that the body left behind must not keep this one.
    os._exit(0)


def _outcome(connection: Connection, send: Any, threads: int | None) -> Outcome:
    try:
        evaluate = pickle.loads(connection.recv_bytes())  # noqa: S301 - sent by our own parent process
        assignment = pickle.loads(connection.recv_bytes())  # noqa: S301 - as above
    except Exception as error:  # noqa: BLE001 - an import that fails here, say, is reported like any failure
        text = f"What the trial needs could not be rebuilt in its process: {type(error).__name__}: {error}"
        return Outcome(State.FAILED, failure=Failure("TransportError", text))
    torch = sys.modules.get("torch")
    if threads is not None and torch is not None:
        torch.set_num_threads(threads)
    send("started", None)
    trial = RunningTrial(assignment, listener=lambda _number, step, values: send("report", (step, dict(values))))
    with trial.entered():
        return evaluated(evaluate, assignment)


def _die_with_the_kernel(lifeline: Connection) -> None:
    """End this process, and the group of those it starts, when the kernel is gone; leave interrupts to the kernel."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    if sys.platform == "linux":
        # The thread below cannot run while a C extension holds the interpreter's lock; the system always can.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="nbcompress-lifeline", daemon=True).start()
