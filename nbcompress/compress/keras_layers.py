"""Layers of Keras, on its torch backend, after they were copied or their parameters changed shape.

A variable of Keras holds a parameter of torch and knows its shape beside it; layers hold numbers (`units`, `filters`,
heads), and refuse inputs of another size than they were built for. All of this follows from the shapes of the
parameters. Nothing here loads Keras: a model made of its layers has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves

# What to set on a layer, by attribute, and the size that it takes of inputs; 0 if it does not say.
_Sizes = tuple[Mapping[str, Any], int]


def settle_(model: nn.Module) -> None:
    """Let every layer of Keras in `model` agree with the shapes of its parameters, in place."""
    layers = list(_layers_of(model))
    changed = {id(one) for layer in layers for one in layer.variables if one.shape != tuple(one.value.shape)}
    for layer in layers:
        # What it was built for is said in the files of Keras. A model is called with what it was called with before.
        if not isinstance(layer, sys.modules["keras"].Model) and any(id(one) in changed for one in layer.variables):
            layer._build_shapes_dict = None
    for layer in layers:
        for variable in layer.variables:
            variable._shape = tuple(variable.value.shape)
    for layer in layers:
        kinds = {kind.__name__ for kind in type(layer).__mro__ if kind.__module__.startswith("keras.")}
        for name in kinds & set(_SIZES) if layer.built else ():
            numbers, n_in = _SIZES[name](layer)
            for attribute, value in numbers.items():
                if getattr(layer, attribute) != value:
                    setattr(layer, attribute, value)
            axes = getattr(layer.input_spec, "axes", None)
            if n_in and axes and len(axes) == 1:
                axes.update(dict.fromkeys(axes, n_in))


def restate_(model: nn.Module) -> None:
    """Work out again, in place, the shapes between the layers of models of Keras, which `summary` shows.

    Every cut must have been made: nothing is computed, but shapes must fit.
    """
    for layer in _layers_of(model):
        nodes = getattr(layer, "_nodes_by_depth", {})
        for node in (one for depth in sorted(nodes, reverse=True) for one in nodes[depth] if not one.is_input):
            after = node.operation.compute_output_spec(*node.arguments.args, **node.arguments.kwargs)
            for old, new in zip(node.outputs, tree_leaves(after), strict=True):
                old._shape = new.shape


def mend_copy_(model: nn.Module) -> None:
    """What layers of Keras know by identity, a copy must know by that of its own parts; in place.

    A compiled model is trained as if for the first time: its optimizer knows variables by identity, and functions
    that make a step may be compiled.
    """
    for layer in _layers_of(model):
        tracker = layer._tracker
        tracker.stored_ids = {name: {id(one) for one in store} for name, (_, store) in tracker.config.items()}
        nodes = getattr(layer, "_nodes_by_depth", None)
        if nodes is not None:
            function = sys.modules["keras.src.ops.function"]
            places = [(node, node.operation) for depth in nodes.values() for node in depth]
            layer._nodes = {function.make_node_key(one, one._inbound_nodes.index(node)) for node, one in places}
        optimizer = vars(layer).get("optimizer")
        if optimizer is not None and optimizer.built:
            layer.optimizer = type(optimizer).from_config(optimizer.get_config())
        for name in ("train_function", "test_function", "predict_function"):
            if vars(layer).get(name) is not None:
                setattr(layer, name, None)


def inference_arguments(model: nn.Module) -> dict[str, Any]:
    """With which keyword arguments `model` computes what it does in evaluation mode.

    Keras does not look at the mode of a module: without this one, layers that change images at random go on doing so.
    """
    keras: Any = sys.modules.get("keras")
    return {"training": False} if keras is not None and isinstance(model, keras.layers.Layer) else {}


def _layers_of(model: nn.Module) -> Iterator[Any]:
    """Every layer once. Those in lists, as in `Sequential`, are no modules of the model to torch."""
    keras: Any = sys.modules.get("keras")
    found: dict[int, Any] = {}
    for module in model.modules() if keras is not None else ():
        if isinstance(module, keras.layers.Layer):
            found |= {id(one): one for one in module._flatten_layers()}
    return iter(found.values())


def _dense(layer: Any) -> _Sizes:
    n_in, units = layer.kernel.shape
    return {"units": units}, n_in


def _einsum_dense(layer: Any) -> _Sizes:
    """The kernel has the last dimensions of the output that the inputs do not have."""
    terms, _, result = layer.equation.replace(" ", "").partition("->")
    sizes = dict(zip(terms.split(",")[1], layer.kernel.shape, strict=True))
    shape = tuple(layer.partial_output_shape)
    ends = result[len(result) - len(shape) :]
    return {"partial_output_shape": tuple(sizes.get(one, old) for one, old in zip(ends, shape, strict=True))}, 0


def _convolution(layer: Any) -> _Sizes:
    """kernel (*, in / groups, out). A group of one input channel goes with it."""
    n_in, filters = layer.kernel.shape[-2:]
    groups = layer.groups * filters // layer.filters if layer.groups > 1 and n_in == 1 else layer.groups
    return {"filters": filters, "groups": groups}, n_in * groups


def _depthwise(layer: Any) -> _Sizes:
    n_in, multiplier = layer.kernel.shape[-2:]
    return {"depth_multiplier": multiplier}, n_in


def _separable(layer: Any) -> _Sizes:
    n_in, multiplier = layer.depthwise_kernel.shape[-2:]
    return {"depth_multiplier": multiplier, "filters": layer.pointwise_kernel.shape[-1]}, n_in


def _transposed(layer: Any) -> _Sizes:
    filters, n_in = layer.kernel.shape[-2:]
    return {"filters": filters}, n_in


def _batch_normalization(layer: Any) -> _Sizes:
    return {}, layer.moving_mean.shape[0]


def _attention(layer: Any) -> _Sizes:
    """Kernels (in, heads, size of a head)."""
    heads, key = layer._query_dense.kernel.shape[1:]
    return {"_num_heads": heads, "_key_dim": key, "_value_dim": layer._value_dense.kernel.shape[2]}, 0


def _grouped_attention(layer: Any) -> _Sizes:
    heads, size = layer._query_dense.kernel.shape[1:]
    shared = layer._key_dense.kernel.shape[1]
    numbers = {"num_query_heads": heads, "num_key_value_heads": shared, "num_repeats": heads // shared}
    return {**numbers, "head_dim": size}, 0


def _cell(layer: Any) -> _Sizes:
    """A state for every unit; an LSTM has two."""
    units = layer.recurrent_kernel.shape[0]
    states = [units] * len(layer.state_size) if isinstance(layer.state_size, (list, tuple)) else units
    return {"units": units, "state_size": states, "output_size": units}, 0


def _embedding(layer: Any) -> _Sizes:
    return {"output_dim": layer.embeddings.shape[1]}, 0


_SIZES: dict[str, Callable[[Any], _Sizes]] = {
    "Dense": _dense,
    "EinsumDense": _einsum_dense,
    "BaseConv": _convolution,
    "BaseDepthwiseConv": _depthwise,
    "BaseSeparableConv": _separable,
    "BaseConvTranspose": _transposed,
    "BatchNormalization": _batch_normalization,
    "MultiHeadAttention": _attention,
    "GroupedQueryAttention": _grouped_attention,
    "LSTMCell": _cell,
    "GRUCell": _cell,
    "SimpleRNNCell": _cell,
    "Embedding": _embedding,
}

__all__ = ["inference_arguments", "mend_copy_", "restate_", "settle_"]
