"""Rules for operators that move indices around: reshapes, transpositions, concatenations, chunks, slices.

A dimension that is split, as `(batch, length, heads * width)` into `(batch, length, heads, width)`, can lose whole
rows (heads) or whole columns, but not single elements. Which factor goes is found out: if the labels vary along
one factor only, it is that one; else the first for a last dimension (heads come before their width) and the last
for one in the middle (groups come before their channels), unless the caller chooses another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nbcompress.compress.coupling.call import Call, Marks, Rule, Split
from nbcompress.compress.coupling.labels import NO_LABEL, Axes, Axis

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
    """New leading dimensions, and repeated ones of length 1, carry no channels."""
    axes = call.axes(next(iter(call.inputs())))
    return (None,) * (len(call.shape()) - len(axes)) + axes


def repeat(call: Call) -> Marks:
    """`repeat` and `tile`: the whole tensor several times along a dimension."""
    axes = call.axes(call["self"])
    times = call["repeats"] if call.name == "repeat" else call["dims"]
    lead = len(call.shape()) - len(axes)
    times = (1,) * (len(call.shape()) - len(times)) + tuple(times)
    own = tuple(None if axis is None else np.tile(axis, n) for axis, n in zip(axes, times[lead:], strict=True))
    return (None,) * lead + own


def repeat_interleave(call: Call) -> Marks:
    """Each index several times in a row, as keys of grouped-query attention."""
    axes, dim = call.axes(call["self"]), call["dim"]
    if dim is None:
        return frozen(call)
    changed = list(axes)
    axis = changed[dim]
    changed[dim] = None if axis is None else np.repeat(axis, call["repeats"])
    return tuple(changed)


def cat(call: Call) -> Marks:
    """Concatenation: the labels one after another; all other dimensions are tied."""
    parts = [part for part in call["tensors"] if len(call.shape(part)) == len(call.shape())]
    dim = call["dim"] % len(call.shape())
    joined: list[Axis] = list(call.axes(parts[0]))
    for part in parts[1:]:
        joined = [
            call.tie(a, b) if k != dim else a for k, (a, b) in enumerate(zip(joined, call.axes(part), strict=True))
        ]
    pieces = [(call.axes(part)[dim], call.shape(part)[dim]) for part in parts]
    if all(axis is None for axis, _ in pieces):
        joined[dim] = None
    else:
        joined[dim] = np.concatenate([np.full(n, NO_LABEL) if axis is None else axis for axis, n in pieces])
    return tuple(joined)


def stack(call: Call) -> Marks:
    """Concatenation along a new dimension, which has no channels."""
    parts = call["tensors"]
    joined = call.axes(parts[0])
    for part in parts[1:]:
        joined = tuple(call.tie(a, b) for a, b in zip(joined, call.axes(part), strict=True))
    dim = call["dim"] % (len(joined) + 1)
    return (*joined[:dim], None, *joined[dim:])


def pieces(call: Call) -> Marks:
    """`chunk`, `split`, `tensor_split`: equal pieces lose the same places, so that the borders stay right."""
    source = call["self"]
    dim = call["dim"] % len(call.shape(source))
    axes = call.axes(source)
    sizes = [int(value.shape[dim]) for value in call.node.meta["val"]]
    ends = np.cumsum(sizes).tolist()
    axis = axes[dim]
    if axis is not None:
        tie_pieces(call, axis, sizes)
    parts: list[Axis] = [None if axis is None else axis[end - n : end] for end, n in zip(ends, sizes, strict=True)]
    parts = [part if n > 1 else _single(call, part) for part, n in zip(parts, sizes, strict=True)]
    return [(*axes[:dim], part, *axes[dim + 1 :]) for part in parts]


def tie_pieces(call: Call, axis: NDArray[np.int64], sizes: list[int]) -> None:
    """Tie the same places of pieces of equal length; pieces of other lengths are fixed in the user's code."""
    if len(sizes) == 1:
        return
    if len(set(sizes)) == 1:
        call.labels.tie_all(axis.reshape(len(sizes), -1))
    else:
        call.freeze(axis, "cuts it into pieces of lengths that the code fixes")


def slices(call: Call) -> Marks:
    """A slice of a dimension of channels must be one of several equal parts of it, or nothing of it can go."""
    axes, old, new = list(call.axes(call["self"])), call.shape(call["self"]), call.shape()
    dim = call["dim"] % len(axes)
    axis = axes[dim]
    if axis is None or old[dim] == new[dim]:
        return tuple(axes)
    start, n = int(call["start"] or 0) % old[dim], new[dim]
    step = 1 if call.name == "narrow" else call["step"]
    if step == 1 and n and old[dim] % n == 0 and start % n == 0:
        tie_pieces(call, axis, [n] * (old[dim] // n))
        axes[dim] = axis[start : start + n] if n > 1 else _single(call, axis[start : start + 1])
    else:
        call.freeze(axis, "takes a slice of it that the code fixes")
        axes[dim] = None
    return tuple(axes)


def _single(call: Call, axis: Axis) -> Axis:
    call.freeze(axis, "takes a single one of it")
    return None


def select(call: Call) -> Marks:
    """One index of a dimension, which goes."""
    axes = call.axes(call["self"])
    dim = call["dim"] % len(axes)
    call.freeze(axes[dim], "takes a single one of it")
    return (*axes[:dim], *axes[dim + 1 :])


def unbind(call: Call) -> Marks:
    """All indices of a dimension, one by one."""
    axes = call.axes(call["self"])
    dim = call["dim"] % len(axes)
    call.freeze(axes[dim], "takes it apart one by one")
    return [(*axes[:dim], *axes[dim + 1 :])] * len(call.node.meta["val"])


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


def index(call: Call) -> Marks:
    """`table[numbers]`: dimensions that tensors index are looked up, the others stay."""
    axes, indices = call.axes(call["self"]), list(call["indices"])
    looked_up = [dim for dim, one in enumerate(indices) if one is not None]
    if looked_up != list(range(len(looked_up))) or any(one is None for one in indices):
        return frozen(call)
    for dim in looked_up:
        call.freeze(axes[dim], "looks it up by number")
    rest = axes[len(looked_up) :]
    return (*(None,) * (len(call.shape()) - len(rest)), *rest)


def pad(call: Call) -> Marks:
    """Constants around a tensor; `pad` counts dimensions from the last."""
    axes, amounts = list(call.axes(call["self"])), call["pad"]
    for k in range(len(amounts) // 2):
        before, after = amounts[2 * k], amounts[2 * k + 1]
        axis = axes[-1 - k]
        if axis is None or not (before or after):
            continue
        if before < 0 or after < 0 or (call.name == "pad" and call["mode"] != "constant"):
            call.freeze(axis, "crops or mirrors it")
            axes[-1 - k] = None
        else:
            axes[-1 - k] = np.concatenate([np.full(before, NO_LABEL), axis, np.full(after, NO_LABEL)])
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
        axes[-3] = table[0] if new[-3] > 1 else _single(call, axis)
    return tuple(axes)


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
        return [(None,) * len(getattr(one, "shape", ())) for one in value]
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
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "stack": stack,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "tensor_split"), pieces),
    **dict.fromkeys(("slice", "narrow"), slices),
    "select": select,
    "unbind": unbind,
    "flip": flip,
    "roll": roll,
    "index": index,
    **dict.fromkeys(("constant_pad_nd", "pad"), pad),
    "pixel_shuffle": pixel_shuffle,
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty", "_assert_tensor_metadata"), apart),
}

__all__ = ["SHAPE_RULES", "blank", "common_factors", "frozen", "merge_axes", "reshaped", "split_axis"]
