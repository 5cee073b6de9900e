"""What an export says of the file that it wrote: how products compute, why, and where they are slower than floats."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PosixPath, WindowsPath
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from nbcompress.artifact.export.agreement import CHANGED_TOLERANCE, ROUNDING_TOLERANCE, Agreement

if TYPE_CHECKING:
    from nbcompress.artifact.export.blocks import BlockProduct

# Samples of each product, and calls in a sample, when layers are timed.
_N_SAMPLES = 15
_SAMPLE_S = 5e-4
# Of larger layers, so many outputs stand for all when they are timed.
_MOST_OUTPUTS = 4096
# A product is slower than in float32 if it takes this many times as long: less is noise of a busy machine.
_SLOWER = 1.1


@dataclass(frozen=True)
class LayerSpeed:
    """Speed of a matrix product with weights in few bits.

    Attributes:
        names: Of the weights of this shape.
        product: One of these products.
        speedup: Time in float32 over time in few bits, both in ONNX Runtime on one thread, for one example.
    """

    names: tuple[str, ...]
    product: BlockProduct
    speedup: float


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it computes.

    Attributes:
        format: Such as `onnx`.
        files: All files, the one that was asked for first.
        agreement: With the model, on the example and the data, as ONNX Runtime runs the file; None for formats that
            hold no program.
        changed: Share of predictions that changed clearly, see `changed_predictions`.
        level: `accuracy_level` of matrix products whose weights stay in few bits; None if there are none.
        why: Why this level, and whether LSTM layers compute in integers.
        products: These matrix products.
        recurrent: Names of the weights of LSTM layers that compute in integers.
        decoded: Names of the weights that are decoded to floating point at every call: they save bytes, not time.
    """

    format: str
    files: tuple[Path, ...]
    agreement: Agreement | None = None
    changed: float = 0.0
    level: int | None = None
    why: str = ""
    products: tuple[BlockProduct, ...] = ()
    recurrent: tuple[str, ...] = ()
    decoded: tuple[str, ...] = ()
    _speeds: list[tuple[LayerSpeed, ...]] = field(default_factory=list, repr=False, compare=False)

    @property
    def size_bytes(self) -> int:
        """Length of all files together."""
        return sum(path.stat().st_size for path in self.files)

    def speeds(self) -> tuple[LayerSpeed, ...]:
        """Time the matrix products against float32, once for each shape, in ONNX Runtime on one thread."""
        if not self._speeds:
            self._speeds.append(_layer_speeds(self.products))
        return self._speeds[0]

    def notes(self) -> list[str]:
        """Sentences for a card; layers are timed for them."""
        notes = []
        if self.agreement is not None:
            notes.append(
                f"agreement with the model: outputs are off by {self.agreement.error:.2g} of their length (cosine "
                f"{self.agreement.cosine:.6f}), and {self.changed:.1%} of the predictions change clearly"
            )
        if self.products:
            bits = sorted({product.bits for product in self.products})
            listed = " and ".join(map(str, bits))
            notes.append(f"{len(self.products)} matrix products read weights in {listed} bits (MatMulNBits)")
        if self.recurrent:
            notes.append(f"{len(self.recurrent) // 2} LSTM layers compute in 8 bits (DynamicQuantizeLSTM)")
        notes += [self.why] if self.why else []
        notes += [_speed_note(speed) for speed in self.speeds() if speed.speedup < 1 / _SLOWER]
        if self.decoded:
            notes.append(
                f"decoded to floating point at every call, which saves bytes and not time: {_listed(self.decoded)}"
            )
        if len(self.files) > 1:
            notes.append(f"the weights are in {self.files[1].name}, which belongs beside {self.files[0].name}")
        return notes

    def __str__(self) -> str:
        return "\n".join([f"{self.files[0].name}: {self.size_bytes:,} bytes", *self.notes()])


def rounding_text(agreement: Agreement, changed: float, limit: float) -> str:
    """How far 8-bit inputs of products move the outputs, and how far they may."""
    return (
        f"outputs off by {agreement.error:.2g} of their length and {changed:.1%} of the predictions changed clearly, "
        f"where {limit:g} and {CHANGED_TOLERANCE:.0%} are allowed"
    )


