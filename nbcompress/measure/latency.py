"""Latency of one call, in torch or in ONNX Runtime, with its confidence interval.

Several models are timed in turn, sample by sample, so that a disturbance of the machine affects all of them.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Literal

import torch
from torch import nn

from nbcompress.artifact.export.agreement import ExampleInputs, agreement
from nbcompress.errors import MeasureError, check_installed, check_integer, option
from nbcompress.measure.files import OnnxModel, for_onnx
from nbcompress.measure.inputs import ModelInputs, evaluation_copy, model_inputs, pinned_threads
from nbcompress.measure.interval import Interval, median_interval

# In a shorter sample, noise of the clock and of the caches dominates, so a sample repeats short calls.
_MIN_SAMPLE_S = 1e-3
_MAX_CALLS_PER_SAMPLE = 1000
_WARM_UP_CALLS = 3
# Timing stops after these seconds for each model, once there are enough samples for an interval.
_BUDGET_S = 10.0
_MIN_SAMPLES = 7


@dataclass(frozen=True)
class Latency:
    """Time of one call in evaluation mode.

    Attributes:
        median_ms: Median of the samples, in milliseconds.
        low_ms: Lower end of the 95 % interval of the median.
        high_ms: Upper end of that interval.
        threads: Number of threads of the runtime.
        repeats: Number of samples.
        samples_ms: Each sample, in order; the samples of models that were timed together alternate.
        runtime: `torch`, or `onnx` for ONNX Runtime.
        rounding: How far the outputs in ONNX Runtime are, relative to their length, from those with its option that
            keeps the activations in floating point.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    threads: int
    repeats: int
    samples_ms: tuple[float, ...] = field(default=(), repr=False)
    runtime: Literal["torch", "onnx"] = "torch"
    rounding: float = 0.0

    def __float__(self) -> float:
        """Return the median in milliseconds, so that a trial can measure `ms = footprint(model, x).latency`."""
        return self.median_ms

    @property
    def interval(self) -> Interval:
        return Interval(self.median_ms, self.low_ms, self.high_ms)


def measure_latency(
    copies: Sequence[nn.Module],
    inputs: Sequence[ModelInputs],
    *,
    threads: int = 1,
    repeats: int = 30,
    clock: Callable[[], float] = perf_counter,
) -> list[Latency]:
    """Time models in turn, so that a disturbance of the machine affects all of them.

    Args:
        copies: Models in evaluation mode; copies, because a call may change them.
        inputs: Of each model.
        threads: Threads of torch.
        repeats: Samples of each model; fewer if they take more than 10 seconds a model.
        clock: Returns seconds; tests pass their own.

    Raises:
        MeasureError: A model fails on its inputs, or `threads` or `repeats` is not a count from 1.
    """
    repeats = check_integer("repeats", repeats, 1, error=MeasureError)
    threads = check_integer("threads", threads, 1, error=MeasureError)
    samples: list[list[float]] = [[] for _ in copies]
    with pinned_threads(threads), torch.inference_mode(), _no_garbage_collection():
        n_calls = [_warm_up(model, model_input, clock) for model, model_input in zip(copies, inputs, strict=True)]
        start = clock()
        while len(samples[-1]) < repeats:
            for index in _turns(len(copies), len(samples[-1])):
                seconds = _timed(copies[index], inputs[index], n_calls[index], clock)
                samples[index].append(seconds / n_calls[index] * 1e3)
            if len(samples[-1]) >= _MIN_SAMPLES and clock() - start > _BUDGET_S * len(copies):
                break
    return [_latency(model_samples, threads) for model_samples in samples]


def _turns(n: int, number: int) -> list[int]:
    """The order of a round: each model comes first in turn, and every other round runs backwards.

    What ran before decides what the processor's caches hold and how fast its clock is, so no model may always come
    after the same other one.
    """
    order = [(number + index) % n for index in range(n)]
    return order[::-1] if number % 2 else order


def _warm_up(model: nn.Module, inputs: ModelInputs, clock: Callable[[], float]) -> int:
    """Run the model a few times and return how many calls a sample needs to be long enough."""
    shortest = min(_timed(model, inputs, 1, clock) for _ in range(_WARM_UP_CALLS))
    return max(1, min(_MAX_CALLS_PER_SAMPLE, round(_MIN_SAMPLE_S / max(shortest, 1e-9))))


def _timed(model: nn.Module, inputs: ModelInputs, n_calls: int, clock: Callable[[], float]) -> float:
    if inputs.on_cuda:
        torch.cuda.synchronize()
    start = clock()
    for _ in range(n_calls):
        inputs(model)
    if inputs.on_cuda:
        torch.cuda.synchronize()
    return clock() - start


