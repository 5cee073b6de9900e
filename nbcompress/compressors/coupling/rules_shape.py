"""Rules for operators that move whole indices: reshapes, transpositions, repetitions.

A dimension that is split, such as `(batch, length, heads * width)` into `(batch, length, heads, width)`, can lose whole
rows (heads) or whole columns, but not single elements. Which factor can lose indices is found in this order: the only
factor along which the ids vary; the factor that the caller chose; the first factor of a last dimension (heads come
before their width); the last factor of a dimension in the middle (groups come before their channels).
"""

from __future__ import annotations

import numpy as np

from nbcompress.compressors.coupling.channel_ids import (
    NO_CHANNEL,
    AxisIds,
    OperatorCall,
    ReshapeSplit,
    ResultIds,
    Rule,
    TensorIds,
)

# Factors of queries, keys and values, or of the two halves of a gate, often come before the heads.
_PACKED = (2, 3)


def reshape(call: OperatorCall) -> ResultIds:
    """`view`, `reshape`, `flatten`, `unflatten`, `squeeze`: old dimensions are split and merged into new ones."""
    source = next(iter(call.inputs()))
    return reshaped(call, call.axes(source), call.shape(source), call.shape())


def reshaped(call: OperatorCall, axes: TensorIds, old: tuple[int, ...], new: tuple[int, ...]) -> TensorIds:
    """Return the axes of a tensor of shape `old` after it was reshaped to `new`."""
    olds = [index for index, size in enumerate(old) if size != 1]
    news = [index for index, size in enumerate(new) if size != 1]
    result: list[AxisIds] = [None] * len(new)
    factors = common_factors([old[index] for index in olds], [new[index] for index in news])
    if factors is None:
        call.channel_ids.freeze_all(axes, f"{call.name} mixes its dimensions")
        return tuple(result)
    pieces: dict[tuple[int, int], AxisIds] = {}
    for place, index in enumerate(olds):
        parts = [(position, size) for position, (i, _, size) in enumerate(factors) if i == place]
        split = split_axis(call, axes[index], tuple(size for _, size in parts), is_last=index == len(old) - 1)
        pieces |= {(place, position): axis for (position, _), axis in zip(parts, split, strict=True)}
    for place, index in enumerate(news):
        members = [(pieces[i, position], size) for position, (i, j, size) in enumerate(factors) if j == place]
        result[index] = merge_axes(call, members)
    return tuple(result)


def common_factors(old: list[int], new: list[int]) -> list[tuple[int, int, int]] | None:
    """Split two shapes with equally many elements into common factors `(old index, new index, size)`.

    Returns None if there are none.

    Example:
        >>> common_factors([6, 4], [2, 12])
        [(0, 0, 2), (0, 1, 3), (1, 1, 4)]
    """
    factors: list[tuple[int, int, int]] = []
    i = j = 0
    left, right = (old[:1] or [1])[0], (new[:1] or [1])[0]
    while i < len(old) and j < len(new):
        size = min(left, right)
        if left % size or right % size:
            return None
        factors.append((i, j, size))
        left, right = left // size, right // size
        if left == 1:
            i += 1
            left = old[i] if i < len(old) else 1
        if right == 1:
            j += 1
            right = new[j] if j < len(new) else 1
    return factors


def split_axis(call: OperatorCall, axis: AxisIds, sizes: tuple[int, ...], *, is_last: bool) -> list[AxisIds]:
    """Return the axes of the factors of one dimension; at most one of them has ids."""
    if axis is None or len(sizes) == 1:
        return [axis] * len(sizes)
    table = axis.reshape(sizes)
    roots = call.channel_ids.roots(axis).reshape(sizes)
    varying = tuple(k for k in range(len(sizes)) if not (roots == np.take(roots, [0], axis=k)).all())
    if (roots == NO_CHANNEL).all():
        # A frozen axis is passed on where its ids are along one factor, so that its reason is known further on.
        along = [k for k in range(len(sizes)) if not (table == np.take(table, [0], axis=k)).all()]
        line = np.moveaxis(table, along[0], -1).reshape(-1, sizes[along[0]])[0] if len(along) == 1 else None
        return [line if [k] == along else None for k in range(len(sizes))]
    if not varying:
        call.freeze(axis, "splits it, but its indices can only be removed together")
        return [None] * len(sizes)
    chosen = varying[0] if len(varying) == 1 else _choose_factor(call, sizes, varying, is_last=is_last)
    lines = np.moveaxis(table, chosen, -1).reshape(-1, sizes[chosen])
    call.channel_ids.tie_rows(lines)
    call.splits.append(ReshapeSplit(call.node.name, chosen, sizes, len(axis), varying))
    return [lines[0] if k == chosen else None for k in range(len(sizes))]


