"""A model as one ONNX file, with integers where its layers are quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nbcompress._version import __version__
from nbcompress.artifact.export.agreement import (
    CHANGED_TOLERANCE,
    FLOAT_TOLERANCE,
    INTEGER_TOLERANCE,
    Agreement,
    ExampleInputs,
    agreement,
    changed_predictions,
    check_agreement,
    examples_text,
)
from nbcompress.artifact.export.blocks import EXACT_LEVEL, INTEGER_LEVEL, BlockProduct
from nbcompress.artifact.export.dynamic import FreeAxes
from nbcompress.artifact.export.onnx_graph import (
    IntegerWeight,
    OnnxSession,
    integer_weights,
    tensors_of,
    union_of,
)
from nbcompress.artifact.export.program import copy_to_trace, onnx_graph, trace_program
from nbcompress.artifact.export.report import ExportReport, rounding_limit, rounding_text
from nbcompress.artifact.file import written_together
from nbcompress.artifact.header import ByteWriter
from nbcompress.compressors.layers import unique_parameters
from nbcompress.compressors.record import ActivationRange, record_of
from nbcompress.errors import ArtifactError, warn
from nbcompress.progress import progress_bar

if TYPE_CHECKING:
    import onnx_ir as ir

# An ONNX file is one protocol buffer of up to 2 GB. If the weights take more than this, they go into a file beside it.
_MAX_WEIGHT_BYTES = 2**31 - 2**25
# Weights shorter than this stay in the buffer.
_MIN_EXTERNAL_BYTES = 1024
# Examples in the largest batch that is checked where a model branches on the batch size.
_MAX_CHECKED = 1024


@dataclass(frozen=True)
class _Way:
    """How products with weights in few bits compute if the user did not ask for 8-bit activations.

    Attributes:
        level: `accuracy_level` of matrix products.
        has_integer_lstm: Whether LSTM layers with 8-bit weights compute in integers.
    """

    level: int
    has_integer_lstm: bool


@dataclass(frozen=True, eq=False)
class _Inserted:
    """What became of the integer weights.

    Attributes:
        graph: The graph.
        is_asked: Whether products round their inputs to 8 bits because the user asked for it.
        products: Matrix products with packed weights.
        recurrent: Names of the weights of LSTM layers in integers.
        decoded: Names of the weights that are decoded to floating point.
        left_out: Reasons why a product does not compute in integers although the user asked, by name of the weight.
    """

    graph: ir.Model
    is_asked: bool
    products: tuple[BlockProduct, ...]
    recurrent: tuple[str, ...]
    decoded: tuple[str, ...]
    left_out: Mapping[str, str]

    @property
    def rounds_unasked(self) -> bool:
        """Whether inputs are rounded to 8 bits though nobody asked for it."""
        has_level = any(product.level == INTEGER_LEVEL for product in self.products)
        return not self.is_asked and (has_level or bool(self.recurrent))


def write_onnx(
    model: nn.Module,
    copy: nn.Module,
    examples: Sequence[ExampleInputs],
    path: Path,
    tolerance: float | None = None,
    axes: FreeAxes | None = None,
) -> ExportReport:
    """Write the ONNX file of `model`, after running it in ONNX Runtime and checking its outputs.

    If the weights take more than 2 GB, they are in a second file beside it, with the suffix `.data`.

    Args:
        model: The model with its record.
        copy: A copy of it in evaluation mode, in float32 on the CPU, which is exported. It is changed.
        examples: The first is traced. All are checked, and calibrate values whose range is not recorded.
        path: Of the file. It appears whole or not at all.
        tolerance: The largest error of an output, see `Agreement`; if None, the one for floats or for integers.
        axes: Axes beside the first whose lengths are free.

    Raises:
        ArtifactError: The model cannot be traced, has no counterpart in ONNX, or computes something else there.
        MissingPart: The packages for ONNX are not installed.
    """
    axes = FreeAxes({}) if axes is None else axes
    weights = integer_weights(model)
    _restore_grid_values(copy, weights)
    to_trace = copy_to_trace(copy)
    expected = [example.outputs(copy) for example in examples]
    activations = record_of(model).activations
    tried: dict[object, str] = {}
    # The steps are: trace, convert, write, and run the file; the last three again for each further way to compute.
    with progress_bar("export", 4) as advance, written_together(path) as temporary:
        program, limits = trace_program(to_trace, examples[0], axes)
        del to_trace
        advance(1)
        for way in (_Way(INTEGER_LEVEL, True), _Way(INTEGER_LEVEL, False), _Way(EXACT_LEVEL, True), _EXACT):
            inserted = _insert_integers(onnx_graph(program, weights, axes), weights, activations, examples, way)
            advance(1)
            kind = (bool(inserted.products) and way.level, bool(inserted.recurrent))
            if kind in tried:
                continue
            for earlier in temporary.parent.iterdir():
                earlier.unlink()
            files = write_graph(inserted.graph, temporary)
            advance(1)
            outcome = _check_file(copy, temporary, inserted, examples, expected, limits["batch"], tolerance)
            advance(1)
            tried[kind] = outcome.text
            if outcome.is_kept:
                break
    _warn_of_float_layers(inserted.left_out)
    report = ExportReport(
        "onnx", tuple(path.with_name(file.name) for file in files), outcome.agreement, outcome.changed
    )
    return _with_ways(report, inserted, tried)


_EXACT = _Way(EXACT_LEVEL, False)


@dataclass(frozen=True)
class _Outcome:
    """How a file agrees with the model.

    Attributes:
        agreement: The worst over all examples.
        changed: The largest share of predictions that changed clearly.
        is_kept: Whether the file is good enough.
        text: Both with what is allowed.
    """

    agreement: Agreement
    changed: float
    is_kept: bool
    text: str


def _check_file(
    copy: nn.Module,
    path: Path,
    inserted: _Inserted,
    examples: Sequence[ExampleInputs],
    expected: Sequence[Sequence[torch.Tensor]],
    limits: Mapping[str, int],
    tolerance: float | None,
) -> _Outcome:
    """Run a file in ONNX Runtime, exactly and with the settings that whoever opens it will use.

    Raises:
        ArtifactError: It computes something else than the model, so that another way to compute would not help.
    """
    name = type(copy).__name__
    has_integers = bool(inserted.products or inserted.decoded)
    # Without integers there is nothing that the settings change, and one run says it all.
    if has_integers and not inserted.is_asked and not inserted.recurrent:
        allowed = FLOAT_TOLERANCE if tolerance is None else tolerance
        _check(name, OnnxSession(str(path), is_exact=True), examples, expected, allowed)
    session = OnnxSession(str(path))
    worst, changed, n_examples = Agreement(0.0, 1.0), 0.0, examples[0].batch_size
    for example, outputs in zip(examples, expected, strict=True):
        found = tensors_of(session(_session_inputs(session, example)))
        measured = agreement(outputs, found)
        if not measured.error <= worst.error:
            worst, n_examples = measured, example.batch_size
        changed = max(changed, changed_predictions(outputs, found))
    limit = rounding_limit(tolerance)
    text = rounding_text(worst, changed, limit)
    if inserted.rounds_unasked and not (worst.error <= limit and changed <= CHANGED_TOLERANCE):
        return _Outcome(worst, changed, False, text)
    allowed = INTEGER_TOLERANCE if inserted.is_asked or inserted.decoded or inserted.products else FLOAT_TOLERANCE
    allowed = allowed if tolerance is None else tolerance
    check_agreement(name, f"ONNX Runtime on {examples_text(n_examples)}", worst, allowed)
    _check_beyond(copy, session, examples[0], limits, allowed)
    return _Outcome(worst, changed, True, text)


def _with_ways(report: ExportReport, inserted: _Inserted, tried: Mapping[object, str]) -> ExportReport:
    """The report with what was chosen, and why."""
    refused = list(tried.values())[:-1]
    level = inserted.products[0].level if inserted.products else None
    why = ""
    if inserted.is_asked and level is not None:
        why = f"accuracy_level {level}: inputs in 8 bits, as quantize(activations=...) asked"
    elif inserted.rounds_unasked:
        what = f"accuracy_level {level}" if level is not None else "LSTM layers in 8 bits"
        why = f"{what}: inputs in 8 bits agree, {list(tried.values())[-1]}"
    elif refused:
        what = f"accuracy_level {level}" if level is not None else "weights are decoded"
        why = f"{what}: products compute in floating point, because inputs in 8 bits give {refused[0]}"
    return replace(
        report,
        level=level,
        why=why,
        products=inserted.products,
        recurrent=inserted.recurrent,
        decoded=inserted.decoded,
    )


def _check(
    name: str,
    session: OnnxSession,
    examples: Sequence[ExampleInputs],
    expected: Sequence[Sequence[torch.Tensor]],
    tolerance: float,
) -> None:
    for example, outputs in zip(examples, expected, strict=True):
        measured = agreement(outputs, tensors_of(session(_session_inputs(session, example))))
        check_agreement(name, f"ONNX Runtime on {examples_text(example.batch_size)}", measured, tolerance)


def _check_beyond(
    copy: nn.Module, session: OnnxSession, example: ExampleInputs, limits: Mapping[str, int], tolerance: float
) -> None:
    """Check the batch sizes next to the limits of the program, which are not part of the graph."""
    for n in (limits.get("min", 1) - 1, limits.get("max", _MAX_CHECKED) + 1):
        if not 0 < n <= _MAX_CHECKED:
            continue
        beyond = example.resized(n)
        try:
            outputs = beyond.outputs(copy)
            found = tensors_of(session(_session_inputs(session, beyond)))
        except ArtifactError:  # an error is no wrong result
            continue
        check_agreement(
            type(copy).__name__, f"ONNX Runtime on {examples_text(n)}", agreement(outputs, found), tolerance
        )


@torch.no_grad()
def _restore_grid_values(copy: nn.Module, weights: Mapping[str, IntegerWeight]) -> None:
    """Give parameters the float32 values of their grids, where half precision has rounded them.

    The memory of a parameter is not written, because it can be that of the user's model.
    """
    for names, parameter in unique_parameters(copy):
        weight = next((weights[name] for name in names if name in weights), None)
        if weight is None:
            continue
        values = torch.from_numpy(weight.values)
        values = values.T if weight.is_turned else values
        if not torch.equal(parameter, values):
            parameter.data = values.contiguous()


def _insert_integers(
    graph: ir.Model,
    weights: Mapping[str, IntegerWeight],
    activations: Mapping[str, ActivationRange | str],
    examples: Sequence[ExampleInputs],
    way: _Way,
) -> _Inserted:
    """Put integers into the graph, in place."""
    from nbcompress.artifact.export.integers import (
        decoded_value,
        insert_integer_weights_,
        integer_products,
        quantize_dynamic_,
        quantize_static_,
    )
    from nbcompress.artifact.export.onnx_graph import GraphEditor
    from nbcompress.artifact.export.recurrent import place_recurrent_

    editor = GraphEditor(graph)
    recurrent, decoded_recurrent = place_recurrent_(editor, weights, decoded_value, is_integer=way.has_integer_lstm)
    if weights:
        editor.drop_unused()
    wanted = _activations_by_weight(weights, activations)
    # Integer kernels of layers take one scale for a channel. Scales by group have kernels of their own.
    in_integers = {
        name for name in wanted if not any(weight.block for weight in weights.values() if weight.name == name)
    }
    placed: list[BlockProduct] = []
    decoded = insert_integer_weights_(editor, weights, in_integers, way.level, placed)
    products, left_out = integer_products(decoded, set(wanted))
    left_out |= dict.fromkeys(set(decoded_recurrent) & set(wanted), _NO_INTEGER_RECURRENT)
    ranges = {name: mode for name, mode in wanted.items() if isinstance(mode, ActivationRange)}
    static = [product for product in products if product.name in ranges]
    if static:

        def calibrate(values: Sequence[ir.Value]) -> list[ActivationRange]:
            return _calibrate(graph, values, examples)

        quantize_static_(editor, static, ranges, calibrate)
    quantize_dynamic_(editor, [product for product in products if product.name not in ranges])
    editor.finish()
    computed = {product.name.removesuffix(".signed") for product in products}
    left = [weight.name for weight in decoded.values() if weight.name not in computed]
    in_few_bits = {product.name for product in placed} | set(recurrent)
    is_asked = bool(products) or bool(in_few_bits & set(wanted))
    names = tuple(dict.fromkeys([*left, *decoded_recurrent]))
    return _Inserted(graph, is_asked, tuple(placed), tuple(recurrent), names, left_out)


_NO_INTEGER_RECURRENT = (
    "recurrent layers compute in integers if they are LSTM layers with 8 bits and a scale per channel"
)


def _activations_by_weight(
    weights: Mapping[str, IntegerWeight], activations: Mapping[str, ActivationRange | str]
) -> dict[str, ActivationRange | str]:
    """How the products of each weight take their input, by the first name of the weight; the union for shared ones."""
    modes: dict[str, ActivationRange | str] = {}
    for name, weight in weights.items():
        mode, other = activations.get(name.rpartition(".")[0]), modes.get(weight.name)
        if isinstance(mode, ActivationRange) and isinstance(other, ActivationRange):
            mode = union_of(mode, other)
        if mode is not None:
            modes[weight.name] = mode
    return modes


def _calibrate(graph: ir.Model, values: Sequence[ir.Value], examples: Sequence[ExampleInputs]) -> list[ActivationRange]:
    """Return the range of each value over the examples."""
    n_outputs = len(graph.graph.outputs)
    graph.graph.sort()
    graph.graph.outputs.extend(value for value in values if not value.is_graph_output())
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "calibration.onnx"
            write_graph(graph, path)
            session = OnnxSession(str(path))
        names = [output.name for output in graph.graph.outputs]
        lows, highs = [0.0] * len(values), [0.0] * len(values)
        for example in examples:
            outputs = dict(zip(names, session(_session_inputs(session, example)), strict=True))
            for index, value in enumerate(values):
                lows[index] = min(lows[index], float(outputs[value.name].min()))
                highs[index] = max(highs[index], float(outputs[value.name].max()))
    finally:
        del graph.graph.outputs[n_outputs:]
    return [ActivationRange(low, high) for low, high in zip(lows, highs, strict=True)]


def _session_inputs(session: OnnxSession, example: ExampleInputs) -> list[torch.Tensor]:
    """Return the tensors of `example`, which must all be inputs of the session."""
    tensors = example.tensors
    if len(tensors) != len(session.inputs):
        raise ArtifactError(
            f"every tensor of the example must be an input of the exported program, but it has {len(session.inputs)} "
            f"inputs for {len(tensors)} tensors: leave out what the model does not use"
        )
    return tensors


def _warn_of_float_layers(left_out: Mapping[str, str]) -> None:
    """Warn, in one line, of layers that asked for integers and compute in floating point."""
    if left_out:
        listed = "; ".join(f"{name!r}: {reason}" for name, reason in list(left_out.items())[:5])
        more = f" (and {len(left_out) - 5} more)" if len(left_out) > 5 else ""
        warn(f"these weights are stored in integers, but computed with in floating point: {listed}{more}")


def write_graph(graph: ir.Model, path: Path) -> list[Path]:
    """Write a graph to one file, or its weights to a second one beside it if they take more than 2 GB.

    Returns:
        The files.
    """
    import onnx
    import onnx_ir as ir

    n_bytes = sum(
        initializer.const_value.nbytes
        for initializer in graph.graph.initializers.values()
        if initializer.const_value is not None
    )
    graph.producer_name, graph.producer_version = "nbcompress", __version__
    if n_bytes <= _MAX_WEIGHT_BYTES:
        _write_streamed(graph, path)
        return [path]
    data = path.with_name(f"{path.name}.data")
    ir.save(graph, path, external_data=data.name, size_threshold_bytes=_MIN_EXTERNAL_BYTES)
    proto = onnx.load(path, load_external_data=False)
    # Other tools that change the graph fail on outdated shapes here, and each constant has its own shape.
    del proto.graph.value_info[:]
    path.write_bytes(proto.SerializeToString())
    return [path, data]


# Tags of fields in the encoding of protocol buffers: `ModelProto.graph` and `GraphProto.initializer`.
_GRAPH_TAG, _INITIALIZER_TAG = b"\x3a", b"\x2a"


def _write_streamed(graph: ir.Model, path: Path) -> None:
    """Write a graph as one protocol buffer, one weight after the other: a whole buffer takes the weights twice more."""
    import onnx_ir as ir

    weights = list(graph.graph.initializers.values())
    graph.graph.initializers.clear()
    try:
        proto = ir.to_proto(graph)
    finally:
        for weight in weights:
            graph.graph.initializers.add(weight)
    # See `write_graph`.
    del proto.graph.value_info[:]
    body = proto.graph.SerializeToString()
    proto.ClearField("graph")
    n_graph = len(body)
    for weight in weights:
        n = _weight_proto(weight).ByteSize()
        n_graph += len(_INITIALIZER_TAG) + len(_varint(n)) + n
    with path.open("wb") as file:
        file.write(proto.SerializeToString() + _GRAPH_TAG + _varint(n_graph) + body)
        for weight in weights:
            data = _weight_proto(weight).SerializeToString()
            file.write(_INITIALIZER_TAG + _varint(len(data)))
            file.write(data)


def _weight_proto(weight: ir.Value) -> Any:
    import onnx_ir as ir

    assert weight.const_value is not None  # an initializer has numbers
    proto: Any = ir.to_proto(weight.const_value)
    proto.name = weight.name
    return proto


def _varint(number: int) -> bytes:
    """A whole number as protocol buffers write it: 7 bits a byte, lowest first."""
    writer = ByteWriter()
    writer.number(number)
    return bytes(writer.data)


__all__ = ["write_graph", "write_onnx"]
