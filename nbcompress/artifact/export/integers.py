"""Products in integers whose activations were calibrated: QuantizeLinear and DequantizeLinear around each operator.

ONNX Runtime makes integer kernels of what stands between such pairs. What they need beyond the ranges that were
recorded, those of sums and of the outputs of convolutions that no quantized layer reads, is calibrated here.

Weights of an ONNX graph as integers: every one that lies on a grid, whatever reads it.

Afterwards the graph computes what the model does, in floating point, from integers: a file for size, not for speed.

The nodes of an ONNX graph that multiply by a weight on a grid, and which of them can do so in integers.

Products in integers whose activations find their grid at every run.

    DynamicQuantizeLinear -> MatMulInteger or ConvInteger -> Cast -> Mul by both scales -> Add

ONNX Runtime makes one kernel of this for matrix products. For convolutions it has none that is fast: calibrated
(static) activations are the way there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from nbcompress.artifact.export.onnx_graph import (
    Editor,
    Floats,
    Integers,
    IntegerWeight,
    constant_of,
    only_reader,
    readers,
)
from nbcompress.compressors.record import ActivationRange


def place_weights_(editor: Editor, weights: Mapping[str, IntegerWeight]) -> dict[ir.Value, IntegerWeight]:
    """Put integers where the graph has the inputs that are named like weights.

    A batch norm behind a convolution goes into the scales: the integers stay. An embedding reads rows of integers,
    so that a call does not decode the whole table. Anything else reads the weight decoded.

    Returns:
        By value of the graph: the weight that it is decoded from.
    """
    decoded: dict[ir.Value, IntegerWeight] = {}
    inputs = {value: weights[str(value.name)] for value in editor.graph.inputs if value.name in weights}
    n_places = Counter(weight.name for weight in inputs.values())
    for value, weight in inputs.items():
        editor.graph.inputs.remove(value)
        if n_places[weight.name] == 1:
            weight = _with_batch_norm(editor, value, weight)
        for node, place in list(value.uses()):
            is_rows = node.op_type == "Gather" and place == 0 and node.attributes.get_int("axis", 0) == 0
            index = node.inputs[1] if is_rows else None
            if index is not None and not weight.block:
                editor.replace(node.outputs[0], _rows(editor, weight, index))
                editor.graph.remove(node, safe=True)
        if value.uses() or value.is_graph_output():
            values = decode(editor, weight)
            editor.replace(value, values)
            decoded[values] = weight
    return decoded


def codes(editor: Editor, weight: IntegerWeight) -> ir.Value:
    """The integers in 8 bits; those that fit into 4 are stored so, and widened once when the file is loaded."""
    value = editor.constant(f"{weight.name}.codes", weight.codes, is_narrow=weight.fits_4_bits)
    if not weight.fits_4_bits:
        return value
    kind = ir.DataType.INT8 if weight.zero is None else ir.DataType.UINT8
    return editor.one("Cast", [value], to=int(kind))


def scale(editor: Editor, weight: IntegerWeight) -> ir.Value:
    """The scales, a number if there is one."""
    return editor.constant(f"{weight.name}.scale", weight.scale if weight.scale.size > 1 else weight.scale.reshape(()))


def zero(editor: Editor, weight: IntegerWeight) -> ir.Value | None:
    """The zeros in 8 bits, a number if there is one, None where they are the code 0."""
    if weight.zero is None:
        return None
    return editor.constant(f"{weight.name}.zero", weight.zero if weight.zero.size > 1 else weight.zero.reshape(()))


def decode(editor: Editor, weight: IntegerWeight) -> ir.Value:
    """The weight in floating point."""
    shape = weight.codes.shape
    read = codes(editor, weight)
    if not weight.block:
        return editor.one("DequantizeLinear", _grid(editor, weight, read), axis=0)
    # Blocks run along the flattened rows.
    if len(shape) > 2:
        flat = editor.constant(f"{weight.name}.rows", np.array([len(weight.codes), -1], np.int64))
        read = editor.one("Reshape", [read, flat])
    found = editor.one("DequantizeLinear", _grid(editor, weight, read), axis=1, block_size=weight.block)
    if len(shape) == 2:
        return found
    return editor.one("Reshape", [found, editor.constant(f"{weight.name}.shape", np.array(shape, np.int64))])


def _grid(editor: Editor, weight: IntegerWeight, read: ir.Value) -> list[ir.Value]:
    """What decoding takes."""
    middle = zero(editor, weight)
    return [read, scale(editor, weight)] + ([] if middle is None else [middle])


def _rows(editor: Editor, weight: IntegerWeight, index: ir.Value) -> ir.Value:
    """Rows of an embedding: gathered as integers, then decoded."""
    found = editor.one("Gather", [codes(editor, weight), index])
    ones = [1] * (weight.codes.ndim - 1)

    def picked(name: str, numbers: Integers | Floats) -> ir.Value:
        """The numbers of the rows, or the one that all rows share."""
        if numbers.size == 1:
            return editor.constant(f"{weight.name}.{name}", numbers.reshape(()))
        return editor.one("Gather", [editor.constant(f"{weight.name}.{name}", numbers.reshape(-1, *ones)), index])

    if weight.zero is not None:
        found = editor.one("Cast", [found], to=int(ir.DataType.INT32))
        found = editor.one("Sub", [found, picked("row.zeros", weight.zero.astype(np.int32))])
    steps = editor.one("Cast", [found], to=int(ir.DataType.FLOAT))
    return editor.one("Mul", [steps, picked("row.scales", weight.scale)])


def _with_batch_norm(editor: Editor, value: ir.Value, weight: IntegerWeight) -> IntegerWeight:
    """Take the batch norm behind the one convolution that reads `value` into its scales and its bias."""
    conv = only_reader(value, ("Conv",))
    norm = None if conv is None else only_reader(conv.outputs[0], ("BatchNormalization",))
    if conv is None or norm is None or len(norm.outputs) > 1:
        return weight
    numbers = [constant_of(input_) for input_ in norm.inputs[1:]]
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


@dataclass(frozen=True)
class Product:
    """One node that multiplies its first input by a weight.

    Attributes:
        node: A `Conv`, `Gemm` or `MatMul`.
        name: Of the weight.
        weight: What it multiplies by.
        is_turned: It reads the weight with its two axes exchanged, so that channels are along the last one.
    """

    node: ir.Node
    name: str
    weight: IntegerWeight
    is_turned: bool

    @property
    def input(self) -> ir.Value:
        found = self.node.inputs[0]
        assert found is not None  # these operators need it
        return found

    @property
    def bias(self) -> ir.Value | None:
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None

    def turned_codes(self, editor: Editor) -> ir.Value:
        """The integers as the product reads them."""
        found = codes(editor, self.weight)
        return editor.one("Transpose", [found], perm=[1, 0]) if self.is_turned else found


def integer_products(
    decoded: Mapping[ir.Value, IntegerWeight], wanted: set[str]
) -> tuple[list[Product], dict[str, str]]:
    """The products that can be done in integers.

    Args:
        decoded: Weights by the value of the graph that they are decoded into.
        wanted: Names of the weights whose products are to be done so.

    Returns:
        The products, and by name of a weight why another reader of it stays in floating point.
    """
    found: list[Product] = []
    left: dict[str, str] = {}
    for value, weight in decoded.items():
        if weight.name not in wanted:
            continue
        if weight.block:
            left[weight.name] = "its scales are by group, and integer kernels take one for a channel"
            continue
        for node, place, is_turned in _reads(value):
            why = _why_not(node, place, weight, is_turned)
            if why:
                left[weight.name] = why
            else:
                signed = weight.signed if node.op_type == "Conv" else weight
                assert signed is not None  # asked in _why_not
                turned = is_turned or (node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1)
                found.append(Product(node, weight.name, signed, turned))
    return found, left


def _reads(value: ir.Value) -> Iterator[tuple[ir.Node, int, bool]]:
    """Each reader, the place it reads at, and whether a transposition lies in between."""
    for node, place in value.uses():
        if node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm", ())) == (1, 0):
            yield from ((reader, where, True) for reader, where in node.outputs[0].uses())
        else:
            yield node, place, False


def _why_not(node: ir.Node, place: int, weight: IntegerWeight, is_turned: bool) -> str:
    """Why the product stays in floating point; empty if it can be done in integers."""
    kind = node.op_type
    if node.domain or place != 1 or kind not in ("Conv", "Gemm", "MatMul"):
        return f"the operator {kind} that reads it has no counterpart in integers"
    if kind == "Conv":
        return "" if weight.signed is not None else "its zeros differ between channels by more than 8 bits can hold"
    numbers = node.attributes
    if kind == "Gemm":
        plain = numbers.get_float("alpha", 1.0) == 1.0 == numbers.get_float("beta", 1.0)
        turns_input, turns_weight = numbers.get_int("transA", 0), numbers.get_int("transB", 0)
        if not plain or turns_input or is_turned:
            return "the product that reads it is scaled or transposed"
        is_turned = turns_weight == 1
    if weight.codes.ndim != 2:
        return "it has more than two axes"
    if not is_turned and weight.scale.size > 1:
        return "its scales lie along the axis that is summed over"
    return ""


def make_dynamic_(editor: Editor, products: Iterable[Product]) -> None:
    """Replace each product by one in integers."""
    grids: dict[ir.Value, list[ir.Value]] = {}
    for product in products:
        value = product.input
        if value not in grids:
            grids[value] = editor.add("DynamicQuantizeLinear", [value], n_outputs=3)
        _replace(editor, product, grids[value])


def _replace(editor: Editor, product: Product, grid: list[ir.Value]) -> None:
    integers, step, middle = grid
    node, weight = product.node, product.weight
    inputs = [integers, product.turned_codes(editor), middle, zero(editor, weight)]
    if node.op_type == "Conv":
        found = editor.add(
            "ConvInteger", inputs, **{key: attribute.value for key, attribute in node.attributes.items()}
        )[0]
        axes = [1] * (weight.codes.ndim - 2)
        scales = editor.constant(f"{weight.name}.scale.channels", weight.scale.reshape(-1, *axes))
    else:
        found = editor.one("MatMulInteger", inputs)
        scales = scale(editor, weight)
    # In this order, because it is the one that ONNX Runtime knows.
    steps = editor.one("Cast", [found], to=int(ir.DataType.FLOAT))
    found = editor.one("Mul", [steps, editor.one("Mul", [step, scales])])
    if product.bias is not None:
        found = editor.one("Add", [found, _bias(editor, product)])
    editor.replace(node.outputs[0], found)


def _bias(editor: Editor, product: Product) -> ir.Value | None:
    if product.node.op_type != "Conv" or product.bias is None:
        return product.bias
    shape = np.array([-1, *(1,) * (product.weight.codes.ndim - 2)], np.int64)
    return editor.one("Reshape", [product.bias, editor.constant(f"{product.weight.name}.axes", shape)])


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
        inputs = [input_ for input_ in node.inputs if input_ is not None and input_.const_value is None]
        is_joined = node.op_type in _JOINING and inputs and all(input_ in quantized for input_ in inputs)
        if node.op_type in _PASSING and inputs and all(input_ in quantized for input_ in inputs[:1]):
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
    for place, output in enumerate(editor.graph.outputs):
        if output is value:
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
