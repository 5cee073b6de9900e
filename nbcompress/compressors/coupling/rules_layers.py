"""Rules for layers with weights (convolutions, embeddings, norms, recurrent layers) and for parts of tensors.

Parts of tensors: concatenations, chunks, slices and lookups. Matrix products are in `rules_elements`. The docstring of
each rule gives the shapes of its operator, so that its ties can be checked by eye.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from nbcompress.compressors.coupling.channel_ids import (
    NO_CHANNEL,
    AxisIds,
    OperatorCall,
    ResultIds,
    Rule,
    UnknownSize,
    size_of,
)
from nbcompress.compressors.coupling.rules_elements import freeze_positions, with_bias
from nbcompress.compressors.coupling.rules_shape import no_ids, take_single, unknown_operator


def conv(call: OperatorCall) -> ResultIds:
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
        # Depthwise: each input channel has its own filters, which are removed with it.
        source = None if source is None else np.repeat(source, shape[0] // groups)
        out = call.tie(source, out)
    else:
        _tie_groups(call, out, groups)
        call.tie(source, None if inner is None else np.tile(inner, groups))
    return (*axes[:channel], out, *(None,) * len(kernel))


def conv_transpose(call: OperatorCall) -> ResultIds:
    """input (n, i, *), weight (i, o / groups, *), bias (o) -> (n, o, *)."""
    axes, shape = call.axes(call["input"]), call.shape(call["weight"])
    channel = len(axes) - len(shape) + 1
    source = axes[channel]
    inner, out, *kernel = call.axes(call["weight"])
    freeze_positions(call, axes[channel + 1 :], kernel)
    inner = call.tie(source, inner)
    groups = int(call["groups"])
    if groups > 1 and shape[0] == groups:
        # Depthwise: all outputs of the filters of an input channel are removed with it.
        call.freeze(out, "spreads a channel over several outputs")
        out = None if inner is None else np.repeat(inner, shape[1])
    elif groups > 1:
        _tie_groups(call, inner, groups)
        out = None if out is None else np.tile(out, groups)
    out = with_bias(call, out, call["bias"])
    return (*axes[:channel], out, *(None,) * len(kernel))


def _tie_groups(call: OperatorCall, axis: AxisIds, groups: int) -> None:
    """Every group of a convolution must lose equally many channels, so each loses the same indices."""
    if axis is not None:
        call.channel_ids.tie_rows(axis.reshape(groups, -1))


def embedding(call: OperatorCall) -> ResultIds:
    """weight (entries, d), indices (*) -> (*, d)."""
    entries, width = call.axes(call["weight"])
    call.freeze(entries, "looks its entries up by index")
    for axis in call.axes(call["indices"]):
        call.freeze(axis, "treats it as positions")
    return (*(None,) * len(call.shape(call["indices"])), width)


def embedding_bag(call: OperatorCall) -> ResultIds:
    """weight (entries, d), indices (n), offsets (bags) -> sums or means (bags, d), and tensors for backward."""
    entries, width = call.axes(call["weight"])
    call.freeze(entries, "looks its entries up by index")
    for node in call.inputs()[1:]:
        freeze_positions(call, call.axes(node))
    return [(None, width), *no_ids(call.node.meta["val"])[1:]]


def weight_norm(call: OperatorCall) -> ResultIds:
    """v (*), g of length 1 in all dimensions but `dim` -> g v / norm(v), the norm taken over all other dimensions."""
    v, g = list(call.axes(call["v"])), call.axes(call["g"])
    dim = call["dim"] % len(v)
    v[dim] = call.tie(v[dim], g[dim])
    return tuple(v)


def batch_norm(call: OperatorCall) -> ResultIds:
    """input (n, c, *); weight, bias, mean and variance (c).

    Without running statistics the mean is over the other dimensions of the input. Weight standardization calls a batch
    norm on the weights of a convolution: there these dimensions hold the inputs of the layer.
    """
    axes = list(call.axes(call["input"]))
    over_examples = call.name == "batch_norm" and call["training"]
    if over_examples or (call.name == "instance_norm" and call["use_input_stats"]):
        for dim in (*((0,) if over_examples else ()), *range(2, len(axes))):
            call.average(tuple(axes), dim)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None:
            axes[1] = call.tie(axes[1], call.axes(call[name])[0])
    return tuple(axes)


def layer_norm(call: OperatorCall) -> ResultIds:
    """input (*, d), weight and bias (d): the mean over `d` changes if a channel is removed."""
    axes = list(call.axes(call["input"]))
    for dim in range(-len(call["normalized_shape"]), 0):
        call.average(tuple(axes), dim)
        for node in call.inputs()[1:]:
            axes[dim] = call.tie(axes[dim], call.axes(node)[dim])
    # Frozen axes are passed on, so that axes tied to them later are frozen for the same reason.
    return tuple(axes)


def group_norm(call: OperatorCall) -> ResultIds:
    """input (n, c, *), weight and bias (c): whole groups can be removed, because each has its own mean."""
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
            call.channel_ids.tie_rows(axis.reshape(groups, -1).T)
    return (*axes[:2], *(None,) * (len(axes) - 2))


_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent(call: OperatorCall) -> ResultIds:
    """Per layer and direction: input weight (gates h, i), hidden weight (gates h, h), two biases (gates h).

    A unit is removed from all gates, layers and directions at once, because a module has one hidden size. A unit with
    zero weights stays zero if its initial state is zero, so initial states of zeros do not freeze it.
    """
    params, batched = call["params"], call.axes(call["input"])
    n_each = 4 if call["has_biases"] else 2
    n_directions = 2 if call["bidirectional"] else 1
    if len(params) != n_each * n_directions * int(call["num_layers"]):
        return unknown_operator(call)  # projections add parameters
    hidden: AxisIds = _gate_axis(call, call.axes(params[1])[0])
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


def recurrent_cell(call: OperatorCall) -> ResultIds:
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


def _gate_axis(call: OperatorCall, axis: AxisIds) -> AxisIds:
    """The axis of hidden units, from an axis that holds them once for each gate."""
    if axis is None:
        return None
    table = axis.reshape(_GATES[call.name.removesuffix("_cell")], -1)
    call.channel_ids.tie_rows(table)
    return table[0] if table.shape[1] > 1 else take_single(call, axis)


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
    **dict.fromkeys((f"{name}_cell" for name in _GATES), recurrent_cell),
}


_DATA_DEPENDENT = "takes a slice of it whose size depends on the data"


def cat(call: OperatorCall) -> ResultIds:
    """Concatenation along `dim`; all other dimensions are tied."""
    parts = [part for part in call["tensors"] if len(call.shape(part)) == len(call.shape())]
    dim = call["dim"] % len(call.shape())
    joined: list[AxisIds] = list(call.axes(parts[0]))
    for part in parts[1:]:
        joined = [
            call.tie(a, b) if k != dim else a for k, (a, b) in enumerate(zip(joined, call.axes(part), strict=True))
        ]
    pieces = [(call.axes(part)[dim], call.shape(part)[dim]) for part in parts]
    if all(axis is None for axis, _ in pieces):
        joined[dim] = None
    else:
        joined[dim] = np.concatenate([np.full(n, NO_CHANNEL) if axis is None else axis for axis, n in pieces])
    return tuple(joined)


def stack(call: OperatorCall) -> ResultIds:
    """Stack along a new dimension, which has no channels."""
    parts = call["tensors"]
    joined = call.axes(parts[0])
    for part in parts[1:]:
        joined = tuple(call.tie(a, b) for a, b in zip(joined, call.axes(part), strict=True))
    dim = call["dim"] % (len(joined) + 1)
    return (*joined[:dim], None, *joined[dim:])


def pieces(call: OperatorCall) -> ResultIds:
    """`chunk`, `split`, `tensor_split`: equal pieces lose the same indices, so that the borders stay correct."""
    source = call["self"]
    dim = call["dim"] % len(call.shape(source))
    axes = call.axes(source)
    sizes = [size_of(value.shape[dim]) for value in call.node.meta["val"]]
    ends = np.cumsum(sizes).tolist()
    axis = axes[dim]
    if any(isinstance(n, UnknownSize) for n in sizes):
        call.freeze(axis, _DATA_DEPENDENT)
        axis = None
    if axis is not None:
        for end, n in zip(ends, sizes, strict=True):
            call.add_slice(axis, end - n, end)
    parts: list[AxisIds] = [None if axis is None else axis[end - n : end] for end, n in zip(ends, sizes, strict=True)]
    parts = [part if n > 1 else take_single(call, part) for part, n in zip(parts, sizes, strict=True)]
    return [(*axes[:dim], part, *axes[dim + 1 :]) for part in parts]


def slices(call: OperatorCall) -> ResultIds:
    """A slice of a dimension. Slices are tied when all of them are known, see `ChannelIds.tie_slices`."""
    axes, old, new = list(call.axes(call["self"])), call.shape(call["self"]), call.shape()
    dim = call["dim"] % len(axes)
    axis = axes[dim]
    if isinstance(new[dim], UnknownSize):
        call.freeze(axis, _DATA_DEPENDENT)
        axes[dim] = None
        return tuple(axes)
    if axis is None or old[dim] == new[dim]:
        return tuple(axes)
    start, n = int(call["start"] or 0) % old[dim], new[dim]
    step = 1 if call.name == "narrow" else call["step"]
    if step == 1 and n:
        call.add_slice(axis, start, start + n)
        axes[dim] = axis[start : start + n] if n > 1 else take_single(call, axis[start : start + 1])
    else:
        call.freeze(axis, "takes a slice of it with fixed borders")
        axes[dim] = None
    return tuple(axes)


def select(call: OperatorCall) -> ResultIds:
    """One index of a dimension, which is dropped."""
    axes = call.axes(call["self"])
    dim = call["dim"] % len(axes)
    call.freeze(axes[dim], "selects a single index of it")
    return (*axes[:dim], *axes[dim + 1 :])


def unbind(call: OperatorCall) -> ResultIds:
    """Every index of a dimension as a tensor of its own."""
    axes = call.axes(call["self"])
    dim = call["dim"] % len(axes)
    call.freeze(axes[dim], "separates its indices")
    return [(*axes[:dim], *axes[dim + 1 :])] * len(call.node.meta["val"])


def index(call: OperatorCall) -> ResultIds:
    """`table[numbers]`: dimensions that are indexed by tensors are looked up, the others stay."""
    axes, indices = call.axes(call["self"]), list(call["indices"])
    looked_up = [dim for dim, index in enumerate(indices) if index is not None]
    if len(looked_up) == 1 and indices[looked_up[0]].meta["val"].dtype is torch.bool:
        return _boolean_mask(call, looked_up[0], indices[looked_up[0]])
    if not looked_up or any(indices[dim].meta["val"].dtype is torch.bool for dim in looked_up):
        return unknown_operator(call)
    for dim in looked_up:
        call.freeze(axes[dim], "looks it up by index")
    rest = [axis for dim, axis in enumerate(axes) if dim not in looked_up]
    n_new = len(call.shape()) - len(rest)
    # New dimensions replace adjacent looked-up dimensions; otherwise they come first.
    is_block = looked_up == list(range(looked_up[0], looked_up[-1] + 1))
    place = looked_up[0] if is_block else 0
    return (*rest[:place], *(None,) * n_new, *rest[place:])


def _boolean_mask(call: OperatorCall, first: int, mask: fx.Node) -> ResultIds:
    """`table[mask]`: the dimensions of the mask become one, whose length depends on the data."""
    axes, chosen = call.axes(call["self"]), call.axes(mask)
    end = first + len(chosen)
    for axis in (*axes[first:end], *chosen):
        call.freeze(axis, "selects from it by a mask")
    return (*axes[:first], None, *axes[end:])


def index_select(call: OperatorCall) -> ResultIds:
    """Look up indices of one dimension."""
    axes = list(call.axes(call["self"]))
    dim = call["dim"] % len(axes)
    call.freeze(axes[dim], "looks it up by index")
    axes[dim] = None
    return tuple(axes)


def gather(call: OperatorCall) -> ResultIds:
    """self and index have equally many dimensions: `dim` is looked up, the others are tied."""
    axes, numbers = list(call.axes(call["self"])), call.axes(call["index"])
    dim, old, new = call["dim"] % len(axes), call.shape(call["self"]), call.shape()
    for k, (axis, other) in enumerate(zip(axes, numbers, strict=True)):
        if k == dim or old[k] != new[k]:
            call.freeze(axis, "looks it up by index")
            call.freeze(other, "treats it as positions")
            axes[k] = None
        else:
            axes[k] = call.tie(axis, other)
    return tuple(axes)


def index_add(call: OperatorCall) -> ResultIds:
    """Rows of source are added to rows of self along `dim`; the other dimensions are tied."""
    axes, source = list(call.axes(call["self"])), call.axes(call["source"])
    dim = call["dim"] % len(axes)
    for k, (axis, other) in enumerate(zip(axes, source, strict=True)):
        if k == dim:
            call.freeze(axis, "looks it up by index")
            call.freeze(other, "treats it as positions")
            axes[k] = None
        else:
            axes[k] = call.tie(axis, other)
    return tuple(axes)


def scatter(call: OperatorCall) -> ResultIds:
    """Values of src are written to indices of self along `dim`; the other dimensions are tied."""
    axes, numbers, source = list(call.axes(call["self"])), call.axes(call["index"]), call.axes(call["src"])
    dim, size, n = call["dim"] % len(axes), call.shape(call["self"]), call.shape(call["index"])
    for k, (axis, other, third) in enumerate(zip(axes, numbers, source, strict=True)):
        if k == dim or not size[k] == n[k] == call.shape(call["src"])[k]:
            call.freeze(axis, "looks it up by index")
            call.freeze(other, "treats it as positions")
            call.freeze(third, "treats it as positions")
            axes[k] = None
        else:
            axes[k] = call.tie(call.tie(axis, other), third)
    return tuple(axes)


def sort(call: OperatorCall) -> ResultIds:
    """`topk`, `sort`, `argsort`: the order along a dimension depends on all of its indices."""
    axes = list(call.axes(call["self"]))
    call.freeze(axes[call["dim"]], "sorts it")
    axes[call["dim"]] = None
    value = call.node.meta["val"]
    return [tuple(axes)] * len(value) if isinstance(value, (tuple, list)) else tuple(axes)


def pad(call: OperatorCall) -> ResultIds:
    """Padding; `pad` counts dimensions from the last."""
    axes, amounts = list(call.axes(call["self"])), call["pad"]
    for k in range(len(amounts) // 2):
        before, after = amounts[2 * k], amounts[2 * k + 1]
        axis = axes[-1 - k]
        if axis is None or not (before or after):
            continue
        if before < 0 or after < 0 or (call.name == "pad" and call["mode"] != "constant"):
            call.freeze(axis, "crops it or pads it with its own values")
            axes[-1 - k] = None
        else:
            axes[-1 - k] = np.concatenate([np.full(before, NO_CHANNEL), axis, np.full(after, NO_CHANNEL)])
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
    **dict.fromkeys(("topk", "sort", "argsort"), sort),
    **dict.fromkeys(("constant_pad_nd", "pad"), pad),
}
