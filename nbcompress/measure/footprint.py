"""What a model costs: parameters, non-zeros, bytes on disk, multiply-accumulates, milliseconds.

The costs of several models side by side, in all and layer by layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, overload

import torch
from torch import nn

from nbcompress.artifact import size_by_tensor
from nbcompress.compressors.layers import unique_parameters
from nbcompress.errors import MeasureError, option
from nbcompress.measure.costs import THE_MODEL, Footprint, LayerFootprint, footprint_notes, latency_text
from nbcompress.measure.inputs import Inputs, inputs_of, measured_copy, random_state_kept
from nbcompress.measure.latency import Latency, in_onnx, measure_latency
from nbcompress.measure.macs import MacCount, count_macs
from nbcompress.measure.memory import PeakMemory, measure_memory
from nbcompress.measure.text import count_text, size_text, text_table

# Bytes and multiply-accumulates of a layer.
Cost = tuple[int, int | None]


@dataclass(frozen=True, repr=False)
class Footprints(Sequence[Footprint]):
    """Footprints of several models, measured in turn."""

    models: tuple[Footprint, ...]

    @overload
    def __getitem__(self, place: int) -> Footprint: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Footprint, ...]: ...
    def __getitem__(self, place: int | slice) -> Footprint | tuple[Footprint, ...]:
        return self.models[place]

    def __len__(self) -> int:
        return len(self.models)

    def __iter__(self) -> Iterator[Footprint]:
        return iter(self.models)

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, texts and numbers."""
        return {"models": [model.to_json() for model in self.models]}

    def rows(self) -> list[list[str]]:
        """What each model costs in all: the name of the cost, then one text for each model."""
        models = self.models
        return [
            ["size", *(size_text(model.size_bytes) for model in models)],
            ["parameters", *(count_text(model.parameters) for model in models)],
            ["non-zeros", *(count_text(model.nonzeros) for model in models)],
            ["MACs", *(count_text(model.macs) for model in models)],
            ["peak memory", *(size_text(model.memory_bytes) for model in models)],
            ["ms a call", *(latency_text(model.latency) for model in models)],
        ]

    def __str__(self) -> str:
        summary = text_table(["", *(model.name for model in self.models)], self.rows())
        return "\n".join([summary, "", text_table(*layer_table(self.models)), "", *footprint_notes(self.models)])

    def __repr__(self) -> str:
        return f"<Footprints of {', '.join(model.name for model in self.models)}>"


def layers_side_by_side(models: Sequence[Footprint]) -> dict[str, list[Cost | None]]:
    """Return what each layer costs in each model, in order; None where a model lacks it.

    What a compressor put in the place of a layer, such as the two layers inside a low-rank one, counts for that layer.
    """
    first = {layer.name for layer in models[0].layers}
    found: dict[str, list[Cost | None]] = {}
    for place, model in enumerate(models):
        for layer in model.layers:
            costs = found.setdefault(_name_in(first, layer.name), [None] * len(models))
            size, macs = costs[place] or (0, None)
            costs[place] = (size + layer.size_bytes, layer.macs if macs is None else macs + (layer.macs or 0))
    return found


def layer_table(models: Sequence[Footprint]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what each layer costs; a dash where a model lacks a layer."""
    head = ["layer", *(f"size, {model.name}" for model in models)]
    has_macs = any(model.macs is not None for model in models)
    if has_macs:
        head += [f"MACs, {model.name}" for model in models]
    rows = []
    for name, costs in layers_side_by_side(models).items():
        row = [name or THE_MODEL, *(size_text(None if cost is None else cost[0]) for cost in costs)]
        rows.append(row + [count_text(None if cost is None else cost[1]) for cost in costs] * has_macs)
    return head, rows


def _name_in(known: Collection[str], name: str) -> str:
    """`name` itself, or the layer of the first model that it stands in the place of."""
    around = name
    while around and around not in known:
        around = around.rpartition(".")[0]
    return around or name


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
        raise MeasureError(f"{option('runtime')} must be torch or onnx, got {runtime!r}")
    named = _named(model)
    with random_state_kept():
        copies = [measured_copy(model) for model in named.values()]
        inputs = [inputs_of(copy, example, data) for copy in copies]
        counts = [_count(copy, given) for copy, given in zip(copies, inputs, strict=True)]
        memories = [_memory(copy, given) for copy, given in zip(copies, inputs, strict=True)]
        latencies: list[Latency | None] = [None] * len(copies)
        given = [input_ for input_ in inputs if input_ is not None]
        if given and repeats:
            latencies = [*_timed(copies, given, threads, repeats, runtime)]
    found = [
        replace(_footprint(name, model, what, count), latency=latency, memory=memory)
        for (name, model), what, count, latency, memory in zip(
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
    pairs = [in_onnx(copy, what, threads) for copy, what in zip(copies, given, strict=True)]
    found = measure_latency([one for one, _ in pairs], [what for _, what in pairs], threads=threads, repeats=repeats)
    return [replace(item, runtime=runtime) for item in found]


def _named(model: object) -> dict[str, nn.Module]:
    if isinstance(model, Mapping):
        named = {str(name): one for name, one in model.items()}
    else:
        models = [model] if isinstance(model, nn.Module) or not isinstance(model, (list, tuple)) else list(model)
        kinds = [type(model).__name__ for model in models]
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
        mine = [weight for tensor, weight in weights.items() if tensor.rpartition(".")[0] == layer]
        bytes_here = [size for tensor, size in sizes.items() if tensor.rpartition(".")[0] == layer]
        if mine or bytes_here or macs:
            nonzeros = sum(int(torch.count_nonzero(latency)) for latency in mine)
            n_weights = sum(latency.numel() for latency in mine)
            layers.append(LayerFootprint(layer, type(module).__name__, n_weights, nonzeros, sum(bytes_here), macs))
    return Footprint(
        name,
        sum(layer.parameters for layer in layers),
        sum(layer.nonzeros for layer in layers),
        sum(sizes.values()) + overhead,
        None if count is None else count.total,
        () if count is None else tuple(sorted(count.uncounted)),
        inputs="" if inputs is None else str(inputs),
        layers=tuple(layers),
        overhead_bytes=overhead,
    )
