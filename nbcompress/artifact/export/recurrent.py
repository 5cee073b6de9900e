"""Recurrent layers of an ONNX graph: integer weights in the order of ONNX's gates, and LSTM layers in 8 bits.

torch and ONNX order the gates differently, so that the exporter cuts the weights into gates and joins them again. With
integers in the file, that would happen at every call. Here the rows of the integers are put in order once.
`DynamicQuantizeLSTM` multiplies 8-bit weights by inputs that it rounds to 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from nbcompress.artifact.export.blocks import DOMAIN
from nbcompress.artifact.export.onnx_graph import GraphEditor, Integers, IntegerWeight

# Gates of torch in the order of ONNX: input, output, forget, cell; update, reset, new.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
# What the exporter puts between a weight and its layer.
_CUTS_AND_JOINS = ("Slice", "Concat", "Unsqueeze", "Squeeze", "Split", "Reshape")

Decode = Callable[[GraphEditor, IntegerWeight], ir.Value]


def place_recurrent_(
    editor: GraphEditor, weights: Mapping[str, IntegerWeight], decode: Decode, *, is_integer: bool
) -> tuple[list[str], list[str]]:
    """Give the recurrent layers of a graph their integer weights in the order of ONNX's gates, in place.

    Args:
        editor: Of the graph.
        weights: By the name of the graph input.
        decode: Adds the decoded weight to the graph.
        is_integer: Whether LSTM layers with 8-bit weights compute in integers.

    Returns:
        Names of the weights of layers that compute in integers, and of those that decode their weights.
    """
    placed: list[str] = []
    decoded: list[str] = []
    for node in list(editor.graph):
        if node.op_type not in _GATES or node.domain:
            continue
        pair = [_weights_of(node.inputs[position], weights) for position in (1, 2)]
        if not all(pair):
            continue
        inputs, hidden = ([_in_order(weight, _GATES[node.op_type]) for weight in found] for found in pair)
        operands = _operands(inputs) if is_integer else None
        hidden_operands = _operands(hidden) if is_integer else None
        if node.op_type == "LSTM" and operands is not None and hidden_operands is not None:
            name = f"{inputs[0].name}.{hidden[0].name}"
            _replace_lstm(editor, node, name, operands, hidden_operands)
            placed += [weight.name for weight in (*pair[0], *pair[1])]
            continue
        for position, found in ((1, inputs), (2, hidden)):
            node.replace_input_with(position, _joined(editor, found, decode))
        decoded += [weight.name for weight in (*pair[0], *pair[1])]
    return placed, decoded


def _weights_of(value: ir.Value | None, weights: Mapping[str, IntegerWeight]) -> list[IntegerWeight]:
    """The weights that a value is joined from, one for each direction; empty if anything else is among them."""
    found: dict[str, IntegerWeight] = {}

    def visit(value: ir.Value | None) -> bool:
        if value is None or value.const_value is not None:
            return False
        if value.producer() is None:
            if value.name in weights and value.is_graph_input():
                found[str(value.name)] = weights[str(value.name)]
                return True
            return False
        node = value.producer()
        if node is None or node.domain or node.op_type not in _CUTS_AND_JOINS:
            return False
        # Only a join has several parts; the other inputs say where to cut.
        parts = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        return all(map(visit, parts))

    return list(found.values()) if visit(value) else []


def _in_order(weight: IntegerWeight, gates: Sequence[int]) -> IntegerWeight:
    """The weight with its rows in the order of ONNX's gates."""

    def ordered(rows: Integers) -> Integers:
        parts = np.split(rows, len(gates))
        return np.concatenate([parts[gate] for gate in gates])

    is_by_row = weight.scale.shape[0] > 1
    zero = weight.zero
    return replace(
        weight,
        name=f"{weight.name}.gates",
        codes=ordered(weight.codes),
        scale=ordered(weight.scale) if is_by_row else weight.scale,
        zero=ordered(zero) if is_by_row and zero is not None else zero,
    )


def _joined(editor: GraphEditor, weights: Sequence[IntegerWeight], decode: Decode) -> ir.Value:
    """The decoded weights, of shape `(directions, rows, columns)`."""
    first = editor.constant("gates.axis", np.array([0], np.int64))
    parts = [editor.op("Unsqueeze", [decode(editor, weight), first]) for weight in weights]
    return parts[0] if len(parts) == 1 else editor.op("Concat", parts, axis=0)


def _operands(weights: Sequence[IntegerWeight]) -> tuple[Integers, Integers] | None:
    """Codes of shape `(directions, columns, rows)` and scales of shape `(directions, rows)` or `(directions,)`.

    None unless all weights have 8-bit codes with a zero of 0, and scales by channel or by tensor.
    """
    signed = [weight.signed for weight in weights]
    if any(weight.block or weight.fits_4_bits for weight in weights) or len({w.scale.size for w in weights}) > 1:
        return None
    known = [weight for weight in signed if weight is not None]
    if len(known) < len(signed):
        return None
    scale = np.stack([weight.scale for weight in known])
    return np.stack([weight.codes.T for weight in known]), scale if scale.shape[1] > 1 else scale[:, 0]


def _replace_lstm(
    editor: GraphEditor,
    node: ir.Node,
    name: str,
    inputs: tuple[Integers, Integers],
    hidden: tuple[Integers, Integers],
) -> None:
    constants = []
    for what, (codes, scale) in (("inputs", inputs), ("hidden", hidden)):
        zero = np.zeros(scale.shape, np.int8)
        parts = (("codes", codes), ("scale", scale.astype(np.float32)), ("zero", zero))
        constants.append([editor.constant(f"{name}.{what}.{part}", array) for part, array in parts])
    (input_codes, *input_grid), (hidden_codes, *hidden_grid) = constants
    others = [*node.inputs[3:8], None, None, None, None, None][:5]
    attributes = {
        key: attribute.value
        for key, attribute in node.attributes.items()
        if key in ("hidden_size", "direction", "activations", "clip", "input_forget")
    }
    outputs = editor.add_node(
        "DynamicQuantizeLSTM",
        [node.inputs[0], input_codes, hidden_codes, *others, *input_grid, *hidden_grid],
        len(node.outputs),
        DOMAIN,
        **attributes,
    )
    for old, new in zip(node.outputs, outputs, strict=True):
        editor.replace(old, new)
    editor.graph.remove(node, safe=True)


__all__ = ["place_recurrent_"]
