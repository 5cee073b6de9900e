"""Weights of an ONNX graph as integers: every one that lies on a grid, whatever reads it.

Afterwards the graph computes what the model does, in floating point, from integers: a file for size, not for speed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from nbcompress.artifact.export.editor import Editor, constant_of, only_reader
from nbcompress.artifact.export.integers import Floats, Integers, IntegerWeight


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
    numbers = [constant_of(one) for one in norm.inputs[1:]]
    bias = (
        constant_of(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] is not None else np.zeros(1, np.float32)
    )
    if bias is None or any(one is None for one in numbers):
        return weight
    gain, shift, mean, variance = (one.astype(np.float64) for one in numbers if one is not None)
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


__all__ = ["codes", "decode", "place_weights_", "scale", "zero"]
