"""What a model costs: parameters, non-zeros, bytes on disk, multiply-accumulates, milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args, overload

import torch
from torch import nn

from nbcompress.artifact import size_by_tensor
from nbcompress.compress.layers import unique_parameters
from nbcompress.errors import MeasureError
from nbcompress.measure.costs import Footprint, LayerFootprint
from nbcompress.measure.inputs import Inputs, inputs_of
from nbcompress.measure.latency import Latency, measure_latency
from nbcompress.measure.macs import MacCount, count_macs
from nbcompress.measure.memory import PeakMemory, measure_memory
from nbcompress.measure.runtimes import in_onnx
from nbcompress.measure.side_by_side import Footprints
from nbcompress.measure.undisturbed import measured_copy, random_state_kept

Runtime = Literal["torch", "onnx"]


@overload
def footprint(
    model: nn.Module,
    example: object = None,
    *,
    data: object = None,
    threads: int = 1,
    repeats: int = 30,
    runtime: Runtime = "torch",
) -> Footprint: ...
@overload
def footprint(
    model: Sequence[nn.Module] | Mapping[str, nn.Module],
    example: object = None,
    *,
    data: object = None,
    threads: int = 1,
    repeats: int = 30,
    runtime: Runtime = "torch",
) -> Footprints: ...
def footprint(
    model: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module],
    example: object = None,
    *,
    data: object = None,
    threads: int = 1,
    repeats: int = 30,
    runtime: Runtime = "torch",
) -> Footprint | Footprints:
    """Measure what a model costs, or several models side by side.

    Multiply-accumulates and latency need an input: `example`, or the first batch of `data`. They are measured on a
    copy in evaluation mode, and random numbers are put back, so the model and whatever comes next stay as they were.

    Args:
        model: A module, a list of modules, or a dict of modules by the name to show.
        example: A tensor, a tuple of positional or a dict of keyword inputs, on the model's device.
        data: A `DataLoader`, a data set, or a pair of tensors.
        threads: Threads that are computed on while a call is timed.
        repeats: Timed samples of each model; they alternate between models. 0 times nothing.
        runtime: Where calls are timed: in `torch`, or in ONNX Runtime (`onnx`) after an export in memory.

    Raises:
        MeasureError: A model cannot be copied or fails on the input, or an argument has another form.
        ArtifactError: The model holds what a file cannot, or cannot be exported to ONNX.
        MissingPart: ONNX Runtime is asked for and not installed.
    """
    if runtime not in get_args(Runtime):
        raise MeasureError(f"runtime must be torch or onnx, got {runtime!r}")
    named = _named(model)
    with random_state_kept():
        copies = [measured_copy(one) for one in named.values()]
        inputs = [inputs_of(one, example, data) for one in copies]
        counts = [_count(one, given) for one, given in zip(copies, inputs, strict=True)]
        memories = [_memory(one, given) for one, given in zip(copies, inputs, strict=True)]
        latencies: list[Latency | None] = [None] * len(copies)
        given = [one for one in inputs if one is not None]
        if given and repeats:
            latencies = [*_timed(copies, given, threads, repeats, runtime)]
    found = [
        replace(_footprint(name, one, what, count), latency=latency, memory=memory)
        for (name, one), what, count, latency, memory in zip(
            named.items(), inputs, counts, latencies, memories, strict=True
        )
    ]
    return found[0] if isinstance(model, nn.Module) else Footprints(tuple(found))


def check_runs(model: nn.Module, example: object = None, data: object = None) -> None:
    """Run a copy of `model` once on the example or the first batch of the data, if there is either.

    Raises:
        MeasureError: The model fails on it, or cannot be copied.
        DataError: The data has another form or is empty.
    """
    with random_state_kept(), torch.inference_mode():
        copy = measured_copy(model)
        inputs = inputs_of(copy, example, data)
        if inputs is not None:
            inputs(copy)


def _timed(copies: list[nn.Module], given: list[Inputs], threads: int, repeats: int, runtime: Runtime) -> list[Latency]:
    if runtime == "torch":
        return measure_latency(copies, given, threads=threads, repeats=repeats)
    pairs = [in_onnx(one, what, threads) for one, what in zip(copies, given, strict=True)]
    found = measure_latency([one for one, _ in pairs], [what for _, what in pairs], threads=threads, repeats=repeats)
    return [replace(one, runtime=runtime) for one in found]


def _named(model: object) -> dict[str, nn.Module]:
    if isinstance(model, Mapping):
        named = {str(name): one for name, one in model.items()}
    else:
        models = [model] if isinstance(model, nn.Module) or not isinstance(model, (list, tuple)) else list(model)
        kinds = [type(one).__name__ for one in models]
        # Models of one class are told apart by their place.
        names = [f"{kind} {place}" if kinds.count(kind) > 1 else kind for place, kind in enumerate(kinds, 1)]
        named = dict(zip(names, models, strict=True))
    if not named:
        raise MeasureError("footprint needs at least one model, got an empty list")
    return named


def _count(copy: nn.Module, inputs: Inputs | None) -> MacCount | None:
    # Counted on a copy of the copy: the call may change it, and hooks are put on it.
    return None if inputs is None else count_macs(measured_copy(copy), inputs)


def _memory(copy: nn.Module, inputs: Inputs | None) -> PeakMemory | None:
    return None if inputs is None else measure_memory(measured_copy(copy), inputs)


@torch.no_grad()
def _footprint(name: str, model: nn.Module, inputs: Inputs | None, count: MacCount | None) -> Footprint:
    sizes = size_by_tensor(model)
    overhead = sizes.pop("")
    weights = {names[0]: one for names, one in unique_parameters(model)}
    layers = []
    for layer, module in model.named_modules():
        macs = None if count is None else count.by_layer.get(layer, 0)
        mine = [one for tensor, one in weights.items() if tensor.rpartition(".")[0] == layer]
        bytes_here = [size for tensor, size in sizes.items() if tensor.rpartition(".")[0] == layer]
        if mine or bytes_here or macs:
            nonzeros = sum(int(torch.count_nonzero(one)) for one in mine)
            n_weights = sum(one.numel() for one in mine)
            layers.append(LayerFootprint(layer, type(module).__name__, n_weights, nonzeros, sum(bytes_here), macs))
    return Footprint(
        name,
        sum(one.parameters for one in layers),
        sum(one.nonzeros for one in layers),
        sum(sizes.values()) + overhead,
        None if count is None else count.total,
        () if count is None else tuple(sorted(count.uncounted)),
        inputs="" if inputs is None else str(inputs),
        layers=tuple(layers),
        overhead_bytes=overhead,
    )


__all__ = ["check_runs", "footprint"]
