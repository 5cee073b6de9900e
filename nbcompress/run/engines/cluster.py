"""Trials on the workers of a cluster or a pool: what Ray, Dask and executors share."""

from __future__ import annotations

import pickle
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from nbcompress.run.engines.base import EngineError, ResultQueue, terminated
from nbcompress.run.engines.data import BlobFiles, pack_parts
from nbcompress.run.engines.trial_process import Listen
from nbcompress.run.engines.worker import Site, TrialRequest
from nbcompress.run.evaluation import failure_of
from nbcompress.run.outcome import Assignment, Evaluate, Outcome, pack
from nbcompress.run.termination import Termination
from nbcompress.run.trial import Listener
from nbcompress.study.goal import Failure, State

LOST = "WorkerLost"
# How long `close` waits until the workers have let go of the trials that were cut.
_CLOSE_SECONDS = 5.0


class WorkerLost(Exception):
    """The worker of a trial is gone, through no fault of the trial: the trial has a process of its own."""


class Backend(Protocol):
    """A cluster or a pool. Its methods may be called from several threads at a time.

    Attributes:
        warnings: Sentences for the user.
    """

    warnings: list[str]

    def connect(self, jobs: int, n_bytes: int) -> int | None:
        """Connect to the cluster or start one, and return the number of torch threads for each trial.

        Args:
            jobs: How many trials run at a time.
            n_bytes: How much data will be shared.

        Raises:
            EngineError: There is no such cluster, or it cannot run the trials.
        """

    def share(self, blobs: Mapping[str, Any]) -> None:
        """Send those of the blobs that are not there, or not there any more, for all trials of the search."""

    def refusal(self) -> str:
        """Return why no more trials can run, or an empty string."""

    def run(self, request: TrialRequest, listen: Listen) -> bytes:
        """Run a trial on a worker, wait for its end, and return its pickled `Outcome`.

        Raises:
            WorkerLost: The worker was lost.
        """

    def worker_of(self, key: str) -> str:
        """Return the host and the process of the worker that runs an attempt; empty if it is not known."""

    def cut(self, key: str) -> None:
        """End an attempt and free its worker. One that has ended is no error."""

    def close(self) -> None:
        """Stop what `connect` has started; leave the rest as it was."""


@dataclass
class _Attempts:
    """One trial on the cluster. Whoever takes it out of `ClusterEngine._submitted` decides its outcome."""

    assignment: Assignment
    limit: float | None
    key: str = ""
    thread: threading.Thread | None = None
    started: float = field(default_factory=time.monotonic)
    reports: dict[str, dict[int, float]] = field(default_factory=dict)


