"""The cost of one model and of its layers, as values and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nbcompress.measure.latency import Latency
from nbcompress.measure.memory import HOW, PeakMemory
from nbcompress.measure.text import count_text, milliseconds_text, size_text, text_table

# What stands for the name of the outermost module.
THE_MODEL = "(the model)"

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
        return {**asdict(self), "uncounted": list(self.uncounted), "layers": [asdict(layer) for layer in self.layers]}

    def layer_rows(self) -> list[list[str]]:
        """What each layer costs, in the columns of `LAYER_HEAD`."""
        return [
            [
                layer.name or THE_MODEL,
                layer.kind,
                count_text(layer.parameters),
                count_text(layer.nonzeros),
                size_text(layer.size_bytes),
                count_text(layer.macs),
            ]
            for layer in self.layers
        ]

    def __str__(self) -> str:
        total = [self.parameters, self.nonzeros, None, self.macs]
        texts = [count_text(cost) for cost in total]
        rows = [
            *self.layer_rows(),
            ["(file)", "", "", "", size_text(self.overhead_bytes), ""],
            ["total", self.name, texts[0], texts[1], size_text(self.size_bytes), texts[3]],
        ]
        return "\n".join([text_table(LAYER_HEAD, rows), *footprint_notes([self])])

    def __repr__(self) -> str:
        return f"<Footprint of {self.name}: {count_text(self.parameters)} parameters, {size_text(self.size_bytes)}>"


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
    missed = [f"not counted in {model.name}: {', '.join(model.uncounted)}" for model in models if model.uncounted]
    return [*notes, *missed]


__all__ = ["LAYER_HEAD", "THE_MODEL", "Footprint", "LayerFootprint", "footprint_notes", "latency_text"]
