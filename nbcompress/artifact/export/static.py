"""Products in integers whose activations were calibrated: QuantizeLinear and DequantizeLinear around each operator.

ONNX Runtime makes integer kernels of what stands between such pairs. What they need beyond the ranges that were
recorded, those of sums and of the outputs of convolutions that no quantized layer reads, is calibrated here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from nbcompress.artifact.export.editor import Editor, constant_of, only_reader, readers
from nbcompress.artifact.export.integers import Floats, IntegerWeight
from nbcompress.artifact.export.products import Product
from nbcompress.artifact.export.weights import codes, scale, zero
from nbcompress.compress.record import ActivationRange

Calibrate = Callable[[Sequence[ir.Value]], list[ActivationRange]]

# What ONNX Runtime also does in integers when all that goes in is quantized and what comes out is.
_JOINING = ("Add", "Concat", "AveragePool", "GlobalAveragePool")
# What takes integers through as they are.
_PASSING = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
# What disappears into the rounding of the operator before: its range says it.
_CLIPPING = ("Relu", "Clip")


def make_static_(
    editor: Editor, products: Sequence[Product], ranges: Mapping[str, ActivationRange], calibrate: Calibrate
) -> None:
    """Put the activations around `products` on grids of 256 codes.

    Args:
        editor: Of the graph.
        products: To be done in integers.
        ranges: Of their inputs, by name of the weight.
        calibrate: Measures further values of the graph as it is.
    """
    known: dict[ir.Value, ActivationRange] = {}
    for product in products:
        mine, value = ranges[product.name], product.input
        other = known.get(value, mine)
        known[value] = ActivationRange(min(mine.low, other.low), max(mine.high, other.high))
    in_integers = {product.node for product in products}
    wanted = _further(editor, in_integers, set(known))
    known.update(zip(wanted, calibrate(wanted), strict=True) if wanted else ())
    for value, found in known.items():
        _put_on_grid(editor, value, found, in_integers)
    for product in products:
        _quantize_weight(editor, product, known[_source(product.input)])


def _further(editor: Editor, in_integers: set[ir.Node], known: set[ir.Value]) -> list[ir.Value]:
    """Values that must lie on a grid, too, for the operators before them to work in integers."""
    found: list[ir.Value] = []
    quantized = set(known)
    for node in editor.graph:
        if node.domain or not node.outputs:
            continue
        inputs = [one for one in node.inputs if one is not None and one.const_value is None]
        is_joined = node.op_type in _JOINING and inputs and all(one in quantized for one in inputs)
        if node.op_type in _PASSING and inputs and all(one in quantized for one in inputs[:1]):
            quantized.add(node.outputs[0])
            continue
        if not is_joined and not (node in in_integers and node.op_type == "Conv"):
            continue
        value = _clipped(node.outputs[0])
        if value not in quantized and not _is_passed_on(value, quantized):
            found.append(value)
        quantized.add(value)
    return found


def _clipped(value: ir.Value) -> ir.Value:
    """`value` behind the rectifier that alone reads it, or itself."""
    clip = only_reader(value, _CLIPPING)
    return value if clip is None else clip.outputs[0]


def _is_passed_on(value: ir.Value, quantized: set[ir.Value]) -> bool:
    """Whether all that `value` becomes is quantized after operators that do not mind."""
    if value.is_graph_output() or not readers(value):
        return False
    for node in readers(value):
        if node.domain or node.op_type not in _PASSING:
            return False
        out = node.outputs[0]
        if out not in quantized and not _is_passed_on(out, quantized):
            return False
    return True


def _put_on_grid(editor: Editor, value: ir.Value, found: ActivationRange, in_integers: set[ir.Node]) -> None:
    """Round `value` to its grid for those that gain by it."""
    producer = value.producer()
    before = None if producer is None or not producer.inputs else producer
    if before is not None and before.op_type in _CLIPPING and before.inputs[0] is not None:
        before = before.inputs[0].producer()
    # The kernel before gives integers or floats, not both: then all read the rounded values.
    for_all = before is not None and (before in in_integers or before.op_type in _JOINING)
    chosen = [
        (node, place)
        for node, place in value.uses()
        if for_all or node in in_integers or node.op_type in (*_JOINING, *_PASSING)
    ]
    name = value.name
    numbers = [
        editor.constant(f"{name}.scale", np.array(found.scale, np.float32)),
        editor.constant(f"{name}.zero", np.array(found.zero, np.uint8)),
    ]
    rounded = editor.one("QuantizeLinear", [value, *numbers])
    again = editor.one("DequantizeLinear", [rounded, *numbers])
    again.meta["source"] = value
    for node, place in chosen:
        node.replace_input_with(place, again)
    if for_all and value.is_graph_output():
        _return(editor, value, again)


def _return(editor: Editor, value: ir.Value, again: ir.Value) -> None:
    """Let the model return `again` under the name of `value`."""
    again.name, value.name = value.name, f"{value.name}.before"
    again.type, again.shape = value.type, value.shape
    for place, one in enumerate(editor.graph.outputs):
        if one is value:
            editor.graph.outputs[place] = again


def _source(value: ir.Value) -> ir.Value:
    """The value that was rounded to give `value`."""
    found: ir.Value = value.meta.get("source", value)
    return found


def _quantize_weight(editor: Editor, product: Product, found: ActivationRange) -> None:
    """Let a product read its weight from integers, and its bias in steps of input times weight."""
    node, weight = product.node, product.weight
    bias = None if product.bias is None else constant_of(product.bias)
    if bias is not None:
        weight = _audible(weight, bias, found.scale)
        steps = (found.scale * np.broadcast_to(weight.scale, bias.shape).astype(np.float64)).astype(np.float32)
        integers = np.rint(bias / steps.astype(np.float64)).astype(np.int32)
        name = f"{weight.name}.bias.{found.scale!r}"
        inputs = [editor.constant(f"{name}.codes", integers), editor.constant(f"{name}.scale", steps)]
        node.replace_input_with(2, editor.one("DequantizeLinear", inputs, axis=0))
    # A Gemm turns the weight by itself.
    is_turned = product.is_turned and node.op_type == "MatMul"
    read = codes(editor, weight)
    read = editor.one("Transpose", [read], perm=[1, 0]) if is_turned else read
    middle = zero(editor, weight)
    if middle is None:
        # Some kernels are found only where a zero is given.
        zeros = np.zeros(weight.scale.shape if weight.scale.size > 1 else (), np.int8)
        middle = editor.constant(f"{weight.name}.zero", zeros)
    inputs = [read, scale(editor, weight), middle]
    node.replace_input_with(1, editor.one("DequantizeLinear", inputs, axis=int(is_turned)))


def _audible(weight: IntegerWeight, bias: Floats, step: float) -> IntegerWeight:
    """`weight` without the channels so faint that their bias has no place in 32 bits, in steps of input times weight.

    Such a channel is its bias: the rest is less than `1e-9` of it for each step of the input.
    """
    scales = np.broadcast_to(weight.scale, bias.shape)
    faint = np.abs(bias) > step * scales.astype(np.float64) * 2**30
    if not bool(faint.any()):
        return weight
    ones = (1,) * (weight.codes.ndim - 1)
    middle = 0 if weight.zero is None else weight.zero.reshape(-1, *ones)
    kept = np.where(faint.reshape(-1, *ones), middle, weight.codes).astype(weight.codes.dtype)
    louder = np.where(faint, np.abs(bias) / (step * 2**30), scales).astype(np.float32)
    zeros = None if weight.zero is None else np.ascontiguousarray(np.broadcast_to(weight.zero, bias.shape))
    return replace(weight, name=f"{weight.name}.audible", codes=kept, scale=louder, zero=zeros)


__all__ = ["Calibrate", "make_static_"]
