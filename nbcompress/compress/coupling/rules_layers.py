"""Rules for operators with weights: linear, convolution, embedding, attention, norms.

A comment gives the shapes of each operator, so that the ties below it can be checked by eye.
"""

from __future__ import annotations

from string import ascii_letters

import numpy as np
import torch

from nbcompress.compress.coupling.call import Call, Marks, Rule
from nbcompress.compress.coupling.labels import Axes, Axis
from nbcompress.compress.coupling.rules_shape import frozen


def linear(call: Call) -> Marks:
    """input (*, i), weight (o, i), bias (o) -> (*, o)."""
    *lead, inner = call.axes(call["input"])
    out, weight_in = call.axes(call["weight"])
    call.tie(inner, weight_in)
    return (*lead, _with_bias(call, out, call["bias"]))


def _with_bias(call: Call, out: Axis, bias: object) -> Axis:
    return out if bias is None else call.tie(out, call.axes(bias)[0])


def bilinear(call: Call) -> Marks:
    """input1 (*, i), input2 (*, j), weight (o, i, j), bias (o) -> (*, o)."""
    *lead, first = call.axes(call["input1"])
    *other, second = call.axes(call["input2"])
    out, i, j = call.axes(call["weight"])
    call.tie(first, i)
    call.tie(second, j)
    lead = [call.tie(a, b) for a, b in zip(lead, other, strict=True)]
    return (*lead, _with_bias(call, out, call["bias"]))


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


def broadcast(call: Call, operands: list[tuple[Axes, tuple[int, ...]]]) -> Axes:
    """Tie dimensions that meet when shapes are aligned at their last dimension; those of length 1 do not meet."""
    n_dims = max((len(shape) for _, shape in operands), default=0)
    result: list[Axis] = []
    for back in range(n_dims, 0, -1):
        meeting = [axes[-back] for axes, shape in operands if len(shape) >= back and shape[-back] != 1]
        axis = meeting[0] if meeting else None
        for other in meeting[1:]:
            axis = call.tie(axis, other)
        result.append(axis)
    return tuple(result)


def pointwise(call: Call) -> Marks:
    """Index by index: tensors of any number, broadcast."""
    operands = [(call.axes(node), call.shape(node)) for node in call.inputs()]
    axes = broadcast(call, operands)
    return (None,) * (len(call.shape()) - len(axes)) + axes


