"""Trials on a Dask cluster: the client of the notebook, a scheduler by its address, or a local cluster."""

from __future__ import annotations

import importlib
import logging
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from nbcompress.errors import MissingPart, first_line, option
from nbcompress.run.engines.base import EngineError
from nbcompress.run.engines.cluster import WorkerLost
from nbcompress.run.engines.trial_process import Listen, threads_each
from nbcompress.run.engines.worker import TrialRequest, close_host_of_this_process, host_of_this_process
from nbcompress.study.processes import place

# How long to wait for a scheduler at an address, and for the end of a cluster that we started.
_CONNECT_SECONDS, _CLOSE_SECONDS = 10.0, 5.0
# Data of the last search of each client: hash -> the data on the cluster. The next search sends only what differs.
_shared: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()


def distributed_package() -> Any:
    """Return the package `distributed`.

    Raises:
        MissingPart: It is not installed.
    """
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        text = 'The engine dask needs the package distributed: pip install "nbcompress[dask]"'
        raise MissingPart(text) from error


class DaskBackend:
    """Runs trials as tasks of Dask.

    The scheduler runs a task again when its worker dies. That counts as one of the retries of a trial. A task is cut by
    releasing its key: the worker sees that, also when the notebook's kernel has died.

    Args:
        client: A `distributed.Client`, or None.
        address: Of a scheduler, such as `tcp://host:8786`; without both, the client of the notebook or a local cluster.
        resources: What a trial takes, by name.
        retries: How often a trial whose worker was lost may run again.
    """

    def __init__(
        self, client: Any = None, address: str = "", resources: Mapping[str, float] | None = None, retries: int = 1
    ) -> None:
        self.warnings: list[str] = []
        self._client, self._address = client, address
        self._resources, self._retries = dict(resources or {}), retries
        self._cluster: Any = None
        self._is_own_client = False
        self._topic = f"nbcompress-{uuid.uuid4().hex}"
        self._listeners: dict[str, Listen] = {}
        self._futures: dict[str, Any] = {}
        self._starts: dict[str, list[str]] = {}
        self._cut: set[str] = set()
        self._lock = threading.Lock()

    def connect(self, jobs: int, n_bytes: int) -> int | None:  # noqa: ARG002 - Dask's store has no fixed size
        distributed = distributed_package()
        threads: int | None = max(1, int(self._resources.get("cpus", 1)))
        if self._client is None and self._address:
            try:
                self._client = distributed.Client(self._address, set_as_default=False, timeout=_CONNECT_SECONDS)
            except (OSError, ValueError, RuntimeError) as error:
                raise EngineError(f"No Dask scheduler answers at {self._address}: {first_line(error)}") from error
            self._is_own_client = True
        if self._client is None:
            self._client = _notebook_client(distributed)
        if self._client is None:
            threads = None if "cpus" in self._resources else threads_each(jobs)
            self._start_cluster(distributed, jobs)
            threads = threads or max(1, int(self._resources.get("cpus", 1)))
        if self._client.asynchronous:
            raise EngineError("The engine dask needs a client with asynchronous=False, but got an asynchronous one.")
        self._task_resources = self._checked_resources()
        self._client.subscribe_topic(self._topic, self._on_event)
        return threads

    def _start_cluster(self, distributed: Any, jobs: int) -> None:
        """Start a scheduler and one worker in this process, with a thread for each trial.

        More processes would bring nothing, since each trial has one of its own, and would have to be watched.
        """
        if "gpus" in self._resources:
            raise EngineError(
                f"{option('resources')} has gpus, which a local Dask cluster does not share out. Use the engine ray, "
                "or pass a client of a cluster whose workers announce gpus."
            )
        self._cluster = distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=jobs,
            processes=False,
            memory_limit=0,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
            resources={name: amount * jobs for name, amount in self._resources.items()},
        )
        self._client = distributed.Client(self._cluster, set_as_default=False)
        self._is_own_client = True

    def _checked_resources(self) -> dict[str, float]:
        """Return the resources under the names that the workers give them."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        announced = {name: name for worker in workers for name in worker["resources"]}
        by_word = {name.lower().rstrip("s"): name for name in announced}
        found: dict[str, float] = {}
        for name, amount in self._resources.items():
            known = announced.get(name) or by_word.get(name.lower().rstrip("s"))
            if known is not None:
                found[known] = amount
            elif name != "cpus" or amount != 1:
                given = ", ".join(sorted(announced)) or "none"
                raise EngineError(
                    f"{option('resources')} asks for {name}={amount:g}, but no worker of the Dask cluster announces "
                    f"{name!r}; they announce: {given}. Start workers with --resources '{name}=...'."
                )
        return found

    def share(self, blobs: Mapping[str, Any]) -> None:
        import numpy as np

        with self._lock:
            before = _shared.get(self._client, {})
            is_there = {digest for digest, future in before.items() if future.status == "finished"}
            _shared[self._client] = {
                digest: before[digest]
                if digest in is_there
                else self._client.scatter(np.frombuffer(blob, np.uint8), hash=False)
                for digest, blob in blobs.items()
            }

    def refusal(self) -> str:
        status = str(self._client.status)
        return "" if status == "running" else f"its Dask client is {status}"

    def run(self, request: TrialRequest, listen: Listen) -> bytes:
        import distributed

        key = request.key
        with self._lock:
            self._listeners[key] = listen
            if key in self._cut:
                raise WorkerLost("the trial was cut")
            self._starts[key] = []
            shared = _shared[self._client]
            future = self._client.submit(
                run_on_dask,
                (request, self._topic, tuple(shared)),
                *shared.values(),
                key=key,
                pure=False,
                retries=0,
                resources=self._task_resources or None,
            )
            self._futures[key] = future
        try:
            return bytes(future.result())
        except distributed.scheduler.KilledWorker as error:
            raise WorkerLost(f"Dask gave it up after {' and '.join(self._starts[key]) or 'its start'}") from error
        except distributed.client.FutureCancelledError as error:
            raise WorkerLost(f"its task was cancelled: {first_line(error)}") from error
        finally:
            with self._lock:
                del self._listeners[key], self._starts[key]
                self._futures.pop(key, None)
                self._cut.discard(key)

    def _on_event(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Take what workers send, on the thread of the client."""
        message = event[1]
        key = message["key"]
        listen = self._listeners.get(key)
        if listen is None:
            return
        if "step" in message:
            listen(message["step"], message["values"])
            return
        starts = self._starts.get(key)
        if starts is None:
            return
        starts.append(message["place"])
        if len(starts) > 1 + self._retries:
            self._release(key)

    def worker_of(self, key: str) -> str:
        return next(reversed(self._starts.get(key, [])), "")

    def cut(self, key: str) -> None:
        with self._lock:
            if key not in self._futures:
                self._cut.add(key)
                return
        self._release(key)

    def _release(self, key: str) -> None:
        future = self._futures.get(key)
        if future is not None:
            # Not `Future.cancel`, which waits for an answer.
            self._client.loop.add_callback(self._client._cancel, [future], force=True)

    def close(self) -> None:
        if self._client is not None:
            with suppress(Exception):
                self._client.unsubscribe_topic(self._topic)
        if not self._is_own_client:
            return
        _shared.pop(self._client, None)
        for part in (self._client, self._cluster):
            if part is not None:
                with suppress(Exception):  # it may be gone already
                    part.close(timeout=_CLOSE_SECONDS)
        if self._cluster is not None:
            close_host_of_this_process()
        self._is_own_client = False


def _notebook_client(distributed: Any) -> Any:
    """Return the client that the notebook made last, or None."""
    try:
        return distributed.default_client()
    except ValueError:
        return None


def run_on_dask(task: tuple[TrialRequest, str, Sequence[str]], *data: Any) -> bytes:
    """Run a trial on the worker whose thread calls this; return its pickled outcome.

    Args:
        task: What to run, the topic for messages, and the hashes of the data.
        data: The blobs, as arrays of bytes.
    """
    import distributed

    request, topic, digests = task
    worker = distributed.get_worker()
    key = request.key

    def send(**message: Any) -> None:
        worker.log_event(topic, {"key": key, **message})

    def is_cut() -> bool:
        state = worker.state.tasks.get(key)
        return state is None or state.state != "executing"

    send(place=place())
    blobs: dict[str, Any] = dict(zip(digests, data, strict=True))
    fetch: Callable[[Sequence[str]], Mapping[str, Any]] = lambda missing: {name: blobs[name] for name in missing}  # noqa: E731
    return host_of_this_process().run(request, fetch, lambda step, values: send(step=step, values=dict(values)), is_cut)
