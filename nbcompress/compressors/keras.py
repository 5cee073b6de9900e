"""Update layers of Keras (torch backend) after they were copied or their parameters changed shape.

A variable of Keras wraps a parameter of torch and stores its shape as well. Layers store sizes (`units`, `filters`,
heads), and refuse inputs of another size than they were built for. All of this follows from the shapes of the
parameters. Nothing here imports Keras: a model with layers of Keras has imported it already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from nbcompress.compressors.numbers import is_integer
from nbcompress.errors import CompressionError

# New values of attributes of a layer, and the size of its inputs; 0 if the layer does not store it.
_Sizes = tuple[Mapping[str, Any], int]


def update_layers_(model: nn.Module) -> None:
    """Update every layer of Keras in `model` to the shapes of its parameters, in place."""
    layers = list(_layers_of(model))
    changed = {
        id(variable)
        for layer in layers
        for variable in layer.variables
        if variable.shape != tuple(variable.value.shape)
    }
    for layer in layers:
        # A file of Keras stores the shapes that a layer was built for. Those of a model do not change.
        if not isinstance(layer, sys.modules["keras"].Model) and any(
            id(variable) in changed for variable in layer.variables
        ):
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
                    # For `_update_configs_`. Written with `vars`, because Keras tracks attributes that are set.
                    vars(layer).setdefault(_BEFORE, {}).setdefault(attribute, before)
            axes = getattr(layer.input_spec, "axes", None)
            if n_in and axes and len(axes) == 1:
                axes.update(dict.fromkeys(axes, n_in))


def has_keras_layers(model: nn.Module) -> bool:
    """Return whether a part of `model` is a layer of Keras."""
    return next(iter(_layers_of(model)), None) is not None


def recompute_shapes_(model: nn.Module) -> None:
    """Compute the shapes between the layers of Keras models again, in place. Keras checks and saves them.

    All cuts must have been made. No values are computed. A model inside a model accepts the shape that it is given.

    Raises:
        CompressionError: The shapes do not fit.
    """
    roots = list(_root_layers(model))
    if not roots:
        return
    graphs = [layer for layer in _layers_of(model) if _graph_of(layer) is not None]
    propagation = _ShapePropagation()
    for layer in graphs:
        # This replaces the check that refuses new shapes. Written with `vars`, because Keras tracks attributes.
        vars(layer)["_assert_input_compatibility"] = partial(propagation.receive, _graph_of(layer))
    try:
        for layer in roots:
            propagation.start(layer)
    except Exception as err:  # layers may raise anything on shapes that do not fit
        lines = [line for line in str(err).splitlines() if line.strip()]
        raise CompressionError(
            f"the shapes between the layers of Keras do not fit: {lines[-1] if lines else type(err).__name__}"
        ) from err
    finally:
        for layer in graphs:
            del vars(layer)["_assert_input_compatibility"]
    _update_configs_(list(_layers_of(model)))


# Attribute that holds the old numbers of a layer until the configurations of the classes around it are updated.
_BEFORE = "_numbers_before"
# Arguments of Keras layers that give the width of their outputs.
_WIDTHS = ("units", "filters", "output_dim")


def _update_configs_(layers: list[Any]) -> None:
    """Update the configurations of the user's own classes to the new sizes of their layers, in place.

    A `.keras` file stores the configuration of a class, which creates its layers from it. If a configuration does not
    contain a size that was cut, the file could not be opened, so writing it is refused.
    """
    for layer in layers:
        changes = {} if type(layer).__module__.startswith("keras.") else _changed_numbers(layer)
        config = _config_of(layer) if changes else None
        if config is None:
            continue
        for name, value in config.items():
            after = tree_map(partial(_changed_number, changes), value)
            if after != value and vars(layer).get(name) == value and name not in vars(layer).get(_BEFORE, {}):
                setattr(layer, name, after)
        in_config = set(filter(is_integer, tree_leaves(_config_of(layer))))
        if not set().union(*changes.values()) <= in_config:
            vars(layer)["get_config"] = partial(_refuse_config, type(layer).__name__)
    for layer in layers:
        vars(layer).pop(_BEFORE, None)


def _changed_numbers(layer: Any) -> dict[int, set[int]]:
    """The new values of each number that changed in `layer` or inside it; with itself if it also stays."""
    changes: dict[int, set[int]] = {}
    unchanged: set[int] = set()
    for inner in layer._flatten_layers():
        numbers, before = vars(inner), vars(inner).get(_BEFORE, {})
        for name, value in before.items():
            for old, new in zip(tree_leaves(value), tree_leaves(numbers[name]), strict=True):
                changes.setdefault(old, set()).add(new)
        if inner is not layer and inner.built:
            unchanged |= {numbers[name] for name in _WIDTHS if name in numbers and name not in before}
    return {old: new_values | ({old} & unchanged) for old, new_values in changes.items()}


def _changed_number(changes: Mapping[int, set[int]], value: object) -> object:
    """The new value of a number in a configuration; the old one if it is not unique."""
    new_values = changes.get(value, set()) if is_integer(value) else set()  # type: ignore[call-overload]
    return next(iter(new_values)) if len(new_values) == 1 else value


def _config_of(layer: Any) -> dict[str, Any] | None:
    """The configuration of `layer` by its class; None if the class has none."""
    try:
        return dict(type(layer).get_config(layer))
    except NotImplementedError:
        return None


def _refuse_config(kind: str) -> dict[str, Any]:
    raise CompressionError(
        f"a .keras file holds what a class makes its layers of, but get_config of {kind} does not tell the sizes that "
        "were cut, so the file could not be opened: save the model with nc.save and load it with nc.load"
    )


class _ShapePropagation:
    """Computes the shapes between layers through nested Keras models, and stores them in the models."""

    def __init__(self) -> None:
        self._done: set[int] = set()

    def start(self, layer: Any) -> None:
        """Start at a layer that no other layer holds."""
        graph = _graph_of(layer)
        if graph is not None:
            self._recompute(graph)
        elif layer._build_shapes_dict and self._has_pending(layer):
            # A class of the user's own: it is called with the shapes that it was built with.
            shapes = layer._build_shapes_dict.values()
            dtype = layer.input_dtype
            self._call(layer, *(_tensors_of_shape(shape, dtype) for shape in shapes))

    def receive(self, graph: Any, *inputs: Any) -> None:
        """Make the shapes of `inputs` the input shapes of `graph`, a model inside a model."""
        keras: Any = sys.modules["keras"]
        given = keras.tree.flatten(inputs)
        old_shapes = [tensor.shape for tensor in graph._inputs]
        shapes = [getattr(value, "shape", ()) for value in given]
        if len(shapes) != len(old_shapes) or any(len(a) != len(b) for a, b in zip(old_shapes, shapes, strict=True)):
            return  # the model's own code reshapes them
        new_shapes = [tuple(map(_new_size, old, shape)) for old, shape in zip(old_shapes, shapes, strict=True)]
        if id(graph) in self._done and new_shapes == old_shapes:
            return
        for tensor, shape in zip(graph._inputs, new_shapes, strict=True):
            tensor._shape = shape
            operation = tensor._keras_history.operation
            if isinstance(operation, keras.layers.InputLayer):
                operation._batch_shape = shape
                operation._input_tensor._shape = shape
        self._recompute(graph)

    def _recompute(self, graph: Any) -> None:
        self._done.add(id(graph))
        nodes = graph._nodes_by_depth
        for node in (node for depth in sorted(nodes, reverse=True) for node in nodes[depth] if not node.is_input):
            args, kwargs = node.arguments.args, node.arguments.kwargs
            after = node.operation.compute_output_spec(*args, **kwargs)
            for old, new in zip(node.outputs, tree_leaves(after), strict=True):
                old._shape = new.shape
            if self._has_pending(node.operation):
                # It gave the shape of its output without calling the models inside it.
                self._call(node.operation, *args, **kwargs)

    def _has_pending(self, operation: Any) -> bool:
        """Whether `operation` holds models whose shapes have not been computed yet."""
        inside = operation._flatten_layers() if hasattr(operation, "_flatten_layers") else ()
        return any(graph is not None and id(graph) not in self._done for graph in map(_graph_of, inside))

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> None:
        sys.modules["keras.src.backend"].compute_output_spec(layer.call, *args, **kwargs)


def _new_size(old: int | None, new: int | None) -> int | None:
    return old if old is None or new is None else new


def _tensors_of_shape(shape: Any, dtype: Any) -> Any:
    """Symbolic tensors of Keras, in the structure of `shape`."""
    keras: Any = sys.modules["keras"]
    return keras.tree.map_shape_structure(lambda shape: keras.KerasTensor(shape, dtype), shape)


def _graph_of(layer: Any) -> Any:
    """The object that holds the graph of calls: the layer or the model inside a `Sequential`; None if there is none."""
    return layer if hasattr(layer, "_nodes_by_depth") else getattr(layer, "_functional", None)


def _root_layers(model: nn.Module) -> Iterator[Any]:
    """The layers of Keras in `model` that no other layer holds."""
    keras: Any = sys.modules.get("keras")
    seen: set[int] = set()
    for module in model.modules() if keras is not None else ():
        if isinstance(module, keras.layers.Layer) and id(module) not in seen:
            seen.update(map(id, _layers_inside(module)))
            yield module


def repair_copy_(model: nn.Module) -> None:
    """Update what the layers of a copied model store by the identity of objects, in place.

    A compiled model gets a new optimizer and new step functions, because they refer to the variables of the original.
    """
    for layer in _layers_of(model):
        tracker = layer._tracker
        tracker.stored_ids = {name: {id(variable) for variable in store} for name, (_, store) in tracker.config.items()}
        nodes = getattr(layer, "_nodes_by_depth", None)
        if nodes is not None:
            function = sys.modules["keras.src.ops.function"]
            pairs = [(node, node.operation) for depth in nodes.values() for node in depth]
            layer._nodes = {
                function.make_node_key(operation, operation._inbound_nodes.index(node)) for node, operation in pairs
            }
        optimizer = vars(layer).get("optimizer")
        if optimizer is not None and optimizer.built:
            layer.optimizer = type(optimizer).from_config(optimizer.get_config())
        for name in ("train_function", "test_function", "predict_function"):
            if vars(layer).get(name) is not None:
                setattr(layer, name, None)


def inference_arguments(model: nn.Module) -> dict[str, Any]:
    """Return the keyword arguments with which `model` runs in evaluation mode.

    Keras ignores `nn.Module.eval()`: without `training=False`, layers that augment images at random would do so.
    """
    keras: Any = sys.modules.get("keras")
    return {"training": False} if keras is not None and isinstance(model, keras.layers.Layer) else {}


def _layers_of(model: nn.Module) -> Iterator[Any]:
    """Every layer of Keras once. Layers in lists, as in `Sequential`, are not modules to torch."""
    keras: Any = sys.modules.get("keras")
    layers: dict[int, Any] = {}
    for module in model.modules() if keras is not None else ():
        if isinstance(module, keras.layers.Layer):
            layers |= {id(layer): layer for layer in _layers_inside(module)}
    return iter(layers.values())


def _layers_inside(layer: Any) -> Iterator[Any]:
    """`layer` and all layers inside it, with the model that a `Sequential` makes of its layers."""
    for inner in layer._flatten_layers():
        yield inner
        graph = _graph_of(inner)
        if graph is not None and graph is not inner:
            yield graph


def _dense(layer: Any) -> _Sizes:
    n_in, units = layer.kernel.shape
    return {"units": units}, n_in


def _einsum_dense(layer: Any) -> _Sizes:
    """The sizes of the output dimensions, found in the kernel by their letters in the equation."""
    terms, _, result = layer.equation.replace(" ", "").partition("->")
    sizes = dict(zip(terms.split(",")[1], layer.kernel.shape, strict=True))
    shape = tuple(layer.partial_output_shape)
    ends = result[len(result) - len(shape) :]
    return {"partial_output_shape": tuple(sizes.get(end, old) for end, old in zip(ends, shape, strict=True))}, 0


def _convolution(layer: Any) -> _Sizes:
    """kernel (*, in / groups, out). A group of one input channel is removed with it."""
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
    """One state per unit; an LSTM has two."""
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

__all__ = ["has_keras_layers", "inference_arguments", "recompute_shapes_", "repair_copy_", "update_layers_"]