def _latency(samples_ms: list[float], threads: int) -> Latency:
    median = median_interval(samples_ms)
    return Latency(median.value, median.low, median.high, threads, len(samples_ms), tuple(samples_ms))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Switch garbage collection off, so that it does not run in the middle of a sample."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def onnx_model(model: nn.Module, inputs: ModelInputs, threads: int) -> tuple[OnnxModel, ModelInputs, float]:
    """Export `model` to ONNX in memory, and return the exported model, the inputs for it, and `Latency.rounding`.

    Raises:
        ArtifactError: It cannot be exported, or its outputs differ.
        MissingPart: The packages for ONNX are not installed.
    """
    check_installed("onnx")
    from nbcompress.artifact.export.onnx_file import write_onnx
    from nbcompress.artifact.export.onnx_graph import OnnxSession, tensors_of

    inputs = for_onnx(inputs)
    example = ExampleInputs(inputs.args, inputs.kwargs)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(model, evaluation_copy(model).cpu().float(), [example], path)
        # One session after the other: each holds the weights.
        exact, usual = (
            tensors_of(OnnxSession(str(path), threads, is_exact=is_exact)(example.tensors))
            for is_exact in (True, False)
        )
        difference = agreement(exact, usual)
        return OnnxModel(str(path), threads), inputs, difference.error


def latencies(
    models: Mapping[str, nn.Module | str | os.PathLike[str]],
    example: object,
    *,
    threads: int = 1,
    repeats: int = 30,
) -> dict[str, Latency]:
    """Time models in turn: modules in torch, ONNX files in ONNX Runtime.

    Args:
        models: Modules, or paths of ONNX files, by the name to show.
        example: A tensor, a tuple of positional or a dict of keyword inputs, on the device of the models.
        threads: Threads of either runtime.
        repeats: Samples of each model; they alternate between models.

    Raises:
        MeasureError: A model fails on the example, or an argument has another form.
        ArtifactError: ONNX Runtime cannot load or run a file.
        MissingPart: ONNX Runtime is not installed.
    """
    if not models:
        raise MeasureError("latencies needs at least one model, got none")
    timed: list[nn.Module] = []
    inputs: list[ModelInputs] = []
    for model in models.values():
        in_torch = isinstance(model, nn.Module)
        timed.append(evaluation_copy(model) if isinstance(model, nn.Module) else OnnxModel(str(Path(model)), threads))
        model_input = model_inputs(timed[-1], example, None)
        if model_input is None:
            raise MeasureError(f"to time a model, give an input that it runs on: {option('example=x')}")
        inputs.append(model_input if in_torch else for_onnx(model_input))
    measured = measure_latency(timed, inputs, threads=threads, repeats=repeats)
    return {
        name: replace(latency, runtime="onnx" if isinstance(model, OnnxModel) else "torch")
        for name, latency, model in zip(models, measured, timed, strict=True)
    }


def latency_ms(
    model: nn.Module | str | os.PathLike[str],
    example: object,
    *,
    runtime: Literal["torch", "onnx"] | None = None,
    threads: int = 1,
    repeats: int = 30,
) -> float:
    """Return how many milliseconds one call of a model takes: the median, on pinned threads, in evaluation mode.

    Args:
        model: A module, or the path of an ONNX file.
        example: A tensor, a tuple of positional or a dict of keyword inputs, on the device of the model.
        runtime: `torch`, or `onnx` for ONNX Runtime, to which a module is exported in memory. By default `torch` for a
            module and `onnx` for a file.
        threads: Threads of the runtime.
        repeats: Samples; fewer if they take more than 10 seconds.

    Raises:
        MeasureError: The model fails on the example, the runtime does not run it, or an argument has another form.
        ArtifactError: The model cannot be exported, or ONNX Runtime cannot run the file.
        MissingPart: The packages for ONNX are not installed.

    Example:
        >>> import torch, nbcompress as nc
        >>> nc.latency_ms(torch.nn.Linear(8, 2), torch.ones(1, 8), repeats=3) > 0
        True
    """
    if runtime not in (None, "torch", "onnx"):
        raise MeasureError(f"{option('runtime')} must be torch or onnx, got {runtime!r}")
    if not isinstance(model, nn.Module):
        if not isinstance(model, (str, os.PathLike)):
            raise MeasureError(f"a latency is that of a torch.nn.Module or an ONNX file, got {type(model).__name__}")
        if runtime == "torch":
            raise MeasureError(
                f"{option('runtime', 'torch')} runs modules, and {str(model)!r} is a file: load it first"
            )
        if Path(model).suffix == ".nbz":
            raise MeasureError(f"{str(model)!r} holds weights and no code: load it into a module, and time that")
    elif runtime == "onnx":
        copy = evaluation_copy(model)
        inputs = model_inputs(copy, example, None)
        if inputs is None:
            raise MeasureError(f"to time a model, give an input that it runs on: {option('example=x')}")
        exported, for_exported, _ = onnx_model(copy, inputs, threads)
        return measure_latency([exported], [for_exported], threads=threads, repeats=repeats)[0].median_ms
    return latencies({"model": model}, example, threads=threads, repeats=repeats)["model"].median_ms
