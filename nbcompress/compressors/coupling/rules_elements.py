"""Rules for elementwise operators, reductions (sums, pools, softmax) and matrix products (linear, attention, einsum).

The docstring of each rule gives the shapes of its operator, so that its ties can be checked by eye.
"""

from __future__ import annotations

from string import ascii_letters

import numpy as np

from nbcompress.compressors.coupling.channel_ids import AxisIds, OperatorCall, ResultIds, Rule, TensorIds
from nbcompress.compressors.coupling.rules_shape import unknown_operator


def broadcast(call: OperatorCall, operands: list[tuple[TensorIds, tuple[int, ...]]]) -> TensorIds:
    """Tie the dimensions that broadcasting aligns, counted from the last; dimensions of length 1 are not tied."""
    n_dims = max((len(shape) for _, shape in operands), default=0)
    result: list[AxisIds] = []
    for back in range(n_dims, 0, -1):
        meeting = [axes[-back] for axes, shape in operands if len(shape) >= back and shape[-back] != 1]
        axis = meeting[0] if meeting else None
        for other in meeting[1:]:
            axis = call.tie(axis, other)
        result.append(axis)
    return tuple(result)


def pointwise(call: OperatorCall) -> ResultIds:
    """Elementwise operators: any number of tensors, broadcast."""
    if isinstance(call.node.meta["val"], (tuple, list)):
        return unknown_operator(call)  # `where` with a condition alone returns positions
    operands = [(call.axes(node), call.shape(node)) for node in call.inputs()]
    axes = broadcast(call, operands)
    return (None,) * (len(call.shape()) - len(axes)) + axes


def copy_into(call: OperatorCall) -> ResultIds:
    """`copy_`: src, which may be broadcast, is written into self."""
    operands = [(call.axes(call[name]), call.shape(call[name])) for name in ("self", "src")]
    return broadcast(call, operands)


def softmax(call: OperatorCall) -> ResultIds:
    """`softmax` along `dim`: every result depends on all indices."""
    axes = call.axes(call["self"])
    call.freeze(axes[call["dim"]], "computes a softmax over it")
    return axes


def glu(call: OperatorCall) -> ResultIds:
    """(2 n) -> (n): the first half times the sigmoid of the second."""
    axes = list(call.axes(call["self"]))
    axis = axes[call["dim"]]
    if axis is not None:
        call.channel_ids.tie_rows(axis.reshape(2, -1))
        axes[call["dim"]] = axis[: len(axis) // 2] if len(axis) > 2 else None
    return tuple(axes)


def freeze_positions(call: OperatorCall, *dims: TensorIds | list[AxisIds]) -> None:
    """Freeze dimensions that the call treats as positions."""
    for axes in dims:
        for axis in axes:
            call.freeze(axis, "treats it as positions")


def pool(call: OperatorCall) -> ResultIds:
    """(n, c, *) -> (n, c, *): only positions are reduced."""
    axes = call.axes(call.inputs()[0])
    n_positions = int("1d" in call.name) or 2 * int("2d" in call.name) or 3 * int("3d" in call.name)
    if not n_positions:
        n_positions = len(axes) - 2
    freeze_positions(call, axes[-n_positions:])
    result = (*axes[:-n_positions], *(None,) * n_positions)
    n_results = len(call.node.meta["val"]) if isinstance(call.node.meta["val"], (tuple, list)) else 0
    return [result] * n_results if n_results else result


# A sum does not change when a channel of zeros is removed; a mean or a maximum does.
_SUMS = ("sum", "linalg_vector_norm", "norm", "nansum")
# Norms that are written by hand consist of these.
_AVERAGES = ("mean", "var", "std", "var_mean", "std_mean")


def reduce(call: OperatorCall) -> ResultIds:
    """Reductions: the reduced dimensions are dropped, or get length 1."""
    source = call.inputs()[0]
    axes = call.axes(source)
    dims = _reduced_dims(call, len(axes))
    for dim in () if call.name in _SUMS else dims:
        if call.name in _AVERAGES:
            call.average(axes, dim, "reduces it to one number")
        else:
            call.freeze(axes[dim], "reduces it to one number")
    value = call.node.meta["val"]
    first = value[0] if isinstance(value, (tuple, list)) else value
    keeps = len(first.shape) == len(axes)
    result = tuple(None if k in dims else axis for k, axis in enumerate(axes) if keeps or k not in dims)
    return [result] * len(value) if isinstance(value, (tuple, list)) else result


def _reduced_dims(call: OperatorCall, n_dims: int) -> set[int]:
    try:
        dims = call["dim"]
    except KeyError:
        dims = None
    if dims is None or dims == []:
        return set(range(n_dims))
    return {dim % n_dims for dim in (dims if isinstance(dims, (list, tuple)) else [dims])} if n_dims else set()


def cumulative(call: OperatorCall) -> ResultIds:
    """`cumsum` and `cumprod` along `dim`."""
    axes = call.axes(call["self"])
    call.freeze(axes[call["dim"]], "accumulates along it")
    return axes


def prelu(call: OperatorCall) -> ResultIds:
    """input (n, c, *), weight (c) or (1)."""
    axes = list(call.axes(call["self"]))
    if call.shape(call["weight"]) != (1,):
        axes[1] = call.tie(axes[1], call.axes(call["weight"])[0])
    return tuple(axes)


_REDUCTIONS = "mean amax amin max min argmax argmin prod var std logsumexp any all var_mean std_mean median aminmax"


_POOLS = (
    "max_pool avg_pool adaptive_avg_pool adaptive_max_pool upsample_nearest upsample_bilinear upsample_bicubic "
    "upsample_linear upsample_trilinear lp_pool reflection_pad replication_pad"
)


# Elementwise, but not all of them have the tag of torch.
_POINTWISE = (
    "relu relu6 gelu silu mish hardswish hardtanh hardsigmoid elu selu celu leaky_relu prelu_kernel sigmoid tanh "
    "logsigmoid softplus softsign dropout feature_dropout alpha_dropout dropout2d dropout3d clone contiguous detach "
    "alias to _to_copy type_as float half bfloat16 double masked_fill where clamp lift_fresh_copy "
    "lift_fresh zeros_like ones_like full_like rand_like randn_like empty_like "
    "add sub mul div subtract multiply divide true_divide pow neg exp rsqrt sqrt square abs add_ lerp addcmul"
)


ELEMENT_RULES: dict[str, Rule] = {
    "prelu": prelu,
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "_log_softmax"), softmax),
    "glu": glu,
    "copy": copy_into,
    **dict.fromkeys((f"{name}{n}d" for name in _POOLS.split() for n in "123"), pool),
    **dict.fromkeys((*_SUMS, *_REDUCTIONS.split()), reduce),
    **dict.fromkeys(("cumsum", "cumprod"), cumulative),
    **dict.fromkeys(_POINTWISE.split(), pointwise),
}


