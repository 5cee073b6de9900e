"""What a model costs: parameters, non-zeros, bytes on disk, multiply-accumulates, milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args, overload

import torch
from torch import nn

from nbcompress.artifact import size_by_tensor
from nbcompress.compress.layers import unique_parameters
from nbcompress.errors import MeasureError
from nbcompress.measure.inputs import Inputs, inputs_of
from nbcompress.measure.latency import Latency, measure_latency
from nbcompress.measure.macs import MacCount, count_macs
from nbcompress.measure.memory import HOW, PeakMemory, measure_memory
from nbcompress.measure.runtimes import in_onnx
from nbcompress.measure.side_by_side import THE_MODEL, layer_table
from nbcompress.measure.table import count_text, milliseconds_text, size_text, text_table
from nbcompress.measure.undisturbed import measured_copy, random_state_kept

Runtime = Literal["torch", "onnx"]

# Columns of what each layer costs.
LAYER_HEAD = ("layer", "kind", "parameters", "non-zeros", "size", "MACs")


@dataclass(frozen=True)
class LayerFootprint:
    """The share of one layer: a module that holds tensors of its own or multiplies something.

    Attributes:
        name: Dotted module name; the model itself is "".
        kind: Its class.
        parameters: Weights in it; a tensor that several layers share counts in the first.
        nonzeros: Of these, how many are not zero.
        size_bytes: Bytes of the file that its parameters and buffers take.
        macs: Multiply-accumulates of one call, None without an example.
    """

    name: str
    kind: str
    parameters: int
    nonzeros: int
    size_bytes: int
    macs: int | None = None


@dataclass(frozen=True, repr=False)
class Footprint:
    """What a model costs.

    Attributes:
        name: The model's class, or the name it was given.
        parameters: Weights, shared ones once.
        nonzeros: Of these, how many are not zero.
        size_bytes: Length of the file that `save` writes.
        macs: Multiply-accumulates of one call, None without an example.
        uncounted: Operators of that call that were not counted, by name.
        latency: Of that call, None without an example.
        inputs: What that call was given, in words; empty without an example.
        layers: Layer by layer. Their bytes and `overhead_bytes` add up to `size_bytes`.
        overhead_bytes: What the file adds to the tensors.
        memory: Of that call in torch, None without an example.
    """

    name: str
    parameters: int
    nonzeros: int
    size_bytes: int
    macs: int | None = None
    uncounted: tuple[str, ...] = ()
    latency: Latency | None = None
    inputs: str = ""
    layers: tuple[LayerFootprint, ...] = ()
    overhead_bytes: int = 0
    memory: PeakMemory | None = None

    @property
    def memory_bytes(self) -> int | None:
        """The most that weights, inputs and results took at once in one call; None without an example."""
        return None if self.memory is None else self.memory.total_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, texts and numbers."""
        return {**asdict(self), "uncounted": list(self.uncounted), "layers": [asdict(one) for one in self.layers]}

    def layer_rows(self) -> list[list[str]]:
        """What each layer costs, in the columns of `LAYER_HEAD`."""
        return [
            [
                one.name or THE_MODEL,
                one.kind,
                count_text(one.parameters),
                count_text(one.nonzeros),
                size_text(one.size_bytes),
                count_text(one.macs),
            ]
            for one in self.layers
        ]

    def __str__(self) -> str:
        total = [self.parameters, self.nonzeros, None, self.macs]
        texts = [count_text(one) for one in total]
        rows = [
            *self.layer_rows(),
            ["(file)", "", "", "", size_text(self.overhead_bytes), ""],
            ["total", self.name, texts[0], texts[1], size_text(self.size_bytes), texts[3]],
        ]
        return "\n".join([text_table(LAYER_HEAD, rows), *footprint_notes([self])])

    def __repr__(self) -> str:
        return f"<Footprint of {self.name}: {count_text(self.parameters)} parameters, {size_text(self.size_bytes)}>"


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
        return {"models": [one.to_json() for one in self.models]}

    def rows(self) -> list[list[str]]:
        """What each model costs in all: the name of the cost, then one text for each model."""
        models = self.models
        return [
            ["size", *(size_text(one.size_bytes) for one in models)],
            ["parameters", *(count_text(one.parameters) for one in models)],
            ["non-zeros", *(count_text(one.nonzeros) for one in models)],
            ["MACs", *(count_text(one.macs) for one in models)],
            ["peak memory", *(size_text(one.memory_bytes) for one in models)],
            ["ms a call", *(latency_text(one.latency) for one in models)],
        ]

    def __str__(self) -> str:
        summary = text_table(["", *(one.name for one in self.models)], self.rows())
        return "\n".join([summary, "", text_table(*layer_table(self.models)), "", *footprint_notes(self.models)])

    def __repr__(self) -> str:
        return f"<Footprints of {', '.join(one.name for one in self.models)}>"


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


def latency_text(latency: Latency | None) -> str:
    """`1.23 (1.20 to 1.31)`."""
    if latency is None:
        return "-"
    ends = f"{milliseconds_text(latency.low_ms)} to {milliseconds_text(latency.high_ms)}"
    return f"{milliseconds_text(latency.median_ms)} ({ends})"


def footprint_notes(models: Sequence[Footprint]) -> list[str]:
    """What a table cannot say: the input, how latency and memory were measured, what was not counted."""
    notes = []
    first = models[0]
    if first.inputs:
        notes.append(f"one call on {first.inputs}")
    else:
        notes.append("MACs, memory and latency were not measured: give an example")
    latency = first.latency
    if latency is not None:
        threads = f"{latency.threads} thread" + "s" * (latency.threads != 1)
        figure = f"{latency_text(latency)} ms, the" if len(models) == 1 else "ms a call:"
        where = " in ONNX Runtime" if latency.runtime == "onnx" else ""
        notes.append(f"{figure} median of {latency.repeats} on {threads}{where} with its 95 % interval")
    if first.memory is not None:
        figure = f"{size_text(first.memory_bytes)} peak memory" if len(models) == 1 else "peak memory"
        notes.append(f"{figure}: weights, and {HOW[first.memory.method]}")
    missed = [f"not counted in {one.name}: {', '.join(one.uncounted)}" for one in models if one.uncounted]
    return [*notes, *missed]


__all__ = [
    "LAYER_HEAD",
    "Footprint",
    "Footprints",
    "LayerFootprint",
    "check_runs",
    "footprint",
    "footprint_notes",
    "latency_text",
]
