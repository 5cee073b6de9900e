"""A model as one ONNX file, with integers where its layers are quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from nbcompress._version import __version__
from nbcompress.artifact.export.agreement import (
    FLOAT_TOLERANCE,
    INTEGER_TOLERANCE,
    ExampleInputs,
    agreement,
    check_agreement,
    examples_text,
)
from nbcompress.artifact.export.onnx_graph import (
    IntegerWeight,
    OnnxSession,
    check_onnx_installed,
    integer_weights,
    tensors_of,
    union_of,
)
from nbcompress.artifact.export.program import copy_to_trace, onnx_graph, trace_program
from nbcompress.compressors.layers import parameters_by_name
from nbcompress.compressors.record import ActivationRange, record_of
from nbcompress.errors import ArtifactError, warn

if TYPE_CHECKING:
    import onnx_ir as ir

# An ONNX file is one protocol buffer, which holds up to this many bytes.
_MAX_BYTES = 2**31 - 1
# Examples in the largest batch that is checked where a model branches on the batch size.
_MAX_CHECKED = 1024


def onnx_bytes(
    model: nn.Module, copy: nn.Module, examples: Sequence[ExampleInputs], tolerance: float | None = None
) -> bytes:
    """Return the ONNX file of `model`, after running it in ONNX Runtime and checking its outputs.

    Args:
        model: The model with its record.
        copy: A copy of it in evaluation mode, in float32 on the CPU, which is exported. It is changed.
        examples: The first is traced. All are checked, and calibrate values whose range is not recorded.
        tolerance: The largest error of an output, see `Agreement`; if None, the one for floats or for integers.

    Raises:
        ArtifactError: The model cannot be traced, has no counterpart in ONNX, does not fit into one file, or computes
            something else there.
        MissingPart: The packages for ONNX are not installed.
    """
    check_onnx_installed()
    weights = integer_weights(model)
    _restore_grid_values(copy, weights)
    to_trace = copy_to_trace(copy)
    expected = [example.outputs(copy) for example in examples]
    program, limits = trace_program(to_trace, examples[0])
    graph = onnx_graph(program, weights)
    has_integers = _insert_integers(graph, weights, record_of(model).activations, examples)
    written = _serialized(graph)
    name = type(model).__name__
    if not has_integers:
        allowed = FLOAT_TOLERANCE if tolerance is None else tolerance
        _check(name, OnnxSession(written, is_exact=True), examples, expected, allowed)
    # And with the settings that whoever opens the file will use.
    allowed = INTEGER_TOLERANCE if weights else FLOAT_TOLERANCE
    allowed = allowed if tolerance is None else tolerance
    session = OnnxSession(written)
    _check(name, session, examples, expected, allowed)
    _check_beyond(copy, session, examples[0], limits, allowed)
    return written


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
    """Put back the float32 values of grids, which half precision has rounded."""
    parameters = parameters_by_name(copy)
    for name, weight in weights.items():
        parameters[name].copy_(torch.from_numpy(weight.values))


def _insert_integers(
    graph: ir.Model,
    weights: Mapping[str, IntegerWeight],
    activations: Mapping[str, ActivationRange | str],
    examples: Sequence[ExampleInputs],
) -> bool:
    """Put integers into the graph, in place, and return whether products compute in integers."""
    from nbcompress.artifact.export.integers import (
        insert_integer_weights_,
        integer_products,
        quantize_dynamic_,
        quantize_static_,
    )
    from nbcompress.artifact.export.onnx_graph import GraphEditor

    editor = GraphEditor(graph)
    decoded = insert_integer_weights_(editor, weights)
    wanted = _activations_by_weight(weights, activations)
    products, left_out = integer_products(decoded, set(wanted))
    _warn_of_float_layers(left_out)
    ranges = {name: mode for name, mode in wanted.items() if isinstance(mode, ActivationRange)}
    static = [product for product in products if product.name in ranges]
    if static:

        def calibrate(values: Sequence[ir.Value]) -> list[ActivationRange]:
            return _calibrate(graph, values, examples)

        quantize_static_(editor, static, ranges, calibrate)
    quantize_dynamic_(editor, [product for product in products if product.name not in ranges])
    editor.finish()
    return bool(products)


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
    import onnx_ir as ir

    n_outputs = len(graph.graph.outputs)
    graph.graph.sort()
    graph.graph.outputs.extend(value for value in values if not value.is_graph_output())
    try:
        session = OnnxSession(ir.to_proto(graph).SerializeToString())
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


def _serialized(graph: ir.Model) -> bytes:
    import onnx_ir as ir

    n_weights = sum(
        initializer.const_value.nbytes
        for initializer in graph.graph.initializers.values()
        if initializer.const_value is not None
    )
    if n_weights > _MAX_BYTES:
        raise ArtifactError(f"one ONNX file holds up to 2 GB, but the model's weights take {n_weights / 1e9:.1f} GB")
    graph.producer_name, graph.producer_version = "nbcompress", __version__
    proto = ir.to_proto(graph)
    # Other tools that change the graph fail on outdated shapes here, and each constant has its own shape.
    del proto.graph.value_info[:]
    written: bytes = proto.SerializeToString()
    return written


__all__ = ["onnx_bytes"]