def conv(call: Call) -> Marks:
    """input (n, i, *), weight (o, i / groups, *), bias (o) -> (n, o, *)."""
    axes, shape = call.axes(call["input"]), call.shape(call["weight"])
    channel = len(axes) - len(shape) + 1
    source = axes[channel]
    out, inner, *kernel = call.axes(call["weight"])
    _freeze_positions(call, axes[channel + 1 :], kernel)
    out = _with_bias(call, out, call["bias"])
    groups = int(call["groups"])
    if groups == 1:
        call.tie(source, inner)
    elif shape[1] == 1:
        # Depthwise: each input channel has filters of its own, which go with it.
        source = None if source is None else np.repeat(source, shape[0] // groups)
        out = call.tie(source, out)
    else:
        _tie_groups(call, out, groups)
        call.tie(source, None if inner is None else np.tile(inner, groups))
    return (*axes[:channel], out, *(None,) * len(kernel))


def conv_transpose(call: Call) -> Marks:
    """input (n, i, *), weight (i, o / groups, *), bias (o) -> (n, o, *)."""
    axes, shape = call.axes(call["input"]), call.shape(call["weight"])
    channel = len(axes) - len(shape) + 1
    source = axes[channel]
    inner, out, *kernel = call.axes(call["weight"])
    _freeze_positions(call, axes[channel + 1 :], kernel)
    inner = call.tie(source, inner)
    groups = int(call["groups"])
    if groups > 1 and shape[0] == groups:
        # Depthwise: the filters of an input channel make outputs of their own, which all go with it.
        call.freeze(out, "spreads one channel over several")
        out = None if inner is None else np.repeat(inner, shape[1])
    elif groups > 1:
        _tie_groups(call, inner, groups)
        out = None if out is None else np.tile(out, groups)
    out = _with_bias(call, out, call["bias"])
    return (*axes[:channel], out, *(None,) * len(kernel))


def _tie_groups(call: Call, axis: Axis, groups: int) -> None:
    """Every group must lose as many channels: the same places go in each."""
    if axis is not None:
        call.labels.tie_all(axis.reshape(groups, -1))


def _freeze_positions(call: Call, *dims: Axes | list[Axis]) -> None:
    for axes in dims:
        for axis in axes:
            call.freeze(axis, "takes it for positions")


def embedding(call: Call) -> Marks:
    """weight (entries, d), indices (*) -> (*, d)."""
    entries, width = call.axes(call["weight"])
    call.freeze(entries, "looks entries up by their number")
    for axis in call.axes(call["indices"]):
        call.freeze(axis, "takes it for positions")
    return (*(None,) * len(call.shape(call["indices"])), width)


def batch_norm(call: Call) -> Marks:
    """input (n, c, *); weight, bias, mean and variance (c)."""
    axes = list(call.axes(call["input"]))
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None:
            axes[1] = call.tie(axes[1], call.axes(call[name])[0])
    return tuple(axes)


def layer_norm(call: Call) -> Marks:
    """input (*, d), weight and bias (d): the mean over `d` would change if one of them went."""
    axes = call.axes(call["input"])
    n_dims = len(call["normalized_shape"])
    for node in call.inputs()[1:]:
        call.labels.freeze_all(call.axes(node), f"{call.name} computes a mean over it")
    for axis in axes[-n_dims:]:
        call.freeze(axis, "computes a mean over it")
    # The frozen axes go on, so that what meets them later is frozen for the same reason.
    return axes


def group_norm(call: Call) -> Marks:
    """input (n, c, *), weight and bias (c): whole groups can go, since each has a mean of its own."""
    axes, groups = list(call.axes(call["input"])), int(call["num_groups"])
    for name in ("weight", "bias"):
        if call[name] is not None:
            axes[1] = call.tie(axes[1], call.axes(call[name])[0])
    _freeze_positions(call, axes[2:])
    axis = axes[1]
    if axis is not None:
        if groups == 1:
            call.freeze(axis, "computes a mean over it")
        else:
            call.labels.tie_all(axis.reshape(groups, -1).T)
    return (*axes[:2], *(None,) * (len(axes) - 2))


def attention(call: Call) -> Marks:
    """query (*, h, l, d), key (*, h, s, d), value (*, h, s, v), mask (*, l, s) -> (*, h, l, v)."""
    query, key, value = call.axes(call["query"]), call.axes(call["key"]), call.axes(call["value"])
    q_shape, k_shape = call.shape(call["query"]), call.shape(call["key"])
    call.freeze(query[-1], "scales by its length")
    call.freeze(key[-1], "scales by its length")
    _freeze_positions(call, query[-2:-1], key[-2:-1], value[-2:-1])
    shared = q_shape[-3] // k_shape[-3] if len(q_shape) > 2 and call["enable_gqa"] else 1
    if shared > 1:
        key, value = _repeat_heads(key, shared), _repeat_heads(value, shared)
        k_shape = (*k_shape[:-3], q_shape[-3], *k_shape[-2:])
    v_shape = (*call.shape(call["value"])[:-3], *k_shape[-3:-2])
    operands = [(query[:-2], q_shape[:-2]), (key[:-2], k_shape[:-2]), (value[:-2], v_shape)]
    mask = call["attn_mask"]
    if mask is not None:
        _freeze_positions(call, call.axes(mask)[-2:])
        operands.append((call.axes(mask)[:-2], call.shape(mask)[:-2]))
    return (*broadcast(call, operands), None, value[-1])


def _repeat_heads(axes: Axes, times: int) -> Axes:
    heads = axes[-3]
    return (*axes[:-3], None if heads is None else np.repeat(heads, times), *axes[-2:])


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


def softmax(call: Call) -> Marks:
    """The shares along `dim` depend on how many there are."""
    axes = call.axes(call["self"])
    call.freeze(axes[call["dim"]], "computes shares over it")
    return axes


def glu(call: Call) -> Marks:
    """(2 n) -> (n): the first half times a gate from the second."""
    axes = list(call.axes(call["self"]))
    axis = axes[call["dim"]]
    if axis is not None:
        call.labels.tie_all(axis.reshape(2, -1))
        axes[call["dim"]] = axis[: len(axis) // 2] if len(axis) > 2 else None
    return tuple(axes)


def pool(call: Call) -> Marks:
    """(n, c, *) -> (n, c, *): positions are gathered, channels stay."""
    axes = call.axes(call.inputs()[0])
    n_positions = int("1d" in call.name) or 2 * int("2d" in call.name) or 3 * int("3d" in call.name)
    if not n_positions:
        n_positions = len(axes) - 2
    _freeze_positions(call, axes[-n_positions:])
    result = (*axes[:-n_positions], *(None,) * n_positions)
    n_results = len(call.node.meta["val"]) if isinstance(call.node.meta["val"], (tuple, list)) else 0
    return [result] * n_results if n_results else result


# A sum over channels does not notice a missing one that was zero; a mean or a maximum does.
_SUMS = ("sum", "linalg_vector_norm", "norm", "nansum")


def reduce(call: Call) -> Marks:
    """Some dimensions go, or become of length 1."""
    source = call.inputs()[0]
    axes = call.axes(source)
    dims = _dims_of(call, len(axes))
    if call.name not in _SUMS:
        for dim in dims:
            call.freeze(axes[dim], "computes one number over it")
    value = call.node.meta["val"]
    first = value[0] if isinstance(value, (tuple, list)) else value
    keeps = len(first.shape) == len(axes)
    result = tuple(None if k in dims else axis for k, axis in enumerate(axes) if keeps or k not in dims)
    return [result] * len(value) if isinstance(value, (tuple, list)) else result


def _dims_of(call: Call, n_dims: int) -> set[int]:
    try:
        dims = call["dim"]
    except KeyError:
        dims = None
    if dims is None or dims == []:
        return set(range(n_dims))
    return {dim % n_dims for dim in (dims if isinstance(dims, (list, tuple)) else [dims])} if n_dims else set()


def along(call: Call) -> Marks:
    """`cumsum` and the like: everything but `dim` is index by index."""
    axes = call.axes(call["self"])
    call.freeze(axes[call["dim"]], "runs along it")
    return axes


def prelu(call: Call) -> Marks:
    """input (n, c, *), weight (c) or (1)."""
    axes = list(call.axes(call["self"]))
    if call.shape(call["weight"]) != (1,):
        axes[1] = call.tie(axes[1], call.axes(call["weight"])[0])
    return tuple(axes)


_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent(call: Call) -> Marks:
    """Per layer and direction: input weight (gates h, i), hidden weight (gates h, h), two biases (gates h).

    A unit goes from all gates, layers and directions at once, since a module has one hidden size. A unit whose
    weights are zero stays at zero if it starts there, so states made of zeros do not hold it.
    """
    params, batched = call["params"], call.axes(call["input"])
    n_each = 4 if call["has_biases"] else 2
    n_directions = 2 if call["bidirectional"] else 1
    if len(params) != n_each * n_directions * int(call["num_layers"]):
        return frozen(call)  # with projections there are more
    hidden: Axis = _gate_axis(call, call.axes(params[1])[0])
    *lead, inner = batched
    for start in range(0, len(params), n_each * n_directions):
        for first in range(start, start + n_each * n_directions, n_each):
            into, across, *biases = params[first : first + n_each]
            call.tie(inner, call.axes(into)[1])
            call.tie(hidden, call.axes(across)[1])
            for node in (into, across, *biases):
                call.tie(hidden, _gate_axis(call, call.axes(node)[0]))
        inner = hidden if hidden is None else np.tile(hidden, n_directions)
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    for state in states:
        if state.target is not torch.ops.aten.zeros.default:
            call.tie(call.axes(state)[-1], hidden)
    return [(*lead, inner), *((*(None,) * (len(call.shape(state)) - 1), hidden) for state in states)]


def _gate_axis(call: Call, axis: Axis) -> Axis:
    """The axis of hidden units, from one that holds them once for each gate."""
    if axis is None:
        return None
    table = axis.reshape(_GATES[call.name], -1)
    call.labels.tie_all(table)
    return table[0] if table.shape[1] > 1 else _lone(call, axis)


def _lone(call: Call, axis: Axis) -> Axis:
    call.freeze(axis, "has a single one of it")
    return None


_REDUCTIONS = "mean amax amin max min argmax argmin prod var std logsumexp any all var_mean std_mean median aminmax"
_POOLS = (
    "max_pool avg_pool adaptive_avg_pool adaptive_max_pool upsample_nearest upsample_bilinear upsample_bicubic "
    "upsample_linear upsample_trilinear lp_pool reflection_pad replication_pad"
)
# Index by index, though not all of them are tagged so.
_POINTWISE = (
    "relu relu6 gelu silu mish hardswish hardtanh hardsigmoid elu selu celu leaky_relu prelu_kernel sigmoid tanh "
    "logsigmoid softplus softsign dropout feature_dropout alpha_dropout dropout2d dropout3d clone contiguous detach "
    "alias to _to_copy type_as float half bfloat16 double masked_fill where clamp copy lift_fresh_copy "
    "lift_fresh zeros_like ones_like full_like rand_like randn_like empty_like "
    "add sub mul div pow neg exp rsqrt sqrt square abs add_ lerp addcmul"
)

LAYER_RULES: dict[str, Rule] = {
    "linear": linear,
    "bilinear": bilinear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), matmul),
    **dict.fromkeys(("addmm", "baddbmm"), addmm),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), conv_transpose),
    "embedding": embedding,
    **dict.fromkeys(("batch_norm", "instance_norm"), batch_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_norm),
    "group_norm": group_norm,
    "scaled_dot_product_attention": attention,
    "einsum": einsum,
    "prelu": prelu,
    **dict.fromkeys(_GATES, recurrent),
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "_log_softmax"), softmax),
    "glu": glu,
    **dict.fromkeys((f"{name}{n}d" for name in _POOLS.split() for n in "123"), pool),
    **dict.fromkeys((*_SUMS, *_REDUCTIONS.split()), reduce),
    **dict.fromkeys(("cumsum", "cumprod"), along),
    **dict.fromkeys(_POINTWISE.split(), pointwise),
}

__all__ = ["LAYER_RULES", "pointwise"]
