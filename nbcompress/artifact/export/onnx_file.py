"""A model as one ONNX file, in integers where its layers are quantized."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from nbcompress._version import __version__
from nbcompress.artifact.export.agreement import FLOAT_TOLERANCE, INTEGER_TOLERANCE, Example, agreement, check, counted
from nbcompress.artifact.export.onnx_graph import IntegerWeight, Session, check_parts, integer_weights, tensors_of
from nbcompress.artifact.export.program import onnx_graph, traced
from nbcompress.compressors.layers import parameters_by_name
from nbcompress.compressors.record import ActivationRange, record_of
from nbcompress.errors import ArtifactError, NbcompressWarning

if TYPE_CHECKING:
    import onnx_ir as ir

# What one protocol buffer can hold, which an ONNX file is.
_MOST_BYTES = 2**31 - 1


def onnx_bytes(model: nn.Module, copy: nn.Module, examples: Sequence[Example], tolerance: float | None = None) -> bytes:
    """The ONNX file of `model`, after it was run in ONNX Runtime and agreed.

    Args:
        model: As it is, with its record.
        copy: Of it, in evaluation mode, in float32 on the CPU; this is what is exported.
        examples: The first is traced; all are checked, and serve to calibrate what the record has no range of.
        tolerance: The largest error of an output, see `Agreement`.

    Raises:
        ArtifactError: The model cannot be traced, has no counterpart in ONNX, does not fit into one file, or does
            something else there.
        MissingPart: The packages for ONNX are not installed.
    """
    check_parts()
    weights = integer_weights(model)
    _fill(copy, weights)
    expected = [example.outputs(copy) for example in examples]
    graph = onnx_graph(traced(copy, examples[0]), weights)
    has_integers = _quantize(graph, weights, record_of(model).activations, examples)
    written = _serialized(graph)
    name = type(model).__name__
    if not has_integers:
        allowed = FLOAT_TOLERANCE if tolerance is None else tolerance
        _check(name, Session(written, is_exact=True), examples, expected, allowed)
    # As whoever opens the file will run it.
    allowed = INTEGER_TOLERANCE if weights else FLOAT_TOLERANCE
    _check(name, Session(written), examples, expected, allowed if tolerance is None else tolerance)
    return written


def _check(
    name: str,
    session: Session,
    examples: Sequence[Example],
    expected: Sequence[Sequence[torch.Tensor]],
    tolerance: float,
) -> None:
    for example, outputs in zip(examples, expected, strict=True):
        found = agreement(outputs, tensors_of(session(_given(session, example))))
        check(name, f"ONNX Runtime on {counted(example.batch_size)}", found, tolerance)


@torch.no_grad()
def _fill(copy: nn.Module, weights: Mapping[str, IntegerWeight]) -> None:
    """Undo the rounding that half precision did to values of a grid."""
    parameters = parameters_by_name(copy)
    for name, weight in weights.items():
        parameters[name].copy_(torch.from_numpy(weight.values))


def _quantize(
    graph: ir.Model,
    weights: Mapping[str, IntegerWeight],
    activations: Mapping[str, ActivationRange | str],
    examples: Sequence[Example],
) -> bool:
    """Put integers into the graph, in place, and tell whether activations become integers, too."""
    from nbcompress.artifact.export.integers import integer_products, make_dynamic_, make_static_, place_weights_
    from nbcompress.artifact.export.onnx_graph import Editor

    editor = Editor(graph)
    decoded = place_weights_(editor, weights)
    wanted = _wanted(weights, activations)
    products, left = integer_products(decoded, set(wanted))
    _warn(left)
    ranges = {name: one for name, one in wanted.items() if isinstance(one, ActivationRange)}
    static = [product for product in products if product.name in ranges]
    if static:

        def calibrate(values: Sequence[ir.Value]) -> list[ActivationRange]:
            return _calibrated(graph, values, examples)

        make_static_(editor, static, ranges, calibrate)
    make_dynamic_(editor, [product for product in products if product.name not in ranges])
    editor.done()
    return bool(products)


def _wanted(
    weights: Mapping[str, IntegerWeight], activations: Mapping[str, ActivationRange | str]
) -> dict[str, ActivationRange | str]:
    """How the products of each weight take their input, by the weight's first name; shared ones in one way."""
    found: dict[str, ActivationRange | str] = {}
    for name, weight in weights.items():
        mine = activations.get(name.rpartition(".")[0])
        other = found.get(weight.name)
        if isinstance(mine, ActivationRange) and isinstance(other, ActivationRange):
            mine = ActivationRange(min(mine.low, other.low), max(mine.high, other.high))
        if mine is not None:
            found[weight.name] = mine
    return found


def _calibrated(graph: ir.Model, values: Sequence[ir.Value], examples: Sequence[Example]) -> list[ActivationRange]:
    """The range that each value has on the examples."""
    import onnx_ir as ir

    n_outputs = len(graph.graph.outputs)
    graph.graph.sort()
    new = [value for value in values if not value.is_graph_output()]
    graph.graph.outputs.extend(new)
    try:
        session = Session(ir.to_proto(graph).SerializeToString())
        names = [output.name for output in graph.graph.outputs]
        lows, highs = [0.0] * len(values), [0.0] * len(values)
        for example in examples:
            outputs = dict(zip(names, session(_given(session, example)), strict=True))
            for place, value in enumerate(values):
                found = outputs[value.name]
                lows[place] = min(lows[place], float(found.min()))
                highs[place] = max(highs[place], float(found.max()))
    finally:
        del graph.graph.outputs[n_outputs:]
    return [ActivationRange(low, high) for low, high in zip(lows, highs, strict=True)]


def _given(session: Session, example: Example) -> list[torch.Tensor]:
    """The tensors of `example` that became inputs."""
    tensors = example.tensors
    if len(tensors) != len(session.inputs):
        raise ArtifactError(
            f"every tensor of the example must be an input of the exported program, but it has {len(session.inputs)} "
            f"inputs for {len(tensors)} tensors: leave out what the model does not use"
        )
    return tensors


def _warn(left: Mapping[str, str]) -> None:
    """Say, in one line, which layers asked for integers and compute in floating point."""
    if left:
        listed = "; ".join(f"{name!r}: {why}" for name, why in list(left.items())[:5])
        more = f" (and {len(left) - 5} more)" if len(left) > 5 else ""
        warnings.warn(
            f"these weights are stored in integers, but computed with in floating point: {listed}{more}",
            NbcompressWarning,
            stacklevel=2,
        )


def _serialized(graph: ir.Model) -> bytes:
    import onnx_ir as ir

    n_weights = sum(
        initializer.const_value.nbytes
        for initializer in graph.graph.initializers.values()
        if initializer.const_value is not None
    )
    if n_weights > _MOST_BYTES:
        raise ArtifactError(f"one ONNX file holds up to 2 GB, but the model's weights take {n_weights / 1e9:.1f} GB")
    graph.producer_name, graph.producer_version = "nbcompress", __version__
    proto = ir.to_proto(graph)
    # Shapes that are noted here trip other tools once they change the graph, and each constant says its own.
    del proto.graph.value_info[:]
    written: bytes = proto.SerializeToString()
    return written


__all__ = ["onnx_bytes"]
