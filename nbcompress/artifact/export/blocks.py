"""Matrix products and embeddings whose weights stay packed in blocks: ONNX Runtime's `MatMulNBits` and the like.

`MatMulNBits` reads weights of 2, 4 or 8 bits, with a scale for each block of 16 to 256 weights along the axis that is
summed over. The weights stay packed in memory, so a call reads four or eight times fewer bytes than in float32.
`GatherBlockQuantized` reads rows of the same packed table, so that an embedding and a head can share it.

With `accuracy_level=4` the kernel rounds each block of the input to 8 bits and multiplies integers. With 1 it computes
in float32; for 2 and 8 bits that is slower than decoding the weight first, so those weights are decoded then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from nbcompress.artifact.export.onnx_graph import Floats, GraphEditor, Integers, IntegerWeight

# The domain of the operators that only ONNX Runtime has.
DOMAIN = "com.microsoft"
# Levels of `MatMulNBits`: products of floats, and of 8-bit integers.
EXACT_LEVEL, INTEGER_LEVEL = 1, 4

# Block sizes with a fast kernel, by bits. The operator takes others, at a fraction of the speed of float32; see
# benchmarks.md#matrix-products-in-few-bits.
_FAST_BLOCKS = {2: (32, 64, 128), 4: (16, 32, 64, 128, 256), 8: (16, 32, 64, 128, 256)}
# Rows shorter than this would be padded to a block of it.
_SHORTEST_ROW = 16
_BYTES_OF_SCALE = 4


@dataclass(frozen=True, eq=False)
class BlockWeight:
    """A weight of shape `(outputs, inputs)` in packed blocks: `(code - zero) * scale`.

    Attributes:
        name: Of the parameter.
        bits: 2, 4 or 8.
        block: Consecutive weights of a row that share a scale.
        n_inputs: Length of a row; the last block of a row is filled up with weights of zero.
        packed: The codes, the first in the lowest bits, uint8 of shape `(outputs, blocks, block * bits / 8)`.
        scale: Shape `(outputs, blocks)`.
        zero: Codes of zero, packed, uint8 of shape `(outputs, bytes)`; None where they are the middle code.
    """

    name: str
    bits: int
    block: int
    n_inputs: int
    packed: Integers
    scale: Floats
    zero: Integers | None

    @property
    def n_outputs(self) -> int:
        return len(self.packed)

    @property
    def n_blocks(self) -> int:
        return int(self.scale.shape[1])


def in_blocks(weight: IntegerWeight, level: int) -> BlockWeight | None:
    """Return a weight with two axes in packed blocks along its rows.

    Returns:
        None if there is no fast kernel at this level for its bits, its groups or its short rows.
    """
    if weight.codes.ndim != 2 or weight.codes.shape[1] < _SHORTEST_ROW or not weight.codes.size:
        return None
    bits = 4 if weight.fits_4_bits else 8
    zero = 0 if weight.zero is None else weight.spread(weight.zero).astype(np.int16)
    offsets = weight.codes.astype(np.int16) - zero
    if level == INTEGER_LEVEL and bits == 4 and (narrow := _in_2_bits(weight, offsets)) is not None:
        return narrow
    block = _block_size(weight, bits)
    if block is None or (level == EXACT_LEVEL and bits != 4):
        return None
    n_blocks = -(-offsets.shape[1] // block)
    zeros = None if weight.zero is None else _by_block(weight.zero, weight, block, n_blocks)
    return _packed(weight, bits, block, offsets, zeros)


def _in_2_bits(weight: IntegerWeight, offsets: Integers) -> BlockWeight | None:
    """The weight in 2 bits if every block has at most four neighbouring codes, zero among them."""
    block = _block_size(weight, 2)
    if block is None or offsets.min() < -3 or offsets.max() > 3:
        return None
    blocks = _filled(offsets, block)
    low, high = blocks.min(axis=2), blocks.max(axis=2)
    if low.min() >= -2 and high.max() <= 1:
        return _packed(weight, 2, block, offsets, None)
    zeros = np.clip(-low, 0, 3)
    if int((high + zeros).max()) > 3:
        return None
    return _packed(weight, 2, block, offsets, zeros.astype(np.uint8))


def _block_size(weight: IntegerWeight, bits: int) -> int | None:
    """The largest fast block that divides a group of the weight; without groups the one that takes the fewest bytes."""
    blocks = _FAST_BLOCKS[bits]
    if weight.block:
        return max((block for block in blocks if weight.block % block == 0), default=None)

    n_inputs = int(weight.codes.shape[1])
    return min(reversed(blocks), key=lambda block: -(-n_inputs // block) * (block * bits // 8 + _BYTES_OF_SCALE))


def _by_block(numbers: Integers | Floats, weight: IntegerWeight, block: int, n_blocks: int) -> Integers | Floats:
    """Numbers of each group, each channel or the whole weight, as one for each block."""
    n_rows = len(weight.codes)
    if weight.block:
        return np.ascontiguousarray(np.repeat(numbers, weight.block // block, axis=1)[:, :n_blocks])
    return np.ascontiguousarray(np.broadcast_to(numbers.reshape(-1, 1), (n_rows, n_blocks)))


def _filled(offsets: Integers, block: int) -> Integers:
    """The offsets from zero in blocks, of shape `(outputs, blocks, block)`, with zeros at the end of each row."""
    n_rows, n_inputs = offsets.shape
    n_blocks = -(-n_inputs // block)
    if n_blocks * block != n_inputs:
        offsets = np.pad(offsets, ((0, 0), (0, n_blocks * block - n_inputs)))
    return offsets.reshape(n_rows, n_blocks, block)


def _packed(weight: IntegerWeight, bits: int, block: int, offsets: Integers, zeros: Integers | None) -> BlockWeight:
    blocks = _filled(offsets, block)
    middle = np.array(1 << (bits - 1), np.int16) if zeros is None else zeros[:, :, None].astype(np.int16)
    scale = _by_block(weight.scale, weight, block, blocks.shape[1])
    return BlockWeight(
        weight.name,
        bits,
        block,
        offsets.shape[1],
        _pack((blocks + middle).astype(np.uint8), bits),
        scale.astype(np.float32),
        None if zeros is None else _pack(zeros.astype(np.uint8), bits),
    )


def _pack(codes: Integers, bits: int) -> Integers:
    """Pack the last axis, the first code of each byte in its lowest bits; the last byte may end in zeros."""
    per_byte = 8 // bits
    if per_byte == 1:
        return codes
    missing = -codes.shape[-1] % per_byte
    if missing:
        codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, missing)])
    packed = codes[..., ::per_byte].copy()
    for place in range(1, per_byte):
        packed |= codes[..., place::per_byte] << np.uint8(bits * place)
    return packed


# ---- Nodes ----


def _inputs(editor: GraphEditor, weight: BlockWeight) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """Packed codes, of shape `(outputs, blocks, bytes)`, scales, and zero points or None."""
    name = f"{weight.name}.{weight.bits}bits"
    zero = None if weight.zero is None else editor.constant(f"{name}.zero", weight.zero)
    return editor.constant(f"{name}.codes", weight.packed), editor.constant(f"{name}.scale", weight.scale), zero


def matrix_product(
    editor: GraphEditor, weight: BlockWeight, value: ir.Value, bias: ir.Value | None, level: int
) -> ir.Value:
    """Add the product of `value` with the transposed weight, plus the bias."""
    codes, scale, zero = _inputs(editor, weight)
    inputs = [value, codes, scale, zero, None, bias]
    while inputs[-1] is None:
        inputs.pop()
    return editor.op(
        "MatMulNBits",
        inputs,
        DOMAIN,
        K=weight.n_inputs,
        N=weight.n_outputs,
        bits=weight.bits,
        block_size=weight.block,
        accuracy_level=level,
    )


def gather_rows(editor: GraphEditor, weight: BlockWeight, rows: ir.Value) -> ir.Value:
    """Add the decoded rows of a table."""
    blocks, scale, zero = _inputs(editor, weight)
    # The file holds the table as matrix products read it. ONNX Runtime reshapes it once, when it loads the file.
    shape = np.array([weight.n_outputs, -1], np.int64)
    codes = editor.op("Reshape", [blocks, editor.constant(f"{weight.name}.{weight.bits}bits.shape", shape)])
    inputs = [codes, rows, scale] + ([] if zero is None else [zero])
    attributes = {"bits": weight.bits, "block_size": weight.block, "gather_axis": 0, "quantize_axis": 1}
    values = editor.op("GatherBlockQuantized", inputs, DOMAIN, **attributes)
    if weight.n_blocks * weight.block == weight.n_inputs:
        return values
    ends = [
        editor.constant(f"{weight.name}.{name}", np.array([number], np.int64))
        for name, number in (("row.start", 0), ("row.end", weight.n_inputs), ("row.axis", -1))
    ]
    return editor.op("Slice", [values, *ends])


@dataclass(frozen=True)
class BlockProduct:
    """A product that was placed as `MatMulNBits`.

    Attributes:
        name: Of the weight.
        n_inputs: Length of a row of the weight.
        n_outputs: Number of its rows.
        bits: 2, 4 or 8.
        block: Weights that share a scale.
        level: `accuracy_level` of the node.
        n_rows: Rows of the input for a single example; 0 if they are not known.
    """

    name: str
    n_inputs: int
    n_outputs: int
    bits: int
    block: int
    level: int
    n_rows: int


Place = Callable[[ir.Node, int, bool], bool]


def block_placer(editor: GraphEditor, weight: IntegerWeight, level: int, placed: list[BlockProduct]) -> Place | None:
    """Return a function that replaces a reader of `weight` by a node that reads packed blocks.

    Args:
        editor: Of the graph.
        weight: The weight.
        level: `accuracy_level` of the products.
        placed: Products are added to it.

    Returns:
        A function of the reader, the position of the weight among its inputs, and whether the weight is transposed in
        between; it returns whether it replaced the reader. None if the weight cannot be read in blocks.
    """
    blocks = in_blocks(weight, level)
    turned = None
    if weight.codes.ndim == 2 and not weight.block and weight.scale.size == 1:
        # A weight with one scale can be read along either axis.
        turned = _turned(weight)

    def place(node: ir.Node, position: int, is_transposed: bool) -> bool:
        attributes = node.attributes
        if node.domain or position >= len(node.inputs):
            return False
        if node.op_type == "Gather" and position == 0 and attributes.get_int("axis", 0) == 0 and not is_transposed:
            if blocks is None or node.inputs[1] is None:
                return False
            editor.replace(node.outputs[0], gather_rows(editor, blocks, node.inputs[1]))
            editor.graph.remove(node, safe=True)
            return True
        if position != 1 or node.op_type not in ("MatMul", "Gemm"):
            return False
        if node.op_type == "Gemm":
            is_plain = attributes.get_float("alpha", 1.0) == 1.0 == attributes.get_float("beta", 1.0)
            if not is_plain or attributes.get_int("transA", 0) != 0:
                return False
            is_transposed ^= attributes.get_int("transB", 0) == 1
        read = blocks if is_transposed else None if turned is None else in_blocks(turned, level)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        value = node.inputs[0]
        if read is None or value is None or (bias is not None and not _is_row(bias, read.n_outputs)):
            return False
        n_rows = _rows_of(value)
        placed.append(BlockProduct(weight.name, read.n_inputs, read.n_outputs, read.bits, read.block, level, n_rows))
        editor.replace(node.outputs[0], matrix_product(editor, read, value, bias, level))
        editor.graph.remove(node, safe=True)
        return True

    return place if blocks is not None or turned is not None else None


def _turned(weight: IntegerWeight) -> IntegerWeight:
    codes = np.ascontiguousarray(weight.codes.T)
    return IntegerWeight(f"{weight.name}.turned", codes, weight.scale, weight.zero, 0)


def _is_row(bias: ir.Value, n: int) -> bool:
    return bias.shape is not None and tuple(bias.shape) == (n,)


def _rows_of(value: ir.Value) -> int:
    """Rows of a value for a single example, where the exporter knows its shape."""
    if value.shape is None:
        return 0
    n_rows = 1
    for size in list(value.shape)[:-1]:
        n_rows *= size if isinstance(size, int) else 1
    return n_rows


__all__ = [
    "DOMAIN",
    "EXACT_LEVEL",
    "INTEGER_LEVEL",
    "BlockProduct",
    "BlockWeight",
    "block_placer",
    "gather_rows",
    "in_blocks",
    "matrix_product",
]
