"""Each trial in a process of its own: a crash or a hang costs one trial, and limits are hard."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from nbcompress.run.engines.base import ResultQueue
from nbcompress.run.engines.data import BlobFiles, check_sendable, pack_parts
from nbcompress.run.engines.trial_process import TrialProcesses, TrialTask, environment_of_kernel
from nbcompress.run.outcome import Assignment, Evaluate, Outcome, pack
from nbcompress.run.termination import Termination
from nbcompress.run.trial import Listener
from nbcompress.study.goal import State

# How long `close` waits for the thread of a process that it has killed.
_DEATH_SECONDS = 5.0


@dataclass
class _Child:
    """One trial and the thread that waits for the end of its process."""

    assignment: Assignment
    task: TrialTask
    thread: threading.Thread | None = None


class ProcessEngine:
    """Starts a process per trial; a thread per process waits for what it sends or for its death.

    Args:
        memory: The bytes that one trial may use, or None.
    """

    name = "process"
    is_serial = False
    sends = True

    def __init__(self, memory: int | None = None) -> None:
        self.warnings: list[str] = []
        self._memory = memory
        self._results = ResultQueue()
        self._children: dict[int, _Child] = {}
        self._processes: TrialProcesses | None = None
        self._files: BlobFiles | None = None

    def prepare(self, evaluate: Evaluate, jobs: int) -> None:  # noqa: ARG002
        check_sendable(evaluate)

    def start(self, evaluate: Evaluate, *, jobs: int, listener: Listener | None) -> None:
        parts = pack_parts(evaluate)
        self._listener, self._jobs = listener, jobs
        self._processes, self._files = TrialProcesses(), BlobFiles()
        self._files.add(parts.blobs)
        self._skeleton, self._paths = parts.skeleton, self._files.paths(parts.blobs)

    def submit(self, assignment: Assignment, limit: float | None) -> None:
        task = TrialTask(self._skeleton, self._paths, pack(assignment), assignment.number, limit, self._memory)
        child = _Child(assignment, task)
        self._children[assignment.number] = child
        name = f"nbcompress-trial-{assignment.number}"
        child.thread = threading.Thread(target=self._watch, args=(child,), name=name, daemon=True)
        child.thread.start()

    def next(self, timeout: float) -> tuple[Assignment, Outcome] | None:
        return self._results.take(timeout, self._listener)

    def terminate(self, number: int, termination: Termination) -> None:
        child = self._children.get(number)
        if child is not None:
            child.task.terminate(termination)

    def close(self) -> None:
        children = tuple(self._children.values())
        for child in children:
            child.task.terminate(Termination(State.INTERRUPTED))
        for child in children:
            if child.thread is not None:
                child.thread.join(_DEATH_SECONDS)
        if self._processes is not None:
            self._processes.close()
        if self._files is not None:
            self._files.close()

    def _watch(self, child: _Child) -> None:
        assert self._processes is not None

        def listen(step: int, values: Mapping[str, float]) -> None:
            self._results.post_report(child.assignment.number, step, dict(values))

        packed = self._processes.run(child.task, environment_of_kernel(self._jobs), listen)
        outcome = pickle.loads(packed)  # noqa: S301 - sent by our own child process
        self._children.pop(child.assignment.number, None)
        self._results.post(child.assignment, outcome)
