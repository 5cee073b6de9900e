"""Trials on a Ray cluster: the session of the notebook, a cluster by its address, or a local one."""

from __future__ import annotations

import importlib
import logging
import math
import os
import queue
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from nbcompress.errors import MissingPart, first_line, option
from nbcompress.run.engines.base import EngineError
from nbcompress.run.engines.cluster import WorkerLost
from nbcompress.run.engines.trial_process import Listen, threads_each
from nbcompress.run.engines.worker import TrialHost, TrialRequest
from nbcompress.study.processes import place

# A local object store holds the data of the search, what trials keep, and this much besides.
_STORE_BYTES = 256 * 10**6
# How long a worker waits for something to tell before it answers with nothing.
_MESSAGE_SECONDS = 5.0
# How long to wait for a cluster at an address.
_CONNECT_SECONDS = 10.0
_TOKEN_HINT = ". If it asks for a token, set the environment variable RAY_AUTH_MODE=token before the kernel starts"
# Of a local session: no statistics are sent, no warning about the future appears in the notebook.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "120",
}
# Data of the last search of the session: hash -> the reference. The next search puts only what differs.
_shared: dict[str, Any] = {}
_shared_in: list[str] = []


def ray_package() -> Any:
    """Return the package `ray`.

    Raises:
        MissingPart: It is not installed.
    """
    try:
        with _quiet():
            return importlib.import_module("ray")
    except ImportError as error:
        raise MissingPart('The engine ray needs the package ray: pip install "nbcompress[ray]"') from error


@contextmanager
def _quiet() -> Iterator[None]:
    """A `with` block with the settings of `_QUIET`; processes that are started inside keep them."""
    before = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update({name: value for name, value in _QUIET.items() if before[name] is None})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def _check_reachable(address: str) -> None:
    """Raise an `OSError` if nothing listens at `ray://host:port`; Ray itself would try for a minute."""
    parts = urlsplit(address)
    if parts.scheme == "ray" and parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), _CONNECT_SECONDS).close()


class RayTrialHost:
    """The actor that runs trials, one after the other, each in a process of its own."""

    def __init__(self) -> None:
        self._host = TrialHost()
        self._messages: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()

    def run(self, request: TrialRequest, shared: Mapping[str, Sequence[Any]]) -> bytes:
        """Run a trial and return its pickled outcome.

        Args:
            request: What to run.
            shared: Hash -> a list with the reference of the blob; in a list Ray leaves it a reference.
        """
        import ray

        self._messages = queue.SimpleQueue()
        messages = self._messages

        def fetch(missing: Sequence[str]) -> dict[str, Any]:
            return dict(zip(missing, ray.get([shared[digest][0] for digest in missing]), strict=True))

        try:
            return self._host.run(request, fetch, lambda step, values: messages.put((step, dict(values))))
        finally:
            messages.put(None)

    def messages(self) -> list[tuple[int, dict[str, float]]]:
        """Return the next reports of the trial that runs; after some seconds, or at its end, an empty list."""
        messages, found = self._messages, []
        with suppress(queue.Empty):
            message = messages.get(timeout=_MESSAGE_SECONDS)
            while message is not None:
                found.append(message)
                message = messages.get(block=False)
        return found

    def cut(self, key: str) -> None:
        """End an attempt."""
        self._host.cut(key)

    def place(self) -> str:
        """Return where the worker runs; the answer tells that it has started."""
        return place()


