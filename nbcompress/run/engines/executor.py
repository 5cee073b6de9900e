"""Trials on the threads of a `ThreadPoolExecutor` of the user."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from nbcompress.run.engines.base import EngineError, ResultQueue, evaluated, over_limit, terminated
from nbcompress.run.evaluation import failure_of
from nbcompress.run.outcome import Assignment, Evaluate, Outcome
from nbcompress.run.termination import Termination, Terminator
from nbcompress.run.trial import Listener, RunningTrial
from nbcompress.study.goal import State
from nbcompress.study.processes import place

SHARED_SEEDS = (
    "The trials run on threads of one process and share its random generators: "
    "seeds are set per trial, but with several jobs equal seeds do not give equal results."
)


@dataclass
class _Submitted:
    """One trial on the executor. Whoever takes it out of `ThreadsEngine._submitted` first decides its outcome."""

    assignment: Assignment
    limit: float | None
    future: Any = None
    terminator: Terminator | None = None
    started: float | None = None
    reports: dict[str, dict[int, float]] = field(default_factory=dict)


class ThreadsEngine:
    """Submits each trial to `executor`, which belongs to the user and is never shut down.

    A trial that is terminated is abandoned: its future is cancelled or, if it runs already, its result is ignored. The
    body ends at its next Python instruction, and then its thread is free again.
    """

    is_serial = False
    sends = False

    def __init__(self, executor: ThreadPoolExecutor, name: str = "executor") -> None:
        self.name = name
        self.warnings: list[str] = []
        self._executor = executor
        self._results = ResultQueue()
        self._submitted: dict[int, _Submitted] = {}
        self._lock = threading.Lock()

    def prepare(self, evaluate: Evaluate, jobs: int) -> None:
        pass

    def start(self, evaluate: Evaluate, *, jobs: int, listener: Listener | None) -> None:
        self._listener, self._evaluate = listener, evaluate
        if jobs > 1:
            self.warnings.append(SHARED_SEEDS)

    def submit(self, assignment: Assignment, limit: float | None) -> None:
        submitted = _Submitted(assignment, limit)
        self._submitted[assignment.number] = submitted
        try:
            submitted.future = self._executor.submit(self._run_here, submitted)
        except Exception as error:
            self._claim(submitted)
            text = f"The executor {self.name} takes no more trials: {type(error).__name__}: {error}"
            raise EngineError(text) from error
        submitted.future.add_done_callback(lambda _future: self._receive(submitted))

    def next(self, timeout: float) -> tuple[Assignment, Outcome] | None:
        self._check_limits()
        return self._results.take(timeout, self._listener)

    def terminate(self, number: int, termination: Termination) -> None:
        submitted = self._submitted.get(number)
        if submitted is None or not self._claim(submitted):
            return
        if submitted.future is not None:
            submitted.future.cancel()
        if submitted.terminator is not None:
            submitted.terminator.terminate(termination)
        seconds = time.monotonic() - submitted.started if submitted.started is not None else 0.0
        outcome = Outcome(State.INTERRUPTED, reports=submitted.reports, seconds=seconds, worker=place())
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

    def _receive(self, submitted: _Submitted) -> None:
        try:
            outcome: Outcome = submitted.future.result()
        except CancelledError:
            outcome = Outcome(State.INTERRUPTED)
        except BaseException as error:  # noqa: BLE001 - whatever the executor raises in the place of a result
            outcome = Outcome(State.FAILED, failure=failure_of(error, hide_own=False))
        if self._claim(submitted):
            self._results.post(submitted.assignment, outcome)

    def _check_limits(self) -> None:
        now = time.monotonic()
        for submitted in tuple(self._submitted.values()):
            if submitted.limit is None or submitted.started is None:
                continue
            if now - submitted.started > submitted.limit:
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
            return replace(evaluated(self._evaluate, submitted.assignment), worker=place())
