"""The protocol of an engine: it takes assignments and returns outcomes."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from nbcompress.errors import SearchError
from nbcompress.run.evaluation import failure_of
from nbcompress.run.memory import size_text
from nbcompress.run.options import described
from nbcompress.run.outcome import Assignment, Evaluate, Outcome, TrialEnded
from nbcompress.run.termination import Termination
from nbcompress.run.trial import Listener
from nbcompress.study.goal import Failure, State

# The kind of the failure of a trial that runs over `--trial-memory`.
MEMORY = "Memory"


class EngineError(SearchError):
    """The engine takes no more work, such as an executor that was shut down. The running trials are interrupted."""


class Engine(Protocol):
    """Runs assignments somewhere.

    An implementation guarantees: each submitted assignment comes back from `next` exactly once, with an outcome,
    whatever the body does; `terminate` may be called from any thread, and the outcome of a trial that was terminated
    has the requested state; `close` ends everything that the engine itself started and returns.

    Attributes:
        name: As the user wrote it.
        is_serial: It runs one trial at a time, in this thread.
        sends: It pickles the evaluator for other processes.
    """

    name: str
    is_serial: bool
    sends: bool

    @property
    def warnings(self) -> Sequence[str]:
        """Sentences for the user, such as that trials share random generators."""

    def prepare(self, evaluate: Evaluate, jobs: int) -> None:
        """Check before a study is opened that trials can run, and connect. `close` ends this, too.

        Raises:
            TransportError: `evaluate` cannot be sent to where trials run.
            EngineError: There is no such cluster, or it cannot run the trials.
        """

    def start(self, evaluate: Evaluate, *, jobs: int, listener: Listener | None) -> None:
        """Get ready for up to `jobs` trials at a time. `listener` is called from `next`, or inside the trial.

        Raises:
            TransportError: `evaluate` cannot be sent to where trials run.
        """

    def submit(self, assignment: Assignment, limit: float | None) -> None:
        """Take an assignment, and end it as failed (`Timeout`) when it runs longer than `limit` seconds.

        Raises:
            EngineError: Nothing can be run any more.
        """

    def next(self, timeout: float) -> tuple[Assignment, Outcome] | None:
        """Return an assignment that has ended and how, or None after `timeout` seconds (a serial engine runs one)."""

    def terminate(self, number: int, termination: Termination) -> None:
        """End the running trial `number`. No such trial is no error: it may just have ended."""

    def close(self) -> None:
        """End everything that the engine started. May be called twice."""


class ResultQueue:
    """Results and reports from the threads of an engine, which `next` passes on to the loop."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[tuple[Assignment, Outcome] | tuple[int, int, dict[str, float]]]
        self._items = queue.SimpleQueue()

    def post(self, assignment: Assignment, outcome: Outcome) -> None:
        self._items.put((assignment, outcome.timed()))

    def post_report(self, number: int, step: int, values: dict[str, float]) -> None:
        self._items.put((number, step, values))

    def take(self, timeout: float, listener: Listener | None) -> tuple[Assignment, Outcome] | None:
        """Wait for the next outcome; reports that come before it go to `listener`."""
        end = time.monotonic() + timeout
        while True:
            try:
                item = self._items.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return None
            if len(item) == 2:
                return item
            if listener is not None:
                listener(*item)


def evaluated(evaluate: Evaluate, assignment: Assignment) -> Outcome:
    """Return the outcome of an assignment. An exception of the evaluator itself is a failure of the trial, too."""
    try:
        return evaluate(assignment)
    except TrialEnded as ended:
        return Outcome(ended.state, failure=ended.failure)
    except KeyboardInterrupt:
        return Outcome(State.INTERRUPTED)
    except BaseException as error:  # noqa: BLE001 - an evaluator's mistake must not end the search without a record
        return Outcome(State.FAILED, failure=failure_of(error, hide_own=False))


def terminated(outcome: Outcome, termination: Termination) -> Outcome:
    """Return `outcome` as that of a trial that was terminated, with the metrics it had."""
    return replace(outcome, state=termination.state, failure=termination.failure, kept={})


def over_limit(limit: float) -> Termination:
    """Return how a trial ends that ran longer than `limit` seconds."""
    return Termination(State.FAILED, Failure("Timeout", f"The trial ran over its limit of {described(limit)}."))


def over_memory(limit: int, used: int) -> Termination:
    """Return how a trial ends that used more than `limit` bytes of memory."""
    text = f"The trial used {size_text(used)} of memory, over its limit of {size_text(limit)}."
    return Termination(State.FAILED, Failure(MEMORY, text))


def with_memory_limit(outcome: Outcome, limit: int) -> Outcome:
    """Return `outcome`, with the limit named if the trial failed because it asked for more memory than that."""
    failure = outcome.failure
    if failure is None or not (failure.kind == "MemoryError" or "allocate memory" in failure.message):
        return outcome
    text = f"The trial asked for more memory than its limit of {size_text(limit)} allows. {failure}".strip()
    return replace(outcome, failure=Failure(MEMORY, text, failure.traceback))