def _choose_factor(call: OperatorCall, sizes: tuple[int, ...], varying: tuple[int, ...], *, is_last: bool) -> int:
    asked = call.choices.get(call.node.name)
    if asked in varying:
        return int(asked)
    if not is_last:
        return varying[-1]
    unpacked = [k for k in varying if not (len(sizes) > 2 and sizes[k] in _PACKED)]
    return (unpacked or list(varying))[0]


def merge_axes(call: OperatorCall, members: list[tuple[AxisIds, int]]) -> AxisIds:
    """Return the axis of factors that become one dimension, the first varying slowest; one of them may be cut."""
    with_ids = [k for k, (axis, _) in enumerate(members) if axis is not None]
    free = [k for k in with_ids if (call.channel_ids.roots(members[k][0]) != NO_CHANNEL).any()]
    of_parameters = [k for k in free if not call.channel_ids.is_constant(members[k][0])]
    if of_parameters:
        for k in set(free) - set(of_parameters):
            call.freeze(members[k][0], "merges it with a dimension of channels")
        free = of_parameters
    live = free or with_ids[:1]
    if len(free) > 1:
        for axis, _ in members:
            call.freeze(axis, "merges it with another dimension of channels")
        return None
    if not live:
        return None
    axis = members[live[0]][0]
    before = int(np.prod([size for _, size in members[: live[0]]], dtype=np.int64))
    after = int(np.prod([size for _, size in members[live[0] + 1 :]], dtype=np.int64))
    return None if axis is None else np.tile(np.repeat(axis, after), before)


def transpose(call: OperatorCall) -> ResultIds:
    """Swap two dimensions."""
    axes = list(call.axes(call["self"]))
    if len(axes) < 2:
        return tuple(axes)
    first, second = (0, 1) if call.name in ("t", "numpy_T") else (call["dim0"], call["dim1"])
    axes[first], axes[second] = axes[second], axes[first]
    return tuple(axes)


def permute(call: OperatorCall) -> ResultIds:
    """Reorder the dimensions."""
    axes = call.axes(call["self"])
    return tuple(axes[dim] for dim in call["dims"])


def movedim(call: OperatorCall) -> ResultIds:
    """Move some dimensions; the others keep their order."""
    axes = call.axes(call["self"])
    source, target = call["source"], call["destination"]
    moves = zip(source, target, strict=True) if isinstance(source, (list, tuple)) else [(source, target)]
    n = len(axes)
    origins = {to % n: origin % n for origin, to in moves}
    rest = iter([dim for dim in range(n) if dim not in origins.values()])
    return tuple(axes[origins[dim] if dim in origins else next(rest)] for dim in range(n))


def unsqueeze(call: OperatorCall) -> ResultIds:
    """A new dimension of length 1."""
    axes = call.axes(call["self"])
    dim = call["dim"] % (len(axes) + 1)
    return (*axes[:dim], None, *axes[dim:])


def expand(call: OperatorCall) -> ResultIds:
    """New leading dimensions, and expanded ones of length 1, repeat the same values."""
    source = next(iter(call.inputs()))
    axes, old, new = call.axes(source), call.shape(source), call.shape()
    lead = len(new) - len(old)
    pairs = zip(axes, old, new[lead:], strict=True)
    expanded = [axis if size == n else call.channel_ids.new_axis(n, is_constant=True) for axis, size, n in pairs]
    return (*(call.channel_ids.new_axis(n, is_constant=True) for n in new[:lead]), *expanded)


