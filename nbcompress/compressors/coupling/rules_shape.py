"""Rules for operators that move whole indices around: reshapes, transpositions, repetitions.

A dimension that is split, as `(batch, length, heads * width)` into `(batch, length, heads, width)`, can lose whole
rows (heads) or whole columns, but not single elements. Which factor goes is found out: if the labels vary along
one factor only, it is that one; else the first for a last dimension (heads come before their width) and the last
for one in the middle (groups come before their channels), unless the caller chooses another.
"""

from __future__ import annotations

import numpy as np

from nbcompress.compressors.coupling.channel_ids import NO_LABEL, Axes, Axis, Call, Marks, Rule, Split

# Queries, keys and values, or the two halves of a gate, are often packed in front of the heads.
_PACKED = (2, 3)


def reshape(call: Call) -> Marks:
    """`view`, `reshape`, `flatten`, `unflatten`, `squeeze`: old dimensions are split and merged into new ones."""
    source = next(iter(call.inputs()))
    return reshaped(call, call.axes(source), call.shape(source), call.shape())


def reshaped(call: Call, axes: Axes, old: tuple[int, ...], new: tuple[int, ...]) -> Axes:
    """The axes of a tensor of shape `old` after it was reshaped to `new`."""
    olds = [index for index, size in enumerate(old) if size != 1]
    news = [index for index, size in enumerate(new) if size != 1]
    result: list[Axis] = [None] * len(new)
    factors = common_factors([old[index] for index in olds], [new[index] for index in news])
    if factors is None:
        call.labels.freeze_all(axes, f"{call.name} mixes its dimensions")
        return tuple(result)
    pieces: dict[tuple[int, int], Axis] = {}
    for place, index in enumerate(olds):
        parts = [(position, size) for position, (i, _, size) in enumerate(factors) if i == place]
        split = split_axis(call, axes[index], tuple(size for _, size in parts), is_last=index == len(old) - 1)
        pieces |= {(place, position): axis for (position, _), axis in zip(parts, split, strict=True)}
    for place, index in enumerate(news):
        members = [(pieces[i, position], size) for position, (i, j, size) in enumerate(factors) if j == place]
        result[index] = merge_axes(call, members)
    return tuple(result)