def linear(call: OperatorCall) -> ResultIds:
    """input (*, i), weight (o, i), bias (o) -> (*, o)."""
    *lead, inner = call.axes(call["input"])
    out, weight_in = call.axes(call["weight"])
    call.tie(inner, weight_in)
    return (*lead, with_bias(call, out, call["bias"]))


def with_bias(call: OperatorCall, out: AxisIds, bias: object) -> AxisIds:
    """Return the axis of outputs, tied to the bias if there is one."""
    return out if bias is None else call.tie(out, call.axes(bias)[0])


def bilinear(call: OperatorCall) -> ResultIds:
    """input1 (*, i), input2 (*, j), weight (o, i, j), bias (o) -> (*, o)."""
    *lead, first = call.axes(call["input1"])
    *other, second = call.axes(call["input2"])
    out, i, j = call.axes(call["weight"])
    call.tie(first, i)
    call.tie(second, j)
    lead = [call.tie(a, b) for a, b in zip(lead, other, strict=True)]
    return (*lead, with_bias(call, out, call["bias"]))


def matmul(call: OperatorCall) -> ResultIds:
    """a (*, n, k), b (*, k, m) -> (*, n, m); a vector counts as a matrix with one row or column."""
    first, second = (node for node in call.inputs()[:2]) if len(call.inputs()) > 1 else (call.inputs()[0],) * 2
    a, b = call.axes(first), call.axes(second)
    return product(call, (a, call.shape(first)), (b, call.shape(second)))


def product(
    call: OperatorCall, left: tuple[TensorIds, tuple[int, ...]], right: tuple[TensorIds, tuple[int, ...]]
) -> TensorIds:
    """Return the axes of a matrix product of two tensors, each given as axes and shape."""
    (a, a_shape), (b, b_shape) = left, right
    call.tie(a[-1], b[-2] if len(b) > 1 else b[0])
    batch = broadcast(call, [(a[:-2], a_shape[:-2]), (b[:-2], b_shape[:-2])])
    return (*batch, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ()))