def repeat(call: OperatorCall) -> ResultIds:
    """`repeat` and `tile`: repeat the whole tensor along a dimension."""
    source = call["self"]
    axes, old, new = call.axes(source), call.shape(source), call.shape()
    lead = len(new) - len(old)
    result: list[AxisIds] = [call.channel_ids.new_axis(n, is_constant=True) for n in new[:lead]]
    for axis, size, n in zip(axes, old, new[lead:], strict=True):
        if size == 1:
            result.append(call.channel_ids.new_axis(n, is_constant=True))
        else:
            result.append(None if axis is None else np.tile(axis, n // size))
    return tuple(result)


def repeat_interleave(call: OperatorCall) -> ResultIds:
    """Repeat each index, as for the keys of grouped-query attention."""
    axes, dim = call.axes(call["self"]), call["dim"]
    if dim is None:
        return unknown_operator(call)
    changed = list(axes)
    axis = changed[dim]
    changed[dim] = None if axis is None else np.repeat(axis, call["repeats"])
    return tuple(changed)


def flip(call: OperatorCall) -> ResultIds:
    """Reverse some dimensions."""
    axes = list(call.axes(call["self"]))
    for dim in call["dims"]:
        axis = axes[dim]
        axes[dim] = None if axis is None else axis[::-1].copy()
    return tuple(axes)


def roll(call: OperatorCall) -> ResultIds:
    """Rotate some dimensions, which are frozen."""
    axes = list(call.axes(call["self"]))
    for dim in call["dims"] or range(len(axes)):
        call.freeze(axes[dim], "rotates it")
        axes[dim] = None
    return tuple(axes)


def pixel_shuffle(call: OperatorCall) -> ResultIds:
    """Channel `c` of the result comes from the channels `c * r**2 ... c * r**2 + r**2 - 1`."""
    axes, new = list(call.axes(call["self"])), call.shape()
    axis = axes[-3]
    for dim in (-1, -2):
        call.freeze(axes[dim], "mixes it with other positions")
        axes[dim] = None
    if axis is not None:
        table = axis.reshape(new[-3], -1).T
        call.channel_ids.tie_rows(table)
        axes[-3] = table[0] if new[-3] > 1 else take_single(call, axis)
    return tuple(axes)


def take_single(call: OperatorCall, axis: AxisIds) -> AxisIds:
    """Freeze a dimension of which a single index is selected; it has no channels any more."""
    call.freeze(axis, "selects a single index of it")
    return None


def constant(call: OperatorCall) -> ResultIds:
    """A tensor with one value everywhere, such as zeros."""
    return tuple(call.channel_ids.new_axis(size, is_constant=True) for size in call.shape())


def unknown_operator(call: OperatorCall) -> ResultIds:
    """An operator without a rule: all of its inputs are frozen."""
    for node in call.inputs():
        ids = call.known.get(node, ())
        for axes in ids if isinstance(ids, list) else [ids]:
            for axis in axes:
                call.freeze(axis, "is an operator without a rule for channels")
    return no_ids(call.node.meta.get("val"))


def unrelated(call: OperatorCall) -> ResultIds:
    """Calls whose result does not depend on the values of their inputs: checks, and new uninitialised tensors."""
    return no_ids(call.node.meta.get("val"))


def no_ids(value: object) -> ResultIds:
    """Return axes without ids for the result of a call."""
    if isinstance(value, (tuple, list)):
        return [(None,) * len(getattr(item, "shape", ())) for item in value]
    return (None,) * len(getattr(value, "shape", ()))


RESHAPES = ("view", "reshape", "flatten", "unflatten", "squeeze", "_unsafe_view", "view_as", "reshape_as", "ravel")

SHAPE_RULES: dict[str, Rule] = {
    **dict.fromkeys(RESHAPES, reshape),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t", "numpy_T"), transpose),
    "permute": permute,
    **dict.fromkeys(("movedim", "moveaxis"), movedim),
    "unsqueeze": unsqueeze,
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), expand),
    **dict.fromkeys(("repeat", "tile"), repeat),
    "repeat_interleave": repeat_interleave,
    "flip": flip,
    "roll": roll,
    "pixel_shuffle": pixel_shuffle,
    **dict.fromkeys(("zeros", "ones", "full", "new_zeros", "new_ones", "new_full"), constant),
    **dict.fromkeys(("new_empty", "_assert_tensor_metadata"), unrelated),
}

__all__ = [
    "RESHAPES",
    "SHAPE_RULES",
    "common_factors",
    "merge_axes",
    "no_ids",
    "reshaped",
    "split_axis",
    "take_single",
    "unknown_operator",
]
