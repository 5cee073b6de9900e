"""Products in integers whose activations find their grid at every run.

    DynamicQuantizeLinear -> MatMulInteger or ConvInteger -> Cast -> Mul by both scales -> Add

ONNX Runtime makes one kernel of this for matrix products. For convolutions it has none that is fast: calibrated
(static) activations are the way there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from nbcompress.artifact.export.editor import Editor
from nbcompress.artifact.export.products import Product
from nbcompress.artifact.export.weights import scale, zero


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
        found = editor.add("ConvInteger", inputs, **{key: one.value for key, one in node.attributes.items()})[0]
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


__all__ = ["make_dynamic_"]