def addmm(call: OperatorCall) -> ResultIds:
    """self (*, m) + a (n, k) b (k, m) -> (n, m); with batches for `baddbmm`."""
    names = ("batch1", "batch2") if call.name == "baddbmm" else ("mat1", "mat2")
    first, second = call[names[0]], call[names[1]]
    inner = product(call, (call.axes(first), call.shape(first)), (call.axes(second), call.shape(second)))
    bias = call["self"]
    return broadcast(call, [(inner, call.shape()), (call.axes(bias), call.shape(bias))])


def attention(call: OperatorCall) -> ResultIds:
    """query (*, h, l, d), key (*, h, s, d), value (*, h, s, v), mask (*, l, s) -> (*, h, l, v)."""
    query, key, value = call.axes(call["query"]), call.axes(call["key"]), call.axes(call["value"])
    q_shape, k_shape = call.shape(call["query"]), call.shape(call["key"])
    call.freeze(query[-1], "scales by its length")
    call.freeze(key[-1], "scales by its length")
    freeze_positions(call, query[-2:-1], key[-2:-1], value[-2:-1])
    n_queries_per_key = q_shape[-3] // k_shape[-3] if len(q_shape) > 2 and call["enable_gqa"] else 1
    if n_queries_per_key > 1:
        key, value = _repeat_heads(key, n_queries_per_key), _repeat_heads(value, n_queries_per_key)
        k_shape = (*k_shape[:-3], q_shape[-3], *k_shape[-2:])
    v_shape = (*call.shape(call["value"])[:-3], *k_shape[-3:-2])
    operands = [(query[:-2], q_shape[:-2]), (key[:-2], k_shape[:-2]), (value[:-2], v_shape)]
    mask = call["attn_mask"]
    if mask is not None:
        freeze_positions(call, call.axes(mask)[-2:])
        operands.append((call.axes(mask)[:-2], call.shape(mask)[:-2]))
    return (*broadcast(call, operands), None, value[-1])


def _repeat_heads(axes: TensorIds, times: int) -> TensorIds:
    heads = axes[-3]
    return (*axes[:-3], None if heads is None else np.repeat(heads, times), *axes[-2:])


def grouped_mm(call: OperatorCall) -> ResultIds:
    """a (s, k), b (e, k, m) -> (s, m): each row is multiplied by the matrix of its expert."""
    first, second = call.inputs()[:2]
    a, b = call.axes(first), call.axes(second)
    if len(a) != 2 or len(b) != 3:
        return unknown_operator(call)
    call.tie(a[1], b[1])
    call.freeze(b[0], "looks its matrices up by index")
    return (a[0], b[2])


def einsum(call: OperatorCall) -> ResultIds:
    """`einsum`: dimensions with the same letter are tied."""
    operands = call["tensors"]
    terms, right = einsum_terms(str(call["equation"]), [len(call.shape(node)) for node in operands])
    known: dict[str, AxisIds] = {}
    for letters, node in zip(terms, operands, strict=True):
        for letter, axis, size in zip(letters, call.axes(node), call.shape(node), strict=True):
            if size != 1:
                known[letter] = call.tie(known[letter], axis) if letter in known else axis
    return tuple(known.get(letter) for letter in right)


def einsum_terms(equation: str, n_dims: list[int]) -> tuple[list[str], str]:
    """Return the letters of each operand and of the result, with letters of their own for what `...` stands for.

    Example:
        >>> einsum_terms("...ij,jk", [3, 2])
        (['Zij', 'jk'], 'Zik')
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    spare = [letter for letter in reversed(ascii_letters) if letter not in equation]
    terms = left.split(",")
    n_hidden = [n - len(term.replace("...", "")) for term, n in zip(terms, n_dims, strict=True) if "..." in term]
    hidden = "".join(spare[: max(n_hidden, default=0)][::-1])
    found = [
        term.replace("...", hidden[len(hidden) - (n - len(term.replace("...", ""))) :])
        for term, n in zip(terms, n_dims, strict=True)
    ]
    if not arrow:
        alone = sorted(letter for letter in set("".join(terms)) - {"."} if left.count(letter) == 1)
        right = ("..." if "..." in left else "") + "".join(alone)
    return found, right.replace("...", hidden)


PRODUCT_RULES: dict[str, Rule] = {
    "linear": linear,
    "bilinear": bilinear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), matmul),
    **dict.fromkeys(("addmm", "baddbmm"), addmm),
    # The second is a fallback of the transformers library.
    **dict.fromkeys(("_grouped_mm", "grouped_mm_fallback"), grouped_mm),
    "scaled_dot_product_attention": attention,
    "einsum": einsum,
}