def rounding_limit(tolerance: float | None) -> float:
    """The largest error with which products may round their inputs unasked."""
    return ROUNDING_TOLERANCE if tolerance is None else min(tolerance, ROUNDING_TOLERANCE)


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _speed_note(speed: LayerSpeed) -> str:
    product = speed.product
    return (
        f"slower than float32 for one example ({product.n_rows or 1} rows): {_listed(speed.names, 3)}, "
        f"{product.n_inputs} to {product.n_outputs}, {speed.speedup:.2f} times its speed in ONNX Runtime on one thread"
    )


# ---- Timing of layers ----


def _layer_speeds(products: Sequence[BlockProduct]) -> tuple[LayerSpeed, ...]:
    by_shape: dict[BlockProduct, list[str]] = {}
    for product in products:
        by_shape.setdefault(replace(product, name=""), []).append(product.name)
    return tuple(LayerSpeed(tuple(names), product, _speedup(product)) for product, names in by_shape.items())


def _speedup(product: BlockProduct) -> float:
    """Time of a product in float32 over its time in few bits: the median over samples in turn."""
    n_rows, n_outputs = product.n_rows or 1, min(product.n_outputs, _MOST_OUTPUTS)
    rows = np.random.default_rng(0).standard_normal((n_rows, product.n_inputs)).astype(np.float32)
    runs = [_runner(replace(product, n_outputs=n_outputs), rows, is_float=is_float) for is_float in (True, False)]
    shortest = [min(_seconds(run, 1) for _ in range(3)) for run in runs]
    n_calls = [max(1, round(_SAMPLE_S / max(seconds, 1e-9))) for seconds in shortest]
    pairs = [[_seconds(run, n) / n for run, n in zip(runs, n_calls, strict=True)] for _ in range(_N_SAMPLES)]
    return float(np.median([floats / few for floats, few in pairs]))


def _seconds(run: Any, n_calls: int) -> float:
    start = perf_counter()
    for _ in range(n_calls):
        run()
    return perf_counter() - start


def _runner(product: BlockProduct, rows: np.ndarray[Any, Any], *, is_float: bool) -> Any:
    """A function that runs one product in ONNX Runtime."""
    import onnx_ir as ir
    import torch

    from nbcompress.artifact.export.blocks import in_blocks, matrix_product
    from nbcompress.artifact.export.onnx_graph import GraphEditor, IntegerWeight, OnnxSession

    x = ir.val("x", ir.DataType.FLOAT, rows.shape)
    editor = GraphEditor(ir.Model(ir.Graph([x], [], nodes=[], opset_imports={"": 21}), ir_version=10))
    shape = (product.n_outputs, product.n_inputs)
    if is_float:
        weight = editor.constant("weight", np.random.default_rng(1).standard_normal(shape[::-1]).astype(np.float32))
        output = editor.op("MatMul", [x, weight])
    else:
        highest = (1 << (product.bits - 1)) - 1
        codes = np.random.default_rng(1).integers(-highest - 1, highest + 1, shape).astype(np.int8)
        scale = np.ones((shape[0], -(-shape[1] // product.block)), np.float32)
        blocks = in_blocks(IntegerWeight("weight", codes, scale, None, product.block), product.level)
        assert blocks is not None  # the product was placed
        output = matrix_product(editor, blocks, x, None, product.level)
    output.name, output.type = "y", ir.TensorType(ir.DataType.FLOAT)
    editor.graph.outputs.append(output)
    session = OnnxSession(ir.to_proto(editor.finish()).SerializeToString(), 1)
    inputs = [torch.from_numpy(rows)]
    return lambda: session(inputs)


# ---- The path of a file with its report ----

_Path = PosixPath if os.name == "posix" else WindowsPath


class ExportedFile(_Path):  # type: ignore[misc, valid-type]
    """The path of an exported file.

    Attributes:
        report: What the export says of it; None on a path that was made from this one.
    """

    report: ExportReport | None = None

    @classmethod
    def of(cls, path: Path, report: ExportReport) -> ExportedFile:
        """Return `path` with a report."""
        found = cls(path)
        found.report = report
        return found


__all__ = ["ExportReport", "ExportedFile", "LayerSpeed", "rounding_limit", "rounding_text"]
