"""Rules for layers with weights other than matrix products: convolution, embedding, norms, recurrent layers.

A comment gives the shapes of each operator, so that the ties below it can be checked by eye.
"""

from __future__ import annotations

import numpy as np

from nbcompress.compress.coupling.call import Call, Marks, Rule
from nbcompress.compress.coupling.labels import Axis
from nbcompress.compress.coupling.rules_elements import freeze_positions
from nbcompress.compress.coupling.rules_products import with_bias
from nbcompress.compress.coupling.rules_shape import blank, frozen


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

__all__ = ["LAYER_RULES"]
