"""Rules for matrix products: linear layers, attention, einsum.

A comment gives the shapes of each operator, so that the ties below it can be checked by eye.
"""

from __future__ import annotations

from string import ascii_letters

import numpy as np

from nbcompress.compress.coupling.call import Call, Marks, Rule
from nbcompress.compress.coupling.labels import Axes, Axis
from nbcompress.compress.coupling.rules_elements import broadcast, freeze_positions
from nbcompress.compress.coupling.rules_shape import frozen


def linear(call: Call) -> Marks:
    """input (*, i), weight (o, i), bias (o) -> (*, o)."""
    *lead, inner = call.axes(call["input"])
    out, weight_in = call.axes(call["weight"])
    call.tie(inner, weight_in)
    return (*lead, with_bias(call, out, call["bias"]))


def with_bias(call: Call, out: Axis, bias: object) -> Axis:
    """The axis of outputs, tied to a bias if there is one."""
    return out if bias is None else call.tie(out, call.axes(bias)[0])


def bilinear(call: Call) -> Marks:
    """input1 (*, i), input2 (*, j), weight (o, i, j), bias (o) -> (*, o)."""
    *lead, first = call.axes(call["input1"])
    *other, second = call.axes(call["input2"])
    out, i, j = call.axes(call["weight"])
    call.tie(first, i)
    call.tie(second, j)
    lead = [call.tie(a, b) for a, b in zip(lead, other, strict=True)]
    return (*lead, with_bias(call, out, call["bias"]))


def matmul(call: Call) -> Marks:
    """a (*, n, k), b (*, k, m) -> (*, n, m); a vector stands for a matrix with one row or column."""
    first, second = (node for node in call.inputs()[:2]) if len(call.inputs()) > 1 else (call.inputs()[0],) * 2
    a, b = call.axes(first), call.axes(second)
    return product(call, (a, call.shape(first)), (b, call.shape(second)))


def product(call: Call, left: tuple[Axes, tuple[int, ...]], right: tuple[Axes, tuple[int, ...]]) -> Axes:
    """The axes of a matrix product of two tensors, each given as axes and shape."""
    (a, a_shape), (b, b_shape) = left, right
    call.tie(a[-1], b[-2] if len(b) > 1 else b[0])
    batch = broadcast(call, [(a[:-2], a_shape[:-2]), (b[:-2], b_shape[:-2])])
    return (*batch, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ()))


def addmm(call: Call) -> Marks:
    """self (*, m) + a (n, k) b (k, m) -> (n, m); with batches for `baddbmm`."""
    names = ("batch1", "batch2") if call.name == "baddbmm" else ("mat1", "mat2")
    first, second = call[names[0]], call[names[1]]
    inner = product(call, (call.axes(first), call.shape(first)), (call.axes(second), call.shape(second)))
    bias = call["self"]
    return broadcast(call, [(inner, call.shape()), (call.axes(bias), call.shape(bias))])


def attention(call: Call) -> Marks:
    """query (*, h, l, d), key (*, h, s, d), value (*, h, s, v), mask (*, l, s) -> (*, h, l, v)."""
    query, key, value = call.axes(call["query"]), call.axes(call["key"]), call.axes(call["value"])
    q_shape, k_shape = call.shape(call["query"]), call.shape(call["key"])
    call.freeze(query[-1], "scales by its length")
    call.freeze(key[-1], "scales by its length")
    freeze_positions(call, query[-2:-1], key[-2:-1], value[-2:-1])
    shared = q_shape[-3] // k_shape[-3] if len(q_shape) > 2 and call["enable_gqa"] else 1
    if shared > 1:
        key, value = _repeat_heads(key, shared), _repeat_heads(value, shared)
        k_shape = (*k_shape[:-3], q_shape[-3], *k_shape[-2:])
    v_shape = (*call.shape(call["value"])[:-3], *k_shape[-3:-2])
    operands = [(query[:-2], q_shape[:-2]), (key[:-2], k_shape[:-2]), (value[:-2], v_shape)]
    mask = call["attn_mask"]
    if mask is not None:
        freeze_positions(call, call.axes(mask)[-2:])
        operands.append((call.axes(mask)[:-2], call.shape(mask)[:-2]))
    return (*broadcast(call, operands), None, value[-1])


def _repeat_heads(axes: Axes, times: int) -> Axes:
    heads = axes[-3]
    return (*axes[:-3], None if heads is None else np.repeat(heads, times), *axes[-2:])


def grouped_product(call: Call) -> Marks:
    """a (s, k), b (e, k, m) -> (s, m): row by row with the matrix of its expert, between borders that are given."""
    first, second = call.inputs()[:2]
    a, b = call.axes(first), call.axes(second)
    if len(a) != 2 or len(b) != 3:
        return frozen(call)
    call.tie(a[1], b[1])
    call.freeze(b[0], "looks matrices up by number")
    return (a[0], b[2])


def einsum(call: Call) -> Marks:
    """One letter is one dimension; dimensions of one letter are tied."""
    equation = str(call["equation"]).replace(" ", "")
    operands = call["tensors"]
    if "." in equation:
        return frozen(call)
    left, _, right = equation.partition("->")
    if "->" not in equation:
        right = "".join(sorted(one for one in ascii_letters if left.count(one) == 1))
    known: dict[str, Axis] = {}
    for letters, node in zip(left.split(","), operands, strict=True):
        for letter, axis, size in zip(letters, call.axes(node), call.shape(node), strict=True):
            if size != 1:
                known[letter] = call.tie(known[letter], axis) if letter in known else axis
    return tuple(known.get(letter) for letter in right)


PRODUCT_RULES: dict[str, Rule] = {
    "linear": linear,
    "bilinear": bilinear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), matmul),
    **dict.fromkeys(("addmm", "baddbmm"), addmm),
    # The second is how a library calls it where the first one is missing.
    **dict.fromkeys(("_grouped_mm", "grouped_mm_fallback"), grouped_product),
    "scaled_dot_product_attention": attention,
    "einsum": einsum,
}

__all__ = ["PRODUCT_RULES", "linear", "with_bias"]
