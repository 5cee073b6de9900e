"""Models that run elsewhere than in torch, timed in turn with those that do.

How long one call takes, told with its spread.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor, nn

from nbcompress.artifact.export.agreement import ExampleInputs, on_cpu
from nbcompress.artifact.export.onnx_file import onnx_bytes
from nbcompress.artifact.export.onnx_graph import OnnxSession, tensors_of
from nbcompress.errors import MeasureError, option
from nbcompress.measure.inputs import Inputs, inputs_of, measured_copy, threads_pinned
from nbcompress.measure.interval import Interval, median_interval

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


class OnnxModel(nn.Module):
    """An ONNX model in ONNX Runtime, called as the module that it was exported from.

    Args:
        model: Bytes of the model, or the path of its file.
        threads: That ONNX Runtime computes on.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
        MissingPart: ONNX Runtime is not installed.
    """

    def __init__(self, model: bytes | str, threads: int = 1) -> None:
        super().__init__()
        self._session = OnnxSession(model, threads)

    def forward(self, *args: object, **kwargs: object) -> list[Tensor]:
        """The outputs in order; inputs are tensors, in the order of the model's."""
        given = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)]
        return tensors_of(self._session(given))


def in_onnx(model: nn.Module, inputs: Inputs, threads: int) -> tuple[OnnxModel, Inputs]:
    """`model`, exported to ONNX as `export` does and checked, and its inputs as that takes them.

    Raises:
        ArtifactError: It cannot be exported, or does not do the same.
        MissingPart: The packages for ONNX are not installed.
    """
    given = _for_onnx(inputs)
    example = ExampleInputs(given.args, given.kwargs)
    exported = onnx_bytes(model, measured_copy(model).cpu().float(), [example])
    return OnnxModel(exported, threads), given


def latencies(
    models: Mapping[str, nn.Module | str | os.PathLike[str]],
    example: object,
    *,
    threads: int = 1,
    repeats: int = 30,
) -> dict[str, Latency]:
    """Time models in turn: modules in torch, and ONNX files, which are given by their path, in ONNX Runtime.

    Args:
        models: By the name to show.
        example: A tensor, a tuple of positional or a dict of keyword inputs, on the models' device.
        threads: Threads that either computes on.
        repeats: Timed samples of each; they alternate between models.

    Raises:
        MeasureError: A model fails on the example, or an argument has another form.
        ArtifactError: ONNX Runtime cannot load or run a file.
        MissingPart: ONNX Runtime is not installed.
    """
    if not models:
        raise MeasureError("latencies needs at least one model, got none")
    timed: list[nn.Module] = []
    given: list[Inputs] = []
    for model in models.values():
        in_torch = isinstance(model, nn.Module)
        timed.append(measured_copy(model) if isinstance(model, nn.Module) else OnnxModel(str(Path(model)), threads))
        inputs = inputs_of(timed[-1], example, None)
        if inputs is None:
            raise MeasureError(f"to time a model, give an input that it runs on: {option('example=x')}")
        given.append(inputs if in_torch else _for_onnx(inputs))
    found = measure_latency(timed, given, threads=threads, repeats=repeats)
    return {
        name: replace(item, runtime="onnx" if isinstance(model, OnnxModel) else "torch")
        for name, item, model in zip(models, found, timed, strict=True)
    }


def _for_onnx(inputs: Inputs) -> Inputs:
    example = on_cpu(inputs.args, inputs.kwargs)
    return Inputs(example.args, example.kwargs)
