"""What engines cost: seconds a trial beside the same loop by hand, bytes sent, memory of the kernel.

    python tests/benchmarks/scale.py [--trials 20] [--engines process pool dask ray] [--megabytes 200]

For each engine, at 1, 2 and 4 jobs: wall-clock milliseconds for each of the trials of a search whose body does nothing
(random points, no storage), from the begin of the first to the end of the last; the same number of calls by hand on the
same workers (a fork of a prepared process, `submit`, a Ray task), on pools and clusters without a process each;
the CPU time of the kernel; what the begin and the end of the search take besides; and with a body that sleeps for half
a second how many times faster it is than one trial after the other without any engine. Then a search whose body reads a
tensor of `--megabytes` (0 leaves this out): bytes that go to the cluster in the first search, in the second one with
equal data, in a third one with a small part changed; and how far the memory of the kernel grows.
Run it on a quiet machine; the load is printed.
"""

from __future__ import annotations

import argparse
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from typing import Any
from unittest import mock

import psutil
import torch

import nbcompress as nc

SPACE = {"x": nc.Float(0, 1)}


# Runs a function so many times, so many at a time, on the workers of an engine.
ByHand = Callable[[Callable[[float], float], int, int], None]
JOBS = (1, 2, 4)
# Seconds that a trial sleeps where speed-up is measured.
NAP = 0.5


def nothing(x: float) -> float:
    return x


def nap(x: float) -> float:
    time.sleep(NAP)
    return x


@contextmanager
def on_process() -> Iterator[tuple[Any, ByHand, Any]]:
    context = get_context("forkserver")

    def by_hand(body: Callable[[float], float], trials: int, jobs: int) -> None:
        for first in range(0, trials, jobs):
            children: list[Any] = [context.Process(target=body, args=(0.5,)) for _ in range(first, first + jobs)]
            for child in children:
                child.start()
            for child in children:
                child.join()

    yield "process", by_hand, None


@contextmanager
def on_pool() -> Iterator[tuple[Any, ByHand, Any]]:
    with ProcessPoolExecutor(4, get_context("forkserver")) as pool:

        def by_hand(body: Callable[[float], float], trials: int, jobs: int) -> None:
            for first in range(0, trials, jobs):
                wait([pool.submit(body, 0.5) for _ in range(first, first + jobs)])

        yield pool, by_hand, None


@contextmanager
def on_dask() -> Iterator[tuple[Any, ByHand, Any]]:
    import distributed

    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=4, dashboard_address=":0", memory_limit=0) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):

        def by_hand(body: Callable[[float], float], trials: int, jobs: int) -> None:
            for first in range(0, trials, jobs):
                client.gather([client.submit(body, 0.5, pure=False) for _ in range(first, first + jobs)])

        yield client, by_hand, (distributed.Client, "scatter")


@contextmanager
def on_ray() -> Iterator[tuple[Any, ByHand, Any]]:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=10**9)
    tasks = {body: ray.remote(body) for body in (nothing, nap)}

    def by_hand(body: Callable[[float], float], trials: int, jobs: int) -> None:
        for first in range(0, trials, jobs):
            ray.get([tasks[body].remote(0.5) for _ in range(first, first + jobs)])

    yield "ray", by_hand, (ray, "put")
    ray.shutdown()


ENGINES = {"process": on_process, "pool": on_pool, "dask": on_dask, "ray": on_ray}


def search(engine: Any, body: Any, trials: int, jobs: int = 1) -> Any:
    return nc.maximize(body, SPACE, trials=trials, jobs=jobs, engine=engine, sampler="random")


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def span(study: Any) -> float:
    """Return the seconds from the begin of the first trial to the end of the last one."""
    trials = study.all_trials
    return float(max(trial.ended for trial in trials) - min(trial.started for trial in trials))


def overhead(name: str, trials: int) -> None:
    with ENGINES[name]() as (engine, by_hand, _):
        for jobs in JOBS:
            search(engine, nothing, jobs, jobs)
            by_hand(nothing, jobs, jobs)
            start, before = time.perf_counter(), time.process_time()
            quick = span(search(engine, nothing, trials, jobs))
            whole, cpu = time.perf_counter() - start, time.process_time() - before
            hand, _ = timed(lambda j=jobs: by_hand(nothing, trials, j))
            slow = span(search(engine, nap, trials, jobs))
            nap_by_hand, _ = timed(lambda j=jobs: by_hand(nap, trials, j))
            print(
                f"{name:8} jobs {jobs}: {1000 * quick / trials:6.1f} ms a trial, by hand {1000 * hand / trials:6.1f}, "
                f"kernel {1000 * cpu / trials:5.1f} CPU ms, begin and end of a search {whole - quick:.2f} s, "
                f"speed-up {NAP * trials / slow:.2f}, by hand {NAP * trials / nap_by_hand:.2f}",
                flush=True,
            )


class PeakMemory:
    """The largest memory of this process inside a `with` block, in MB above that at its begin."""

    def __enter__(self) -> PeakMemory:
        self._process, self._is_over = psutil.Process(), threading.Event()
        self._before = self.megabytes = self._private()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self.megabytes -= self._before

    def _private(self) -> float:
        return (self._process.memory_info().rss - self._process.memory_info().shared) / 1e6

    def _watch(self) -> None:
        while not self._is_over.wait(0.005):
            self.megabytes = max(self.megabytes, self._private())


def data(name: str, megabytes: int) -> None:
    large, small = torch.randn(megabytes * 250_000), torch.randn(25_000)

    with ENGINES[name]() as (engine, _, sent), ExitStack() as stack:
        n_sent: list[int] = []
        if sent is not None:
            owner, method = sent
            original = getattr(owner, method)

            def counted(*arguments: Any, **options: Any) -> Any:
                n_sent.append(arguments[-1].nbytes)
                return original(*arguments, **options)

            stack.enter_context(mock.patch.object(owner, method, counted))
        search(engine, nothing, 1)
        for what in ("first", "equal data", "a part changed"):
            n_sent.clear()
            if what == "a part changed":
                small = torch.randn(25_000)
            with PeakMemory() as memory:
                wall, _ = timed(lambda part=small: search(engine, lambda x: x + float(large[3] + part[3]), 5))
            told = f"{sum(n_sent) / 1e6:8.2f} MB sent" if sent else "files of the kernel are mapped"
            print(f"{name:8} {what:15} {told}, kernel +{memory.megabytes:.0f} MB, 5 trials {wall:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--megabytes", type=int, default=200)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs, torch {torch.__version__}")
    for name in options.engines:
        overhead(name, options.trials)
        if options.megabytes:
            data(name, options.megabytes)
    print(f"load {os.getloadavg()[0]:.1f}, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