def common_factors(old: list[int], new: list[int]) -> list[tuple[int, int, int]] | None:
    """Cut two shapes of one size into common factors `(old index, new index, size)`; None if there are none.

    `[6, 4]` and `[2, 12]` give `(0, 0, 2), (0, 1, 3), (1, 1, 4)`.
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


def split_axis(call: Call, axis: Axis, sizes: tuple[int, ...], *, is_last: bool) -> list[Axis]:
    """The axes of the factors of one dimension; at most one of them has labels."""
    if axis is None or len(sizes) == 1:
        return [axis] * len(sizes)
    table = axis.reshape(sizes)
    roots = call.labels.roots(axis).reshape(sizes)
    varying = tuple(k for k in range(len(sizes)) if not (roots == np.take(roots, [0], axis=k)).all())
    if not varying:
        call.freeze(axis, "splits what cannot be split")
        return [None] * len(sizes)
    chosen = varying[0] if len(varying) == 1 else _choose(call, sizes, varying, is_last=is_last)
    lines = np.moveaxis(table, chosen, -1).reshape(-1, sizes[chosen])
    call.labels.tie_all(lines)
    call.splits.append(Split(call.node.name, chosen, sizes, len(axis), varying))
    return [lines[0] if k == chosen else None for k in range(len(sizes))]


def _choose(call: Call, sizes: tuple[int, ...], varying: tuple[int, ...], *, is_last: bool) -> int:
    asked = call.choices.get(call.node.name)
    if asked in varying:
        return int(asked)
    if not is_last:
        return varying[-1]
    unpacked = [k for k in varying if not (len(sizes) > 2 and sizes[k] in _PACKED)]
    return (unpacked or list(varying))[0]


def merge_axes(call: Call, members: list[tuple[Axis, int]]) -> Axis:
    """The axis of factors that become one dimension, the first one varying slowest; one of them may be cut."""
    labelled = [k for k, (axis, _) in enumerate(members) if axis is not None]
    free = [k for k in labelled if (call.labels.roots(members[k][0]) != NO_LABEL).any()]
    hard = [k for k in free if not call.labels.is_soft(members[k][0])]
    if hard:
        for k in set(free) - set(hard):
            call.freeze(members[k][0], "merges it with a dimension of channels")
        free = hard
    live = free or labelled[:1]
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


def transpose(call: Call) -> Marks:
    """Two dimensions change places."""
    axes = list(call.axes(call["self"]))
    if len(axes) < 2:
        return tuple(axes)
    first, second = (0, 1) if call.name in ("t", "numpy_T") else (call["dim0"], call["dim1"])
    axes[first], axes[second] = axes[second], axes[first]
    return tuple(axes)


def permute(call: Call) -> Marks:
    """Dimensions in another order."""
    axes = call.axes(call["self"])
    return tuple(axes[dim] for dim in call["dims"])


def movedim(call: Call) -> Marks:
    """One or several dimensions move, the rest closes up."""
    axes = call.axes(call["self"])
    source, target = call["source"], call["destination"]
    moves = zip(source, target, strict=True) if isinstance(source, (list, tuple)) else [(source, target)]
    n = len(axes)
    places = {to % n: frm % n for frm, to in moves}
    rest = iter([dim for dim in range(n) if dim not in places.values()])
    return tuple(axes[places[dim] if dim in places else next(rest)] for dim in range(n))


def unsqueeze(call: Call) -> Marks:
    """A new dimension of length 1."""
    axes = call.axes(call["self"])
    dim = call["dim"] % (len(axes) + 1)
    return (*axes[:dim], None, *axes[dim:])


def expand(call: Call) -> Marks:
    """New leading dimensions, and repeated ones of length 1, hold the same values several times."""
    source = next(iter(call.inputs()))
    axes, old, new = call.axes(source), call.shape(source), call.shape()
    lead = len(new) - len(old)
    pairs = zip(axes, old, new[lead:], strict=True)
    own = [axis if size == n else call.labels.fresh(n, soft=True) for axis, size, n in pairs]
    return (*(call.labels.fresh(n, soft=True) for n in new[:lead]), *own)


def repeat(call: Call) -> Marks:
    """`repeat` and `tile`: the whole tensor several times along a dimension."""
    source = call["self"]
    axes, old, new = call.axes(source), call.shape(source), call.shape()
    lead = len(new) - len(old)
    result: list[Axis] = [call.labels.fresh(n, soft=True) for n in new[:lead]]
    for axis, size, n in zip(axes, old, new[lead:], strict=True):
        if size == 1:
            result.append(call.labels.fresh(n, soft=True))
        else:
            result.append(None if axis is None else np.tile(axis, n // size))
    return tuple(result)


def repeat_interleave(call: Call) -> Marks:
    """Each index several times in a row, as keys of grouped-query attention."""
    axes, dim = call.axes(call["self"]), call["dim"]
    if dim is None:
        return frozen(call)
    changed = list(axes)
    axis = changed[dim]
    changed[dim] = None if axis is None else np.repeat(axis, call["repeats"])
    return tuple(changed)


def flip(call: Call) -> Marks:
    """Some dimensions backwards."""
    axes = list(call.axes(call["self"]))
    for dim in call["dims"]:
        axis = axes[dim]
        axes[dim] = None if axis is None else axis[::-1].copy()
    return tuple(axes)


def roll(call: Call) -> Marks:
    """Positions move around; channels must not."""
    axes = list(call.axes(call["self"]))
    for dim in call["dims"] or range(len(axes)):
        call.freeze(axes[dim], "moves it around")
        axes[dim] = None
    return tuple(axes)


def pixel_shuffle(call: Call) -> Marks:
    """Channel `c` of the result comes from the channels `c * r**2 ... c * r**2 + r**2 - 1`."""
    axes, new = list(call.axes(call["self"])), call.shape()
    axis = axes[-3]
    for dim in (-1, -2):
        call.freeze(axes[dim], "mixes it with other positions")
        axes[dim] = None
    if axis is not None:
        table = axis.reshape(new[-3], -1).T
        call.labels.tie_all(table)
        axes[-3] = table[0] if new[-3] > 1 else single(call, axis)
    return tuple(axes)


def single(call: Call, axis: Axis) -> Axis:
    """What is left of a dimension of which one index is taken."""
    call.freeze(axis, "takes a single one of it")
    return None


def constant(call: Call) -> Marks:
    """A tensor of one value everywhere, such as zeros."""
    return tuple(call.labels.fresh(size, soft=True) for size in call.shape())


def frozen(call: Call) -> Marks:
    """Whatever reaches the call stays as it is."""
    for node in call.inputs():
        marks = call.marks.get(node, ())
        for axes in marks if isinstance(marks, list) else [marks]:
            for axis in axes:
                call.freeze(axis, "is an operator that channels cannot be followed through")
    return blank(call.node.meta.get("val"))


def apart(call: Call) -> Marks:
    """Calls that make nothing of the values they are given: checks, and new tensors of the same kind."""
    return blank(call.node.meta.get("val"))


def blank(value: object) -> Marks:
    """Axes without labels for the result of a call."""
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
    **dict.fromkeys(("new_empty", "_assert_tensor_metadata"), apart),
}

__all__ = ["SHAPE_RULES", "blank", "common_factors", "frozen", "merge_axes", "reshaped", "single", "split_axis"]
