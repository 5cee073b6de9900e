"""What a worker of a cluster or a pool does: it keeps the data of searches, and runs each trial in a new process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nbcompress.run.engines.child import ChildEnvironment
from nbcompress.run.engines.data import BlobFiles
from nbcompress.run.engines.trial_process import Listen, TrialProcesses, TrialTask, start_method_here
from nbcompress.run.termination import Termination
from nbcompress.study.goal import State
from nbcompress.study.processes import place, this_worker

# Variables that a worker sets for the devices which it was given; those of the notebook must not replace them.
_OF_THE_WORKER = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Site:
    """Where the notebook runs, and its settings, which hold for trials on the same machine.

    Attributes:
        machine: The boot and the process-id namespace of the notebook.
        environment: Of the notebook, with its working directory and its search path.
    """

    machine: tuple[str, str]
    environment: ChildEnvironment

    @classmethod
    def here(cls, threads: int | None) -> Site:
        environment = ChildEnvironment(dict(os.environ), threads, start_method_here(), os.getcwd(), tuple(sys.path))
        return cls(_this_machine(), environment)

    @property
    def is_here(self) -> bool:
        return self.machine == _this_machine()

    def environment_on_worker(self) -> ChildEnvironment:
        """Return the settings for a trial in this process: those of the notebook if it is on this machine."""
        if not self.is_here:
            return ChildEnvironment(dict(os.environ), self.environment.threads, None, worker=place())
        own = {name: os.environ[name] for name in _OF_THE_WORKER if name in os.environ}
        return replace(self.environment, variables={**self.environment.variables, **own}, worker=place())


def _this_machine() -> tuple[str, str]:
    here = this_worker("")
    return here.boot, here.namespace


@dataclass(frozen=True)
class TrialRequest:
    """One attempt to run a trial on a worker.

    Attributes:
        key: Of this attempt; no other one has it.
        number: Of the trial.
        assignment: The pickled `Assignment`.
        skeleton: The hash of the pickled evaluator.
        digests: The hashes of all blobs of the search.
        limit: Seconds that the trial may run, or None.
        memory: Bytes that it may use, or None.
        site: Where the notebook runs.
        paths: Hash -> path of the blob in the notebook's own files; for workers on its machine.
    """

    key: str
    number: int
    assignment: bytes
    skeleton: str
    digests: tuple[str, ...]
    limit: float | None
    memory: int | None
    site: Site
    paths: Mapping[str, str]


class TrialHost:
    """Runs trials in processes that it starts. One for each process of a worker, which may run several at a time."""

    def __init__(self) -> None:
        self._files = BlobFiles()
        self._processes: TrialProcesses | None = None
        self._tasks: dict[str, TrialTask] = {}
        self._used: dict[str, tuple[str, ...]] = {}
        self._cut: set[str] = set()
        self._lock = threading.Lock()

    def run(
        self,
        request: TrialRequest,
        fetch: Callable[[Sequence[str]], Mapping[str, Any]],
        listen: Listen,
        is_cut: Callable[[], bool] | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> bytes:
        """Run a trial to its end and return its pickled `Outcome`.

        Args:
            request: What to run.
            fetch: Returns blobs by hash; called for those that are not here yet.
            listen: Told of reports.
            is_cut: Asked now and then; True ends the trial as interrupted.
            on_ready: Called once when the data is there, before the process starts. With it, a worker on the machine
                of the notebook maps the files of the notebook and fetches nothing.
        """
        maps_notebook = on_ready is not None and request.site.is_here and _are_readable(request.paths)
        with self._lock:
            self._used[request.key] = request.digests
            self._files.retain({digest for used in self._used.values() for digest in used})
            if not maps_notebook and (missing := self._files.missing(request.digests)):
                self._files.add(fetch(missing))
            if self._processes is None:
                self._processes = TrialProcesses()
            task = TrialTask(
                request.skeleton,
                request.paths if maps_notebook else self._files.paths(request.digests),
                request.assignment,
                request.number,
                request.limit,
                request.memory,
                is_cut,
            )
            self._tasks[request.key] = task
            if request.key in self._cut:
                task.terminate(Termination(State.INTERRUPTED))
        if on_ready is not None:
            on_ready()
        try:
            return self._processes.run(task, request.site.environment_on_worker(), listen)
        finally:
            with self._lock:
                del self._tasks[request.key], self._used[request.key]
                self._cut.discard(request.key)

    def cut(self, key: str) -> None:
        """End an attempt. One that has not begun ends as soon as it begins."""
        with self._lock:
            task = self._tasks.get(key)
            if task is None:
                self._cut.add(key)
        if task is not None:
            task.terminate(Termination(State.INTERRUPTED))

    def close(self) -> None:
        if self._processes is not None:
            self._processes.close()
        self._files.close()


def _are_readable(paths: Mapping[str, str]) -> bool:
    return all(os.access(path, os.R_OK) for path in paths.values())


_host_lock = threading.Lock()
_hosts: list[TrialHost] = []


def host_of_this_process() -> TrialHost:
    """Return the host of this process of a worker, and make it at the first call.

    It stays between searches: the next one finds the process that forks trials, and data that has not changed.
    """
    with _host_lock:
        if not _hosts:
            _hosts.append(TrialHost())
        return _hosts[0]


def close_host_of_this_process() -> None:
    """End the trials that still run in this process of a worker, and remove the data."""
    with _host_lock:
        while _hosts:
            _hosts.pop().close()
