"""Trials in the kernel itself, one at a time, in the thread that runs the loop."""

from __future__ import annotations

import math
import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import psutil

from nbcompress.run.engines.base import evaluated, over_limit, terminated
from nbcompress.run.memory import children_of
from nbcompress.run.outcome import Assignment, Evaluate, Outcome
from nbcompress.run.settings import is_shared_with_cells
from nbcompress.run.termination import Termination, Terminator
from nbcompress.run.trial import Listener, RunningTrial
from nbcompress.study.processes import place

# The user is warned if a trial takes more than this many times its limit.
FAR_OVER = 2.0
LATE = (
    "A trial ran far over its limit: inline, a call that does not come back to Python, such as a sleep or a fit, "
    "ends by itself first. The engine process ends it in time."
)
LEFT = (
    "A trial left a {kind} running: {names}. Inline it goes on beside later trials and the notebook. End it in the "
    "trial, or use the engine process, which ends everything that a trial leaves."
)


# The beginnings of the modules of threads that stay on purpose, and of the names of our own.
_STAYING_MODULES, _OWN_NAME = ("tqdm", "ipykernel", "zmq", "tornado"), "nbcompress"


class Leftovers:
    """What a trial leaves running: threads and processes that were not there when this was made."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._processes = set(_child_processes())

    def remarks(self) -> list[str]:
        """Return a sentence for the threads and one for the processes that are new and still run."""
        threads = sorted({_name(thread) for thread in threading.enumerate() if self._is_left(thread)})
        processes = sorted(
            {name for pid in _child_processes() if pid not in self._processes and (name := _program(pid))}
        )
        return [
            LEFT.format(kind=kind, names=", ".join(names))
            for kind, names in (("thread", threads), ("process", processes))
            if names
        ]

    def _is_left(self, thread: threading.Thread) -> bool:
        if thread in self._threads or thread.name.startswith(_OWN_NAME):
            return False
        # A thread that C code has started, such as one of autograd, is a stand-in without a life of its own.
        is_foreign = isinstance(thread, threading._DummyThread)
        return not is_foreign and type(thread).__module__.partition(".")[0] not in _STAYING_MODULES


def _name(thread: threading.Thread) -> str:
    """Return the name of a thread without the number that Python gives it, so that all trials have one sentence."""
    match = re.fullmatch(r"Thread-\d+(?: \((.*)\))?", thread.name)
    return re.sub(r"\d+$", "", thread.name) if match is None else match[1] or type(thread).__name__


def _child_processes() -> list[int]:
    """Return the processes that this thread has started and that have not been waited for.

    Those of other threads become children of the main thread when the other thread ends.
    """
    if hasattr(os, "waitid"):
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # there are none, which this call finds out much sooner than the next one
            return []
    return children_of(os.getpid(), threading.get_native_id())


def _program(pid: int) -> str:
    """Return the name of the program of a process; empty if it has ended, or serves `multiprocessing`."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        words = process.cmdline()
    except psutil.Error:
        return ""
    is_server = any("resource_tracker" in word or "forkserver" in word for word in words)
    return "" if is_server or not words else Path(words[0]).name


class InlineEngine:
    """Runs each trial when `next` is called. A body is ended at its next Python instruction.

    What a trial leaves running stays, and is named.
    """

    name = "inline"
    is_serial = True
    sends = False

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._waiting: tuple[Assignment, Terminator] | None = None
        self._limit = math.inf

    def prepare(self, evaluate: Evaluate, jobs: int) -> None:
        pass

    def start(self, evaluate: Evaluate, *, jobs: int, listener: Listener | None) -> None:  # noqa: ARG002
        self._evaluate, self._listener = evaluate, listener

    def submit(self, assignment: Assignment, limit: float | None) -> None:
        self._waiting = assignment, Terminator(None if limit is None else (limit, over_limit(limit)))
        self._limit = math.inf if limit is None else limit

    def next(self, timeout: float) -> tuple[Assignment, Outcome] | None:  # noqa: ARG002
        if self._waiting is None:
            return None
        assignment, terminator = self._waiting
        # Beside other cells it is not known who has started what.
        leftovers = None if is_shared_with_cells() else Leftovers()
        try:
            with RunningTrial(assignment, terminator=terminator, listener=self._listener).entered():
                outcome = evaluated(self._evaluate, assignment)
        finally:
            self._waiting = None
        if leftovers is not None and (left := leftovers.remarks()):
            outcome = replace(outcome, remarks=(*outcome.remarks, *left))
        if outcome.seconds > FAR_OVER * self._limit + 1.0:
            self.warnings.append(LATE)
        outcome = replace(outcome.timed(), worker=place())
        return assignment, terminated(outcome, terminator.requested) if terminator.requested else outcome

    def terminate(self, number: int, termination: Termination) -> None:
        waiting = self._waiting
        if waiting is not None and waiting[0].number == number:
            waiting[1].terminate(termination)

    def close(self) -> None:
        self._waiting = None
