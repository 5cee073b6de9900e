"""Rules for operators that work index by index, or gather all indices of a dimension: sums, pools, softmax."""

from __future__ import annotations

from nbcompress.compress.coupling.call import Call, Marks, Rule
from nbcompress.compress.coupling.labels import Axes, Axis
from nbcompress.compress.coupling.rules_shape import frozen


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
    if isinstance(call.node.meta["val"], (tuple, list)):
        return frozen(call)  # `where` with a condition alone gives positions
    operands = [(call.axes(node), call.shape(node)) for node in call.inputs()]
    axes = broadcast(call, operands)
    return (None,) * (len(call.shape()) - len(axes)) + axes


def copied_in(call: Call) -> Marks:
    """`copy_`: self takes the values of src, which may be broadcast."""
    operands = [(call.axes(call[name]), call.shape(call[name])) for name in ("self", "src")]
    return broadcast(call, operands)


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


def freeze_positions(call: Call, *dims: Axes | list[Axis]) -> None:
    """Forbid to cut what the call takes for positions."""
    for axes in dims:
        for axis in axes:
            call.freeze(axis, "takes it for positions")


def pool(call: Call) -> Marks:
    """(n, c, *) -> (n, c, *): positions are gathered, channels stay."""
    axes = call.axes(call.inputs()[0])
    n_positions = int("1d" in call.name) or 2 * int("2d" in call.name) or 3 * int("3d" in call.name)
    if not n_positions:
        n_positions = len(axes) - 2
    freeze_positions(call, axes[-n_positions:])
    result = (*axes[:-n_positions], *(None,) * n_positions)
    n_results = len(call.node.meta["val"]) if isinstance(call.node.meta["val"], (tuple, list)) else 0
    return [result] * n_results if n_results else result


# A sum over channels does not notice a missing one that was zero; a mean or a maximum does.
_SUMS = ("sum", "linalg_vector_norm", "norm", "nansum")
# What norms written by hand are made of.
_AVERAGES = ("mean", "var", "std", "var_mean", "std_mean")


def reduce(call: Call) -> Marks:
    """Some dimensions go, or become of length 1."""
    source = call.inputs()[0]
    axes = call.axes(source)
    dims = _dims_of(call, len(axes))
    for dim in () if call.name in _SUMS else dims:
        if call.name in _AVERAGES:
            call.average(axes, dim, "computes one number over it")
        else:
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


_REDUCTIONS = "mean amax amin max min argmax argmin prod var std logsumexp any all var_mean std_mean median aminmax"


_POOLS = (
    "max_pool avg_pool adaptive_avg_pool adaptive_max_pool upsample_nearest upsample_bilinear upsample_bicubic "
    "upsample_linear upsample_trilinear lp_pool reflection_pad replication_pad"
)


# Index by index, though not all of them are tagged so.
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
    "copy": copied_in,
    **dict.fromkeys((f"{name}{n}d" for name in _POOLS.split() for n in "123"), pool),
    **dict.fromkeys((*_SUMS, *_REDUCTIONS.split()), reduce),
    **dict.fromkeys(("cumsum", "cumprod"), along),
    **dict.fromkeys(_POINTWISE.split(), pointwise),
}

__all__ = ["ELEMENT_RULES", "broadcast", "freeze_positions", "pointwise"]
