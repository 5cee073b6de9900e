"""An ONNX graph with integer weights, and integer products where the activations are 8-bit as well.

Steps on a traced graph, each in place:

1. `insert_integer_weights_`: every weight on a grid becomes integers. Matrix products and embeddings read them in
   packed blocks (see `blocks`), recurrent layers in 8 bits (see `recurrent`). Other layers decode the weight first and
   compute in floating point: the file gets smaller there, not faster.
2. `integer_products`: the nodes that multiply by such a weight, and which of them can compute in integers.
3. `quantize_static_`: products whose activation ranges are known. QuantizeLinear and DequantizeLinear are put around
   each operator, and ONNX Runtime makes integer kernels of what is between such pairs. Sums, and outputs of
   convolutions that no quantized layer reads, need ranges too and are calibrated here.
4. `quantize_dynamic_`: products whose activation range is found at every run:

       DynamicQuantizeLinear -> MatMulInteger or ConvInteger -> Cast -> Mul by both scales -> Add

   ONNX Runtime makes one kernel of this for matrix products. It has no fast one for convolutions, which therefore
   need static activations to be fast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from nbcompress.artifact.export.blocks import BlockProduct, block_placer
from nbcompress.artifact.export.onnx_graph import (
    Floats,
    GraphEditor,
    Integers,
    IntegerWeight,
    constant_of,
    only_reader,
    readers,
    union_of,
)
from nbcompress.compressors.record import ActivationRange

# ---- 1. Integer weights ----


def insert_integer_weights_(
    editor: GraphEditor,
    weights: Mapping[str, IntegerWeight],
    in_integers: Collection[str],
    level: int,
    placed: list[BlockProduct],
) -> dict[ir.Value, IntegerWeight]:
    """Replace the graph inputs that are named like weights by integers.

    A batch norm after a convolution is folded into the scales, so the integers stay the same. An embedding gathers rows
    of integers, so that a call does not decode the whole table. Matrix products read packed blocks where a kernel for
    them is fast. Any other node reads the decoded weight.

    Args:
        editor: Of the graph.
        weights: By the name of the graph input.
        in_integers: Names of the weights whose products will compute in integers; these are not put in blocks.
        level: `accuracy_level` of products in blocks.
        placed: Products in blocks are added to it.

    Returns:
        By value of the graph: the weight that is decoded into it.
    """
    decoded: dict[ir.Value, IntegerWeight] = {}
    inputs = {value: weights[str(value.name)] for value in editor.graph.inputs if value.name in weights}
    n_inputs = Counter(weight.name for weight in inputs.values())
    for value, weight in inputs.items():
        editor.graph.inputs.remove(value)
        if weight.is_turned:
            value = _turned(editor, value)
        if n_inputs[weight.name] == 1:
            weight = _fold_batch_norm(editor, value, weight)
        if weight.name not in in_integers and (place := block_placer(editor, weight, level, placed)) is not None:
            for node, position, is_transposed in list(_weight_readers(value)):
                place(node, position, is_transposed)
        for node, position in list(value.uses()):
            is_rows = node.op_type == "Gather" and position == 0 and node.attributes.get_int("axis", 0) == 0
            rows = node.inputs[1] if is_rows else None
            if rows is not None and not weight.block:
                editor.replace(node.outputs[0], _gather_rows(editor, weight, rows))
                editor.graph.remove(node, safe=True)
        if _is_read(value):
            values = decoded_value(editor, weight)
            editor.replace(value, values)
            decoded[values] = weight
    return decoded


def _turned(editor: GraphEditor, value: ir.Value) -> ir.Value:
    """Let what reads `value` read the transposed one of a new value, as readers of the weight of linear layers do."""
    turned = ir.Value(name=f"{value.name}.turned")
    editor.replace(value, editor.op("Transpose", [turned], perm=[1, 0]))
    return turned


def _is_read(value: ir.Value) -> bool:
    """Whether the graph returns a value, or a node reads it whose result is read: a transposition may be left over."""
    if value.is_graph_output():
        return True
    nodes = readers(value)
    return any(node.op_type != "Transpose" or node.domain or _is_read(node.outputs[0]) for node in nodes)


def _codes(editor: GraphEditor, weight: IntegerWeight) -> ir.Value:
    """The integers in 8 bits. If they fit into 4 bits they are stored so, and widened once when the file is loaded."""
    value = editor.constant(f"{weight.name}.codes", weight.codes, is_narrow=weight.fits_4_bits)
    if not weight.fits_4_bits:
        return value
    kind = ir.DataType.INT8 if weight.zero is None else ir.DataType.UINT8
    return editor.op("Cast", [value], to=int(kind))


def _scale(editor: GraphEditor, weight: IntegerWeight) -> ir.Value:
    """The scales; a scalar if there is one."""
    return editor.constant(f"{weight.name}.scale", weight.scale if weight.scale.size > 1 else weight.scale.reshape(()))


def _zero_point(editor: GraphEditor, weight: IntegerWeight) -> ir.Value | None:
    """The zero points in 8 bits, a scalar if there is one; None where they are all 0."""
    if weight.zero is None:
        return None
    return editor.constant(f"{weight.name}.zero", weight.zero if weight.zero.size > 1 else weight.zero.reshape(()))


def decoded_value(editor: GraphEditor, weight: IntegerWeight) -> ir.Value:
    """The weight in floating point."""
    shape = weight.codes.shape
    codes = _codes(editor, weight)
    if not weight.block:
        return editor.op("DequantizeLinear", _decoder_inputs(editor, weight, codes), axis=0)
    # Blocks run along the flattened rows.
    if len(shape) > 2:
        flat = editor.constant(f"{weight.name}.rows", np.array([len(weight.codes), -1], np.int64))
        codes = editor.op("Reshape", [codes, flat])
    inputs = _decoder_inputs(editor, weight, codes)
    values = editor.op("DequantizeLinear", inputs, axis=1, block_size=weight.block)
    if len(shape) == 2:
        return values
    return editor.op("Reshape", [values, editor.constant(f"{weight.name}.shape", np.array(shape, np.int64))])


def _decoder_inputs(editor: GraphEditor, weight: IntegerWeight, codes: ir.Value) -> list[ir.Value]:
    zero = _zero_point(editor, weight)
    return [codes, _scale(editor, weight)] + ([] if zero is None else [zero])


def _gather_rows(editor: GraphEditor, weight: IntegerWeight, rows: ir.Value) -> ir.Value:
    """Rows of an embedding, gathered as integers and then decoded."""
    steps = editor.op("Gather", [_codes(editor, weight), rows])
    ones = [1] * (weight.codes.ndim - 1)

    def of_rows(name: str, numbers: Integers | Floats) -> ir.Value:
        """The scale or zero point of each row, or the scalar that all rows share."""
        if numbers.size == 1:
            return editor.constant(f"{weight.name}.{name}", numbers.reshape(()))
        return editor.op("Gather", [editor.constant(f"{weight.name}.{name}", numbers.reshape(-1, *ones)), rows])

    if weight.zero is not None:
        steps = editor.op("Cast", [steps], to=int(ir.DataType.INT32))
        steps = editor.op("Sub", [steps, of_rows("row.zeros", weight.zero.astype(np.int32))])
    floats = editor.op("Cast", [steps], to=int(ir.DataType.FLOAT))
    return editor.op("Mul", [floats, of_rows("row.scales", weight.scale)])


def _fold_batch_norm(editor: GraphEditor, value: ir.Value, weight: IntegerWeight) -> IntegerWeight:
    """Fold the batch norm after the only convolution that reads `value`, if any, into the scales and the bias."""
    conv = only_reader(value, ("Conv",))
    norm = None if conv is None else only_reader(conv.outputs[0], ("BatchNormalization",))
    if conv is None or norm is None or len(norm.outputs) > 1:
        return weight
    numbers = [constant_of(norm_input) for norm_input in norm.inputs[1:]]
    bias = (
        constant_of(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] is not None else np.zeros(1, np.float32)
    )
    if bias is None or any(number is None for number in numbers):
        return weight
    gain, shift, mean, variance = (number.astype(np.float64) for number in numbers if number is not None)
    factor = gain / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    scaled = weight.scaled(factor.astype(np.float32))
    if scaled is None:
        return weight
    folded = ((bias - mean) * factor + shift).astype(np.float32)
    conv.resize_inputs(3)
    conv.replace_input_with(2, editor.constant(f"{weight.name}.bias", folded))
    editor.replace(norm.outputs[0], conv.outputs[0])
    editor.graph.remove(norm, safe=True)
    return scaled


# ---- 2. Products that can compute in integers ----


@dataclass(frozen=True)
class Product:
    """A node that multiplies its first input by a weight.

    Attributes:
        node: A `Conv`, `Gemm` or `MatMul`.
        name: Of the weight.
        weight: The weight.
        is_transposed: Whether the node reads the weight with its two axes swapped, so that channels are along the last.
    """

    node: ir.Node
    name: str
    weight: IntegerWeight
    is_transposed: bool

    @property
    def input(self) -> ir.Value:
        value = self.node.inputs[0]
        assert value is not None  # these operators require it
        return value

    @property
    def bias(self) -> ir.Value | None:
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None

    def weight_codes(self, editor: GraphEditor) -> ir.Value:
        """The integers as the product reads them."""
        codes = _codes(editor, self.weight)
        return editor.op("Transpose", [codes], perm=[1, 0]) if self.is_transposed else codes


def integer_products(
    decoded: Mapping[ir.Value, IntegerWeight], wanted: set[str]
) -> tuple[list[Product], dict[str, str]]:
    """Find the products that can compute in integers.

    Args:
        decoded: Weights by the value of the graph that they are decoded into.
        wanted: Names of the weights whose products should.

    Returns:
        The products, and by name of a weight the reason why another reader of it stays in floating point.
    """
    products: list[Product] = []
    left_out: dict[str, str] = {}
    for value, weight in decoded.items():
        if weight.name not in wanted:
            continue
        if weight.block:
            left_out[weight.name] = "its scales are by group, and integer kernels take one for a channel"
            continue
        for node, position, is_transposed in _weight_readers(value):
            reason = _why_not(node, position, weight, is_transposed)
            if reason:
                left_out[weight.name] = reason
            else:
                signed = weight.signed if node.op_type == "Conv" else weight
                assert signed is not None  # `_why_not` has checked it
                is_transposed_by_gemm = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
                products.append(Product(node, weight.name, signed, is_transposed or is_transposed_by_gemm))
    return products, left_out


def _weight_readers(value: ir.Value) -> Iterator[tuple[ir.Node, int, bool]]:
    """Each reader, the position of its input, and whether a transposition is in between."""
    for node, position in value.uses():
        if node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm", ())) == (1, 0):
            yield from ((reader, at, True) for reader, at in node.outputs[0].uses())
        else:
            yield node, position, False


def _why_not(node: ir.Node, position: int, weight: IntegerWeight, is_transposed: bool) -> str:
    """Why the product stays in floating point; empty if it can be done in integers."""
    kind = node.op_type
    if node.domain or position != 1 or kind not in ("Conv", "Gemm", "MatMul"):
        return f"the operator {kind} that reads it has no counterpart in integers"
    if kind == "Conv":
        return "" if weight.signed is not None else "its zeros differ between channels by more than 8 bits can hold"
    attributes = node.attributes
    if kind == "Gemm":
        is_plain = attributes.get_float("alpha", 1.0) == 1.0 == attributes.get_float("beta", 1.0)
        if not is_plain or attributes.get_int("transA", 0) != 0 or is_transposed:
            return "the product that reads it is scaled or transposed"
        is_transposed = attributes.get_int("transB", 0) == 1
    if weight.codes.ndim != 2:
        return "it has more than two axes"
    if not is_transposed and weight.scale.size > 1:
        return "its scales lie along the axis that is summed over"
    return ""


# ---- 3. Static activations ----

Calibrate = Callable[[Sequence[ir.Value]], list[ActivationRange]]

# Operators that ONNX Runtime also computes in integers if all their inputs and their output are quantized.
_QUANTIZABLE_OPS = ("Add", "Concat", "AveragePool", "GlobalAveragePool")
# Operators that pass integers through unchanged.
_PASS_THROUGH_OPS = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
# Operators that the rounding of the operator before them replaces, since its range clips already.
_CLIPPING_OPS = ("Relu", "Clip")


def quantize_static_(
    editor: GraphEditor, products: Sequence[Product], ranges: Mapping[str, ActivationRange], calibrate: Calibrate
) -> None:
    """Round the activations around `products` to grids of 256 codes.

    Args:
        editor: Of the graph.
        products: The products to do in integers.
        ranges: Of their inputs, by name of the weight.
        calibrate: Measures the ranges of further values of the graph as it is.
    """
    known: dict[ir.Value, ActivationRange] = {}
    for product in products:
        value, activation = product.input, ranges[product.name]
        known[value] = union_of(activation, known[value]) if value in known else activation
    in_integers = {product.node for product in products}
    uncalibrated = _values_to_calibrate(editor, in_integers, set(known))
    known.update(zip(uncalibrated, calibrate(uncalibrated), strict=True) if uncalibrated else ())
    for value, activation in known.items():
        _quantize_activation(editor, value, activation, in_integers)
    for product in products:
        _quantize_weight(editor, product, known[_before_rounding(product.input)])


def _values_to_calibrate(editor: GraphEditor, in_integers: set[ir.Node], known: set[ir.Value]) -> list[ir.Value]:
    """Values that need a range, too, so that the operators before them can compute in integers."""
    wanted: list[ir.Value] = []
    quantized = set(known)
    for node in editor.graph:
        if node.domain or not node.outputs:
            continue
        inputs = [value for value in node.inputs if value is not None and value.const_value is None]
        if node.op_type in _PASS_THROUGH_OPS and inputs and inputs[0] in quantized:
            quantized.add(node.outputs[0])
            continue
        is_quantizable = node.op_type in _QUANTIZABLE_OPS and inputs and all(value in quantized for value in inputs)
        if not is_quantizable and not (node in in_integers and node.op_type == "Conv"):
            continue
        value = _after_clipping(node.outputs[0])
        if value not in quantized and not _is_quantized_later(value, quantized):
            wanted.append(value)
        quantized.add(value)
    return wanted


def _after_clipping(value: ir.Value) -> ir.Value:
    """The output of the clipping operator that is the only reader of `value`, or `value` itself."""
    clip = only_reader(value, _CLIPPING_OPS)
    return value if clip is None else clip.outputs[0]


def _is_quantized_later(value: ir.Value, quantized: set[ir.Value]) -> bool:
    """Whether every reader of `value` passes it through to a value that is quantized."""
    if value.is_graph_output() or not readers(value):
        return False
    for node in readers(value):
        if node.domain or node.op_type not in _PASS_THROUGH_OPS:
            return False
        output = node.outputs[0]
        if output not in quantized and not _is_quantized_later(output, quantized):
            return False
    return True


def _quantize_activation(
    editor: GraphEditor, value: ir.Value, activation: ActivationRange, in_integers: set[ir.Node]
) -> None:
    """Round `value` to its grid for the readers that can use integers."""
    producer = value.producer()
    source = None if producer is None or not producer.inputs else producer
    if source is not None and source.op_type in _CLIPPING_OPS and source.inputs[0] is not None:
        source = source.inputs[0].producer()
    # The kernel of the producer gives either integers or floats, so then all readers get the rounded values.
    for_all = source is not None and (source in in_integers or source.op_type in _QUANTIZABLE_OPS)
    chosen = [
        (node, position)
        for node, position in value.uses()
        if for_all or node in in_integers or node.op_type in (*_QUANTIZABLE_OPS, *_PASS_THROUGH_OPS)
    ]
    grid = [
        editor.constant(f"{value.name}.scale", np.array(activation.scale, np.float32)),
        editor.constant(f"{value.name}.zero", np.array(activation.zero, np.uint8)),
    ]
    codes = editor.op("QuantizeLinear", [value, *grid])
    rounded = editor.op("DequantizeLinear", [codes, *grid])
    rounded.meta["source"] = value
    for node, position in chosen:
        node.replace_input_with(position, rounded)
    if for_all and value.is_graph_output():
        _replace_output(editor, value, rounded)


def _replace_output(editor: GraphEditor, value: ir.Value, rounded: ir.Value) -> None:
    """Make `rounded` the output of the graph under the name of `value`."""
    rounded.name, value.name = value.name, f"{value.name}.before"
    rounded.type, rounded.shape = value.type, value.shape
    for index, output in enumerate(editor.graph.outputs):
        if output is value:
            editor.graph.outputs[index] = rounded


def _before_rounding(value: ir.Value) -> ir.Value:
    """The value that was rounded to give `value`, or `value` itself."""
    source: ir.Value = value.meta.get("source", value)
    return source


def _quantize_weight(editor: GraphEditor, product: Product, activation: ActivationRange) -> None:
    """Let a product read its weight as integers, and its bias in steps of input scale times weight scale."""
    node, weight = product.node, product.weight
    bias = None if product.bias is None else constant_of(product.bias)
    if bias is not None:
        weight = _bias_in_range(weight, bias, activation.scale)
        steps = (activation.scale * np.broadcast_to(weight.scale, bias.shape).astype(np.float64)).astype(np.float32)
        integers = np.rint(bias / steps.astype(np.float64)).astype(np.int32)
        name = f"{weight.name}.bias.{activation.scale!r}"
        inputs = [editor.constant(f"{name}.codes", integers), editor.constant(f"{name}.scale", steps)]
        node.replace_input_with(2, editor.op("DequantizeLinear", inputs, axis=0))
    # A Gemm transposes the weight itself.
    is_transposed = product.is_transposed and node.op_type == "MatMul"
    codes = _codes(editor, weight)
    codes = editor.op("Transpose", [codes], perm=[1, 0]) if is_transposed else codes
    zero = _zero_point(editor, weight)
    if zero is None:
        # ONNX Runtime selects some kernels only if a zero point is given.
        zeros = np.zeros(weight.scale.shape if weight.scale.size > 1 else (), np.int8)
        zero = editor.constant(f"{weight.name}.zero", zeros)
    inputs = [codes, _scale(editor, weight), zero]
    node.replace_input_with(1, editor.op("DequantizeLinear", inputs, axis=int(is_transposed)))


def _bias_in_range(weight: IntegerWeight, bias: Floats, input_scale: float) -> IntegerWeight:
    """Clear the channels whose weights are so small that their bias, in steps of both scales, overflows 32 bits.

    Such a channel is its bias: each step of the input changes it by less than `1e-9` of the bias.
    """
    scales = np.broadcast_to(weight.scale, bias.shape)
    overflows = np.abs(bias) > input_scale * scales.astype(np.float64) * 2**30
    if not bool(overflows.any()):
        return weight
    ones = (1,) * (weight.codes.ndim - 1)
    zero = 0 if weight.zero is None else weight.zero.reshape(-1, *ones)
    codes = np.where(overflows.reshape(-1, *ones), zero, weight.codes).astype(weight.codes.dtype)
    enlarged = np.where(overflows, np.abs(bias) / (input_scale * 2**30), scales).astype(np.float32)
    zeros = None if weight.zero is None else np.ascontiguousarray(np.broadcast_to(weight.zero, bias.shape))
    return replace(weight, name=f"{weight.name}.audible", codes=codes, scale=enlarged, zero=zeros)


# ---- 4. Dynamic activations ----


def quantize_dynamic_(editor: GraphEditor, products: Iterable[Product]) -> None:
    """Replace each product by one in integers whose activation range is found at every run."""
    grids: dict[ir.Value, list[ir.Value]] = {}
    for product in products:
        value = product.input
        if value not in grids:
            grids[value] = editor.add_node("DynamicQuantizeLinear", [value], n_outputs=3)
        _replace_product(editor, product, *grids[value])


def _replace_product(
    editor: GraphEditor, product: Product, codes: ir.Value, input_scale: ir.Value, input_zero: ir.Value
) -> None:
    node, weight = product.node, product.weight
    inputs = [codes, product.weight_codes(editor), input_zero, _zero_point(editor, weight)]
    if node.op_type == "Conv":
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        sums = editor.op("ConvInteger", inputs, **attributes)
        axes = [1] * (weight.codes.ndim - 2)
        weight_scale = editor.constant(f"{weight.name}.scale.channels", weight.scale.reshape(-1, *axes))
    else:
        sums = editor.op("MatMulInteger", inputs)
        weight_scale = _scale(editor, weight)
    # ONNX Runtime fuses these nodes in this order only.
    floats = editor.op("Cast", [sums], to=int(ir.DataType.FLOAT))
    output = editor.op("Mul", [floats, editor.op("Mul", [input_scale, weight_scale])])
    if product.bias is not None:
        output = editor.op("Add", [output, _channel_bias(editor, product)])
    editor.replace(node.outputs[0], output)


def _channel_bias(editor: GraphEditor, product: Product) -> ir.Value | None:
    """The bias in a shape that broadcasts to the output."""
    if product.node.op_type != "Conv" or product.bias is None:
        return product.bias
    shape = np.array([-1, *(1,) * (product.weight.codes.ndim - 2)], np.int64)
    return editor.op("Reshape", [product.bias, editor.constant(f"{product.weight.name}.axes", shape)])