class _Actor:
    """An actor on the cluster and the attempt that it runs."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.started: Any = handle.place.remote()
        self.has_started = False
        self.place = ""


class RayBackend:
    """Runs trials on actors, one for each of `jobs`, which are made when they are needed.

    Args:
        address: Of a cluster, such as `ray://host:10001`; empty for the session of the notebook or a local one.
        resources: What a trial takes, by name.
    """

    def __init__(self, address: str = "", resources: Mapping[str, float] | None = None) -> None:
        self.warnings: list[str] = []
        self._address, self._resources = address, dict(resources or {})
        self._is_own = False
        self._ray: Any = None
        self._idle: list[_Actor] = []
        self._running: dict[str, _Actor | None] = {}
        self._cut: set[str] = set()
        self._n_actors = self._jobs = 0
        self._changed = threading.Condition()

    def connect(self, jobs: int, n_bytes: int) -> int | None:
        self._ray = ray = ray_package()
        self._jobs = jobs
        if self._address:
            self._connect_to_address()
            threads = None
        elif ray.is_initialized():
            threads = None
        else:
            self._start_session(jobs, n_bytes)
            threads = None if "cpus" in self._resources else threads_each(jobs)
        self._check_resources()
        self._make_actor_class()
        return threads or max(1, int(self._resources.get("cpus", 1)))

    def _connect_to_address(self) -> None:
        if self._ray.is_initialized():
            if self._ray.util.client.ray.is_connected():
                return  # the notebook has connected to it
            raise EngineError(
                f"Ray runs in this notebook already, so it cannot connect to {self._address}. "
                f"Write {option('engine', 'ray')} for that session, or call ray.shutdown() first."
            )
        try:
            _check_reachable(self._address)
            with _quiet():
                self._ray.init(self._address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            if "ray[client]" in str(error):
                raise MissingPart('An address ray:// needs the client of Ray: pip install "ray[client]"') from error
            is_refused = isinstance(error, ConnectionError) and "RAY_AUTH_MODE" not in os.environ
            hint = _TOKEN_HINT if is_refused and not isinstance(error, ConnectionRefusedError) else ""
            raise EngineError(f"No Ray cluster answers at {self._address}: {first_line(error)}{hint}") from error
        self._is_own = True

    def _start_session(self, jobs: int, n_bytes: int) -> None:
        options: dict[str, Any] = {}
        # A cluster that the variable of Ray names is meant; otherwise no other one is looked for.
        if "RAY_ADDRESS" not in os.environ:
            others = {name: n * jobs for name, n in self._resources.items() if name not in ("cpus", "gpus")}
            options = {
                "address": "local",
                "num_cpus": math.ceil(jobs * self._resources.get("cpus", 1.0)),
                "resources": others,
                "object_store_memory": _STORE_BYTES + 2 * n_bytes,
                "include_dashboard": False,
            }
        for is_last in (False, True):
            try:
                with _quiet():
                    self._ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
                break
            except Exception as error:
                self._ray.shutdown()
                if is_last:
                    raise EngineError(f"Ray could not be started or reached: {first_line(error)}") from error
                # Ray waits 30 s for its own processes, which a busy machine may need only at the first start.
        self._is_own = True

    def _check_resources(self) -> None:
        has = self._ray.cluster_resources()
        names = {"cpus": "CPU", "gpus": "GPU"}
        for name, amount in {"cpus": 1.0, **self._resources}.items():
            total = has.get(names.get(name, name), 0.0)
            if amount > total:
                raise EngineError(
                    f"{option('resources')} asks for {name}={amount:g} for a trial, but the Ray cluster has "
                    f"{total:g} in all."
                )

    def _make_actor_class(self) -> None:
        others = {name: amount for name, amount in self._resources.items() if name not in ("cpus", "gpus")}
        self._actor_class = self._ray.remote(
            num_cpus=self._resources.get("cpus", 1),
            num_gpus=self._resources.get("gpus", 0),
            resources=others,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=4,
        )(RayTrialHost)

    def share(self, blobs: Mapping[str, Any]) -> None:
        import numpy as np

        session = self._ray.get_runtime_context().get_job_id()
        with self._changed:
            before = _shared if _shared_in == [session] else {}
            now = {
                digest: before[digest] if digest in before else self._ray.put(np.frombuffer(blob, np.uint8))
                for digest, blob in blobs.items()
            }
            _shared.clear()
            _shared.update(now)
            _shared_in[:] = [session]

    def refusal(self) -> str:
        return "" if self._ray.is_initialized() else "its Ray session has ended"

    def run(self, request: TrialRequest, listen: Listen) -> bytes:
        actor: _Actor | None = None
        try:
            actor = self._take(request.key)
            return self._run_on(actor, request, listen)
        except BaseException as error:
            if isinstance(error, self._ray.exceptions.RayTaskError):
                raise
            self._discard(actor)
            actor = None
            if isinstance(error, self._ray.exceptions.RayError):
                raise WorkerLost(first_line(error)) from error
            raise
        finally:
            self._give_back(request.key, actor)

    def _run_on(self, actor: _Actor, request: TrialRequest, listen: Listen) -> bytes:
        ray = self._ray
        if not actor.has_started:
            actor.place = ray.get(actor.started)
            actor.has_started = True
        result = actor.handle.run.remote(request, {digest: [ref] for digest, ref in _shared.items()})
        messages = actor.handle.messages.remote()
        while True:
            ready, _ = ray.wait([result, messages], num_returns=1)
            if result in ready:
                return bytes(ray.get(result))
            for step, values in ray.get(messages):
                listen(step, values)
            messages = actor.handle.messages.remote()

    def _take(self, key: str) -> _Actor:
        with self._changed:
            self._running[key] = None
            while not self._idle and self._n_actors >= self._jobs and key not in self._cut:
                self._changed.wait()
            if key in self._cut:
                raise WorkerLost("the trial was cut")
            if self._idle:
                actor = self._idle.pop()
            else:
                self._n_actors += 1
                actor = _Actor(self._actor_class.remote())
            self._running[key] = actor
            return actor

    def _give_back(self, key: str, actor: _Actor | None) -> None:
        with self._changed:
            del self._running[key]
            self._cut.discard(key)
            if actor is not None:
                self._idle.append(actor)
            self._changed.notify_all()

    def _discard(self, actor: _Actor | None) -> None:
        if actor is not None:
            with self._changed:
                self._n_actors -= 1
            with suppress(Exception):
                self._ray.kill(actor.handle)

    def worker_of(self, key: str) -> str:
        with self._changed:
            actor = self._running.get(key)
            return "" if actor is None else actor.place

    def cut(self, key: str) -> None:
        with self._changed:
            if key not in self._running:
                return
            actor = self._running[key]
            self._cut.add(key)
            self._changed.notify_all()
        if actor is None:
            return
        if actor.has_started:
            actor.handle.cut.remote(key)
        else:  # it waits for resources, perhaps for ever
            self._ray.kill(actor.handle)

    def close(self) -> None:
        with self._changed:
            actors, self._idle = self._idle, []
            actors += [actor for actor in self._running.values() if actor is not None]
        for actor in actors:
            with suppress(Exception):
                self._ray.kill(actor.handle)
        if self._is_own:
            self._is_own = False
            _shared.clear()
            self._ray.shutdown()
