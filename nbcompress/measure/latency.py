"""How long one call takes, told with its spread."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

import torch
from torch import nn

from nbcompress.errors import MeasureError
from nbcompress.measure.inputs import Inputs
from nbcompress.measure.interval import Interval, median_interval
from nbcompress.measure.undisturbed import threads_pinned

# A sample shorter than this is mostly the noise of the clock and of the caches, so short calls are repeated in it.
_SHORTEST_SAMPLE_S = 1e-3
_MOST_CALLS = 1000
_WARM_UP_CALLS = 3
# After these seconds for each model we stop at the samples we have, if there are enough for an interval.
_BUDGET_S = 10.0
_ENOUGH = 7


@dataclass(frozen=True)
class Latency:
    """Time of one call in evaluation mode.

    Attributes:
        median_ms: Milliseconds.
        low_ms: Lower end of the 95 % interval of the median.
        high_ms: Its upper end.
        threads: Threads that it was computed on.
        repeats: Samples.
        samples_ms: Each sample, in order; the samples of models measured together alternate.
        runtime: What computed: `torch`, or `onnx` for ONNX Runtime.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    threads: int
    repeats: int
    samples_ms: tuple[float, ...] = field(default=(), repr=False)
    runtime: Literal["torch", "onnx"] = "torch"

    @property
    def interval(self) -> Interval:
        return Interval(self.median_ms, self.low_ms, self.high_ms)


def measure_latency(
    copies: Sequence[nn.Module],
    inputs: Sequence[Inputs],
    *,
    threads: int = 1,
    repeats: int = 30,
    clock: Callable[[], float] = perf_counter,
) -> list[Latency]:
    """Time models in turn, so that whatever slows the machine down slows all of them.

    Args:
        copies: Models in evaluation mode that nobody else uses.
        inputs: Of each model.
        threads: Threads that torch computes on meanwhile.
        repeats: Samples of each model; fewer if they take more than 10 seconds a model.
        clock: Seconds; tests pass their own.

    Raises:
        MeasureError: A model fails on its inputs, or `threads` or `repeats` is not a count from 1.
    """
    if type(repeats) is not int or repeats < 1:
        raise MeasureError(f"repeats must be a count from 1, got {repeats!r}")
    samples: list[list[float]] = [[] for _ in copies]
    with threads_pinned(threads), torch.inference_mode(), _no_collection():
        calls = [_warm_up(model, given, clock) for model, given in zip(copies, inputs, strict=True)]
        start = clock()
        while len(samples[-1]) < repeats:
            for mine, model, given, n_calls in zip(samples, copies, inputs, calls, strict=True):
                mine.append(_timed(model, given, n_calls, clock) / n_calls * 1e3)
            if len(samples[-1]) >= _ENOUGH and clock() - start > _BUDGET_S * len(copies):
                break
    return [_latency(mine, threads) for mine in samples]


def _warm_up(model: nn.Module, given: Inputs, clock: Callable[[], float]) -> int:
    """Run a few times and return how many calls make a sample long enough."""
    shortest = min(_timed(model, given, 1, clock) for _ in range(_WARM_UP_CALLS))
    return max(1, min(_MOST_CALLS, round(_SHORTEST_SAMPLE_S / max(shortest, 1e-9))))


def _timed(model: nn.Module, given: Inputs, n_calls: int, clock: Callable[[], float]) -> float:
    if given.on_cuda:
        torch.cuda.synchronize()
    start = clock()
    for _ in range(n_calls):
        given(model)
    if given.on_cuda:
        torch.cuda.synchronize()
    return clock() - start


def _latency(samples_ms: list[float], threads: int) -> Latency:
    found = median_interval(samples_ms)
    return Latency(found.value, found.low, found.high, threads, len(samples_ms), tuple(samples_ms))


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection in the middle of a sample."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


__all__ = ["Latency", "measure_latency"]
