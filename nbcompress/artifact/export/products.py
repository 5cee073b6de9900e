"""The nodes of an ONNX graph that multiply by a weight on a grid, and which of them can do so in integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from nbcompress.artifact.export.editor import Editor
from nbcompress.artifact.export.integers import IntegerWeight
from nbcompress.artifact.export.weights import codes


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


__all__ = ["Product", "integer_products"]
