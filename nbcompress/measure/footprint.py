"""`footprint`: parameters, non-zeros, bytes on disk, multiply-accumulates, memory and latency of models.

Several models are measured in turn and shown side by side, as a whole and layer by layer.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, overload

import torch
from torch import nn

from nbcompress.artifact import size_by_tensor
from nbcompress.compressors.layers import unique_parameters
from nbcompress.compressors.torch_masks import without_torch_masks
from nbcompress.errors import MeasureError, option
from nbcompress.measure.costs import ROOT_NAME, Footprint, LayerFootprint, footprint_notes, latency_text
from nbcompress.measure.files import ModelOrFile, OnnxModel, as_modules, for_onnx, name_of, onnx_sizes
from nbcompress.measure.inputs import ModelInputs, evaluation_copy, model_inputs, preserved_random_state
from nbcompress.measure.latency import Latency, measure_latency, onnx_model
from nbcompress.measure.macs import MacCount, count_macs
from nbcompress.measure.memory import PeakMemory, measure_memory
from nbcompress.measure.text import count_text, size_text, text_table

# Bytes and multiply-accumulates of a layer.
Cost = tuple[int, int | None]


@dataclass(frozen=True, repr=False)
class FootprintTable(Sequence[Footprint]):
    """Footprints of several models, measured in turn."""

    models: tuple[Footprint, ...]

    @overload
    def __getitem__(self, index: int) -> Footprint: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Footprint, ...]: ...
    def __getitem__(self, index: int | slice) -> Footprint | tuple[Footprint, ...]:
        return self.models[index]

    def __len__(self) -> int:
        return len(self.models)

    def __iter__(self) -> Iterator[Footprint]:
        return iter(self.models)

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, texts and numbers."""
        return {"models": [model.to_json() for model in self.models]}

    def rows(self) -> list[list[str]]:
        """Rows of a table of costs: the name of the cost, then a text for each model."""
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


def align_layers(models: Sequence[Footprint]) -> dict[str, list[Cost | None]]:
    """Return the cost of each layer in each model, by layer name; None where a model lacks the layer.

    Layers that a compressor put in place of a layer, such as the two inside a low-rank one, count for that layer.
    """
    first = {layer.name for layer in models[0].layers}
    aligned: dict[str, list[Cost | None]] = {}
    for index, model in enumerate(models):
        for layer in model.layers:
            costs = aligned.setdefault(_original_name(layer.name, first), [None] * len(models))
            size, macs = costs[index] or (0, None)
            costs[index] = (size + layer.size_bytes, layer.macs if macs is None else macs + (layer.macs or 0))
    return aligned


