"""Trials on a `concurrent.futures.Executor` of the user: threads, processes, or a cluster."""

from __future__ import annotations

import os
import pickle
import threading
import time
from concurrent.futures import BrokenExecutor, CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from nbcompress.run.engines.base import EngineError, ResultQueue, evaluated, over_limit, terminated
from nbcompress.run.engines.data import check_sendable
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
class _Submitted:
    """One trial on the executor. Whoever takes it out of `ExecutorEngine._submitted` first decides its outcome."""

    assignment: Assignment
    limit: float | None
    future: Any = None
    terminator: Terminator | None = None
    started: float | None = None
    reports: dict[str, dict[int, float]] = field(default_factory=dict)


class ExecutorEngine:
    """Submits each trial to `executor`, which belongs to the user and is never shut down.

    A trial that is terminated is abandoned: its future is cancelled or, if it runs already, its result is ignored. Its
    worker stays busy until the body ends; on threads the body ends at its next Python instruction.
    """

    is_serial = False

    def __init__(self, executor: Any, name: str = "executor") -> None:
        self.name = name
        self.warnings: list[str] = []
        self._executor = executor
        self.sends = not isinstance(executor, ThreadPoolExecutor)
        self._results = ResultQueue()
        self._submitted: dict[int, _Submitted] = {}
        self._lock = threading.Lock()

    def prepare(self, evaluate: Evaluate, jobs: int) -> None:  # noqa: ARG002
        if self.sends:
            check_sendable(evaluate)

    def start(self, evaluate: Evaluate, *, jobs: int, listener: Listener | None) -> None:
        self._listener, self._jobs = listener, jobs
        self._evaluate = evaluate
        self._payload = pack(evaluate) if self.sends else b""
        if not self.sends and jobs > 1:
            self.warnings.append(SHARED_SEEDS)

    def submit(self, assignment: Assignment, limit: float | None) -> None:
        submitted = _Submitted(assignment, limit)
        self._submitted[assignment.number] = submitted
        try:
            if not self.sends:
                submitted.future = self._executor.submit(self._run_here, submitted)
            else:
                packed = pack(assignment)
                submitted.future = self._executor.submit(run_packed, self._payload, packed)
                if not isinstance(self._executor, ProcessPoolExecutor):
                    submitted.started = time.monotonic()  # other executors rarely tell when a trial starts
        except Exception as error:
            self._claim(submitted)
            text = f"The executor {self.name} takes no more trials: {type(error).__name__}: {error}"
            raise EngineError(text) from error
        self._when_done(submitted)

    def next(self, timeout: float) -> tuple[Assignment, Outcome] | None:
        self._check_limits()
        return self._results.take(timeout, self._listener)

    def terminate(self, number: int, termination: Termination) -> None:
        submitted = self._submitted.get(number)
        if submitted is None or not self._claim(submitted):
            return
        cancel = getattr(submitted.future, "cancel", None)
        if cancel is not None:
            cancel()
        if submitted.terminator is not None:
            submitted.terminator.terminate(termination)
        seconds = time.monotonic() - submitted.started if submitted.started is not None else 0.0
        outcome = Outcome(State.INTERRUPTED, reports=submitted.reports, seconds=seconds)
        self._results.post(submitted.assignment, terminated(outcome, termination))

    def close(self) -> None:
        for number in tuple(self._submitted):
            self.terminate(number, Termination(State.INTERRUPTED))

    def _claim(self, submitted: _Submitted) -> bool:
        """Say whether the caller is the first to end this trial."""
        with self._lock:
            if self._submitted.get(submitted.assignment.number) is not submitted:
                return False
            del self._submitted[submitted.assignment.number]
            return True

    def _when_done(self, submitted: _Submitted) -> None:
        add = getattr(submitted.future, "add_done_callback", None)
        if add is not None:
            add(lambda _future: self._receive(submitted))
            return
        # A future with nothing but `result`: a thread waits for it.
        threading.Thread(target=self._receive, args=(submitted,), daemon=True).start()

    def _receive(self, submitted: _Submitted) -> None:
        try:
            result = submitted.future.result()
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
        if self._claim(submitted):
            self._results.post(submitted.assignment, outcome)

    def _broken(self, error: BrokenExecutor) -> Outcome:
        """Return a failure for every trial of a broken pool, which does not tell which trial killed the worker.

        They are not run again under their numbers, because that could break every later pool.
        """
        beside = ", or that of a trial beside it" if self._jobs > 1 else ""
        return Outcome(State.FAILED, failure=Failure("Crash", f"The worker of the trial died{beside}: {error}"))

    def _note_process(self, process: int) -> None:
        if process == os.getpid() and self._jobs > 1 and SHARED_SEEDS not in self.warnings:
            self.warnings.append(SHARED_SEEDS)

    def _check_limits(self) -> None:
        now = time.monotonic()
        for submitted in tuple(self._submitted.values()):
            if submitted.limit is None:
                continue
            if submitted.started is None:
                running = getattr(submitted.future, "running", None)
                if self.sends and running is not None and running():
                    submitted.started = now
            elif now - submitted.started > submitted.limit:
                self.terminate(submitted.assignment.number, over_limit(submitted.limit))

    def _run_here(self, submitted: _Submitted) -> Outcome:
        """Run a trial on a thread of this process: nothing is copied, and reports come as they are made."""
        submitted.started = time.monotonic()
        submitted.terminator = Terminator()
        if self._submitted.get(submitted.assignment.number) is not submitted:
            submitted.terminator.terminate(Termination(State.INTERRUPTED))  # terminated while it waited for its thread

        def listen(number: int, step: int, values: Any) -> None:
            for metric, value in values.items():
                submitted.reports.setdefault(metric, {})[step] = value
            if self._submitted.get(number) is submitted:
                self._results.post_report(number, step, dict(values))

        with RunningTrial(submitted.assignment, terminator=submitted.terminator, listener=listen).entered():
            return evaluated(self._evaluate, submitted.assignment)


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
