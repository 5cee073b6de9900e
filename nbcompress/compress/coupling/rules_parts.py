"""Rules for operators that put tensors together or take parts of them: concatenations, chunks, slices, lookups."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from nbcompress.compress.coupling.call import Call, Marks, Rule, UnknownSize, size_of
from nbcompress.compress.coupling.labels import NO_LABEL, Axis
from nbcompress.compress.coupling.rules_shape import frozen, single

_BY_DATA = "takes a part of it whose size depends on the data"


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
    sizes = [size_of(value.shape[dim]) for value in call.node.meta["val"]]
    ends = np.cumsum(sizes).tolist()
    axis = axes[dim]
    if any(isinstance(n, UnknownSize) for n in sizes):
        call.freeze(axis, _BY_DATA)
        axis = None
    if axis is not None:
        for end, n in zip(ends, sizes, strict=True):
            call.note_part(axis, end - n, end)
    parts: list[Axis] = [None if axis is None else axis[end - n : end] for end, n in zip(ends, sizes, strict=True)]
    parts = [part if n > 1 else single(call, part) for part, n in zip(parts, sizes, strict=True)]
    return [(*axes[:dim], part, *axes[dim + 1 :]) for part in parts]


def slices(call: Call) -> Marks:
    """A part of a dimension. What the parts of it have to do with each other is settled when all are known."""
    axes, old, new = list(call.axes(call["self"])), call.shape(call["self"]), call.shape()
    dim = call["dim"] % len(axes)
    axis = axes[dim]
    if isinstance(new[dim], UnknownSize):
        call.freeze(axis, _BY_DATA)
        axes[dim] = None
        return tuple(axes)
    if axis is None or old[dim] == new[dim]:
        return tuple(axes)
    start, n = int(call["start"] or 0) % old[dim], new[dim]
    step = 1 if call.name == "narrow" else call["step"]
    if step == 1 and n:
        call.note_part(axis, start, start + n)
        axes[dim] = axis[start : start + n] if n > 1 else single(call, axis[start : start + 1])
    else:
        call.freeze(axis, "takes a slice of it that the code fixes")
        axes[dim] = None
    return tuple(axes)


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


def index(call: Call) -> Marks:
    """`table[numbers]`: dimensions that tensors index are looked up, the others stay."""
    axes, indices = call.axes(call["self"]), list(call["indices"])
    looked_up = [dim for dim, one in enumerate(indices) if one is not None]
    if len(looked_up) == 1 and indices[looked_up[0]].meta["val"].dtype is torch.bool:
        return _masked(call, looked_up[0], indices[looked_up[0]])
    if not looked_up or any(indices[dim].meta["val"].dtype is torch.bool for dim in looked_up):
        return frozen(call)
    for dim in looked_up:
        call.freeze(axes[dim], "looks it up by number")
    rest = [axis for dim, axis in enumerate(axes) if dim not in looked_up]
    n_new = len(call.shape()) - len(rest)
    # Looked up side by side, the new dimensions take the place of the old ones; else they come first.
    is_block = looked_up == list(range(looked_up[0], looked_up[-1] + 1))
    place = looked_up[0] if is_block else 0
    return (*rest[:place], *(None,) * n_new, *rest[place:])


def _masked(call: Call, first: int, mask: fx.Node) -> Marks:
    """`table[mask]`: the dimensions that the mask stands for become one, as long as the data say."""
    axes, chosen = call.axes(call["self"]), call.axes(mask)
    end = first + len(chosen)
    for axis in (*axes[first:end], *chosen):
        call.freeze(axis, "chooses from it by the data")
    return (*axes[:first], None, *axes[end:])


def index_select(call: Call) -> Marks:
    """Indices of one dimension, by number."""
    axes = list(call.axes(call["self"]))
    dim = call["dim"] % len(axes)
    call.freeze(axes[dim], "looks it up by number")
    axes[dim] = None
    return tuple(axes)


def gather(call: Call) -> Marks:
    """self and index of as many dimensions: `dim` is looked up by number, the others meet."""
    axes, numbers = list(call.axes(call["self"])), call.axes(call["index"])
    dim, old, new = call["dim"] % len(axes), call.shape(call["self"]), call.shape()
    for k, (axis, other) in enumerate(zip(axes, numbers, strict=True)):
        if k == dim or old[k] != new[k]:
            call.freeze(axis, "looks it up by number")
            call.freeze(other, "takes it for positions")
            axes[k] = None
        else:
            axes[k] = call.tie(axis, other)
    return tuple(axes)


def index_add(call: Call) -> Marks:
    """self and source, whose rows along `dim` are added to rows of self by number; the other dimensions meet."""
    axes, source = list(call.axes(call["self"])), call.axes(call["source"])
    dim = call["dim"] % len(axes)
    for k, (axis, other) in enumerate(zip(axes, source, strict=True)):
        if k == dim:
            call.freeze(axis, "looks it up by number")
            call.freeze(other, "takes it for positions")
            axes[k] = None
        else:
            axes[k] = call.tie(axis, other)
    return tuple(axes)


def scatter(call: Call) -> Marks:
    """self, index and src of as many dimensions: src goes to places along `dim` by number, the others meet."""
    axes, numbers, source = list(call.axes(call["self"])), call.axes(call["index"]), call.axes(call["src"])
    dim, size, n = call["dim"] % len(axes), call.shape(call["self"]), call.shape(call["index"])
    for k, (axis, other, third) in enumerate(zip(axes, numbers, source, strict=True)):
        if k == dim or not size[k] == n[k] == call.shape(call["src"])[k]:
            call.freeze(axis, "looks it up by number")
            call.freeze(other, "takes it for positions")
            call.freeze(third, "takes it for positions")
            axes[k] = None
        else:
            axes[k] = call.tie(call.tie(axis, other), third)
    return tuple(axes)


def ordered(call: Call) -> Marks:
    """`topk`, `sort`, `argsort`: the order along a dimension depends on all of it."""
    axes = list(call.axes(call["self"]))
    call.freeze(axes[call["dim"]], "orders it")
    axes[call["dim"]] = None
    value = call.node.meta["val"]
    return [tuple(axes)] * len(value) if isinstance(value, (tuple, list)) else tuple(axes)


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


PART_RULES: dict[str, Rule] = {
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "stack": stack,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "tensor_split"), pieces),
    **dict.fromkeys(("slice", "narrow"), slices),
    "select": select,
    "unbind": unbind,
    "index": index,
    "index_select": index_select,
    "gather": gather,
    "index_add": index_add,
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), scatter),
    **dict.fromkeys(("topk", "sort", "argsort"), ordered),
    **dict.fromkeys(("constant_pad_nd", "pad"), pad),
}

__all__ = ["PART_RULES"]
