"""Layers of Keras, on its torch backend, after they were copied or their parameters changed shape.

A variable of Keras holds a parameter of torch and knows its shape beside it; layers hold numbers (`units`, `filters`,
heads), and refuse inputs of another size than they were built for. All of this follows from the shapes of the
parameters. Nothing here loads Keras: a model made of its layers has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from nbcompress.compress.numbers import is_number
from nbcompress.errors import CompressionError

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
                before = getattr(layer, attribute)
                if before != value:
                    setattr(layer, attribute, value)
                    # For the classes around it; `vars`, since Keras tracks what is set.
                    vars(layer).setdefault(_BEFORE, {}).setdefault(attribute, before)
            axes = getattr(layer.input_spec, "axes", None)
            if n_in and axes and len(axes) == 1:
                axes.update(dict.fromkeys(axes, n_in))


def restate_(model: nn.Module) -> None:
    """Work out again, in place, the shapes between the layers of models of Keras, which it checks and saves.

    Every cut must have been made: nothing is computed, but shapes must fit. A model within a model takes what arrives.

    Raises:
        CompressionError: They do not fit.
    """
    roots = list(_outermost(model))
    if not roots:
        return
    graphs = [layer for layer in _layers_of(model) if _graph_of(layer) is not None]
    following = _Following()
    for layer in graphs:
        # In the place of the check that refuses other shapes than before. `vars`, since Keras tracks what is set.
        vars(layer)["_assert_input_compatibility"] = partial(following.arrive, _graph_of(layer))
    try:
        for layer in roots:
            following.follow(layer)
    except Exception as err:  # the code of layers, which may raise anything on shapes that do not fit
        lines = [line for line in str(err).splitlines() if line.strip()]
        raise CompressionError(
            f"the shapes between the layers of Keras do not fit: {lines[-1] if lines else type(err).__name__}"
        ) from err
    finally:
        for layer in graphs:
            del vars(layer)["_assert_input_compatibility"]
    _retell_(list(_layers_of(model)))


# Numbers of a layer before a cut, until the configurations of the classes around it have followed.
_BEFORE = "_numbers_before"
# Arguments of Keras's layers that say how wide their outputs are.
_WIDTHS = ("units", "filters", "output_dim")


def _retell_(layers: list[Any]) -> None:
    """Let the configurations of classes that are not Keras's own follow the layers that they make; in place.

    A file of Keras holds what a class makes its layers of, and the class makes them anew. Where that does not tell a
    size that was cut, the file could not be opened, so it is not written.
    """
    for layer in layers:
        changes = {} if type(layer).__module__.startswith("keras.") else _changes_in(layer)
        config = _config_of(layer) if changes else None
        if config is None:
            continue
        for name, value in config.items():
            after = tree_map(partial(_changed_number, changes), value)
            if after != value and vars(layer).get(name) == value and name not in vars(layer).get(_BEFORE, {}):
                setattr(layer, name, after)
        told = set(filter(is_number, tree_leaves(_config_of(layer))))
        if not set().union(*changes.values()) <= told:
            vars(layer)["get_config"] = partial(_refuse_to_tell, type(layer).__name__)
    for layer in layers:
        vars(layer).pop(_BEFORE, None)


def _changes_in(layer: Any) -> dict[int, set[int]]:
    """What became of each number that was cut in `layer` and the layers inside of it; itself if it also stays."""
    changes: dict[int, set[int]] = {}
    stays: set[int] = set()
    for inner in layer._flatten_layers():
        numbers, before = vars(inner), vars(inner).get(_BEFORE, {})
        for name, value in before.items():
            for old, new in zip(tree_leaves(value), tree_leaves(numbers[name]), strict=True):
                changes.setdefault(old, set()).add(new)
        if inner is not layer and inner.built:
            stays |= {numbers[name] for name in _WIDTHS if name in numbers and name not in before}
    return {old: news | ({old} & stays) for old, news in changes.items()}


def _changed_number(changes: Mapping[int, set[int]], value: object) -> object:
    """What a number in a configuration becomes, if that is clear."""
    news = changes.get(value, set()) if is_number(value) else set()  # type: ignore[call-overload]
    return next(iter(news)) if len(news) == 1 else value


def _config_of(layer: Any) -> dict[str, Any] | None:
    """What the class of `layer` says that it is made of; None if it does not say."""
    try:
        return dict(type(layer).get_config(layer))
    except NotImplementedError:
        return None


def _refuse_to_tell(kind: str) -> dict[str, Any]:
    raise CompressionError(
        f"a .keras file holds what a class makes its layers of, but get_config of {kind} does not tell the sizes that "
        "were cut, so the file could not be opened: save the model with nc.save and load it with nc.load"
    )


class _Following:
    """Follows shapes through models of Keras that hold each other, and notes them in the models."""

    def __init__(self) -> None:
        self._done: set[int] = set()

    def follow(self, layer: Any) -> None:
        """Begin at a layer that no other holds."""
        graph = _graph_of(layer)
        if graph is not None:
            self._restate(graph)
        elif layer._build_shapes_dict and self._waits_in(layer):
            # A class of the user's own. What it was built with is what it is called with.
            shapes = layer._build_shapes_dict.values()
            dtype = layer.input_dtype
            self._call(layer, *(_tensors_of_shape(one, dtype) for one in shapes))

    def arrive(self, graph: Any, *inputs: Any) -> None:
        """What arrives at a model within a model is from now on what it expects."""
        keras: Any = sys.modules["keras"]
        given = keras.tree.flatten(inputs)
        olds = [one.shape for one in graph._inputs]
        shapes = [getattr(one, "shape", ()) for one in given]
        if len(shapes) != len(olds) or any(len(a) != len(b) for a, b in zip(olds, shapes, strict=True)):
            return  # its own code brings them into form
        news = [tuple(map(_arriving, old, shape)) for old, shape in zip(olds, shapes, strict=True)]
        if id(graph) in self._done and news == olds:
            return
        for tensor, shape in zip(graph._inputs, news, strict=True):
            tensor._shape = shape
            operation = tensor._keras_history.operation
            if isinstance(operation, keras.layers.InputLayer):
                operation._batch_shape = shape
                operation._input_tensor._shape = shape
        self._restate(graph)

    def _restate(self, graph: Any) -> None:
        self._done.add(id(graph))
        nodes = graph._nodes_by_depth
        for node in (one for depth in sorted(nodes, reverse=True) for one in nodes[depth] if not one.is_input):
            args, kwargs = node.arguments.args, node.arguments.kwargs
            after = node.operation.compute_output_spec(*args, **kwargs)
            for old, new in zip(node.outputs, tree_leaves(after), strict=True):
                old._shape = new.shape
            if self._waits_in(node.operation):
                # It told the shape of its output without a call of what it holds.
                self._call(node.operation, *args, **kwargs)

    def _waits_in(self, operation: Any) -> bool:
        """Whether `operation` holds models that nothing has arrived at."""
        inside = operation._flatten_layers() if hasattr(operation, "_flatten_layers") else ()
        return any(graph is not None and id(graph) not in self._done for graph in map(_graph_of, inside))

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> None:
        sys.modules["keras.src.backend"].compute_output_spec(layer.call, *args, **kwargs)


def _arriving(old: int | None, new: int | None) -> int | None:
    return old if old is None or new is None else new


def _tensors_of_shape(shape: Any, dtype: Any) -> Any:
    """What Keras follows shapes with, in the structure of `shape`."""
    keras: Any = sys.modules["keras"]
    return keras.tree.map_shape_structure(lambda one: keras.KerasTensor(one, dtype), shape)


def _graph_of(layer: Any) -> Any:
    """The part of `layer` that knows the calls between layers, itself or inside a `Sequential`; None if it has none."""
    return layer if hasattr(layer, "_nodes_by_depth") else getattr(layer, "_functional", None)


def _outermost(model: nn.Module) -> Iterator[Any]:
    """The layers of Keras in `model` that no other layer holds."""
    keras: Any = sys.modules.get("keras")
    seen: set[int] = set()
    for module in model.modules() if keras is not None else ():
        if isinstance(module, keras.layers.Layer) and id(module) not in seen:
            seen.update(id(one) for one in _with_graphs(module))
            yield module


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
            found |= {id(one): one for one in _with_graphs(module)}
    return iter(found.values())


def _with_graphs(layer: Any) -> Iterator[Any]:
    """`layer` and all layers that it holds; a `Sequential` does not count the model that it makes of its layers."""
    for one in layer._flatten_layers():
        yield one
        graph = _graph_of(one)
        if graph is not None and graph is not one:
            yield graph


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