def layer_table(models: Sequence[Footprint]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a table of layers; a dash where a model lacks a layer."""
    header = ["layer", *(f"size, {model.name}" for model in models)]
    has_macs = any(model.macs is not None for model in models)
    if has_macs:
        header += [f"MACs, {model.name}" for model in models]
    rows = []
    for name, costs in align_layers(models).items():
        row = [name or ROOT_NAME, *(size_text(None if cost is None else cost[0]) for cost in costs)]
        rows.append(row + [count_text(None if cost is None else cost[1]) for cost in costs] * has_macs)
    return header, rows


def _original_name(name: str, known: Collection[str]) -> str:
    """`name` itself, or the known layer that encloses it."""
    enclosing = name
    while enclosing and enclosing not in known:
        enclosing = enclosing.rpartition(".")[0]
    return enclosing or name


Runtime = Literal["torch", "onnx"]


@overload
def footprint(  # type: ignore[overload-overlap]  # a str is a sequence of str, and the name of a file
    model: ModelOrFile,
    example: object = None,
    *,
    data: object = None,
    threads: int = 1,
    repeats: int = 30,
    runtime: Runtime = "torch",
    into: nn.Module | None = None,
) -> Footprint: ...
@overload
def footprint(
    model: Sequence[ModelOrFile] | Mapping[str, ModelOrFile],
    example: object = None,
    *,
    data: object = None,
    threads: int = 1,
    repeats: int = 30,
    runtime: Runtime = "torch",
    into: nn.Module | None = None,
) -> FootprintTable: ...
def footprint(
    model: ModelOrFile | Sequence[ModelOrFile] | Mapping[str, ModelOrFile],
    example: object = None,
    *,
    data: object = None,
    threads: int = 1,
    repeats: int = 30,
    runtime: Runtime = "torch",
    into: nn.Module | None = None,
) -> Footprint | FootprintTable:
    """Measure the costs of a model, or of several models side by side.

    Multiply-accumulates, memory and latency need an input: `example`, or the first batch of `data`. They are measured
    on a copy in evaluation mode, and random states are restored, so nothing is changed.

    Args:
        model: A module, a list of modules, or a dict of modules by the name to show. The name of a file can stand for a
            module: an ONNX file is timed in ONNX Runtime, and a file of `nc.save` fills a copy of `into`.
        example: A tensor, a tuple of positional or a dict of keyword inputs, on the device of the model.
        data: A `DataLoader`, a data set, or a pair of tensors.
        threads: Threads of the runtime while a call is timed.
        repeats: Samples of each model; they alternate between models. 0 switches timing off.
        runtime: Where calls of modules are timed: in `torch`, or in ONNX Runtime (`onnx`) after an export.
        into: An instance of the class of the model in a file of `nc.save`; the first module if None.

    Returns:
        For a single module a `Footprint`, else a sequence of them. Sizes are in bytes, latency is in milliseconds with
        its 95 % interval. `print` shows a table.

    Raises:
        MeasureError: A model cannot be copied or fails on the input, or an argument has another form.
        DataError: The data has another form or is empty.
        ArtifactError: The model holds what a file cannot, or cannot be exported to ONNX.
        MissingPart: ONNX Runtime is asked for and not installed.

    Example:
        >>> import torch, nbcompress as nc
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        >>> costs = nc.footprint(model, torch.randn(5, 8), repeats=0)
        >>> costs.parameters, costs.macs
        (212, 960)
        >>> before, after = nc.footprint([model, nc.quantize(model, bits=4)])
        >>> after.size_bytes < before.size_bytes
        True
    """
    if runtime not in get_args(Runtime):
        raise MeasureError(f"{option('runtime')} must be torch or onnx, got {runtime!r}")
    named = as_modules(_named(model), into, threads)
    with preserved_random_state():
        copies = [evaluation_copy(model) for model in named.values()]
        inputs = [_inputs(copy, example, data) for copy in copies]
        counts = [_count(copy, model_input) for copy, model_input in zip(copies, inputs, strict=True)]
        memories = [_memory(copy, model_input) for copy, model_input in zip(copies, inputs, strict=True)]
        latencies: list[Latency | None] = [None] * len(copies)
        present = [model_input for model_input in inputs if model_input is not None]
        if present and repeats:
            latencies = [*_latencies(copies, present, threads, repeats, runtime)]
    footprints = [
        replace(_footprint(name, model, model_input, count), latency=latency, memory=memory)
        for (name, model), model_input, count, latency, memory in zip(
            named.items(), inputs, counts, latencies, memories, strict=True
        )
    ]
    is_alone = isinstance(model, (nn.Module, str, os.PathLike))
    return footprints[0] if is_alone else FootprintTable(tuple(footprints))


def _inputs(copy: nn.Module, example: object, data: object) -> ModelInputs | None:
    inputs = model_inputs(copy, example, data)
    return for_onnx(inputs) if inputs is not None and isinstance(copy, OnnxModel) else inputs


def check_runs(model: nn.Module, example: object = None, data: object = None) -> None:
    """Run a copy of `model` once on the example or on the first batch of the data, if either is given.

    Raises:
        MeasureError: The model fails on it, or cannot be copied.
        DataError: The data has another form or is empty.
    """
    with preserved_random_state(), torch.inference_mode():
        copy = evaluation_copy(model)
        inputs = model_inputs(copy, example, data)
        if inputs is not None:
            inputs(copy)


def _latencies(
    copies: list[nn.Module], inputs: list[ModelInputs], threads: int, repeats: int, runtime: Runtime
) -> list[Latency]:
    # A file runs in ONNX Runtime in any case.
    found = [
        (copy, model_input, 0.0)
        if runtime == "torch" or isinstance(copy, OnnxModel)
        else onnx_model(copy, model_input, threads)
        for copy, model_input in zip(copies, inputs, strict=True)
    ]
    timed = [model for model, _, _ in found]
    measured = measure_latency(timed, [model_input for _, model_input, _ in found], threads=threads, repeats=repeats)
    return [
        replace(latency, runtime="onnx" if isinstance(model, OnnxModel) else "torch", rounding=error)
        for latency, model, (_, _, error) in zip(measured, timed, found, strict=True)
    ]


def _named(model: object) -> dict[str, object]:
    if isinstance(model, Mapping):
        named = {str(name): module for name, module in model.items()}
    else:
        models = list(model) if isinstance(model, (list, tuple)) else [model]
        kinds = [name_of(model) for model in models]
        # Models of the same class are numbered.
        names = [f"{kind} {number}" if kinds.count(kind) > 1 else kind for number, kind in enumerate(kinds, 1)]
        named = dict(zip(names, models, strict=True))
    if not named:
        raise MeasureError("footprint needs at least one model, got an empty list")
    return named


def _count(copy: nn.Module, inputs: ModelInputs | None) -> MacCount | None:
    # Counted on another copy: the call may change it, and counting registers hooks on it.
    is_file = isinstance(copy, OnnxModel)
    return None if inputs is None or is_file else count_macs(evaluation_copy(copy), inputs)


def _memory(copy: nn.Module, inputs: ModelInputs | None) -> PeakMemory | None:
    is_file = isinstance(copy, OnnxModel)
    return None if inputs is None or is_file else measure_memory(evaluation_copy(copy), inputs)


@torch.no_grad()
def _footprint(name: str, model: nn.Module, inputs: ModelInputs | None, count: MacCount | None) -> Footprint:
    if isinstance(model, OnnxModel) and model.path is not None:
        total, by_layer = onnx_sizes(model.path)
        files = tuple(LayerFootprint(layer, "", 0, 0, size) for layer, size in by_layer.items())
        text = "" if inputs is None else str(inputs)
        return Footprint(
            name, None, None, total, inputs=text, layers=files, overhead_bytes=total - sum(by_layer.values())
        )
    model = without_torch_masks(model)
    sizes = size_by_tensor(model)
    overhead = sizes.pop("")
    weights = {names[0]: weight for names, weight in unique_parameters(model)}
    layers = []
    for layer, module in model.named_modules():
        macs = None if count is None else count.by_layer.get(layer, 0)
        own_weights = [weight for tensor, weight in weights.items() if tensor.rpartition(".")[0] == layer]
        own_sizes = [size for tensor, size in sizes.items() if tensor.rpartition(".")[0] == layer]
        if own_weights or own_sizes or macs:
            nonzeros = sum(int(torch.count_nonzero(weight)) for weight in own_weights)
            n_weights = sum(weight.numel() for weight in own_weights)
            layers.append(LayerFootprint(layer, type(module).__name__, n_weights, nonzeros, sum(own_sizes), macs))
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
