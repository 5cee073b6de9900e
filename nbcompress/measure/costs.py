"""The costs of one model and of its layers, as values and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nbcompress.measure.latency import Latency
from nbcompress.measure.memory import METHOD_TEXT, PeakMemory
from nbcompress.measure.text import count_text, milliseconds_text, size_text, text_table

# Shown for the model itself, whose module name is empty.
ROOT_NAME = "(the model)"

# Columns of a table of layers.
LAYER_HEADER = ("layer", "kind", "parameters", "non-zeros", "size", "MACs")


@dataclass(frozen=True)
class LayerFootprint:
    """The costs of one layer: a module that holds tensors of its own or has multiply-accumulates.

    Attributes:
        name: Dotted module name; the model itself is "".
        kind: Name of its class.
        parameters: Weights in it; a tensor that several layers share counts in the first.
        nonzeros: How many of them are not zero.
        size_bytes: Bytes that its parameters and buffers take in the file.
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
    """The costs of one model.

    Attributes:
        name: Class of the model, or the name it was given.
        parameters: Number of weights, shared ones once; None for an ONNX file.
        nonzeros: How many of them are not zero; None for an ONNX file.
        size_bytes: Length of the file that `nc.save` writes, or of the file that was measured.
        macs: Multiply-accumulates of one call, None without an example.
        uncounted: Operators of that call that were not counted, by name.
        latency: Of that call in milliseconds, None without an example.
        inputs: Dtypes and shapes of that call's inputs as text; empty without an example.
        layers: Costs of each layer. Their bytes and `overhead_bytes` add up to `size_bytes`.
        overhead_bytes: Bytes of the file besides the tensors.
        memory: Peak memory of that call in torch, None without an example.
    """

    name: str
    parameters: int | None
    nonzeros: int | None
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
        """Peak memory of weights, inputs and results in one call; None without an example."""
        return None if self.memory is None else self.memory.total_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, texts and numbers."""
        return {**asdict(self), "uncounted": list(self.uncounted), "layers": [asdict(layer) for layer in self.layers]}

    def layer_rows(self) -> list[list[str]]:
        """Rows of a table of layers, in the columns of `LAYER_HEADER`."""
        return [
            [
                layer.name or ROOT_NAME,
                layer.kind,
                count_text(layer.parameters),
                count_text(layer.nonzeros),
                size_text(layer.size_bytes),
                count_text(layer.macs),
            ]
            for layer in self.layers
        ]

    def __str__(self) -> str:
        parameters, nonzeros, macs = map(count_text, (self.parameters, self.nonzeros, self.macs))
        rows = [
            *self.layer_rows(),
            ["(file)", "", "", "", size_text(self.overhead_bytes), ""],
            ["total", self.name, parameters, nonzeros, size_text(self.size_bytes), macs],
        ]
        return "\n".join([text_table(LAYER_HEADER, rows), *footprint_notes([self])])

    def __repr__(self) -> str:
        parameters = "" if self.parameters is None else f"{count_text(self.parameters)} parameters, "
        return f"<Footprint of {self.name}: {parameters}{size_text(self.size_bytes)}>"


def latency_text(latency: Latency | None) -> str:
    """Milliseconds with their interval: `1.23 (1.20 to 1.31)`; a dash for None."""
    if latency is None:
        return "-"
    ends = f"{milliseconds_text(latency.low_ms)} to {milliseconds_text(latency.high_ms)}"
    return f"{milliseconds_text(latency.median_ms)} ({ends})"


def runtime_text(models: Sequence[Footprint]) -> str:
    """Where calls were timed: empty for torch, ` in ONNX Runtime`, or which model where."""
    timed = [(model.name, model.latency.runtime) for model in models if model.latency is not None]
    runtimes = {runtime for _, runtime in timed}
    if len(runtimes) < 2:
        return " in ONNX Runtime" if "onnx" in runtimes else ""
    in_onnx = ", ".join(name for name, runtime in timed if runtime == "onnx")
    return f", {in_onnx} in ONNX Runtime and the others in torch,"


def footprint_notes(models: Sequence[Footprint]) -> list[str]:
    """Notes under a table: the input, how latency and memory were measured, and what was not counted."""
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
        notes.append(f"{figure} median of {latency.repeats} on {threads}{runtime_text(models)} with its 95 % interval")
    if first.memory is not None:
        figure = f"{size_text(first.memory_bytes)} peak memory" if len(models) == 1 else "peak memory"
        notes.append(f"{figure}: weights, and {METHOD_TEXT[first.memory.method]}")
    # Less is the order of summation.
    rounding = [(model.name, model.latency.rounding) for model in models if model.latency is not None]
    notes += [
        f"ONNX Runtime rounds activations of {name} to 8 bits before products with weights in few bits, which changes "
        f"its outputs by {error:.1%}"
        for name, error in rounding
        if error > 1e-4
    ]
    uncounted = [f"not counted in {model.name}: {', '.join(model.uncounted)}" for model in models if model.uncounted]
    return [*notes, *uncounted]


__all__ = [
    "LAYER_HEADER",
    "ROOT_NAME",
    "Footprint",
    "LayerFootprint",
    "footprint_notes",
    "latency_text",
    "runtime_text",
]
