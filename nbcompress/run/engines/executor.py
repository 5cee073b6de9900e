"""Trials on any `concurrent.futures.Executor` that the person brings: threads, processes, a cluster's."""

from __future__ import annotations

import os
import pickle
import threading
import time
from concurrent.futures import BrokenExecutor, CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from nbcompress.run.engines.base import EngineError, Mailbox, evaluated, over_limit, terminated
from nbcompress.run.evaluation import failure_of
from nbcompress.run.outcome import Assignment, Evaluate, Outcome, pack
from nbcompress.run.termination import Termination, Terminator
from nbcompress.run.trial import Listener, RunningTrial
from nbcompress.study.goal import Failure, State

SHARED_SEEDS = (
    "The trials run on threads of one process and share its random generators: "
    "seeds are set per trial, but with several jobs equal seeds do not give equal results."
)


@dataclass
class _Handed:
    """One trial on the executor. Whoever takes it out of `ExecutorEngine._handed` first decides its outcome."""

    assignment: Assignment
    limit: float | None
    future: Any = None
    terminator: Terminator | None = None
    started: float | None = None
    reports: dict[str, dict[int, float]] = field(default_factory=dict)


class ExecutorEngine:
    """Submits each trial to `executor`, which stays the person's: it is never shut down.

    A trial that is terminated is given up: its future is cancelled or, when it runs already, its result is ignored. Its
    worker stays busy until the body ends; on threads the body is ended at its next Python instruction.
    """

    is_serial = False

    def __init__(self, executor: Any, name: str = "executor") -> None:
        self.name = name
        self.warnings: list[str] = []
        self._executor = executor
        self.sends = not isinstance(executor, ThreadPoolExecutor)
        self._mailbox = Mailbox()
        self._handed: dict[int, _Handed] = {}
        self._lock = threading.Lock()

    def start(self, evaluate: Evaluate, *, jobs: int, listener: Listener | None) -> None:
        self._listener, self._jobs = listener, jobs
        self._evaluate = evaluate
        self._payload = pack(evaluate) if self.sends else b""
        if not self.sends and jobs > 1:
            self.warnings.append(SHARED_SEEDS)

    def submit(self, assignment: Assignment, limit: float | None) -> None:
        handed = _Handed(assignment, limit)
        self._handed[assignment.number] = handed
        try:
            if not self.sends:
                handed.future = self._executor.submit(self._run_here, handed)
            else:
                packed = pack(assignment)
                handed.future = self._executor.submit(run_packed, self._payload, packed)
                if not isinstance(self._executor, ProcessPoolExecutor):
                    handed.started = time.monotonic()  # few others say truly when a trial starts
        except Exception as error:
            self._take(handed)
            text = f"The executor {self.name} takes no more trials: {type(error).__name__}: {error}"
            raise EngineError(text) from error
        self._when_done(handed)

    def next(self, timeout: float) -> tuple[Assignment, Outcome] | None:
        self._check_limits()
        return self._mailbox.take(timeout, self._listener)

    def terminate(self, number: int, termination: Termination) -> None:
        handed = self._handed.get(number)
        if handed is None or not self._take(handed):
            return
        cancel = getattr(handed.future, "cancel", None)
        if cancel is not None:
            cancel()
        if handed.terminator is not None:
            handed.terminator.terminate(termination)
        seconds = time.monotonic() - handed.started if handed.started is not None else 0.0
        outcome = Outcome(State.INTERRUPTED, reports=handed.reports, seconds=seconds)
        self._mailbox.post(handed.assignment, terminated(outcome, termination))

    def close(self) -> None:
        for number in tuple(self._handed):
            self.terminate(number, Termination(State.INTERRUPTED))

    def _take(self, handed: _Handed) -> bool:
        """Say whether the caller is the first to end this trial."""
        with self._lock:
            if self._handed.get(handed.assignment.number) is not handed:
                return False
            del self._handed[handed.assignment.number]
            return True

    def _when_done(self, handed: _Handed) -> None:
        add = getattr(handed.future, "add_done_callback", None)
        if add is not None:
            add(lambda _future: self._receive(handed))
            return
        # A future with nothing but `result`: a thread waits for it.
        threading.Thread(target=self._receive, args=(handed,), daemon=True).start()

    def _receive(self, handed: _Handed) -> None:
        try:
            result = handed.future.result()
            if isinstance(result, Outcome):
                outcome = result
            else:
                process, outcome = pickle.loads(result)  # noqa: S301 - made by `run_packed`
                self._note_process(process)
        except CancelledError:
            outcome = Outcome(State.INTERRUPTED)
        except BrokenExecutor as error:
            outcome = self._broken(error)
        except BaseException as error:  # noqa: BLE001 - whatever the executor raises in the place of a result
            outcome = Outcome(State.FAILED, failure=failure_of(error, hide_own=False))
        if self._take(handed):
            self._mailbox.post(handed.assignment, outcome)

    def _broken(self, error: BrokenExecutor) -> Outcome:
        """A pool does not say which of its trials killed the worker, so all of them failed.

        To run them again under their numbers could kill every pool that comes after.
        """
        beside = ", or that of a trial beside it" if self._jobs > 1 else ""
        return Outcome(State.FAILED, failure=Failure("Crash", f"The worker of the trial died{beside}: {error}"))

    def _note_process(self, process: int) -> None:
        if process == os.getpid() and self._jobs > 1 and SHARED_SEEDS not in self.warnings:
            self.warnings.append(SHARED_SEEDS)

    def _check_limits(self) -> None:
        now = time.monotonic()
        for handed in tuple(self._handed.values()):
            if handed.limit is None:
                continue
            if handed.started is None:
                running = getattr(handed.future, "running", None)
                if self.sends and running is not None and running():
                    handed.started = now
            elif now - handed.started > handed.limit:
                self.terminate(handed.assignment.number, over_limit(handed.limit))

    def _run_here(self, handed: _Handed) -> Outcome:
        """Run a trial on a thread of this process: nothing is copied, and reports come as they are made."""
        handed.started = time.monotonic()
        handed.terminator = Terminator()
        if self._handed.get(handed.assignment.number) is not handed:
            handed.terminator.terminate(Termination(State.INTERRUPTED))  # given up while it waited for its thread

        def listen(number: int, step: int, values: Any) -> None:
            for metric, value in values.items():
                handed.reports.setdefault(metric, {})[step] = value
            if self._handed.get(number) is handed:
                self._mailbox.post_report(number, step, dict(values))

        with RunningTrial(handed.assignment, terminator=handed.terminator, listener=listen).entered():
            return evaluated(self._evaluate, handed.assignment)


def run_packed(payload: bytes, assignment: bytes) -> bytes:
    """Run one assignment wherever the executor has brought it; return the process id and the outcome."""
    evaluate = pickle.loads(payload)  # noqa: S301 - sent by the notebook that owns the executor
    outcome = evaluated(evaluate, pickle.loads(assignment))  # noqa: S301 - as above
    try:
        return bytes(cloudpickle.dumps((os.getpid(), outcome)))
    except Exception as error:  # noqa: BLE001 - a kept value that cannot be pickled is the trial's failure
        text = f"What the trial keeps cannot be sent back to the notebook: {error}"
        lost = Outcome(State.FAILED, outcome.values, outcome.reports, Failure("TransportError", text))
        return bytes(cloudpickle.dumps((os.getpid(), lost)))