class ClusterEngine:
    """Runs each trial in a process of its own on a worker of `backend`; a thread per trial waits for it.

    Args:
        backend: The cluster or the pool.
        name: As the user wrote it.
        retries: How often a trial whose worker was lost is run again.
        memory: The bytes that one trial may use, or None.
    """

    is_serial = False
    sends = True

    def __init__(self, backend: Backend, name: str, retries: int = 1, memory: int | None = None) -> None:
        self.name = name
        self._backend, self._retries, self._memory = backend, retries, memory
        self._own_warnings: list[str] = []
        self._results = ResultQueue()
        self._submitted: dict[int, _Attempts] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        # The data goes again if a part of it was lost with a worker; a file of it takes no memory of the kernel.
        self._files = BlobFiles()
        self._is_prepared = self._is_closed = False

    @property
    def warnings(self) -> list[str]:
        return [*self._own_warnings, *self._backend.warnings]

    def prepare(self, evaluate: Evaluate, jobs: int) -> None:
        parts = pack_parts(evaluate)
        self._files.add(parts.blobs)
        self._skeleton, self._digests = parts.skeleton, tuple(parts.blobs)
        try:
            self._site = Site.here(self._backend.connect(jobs, parts.n_bytes))
        except BaseException:
            self.close()
            raise
        self._is_prepared = True

    def start(self, evaluate: Evaluate, *, jobs: int, listener: Listener | None) -> None:
        self._listener = listener
        if not self._is_prepared:
            self.prepare(evaluate, jobs)
        try:
            self._backend.share(self._files.contents())
        except BaseException:
            self.close()
            raise

    def submit(self, assignment: Assignment, limit: float | None) -> None:
        refusal = "it is closed" if self._is_closed else self._backend.refusal()
        if refusal:
            raise EngineError(f"The engine {self.name} takes no more trials: {refusal}")
        attempts = _Attempts(assignment, limit)
        self._submitted[assignment.number] = attempts
        name = f"nbcompress-trial-{assignment.number}"
        attempts.thread = threading.Thread(target=self._watch, args=(attempts,), name=name, daemon=True)
        self._start(attempts.thread)

    def next(self, timeout: float) -> tuple[Assignment, Outcome] | None:
        return self._results.take(timeout, self._listener)

    def terminate(self, number: int, termination: Termination) -> None:
        attempts = self._submitted.get(number)
        if attempts is None or not self._claim(attempts):
            return
        # In a thread of its own, since a cluster that does not answer must not hold up an interrupt.
        self._start(threading.Thread(target=self._cut, args=(attempts.key,), daemon=True))
        seconds = time.monotonic() - attempts.started
        worker = self._backend.worker_of(attempts.key)
        outcome = Outcome(State.INTERRUPTED, reports=attempts.reports, seconds=seconds, worker=worker)
        self._results.post(attempts.assignment, terminated(outcome, termination))

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for number in tuple(self._submitted):
            self.terminate(number, Termination(State.INTERRUPTED))
        end = time.monotonic() + _CLOSE_SECONDS
        for thread in tuple(self._threads):
            thread.join(max(0.0, end - time.monotonic()))
        self._backend.close()
        self._files.close()

    def _start(self, thread: threading.Thread) -> None:
        self._threads = [started for started in self._threads if started.is_alive()]
        thread.start()
        self._threads.append(thread)

    def _claim(self, attempts: _Attempts) -> bool:
        """Say whether the caller is the first to end this trial."""
        with self._lock:
            if self._submitted.get(attempts.assignment.number) is not attempts:
                return False
            del self._submitted[attempts.assignment.number]
            return True

    def _is_wanted(self, attempts: _Attempts) -> bool:
        return self._submitted.get(attempts.assignment.number) is attempts

    def _cut(self, key: str) -> None:
        try:
            self._backend.cut(key)
        except Exception as error:  # noqa: BLE001 - a cluster that is gone has no trial any more, either
            self._own_warnings.append(f"A trial could not be ended on its worker: {type(error).__name__}: {error}")

    def _watch(self, attempts: _Attempts) -> None:
        try:
            outcome = self._outcome(attempts)
        except BaseException as error:  # noqa: BLE001 - whatever a cluster raises, the trial must come back
            outcome = Outcome(State.FAILED, reports=attempts.reports, failure=failure_of(error, hide_own=False))
        if self._claim(attempts):
            self._results.post(attempts.assignment, outcome)

    def _outcome(self, attempts: _Attempts) -> Outcome:
        assignment = attempts.assignment

        def listen(step: int, values: Mapping[str, float]) -> None:
            for metric, value in values.items():
                attempts.reports.setdefault(metric, {})[step] = value
            if self._is_wanted(attempts):
                self._results.post_report(assignment.number, step, dict(values))

        packed, lost = pack(assignment), ""
        for _ in range(1 + self._retries):
            with self._lock:
                if not self._is_wanted(attempts):
                    break
                attempts.key = f"nbcompress-trial-{assignment.number}-{uuid.uuid4().hex}"
            attempts.reports.clear()
            request = TrialRequest(
                attempts.key,
                assignment.number,
                packed,
                self._skeleton,
                self._digests,
                attempts.limit,
                self._memory,
                self._site,
                self._files.paths(self._digests),
            )
            try:
                outcome: Outcome = pickle.loads(self._backend.run(request, listen))  # noqa: S301 - sent by our own worker
                return outcome
            except WorkerLost as error:
                lost = str(error)
                if self._is_wanted(attempts):
                    self._backend.share(self._files.contents())
        seconds = time.monotonic() - attempts.started
        times = "" if self._retries == 0 else f" {1 + self._retries} times"
        failure = Failure(LOST, f"The worker of the trial was lost{times}: {lost}")
        return Outcome(State.FAILED, reports=attempts.reports, failure=failure, seconds=seconds)
