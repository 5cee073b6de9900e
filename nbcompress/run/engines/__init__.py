"""Where trials run: in the kernel, in processes of their own, on a cluster, or on an executor of the user."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

from nbcompress.choices import ENGINES, is_engine
from nbcompress.errors import SearchError, did_you_mean, option, shown
from nbcompress.run.engines.base import Engine, EngineError
from nbcompress.run.engines.cluster import ClusterEngine
from nbcompress.run.engines.dask import DaskBackend, distributed_package
from nbcompress.run.engines.executor import ThreadsEngine
from nbcompress.run.engines.inline import InlineEngine
from nbcompress.run.engines.pool import PoolBackend
from nbcompress.run.engines.process import ProcessEngine
from nbcompress.run.engines.ray import RayBackend, ray_package

# Things that people pass where an executor is needed: module and name of the class -> what to write instead.
_NOT_EXECUTORS = {
    ("ray.util.multiprocessing", "Pool"): "A Ray pool has no submit: write {ray}.",
    (
        "multiprocessing.pool",
        "Pool",
    ): "A multiprocessing pool has no submit: pass a ProcessPoolExecutor, or write {own}.",
    ("joblib", "Parallel"): "joblib.Parallel has no submit: pass joblib.externals.loky.get_reusable_executor().",
}
_MODULES = {"ray": "ray", "dask": "dask", "dask.distributed": "dask", "distributed": "dask"}


def engine_of(
    choice: Any,
    name: str = "",
    *,
    resources: Mapping[str, float] | None = None,
    retries: int = 1,
    memory: int | None = None,
) -> Engine:
    """Return the engine for a fixed word or an address, for a Dask client, or for an executor (it has `submit`).

    Args:
        choice: What the user gave.
        name: The user's name for an object, for messages.
        resources: What a trial takes of a cluster, by name; one CPU if None.
        retries: How often a trial whose worker was lost is run again.
        memory: The bytes that one trial may use, or None.

    Raises:
        SearchError: It is none of these, or it cannot do what the other options ask for.
        MissingPart: The package of the cluster is not installed.
    """
    word = _MODULES.get(choice.__name__, "") if isinstance(choice, ModuleType) else choice
    engine = _cluster_engine(word, name, resources, retries, memory)
    if engine is not None:
        return engine
    if resources is not None:
        raise SearchError(f"{option('resources')} needs the engine ray or dask, or a client of Dask.")
    if word == "process":
        return ProcessEngine(memory)
    if memory is not None and (word == "inline" or isinstance(choice, ThreadPoolExecutor)):
        raise SearchError(
            f"{option('trial_memory')} needs the engine process, ray or dask: here trials share the kernel's process."
        )
    if word == "inline":
        return InlineEngine()
    if isinstance(choice, str) or not callable(getattr(choice, "submit", None)):
        raise SearchError(_refusal(choice))
    name = name or type(choice).__name__
    if isinstance(choice, ThreadPoolExecutor):
        return ThreadsEngine(choice, name)
    return ClusterEngine(PoolBackend(choice, name), name, retries, memory)


def _cluster_engine(
    choice: Any, name: str, resources: Mapping[str, float] | None, retries: int, memory: int | None
) -> Engine | None:
    """Return the engine on a cluster of Ray or Dask, or None if it is something else."""
    if isinstance(choice, str):
        if not is_engine(choice):
            return None
        word, _, address = choice.partition(":")
        if word == "ray":
            ray_package()
            return ClusterEngine(RayBackend(choice if address else "", resources), choice, retries, memory)
        if word == "dask":
            distributed_package()
            return ClusterEngine(DaskBackend(None, address, resources, retries), choice, retries, memory)
        return None
    client = _dask_client(choice)
    if client is None:
        return None
    backend = DaskBackend(client, "", resources, retries)
    return ClusterEngine(backend, name or type(choice).__name__, retries, memory)


def _dask_client(choice: Any) -> Any:
    """Return the client of a Dask client, of its executor or of a Dask cluster; None for anything else."""
    names = {(base.__module__.partition(".")[0], base.__name__) for base in type(choice).__mro__}
    if ("distributed", "Client") in names:
        return choice
    if ("distributed", "ClientExecutor") in names:
        return choice._client
    if ("distributed", "Cluster") in names:
        return choice.get_client()
    return None


def _refusal(choice: Any) -> str:
    bases = [(base.__module__, base.__name__) for base in type(choice).__mro__]
    for (module, kind), text in _NOT_EXECUTORS.items():
        if any(own == kind and (where == module or where.startswith(f"{module}.")) for where, own in bases):
            return text.format(ray=option("engine", "ray"), own=option("engine", "process"))
    hint = did_you_mean(choice, ENGINES) if isinstance(choice, str) else ""
    return (
        "An engine is inline, process or a concurrent.futures.Executor, or ray, dask, ray://HOST:PORT, "
        f"dask:tcp://HOST:PORT or a Dask client, but got {shown(choice)}.{hint}"
    )


__all__ = ["ENGINES", "Engine", "EngineError", "InlineEngine", "ProcessEngine", "ThreadsEngine", "engine_of"]
