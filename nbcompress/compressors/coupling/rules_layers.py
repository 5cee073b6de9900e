"""Rules for operators that put tensors together or take parts of them: concatenations, chunks, slices, lookups.

Rules for layers with weights other than matrix products: convolution, embedding, norms, recurrent layers.

A comment gives the shapes of each operator, so that the ties below it can be checked by eye.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from nbcompress.compressors.coupling.channel_ids import NO_LABEL, Axis, Call, Marks, Rule, UnknownSize, size_of
from nbcompress.compressors.coupling.rules_elements import freeze_positions, with_bias
from nbcompress.compressors.coupling.rules_shape import blank, frozen, single


def conv(call: Call) -> Marks:
    """input (n, i, *), weight (o, i / groups, *), bias (o) -> (n, o, *)."""
    axes, shape = call.axes(call["input"]), call.shape(call["weight"])
    channel = len(axes) - len(shape) + 1
    source = axes[channel]
    out, inner, *kernel = call.axes(call["weight"])
    freeze_positions(call, axes[channel + 1 :], kernel)
    out = with_bias(call, out, call["bias"])
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
    freeze_positions(call, axes[channel + 1 :], kernel)
    inner = call.tie(source, inner)
    groups = int(call["groups"])
    if groups > 1 and shape[0] == groups:
        # Depthwise: the filters of an input channel make outputs of their own, which all go with it.
        call.freeze(out, "spreads one channel over several")
        out = None if inner is None else np.repeat(inner, shape[1])
    elif groups > 1:
        _tie_groups(call, inner, groups)
        out = None if out is None else np.tile(out, groups)
    out = with_bias(call, out, call["bias"])
    return (*axes[:channel], out, *(None,) * len(kernel))


def _tie_groups(call: Call, axis: Axis, groups: int) -> None:
    """Every group must lose as many channels: the same places go in each."""
    if axis is not None:
        call.labels.tie_all(axis.reshape(groups, -1))


def embedding(call: Call) -> Marks:
    """weight (entries, d), indices (*) -> (*, d)."""
    entries, width = call.axes(call["weight"])
    call.freeze(entries, "looks entries up by their number")
    for axis in call.axes(call["indices"]):
        call.freeze(axis, "takes it for positions")
    return (*(None,) * len(call.shape(call["indices"])), width)


def embedding_bag(call: Call) -> Marks:
    """weight (entries, d), indices (n), offsets (bags) -> sums or means (bags, d), and what belongs to backward."""
    entries, width = call.axes(call["weight"])
    call.freeze(entries, "looks entries up by their number")
    for node in call.inputs()[1:]:
        freeze_positions(call, call.axes(node))
    return [(None, width), *blank(call.node.meta["val"])[1:]]


def weight_norm(call: Call) -> Marks:
    """v (*), g of length 1 in all dimensions but `dim` -> v times g over the norm of v along all others."""
    v, g = list(call.axes(call["v"])), call.axes(call["g"])
    dim = call["dim"] % len(v)
    v[dim] = call.tie(v[dim], g[dim])
    return tuple(v)


def batch_norm(call: Call) -> Marks:
    """input (n, c, *); weight, bias, mean and variance (c)."""
    axes = list(call.axes(call["input"]))
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None:
            axes[1] = call.tie(axes[1], call.axes(call[name])[0])
    return tuple(axes)


def layer_norm(call: Call) -> Marks:
    """input (*, d), weight and bias (d): the mean over `d` changes if one of them goes."""
    axes = list(call.axes(call["input"]))
    for dim in range(-len(call["normalized_shape"]), 0):
        call.average(tuple(axes), dim)
        for node in call.inputs()[1:]:
            axes[dim] = call.tie(axes[dim], call.axes(node)[dim])
    # Frozen axes go on too, so that what meets them later is frozen for the same reason.
    return tuple(axes)


def group_norm(call: Call) -> Marks:
    """input (n, c, *), weight and bias (c): whole groups can go, since each has a mean of its own."""
    axes, groups = list(call.axes(call["input"])), int(call["num_groups"])
    for name in ("weight", "bias"):
        if call[name] is not None:
            axes[1] = call.tie(axes[1], call.axes(call[name])[0])
    freeze_positions(call, axes[2:])
    axis = axes[1]
    if axis is not None:
        if groups == 1:
            call.average(tuple(axes), 1)
        else:
            call.labels.tie_all(axis.reshape(groups, -1).T)
    return (*axes[:2], *(None,) * (len(axes) - 2))


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
        call.tie(call.axes(state)[-1], hidden)
    return [(*lead, inner), *((*(None,) * (len(call.shape(state)) - 1), hidden) for state in states)]


def cell(call: Call) -> Marks:
    """input (n, i), states (n, h), weights (gates h, i) and (gates h, h), biases (gates h) -> states (n, h)."""
    lead, inner = call.axes(call["input"])
    call.tie(inner, call.axes(call["w_ih"])[1])
    hidden = call.tie(_gate_axis(call, call.axes(call["w_ih"])[0]), call.axes(call["w_hh"])[1])
    for name in ("w_hh", "b_ih", "b_hh"):
        if call[name] is not None:
            call.tie(hidden, _gate_axis(call, call.axes(call[name])[0]))
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    for state in states:
        call.tie(call.axes(state)[-1], hidden)
    return [(lead, hidden)] * len(states) if call.name == "lstm_cell" else (lead, hidden)


def _gate_axis(call: Call, axis: Axis) -> Axis:
    """The axis of hidden units, from one that holds them once for each gate."""
    if axis is None:
        return None
    table = axis.reshape(_GATES[call.name.removesuffix("_cell")], -1)
    call.labels.tie_all(table)
    return table[0] if table.shape[1] > 1 else _lone(call, axis)


def _lone(call: Call, axis: Axis) -> Axis:
    call.freeze(axis, "has a single one of it")
    return None


LAYER_RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), conv_transpose),
    "embedding": embedding,
    "embedding_bag": embedding_bag,
    "_weight_norm": weight_norm,
    **dict.fromkeys(("batch_norm", "instance_norm"), batch_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_norm),
    "group_norm": group_norm,
    **dict.fromkeys(_GATES, recurrent),
    **dict.fromkeys((f"{name}_cell" for name in _GATES), cell),
}


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
    looked_up = [dim for dim, index in enumerate(indices) if index is not None]
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
