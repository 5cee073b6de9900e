"""From a traced model to the groups of channels that can only be removed together.

`DependencyAnalysis` goes through the traced graph in order; the rule of each operator ties, freezes and passes on
channel ids. `find_dependencies` collects the tied ids into groups. The producers of a group are the weights whose
outputs its channels are; which dimension of a weight holds its outputs depends on the operator that reads the weight.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from nbcompress.compressors.attention import HeadwiseAttention
from nbcompress.compressors.coupling.channel_ids import (
    NO_CHANNEL,
    ChannelIds,
    OperatorCall,
    ReshapeSplit,
    ResultIds,
    Rule,
    TensorIds,
    module_of,
    size_of,
)
from nbcompress.compressors.coupling.rules_elements import ELEMENT_RULES, PRODUCT_RULES, einsum_terms, pointwise
from nbcompress.compressors.coupling.rules_layers import LAYER_RULES, PART_RULES
from nbcompress.compressors.coupling.rules_shape import RESHAPES, SHAPE_RULES, common_factors, no_ids, unknown_operator
from nbcompress.compressors.coupling.trace import Trace, named_tensors

# For each dimension of a permuted or reshaped weight, the dimensions of the weight that it comes from.
Origins = tuple[frozenset[int], ...]

_IDENTITIES = ("to", "_to_copy", "contiguous", "clone", "detach", "alias")
# Operators that look up rows of a weight: its outputs are along the last dimension.
_LOOKUPS = ("embedding", "embedding_bag", "index", "index_select")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
# Norms that run on a weight for weight standardization, where its outputs take the place of channels.
_CHANNELS_SECOND = ("batch_norm", "instance_norm")
# Products: the argument that is the right operand. The outputs of a weight there are along its last dimension.
_RIGHT_OPERANDS = {"addmm": 2, "baddbmm": 2, "mm": 1, "bmm": 1, "matmul": 1, "_grouped_mm": 1, "grouped_mm_fallback": 1}


def output_dims(node: fx.Node) -> set[int]:
    """Return the dimensions of the weight `node` that hold its outputs, over all calls that read it."""
    found: set[int] = set()
    for user, source, origins in _readers(node, tuple(frozenset([dim]) for dim in range(len(_shape(node))))):
        if origins:
            found |= _output_origins(user, source, origins)
    return found


def _readers(node: fx.Node, origins: Origins) -> Iterator[tuple[fx.Node, fx.Node, Origins]]:
    """Each call that reads `node`, also after it was permuted or reshaped."""
    for user in node.users:
        if OperatorCall(user, ChannelIds(), {}).name.startswith("_assert"):
            continue
        after = _origins_after(user, node, origins)
        if after is None:
            yield user, node, origins
        else:
            yield from _readers(user, after)


def _origins_after(user: fx.Node, node: fx.Node, origins: Origins) -> Origins | None:
    """The origins after the call `user`, if it only permutes or reshapes; else None."""
    call = OperatorCall(user, ChannelIds(), {})
    if call.name in _IDENTITIES:
        return origins
    if call.name == "permute":
        return tuple(origins[dim] for dim in call["dims"])
    if call.name == "transpose":
        order = list(origins)
        order[call["dim0"]], order[call["dim1"]] = origins[call["dim1"]], origins[call["dim0"]]
        return tuple(order)
    if call.name in ("t", "numpy_T"):
        return origins[::-1]
    return _origins_after_reshape(_shape(node), origins, _shape(user)) if call.name in ("reshape", "view") else None


def _origins_after_reshape(before: Sequence[int], origins: Origins, after: Sequence[int]) -> Origins:
    """Match runs of dimensions of both shapes that have equally many elements."""
    result: list[frozenset[int]] = []
    first = start = 0
    if 0 in before:
        return (frozenset[int](),) * len(after)
    while start < len(after):
        last, end = first + 1, start + 1
        while prod(before[first:last]) != prod(after[start:end]):
            if prod(before[first:last]) < prod(after[start:end]):
                last += 1
            else:
                end += 1
        run = frozenset[int]().union(*(origins[dim] for dim in range(first, min(last, len(before))) if before[dim] > 1))
        result += [run] * (end - start)
        first, start = last, end
    return tuple(result)


def _output_origins(user: fx.Node, source: fx.Node, origins: Origins) -> frozenset[int]:
    """The dimensions of a weight that hold its outputs, for one call that reads it."""
    name = OperatorCall(user, ChannelIds(), {}).name
    if name == "einsum":
        return _einsum_output_origins(user, source, origins)
    if name in _LOOKUPS or _is_right_operand(user, source):
        return origins[-1]
    if name in (*_TRANSPOSED, *_CHANNELS_SECOND) and len(origins) > 1:
        return origins[1]
    # A parameter that is added to activations, such as a class embedding, has a first dimension for the batch.
    return origins[-1 if _shape(source)[:1] == (1,) else 0]


def _is_right_operand(user: fx.Node, node: fx.Node) -> bool:
    """Whether `user` multiplies by `node` from the right."""
    place = _RIGHT_OPERANDS.get(OperatorCall(user, ChannelIds(), {}).name)
    return place is not None and len(user.args) > place and user.args[place] is node


def _einsum_output_origins(user: fx.Node, source: fx.Node, origins: Origins) -> frozenset[int]:
    """The dimensions that only this operand brings into the result."""
    equation, operands = str(user.args[0]), list(user.args[1])  # type: ignore[arg-type]
    terms, result = einsum_terms(equation, [len(_shape(operand)) for operand in operands])
    letters = terms[operands.index(source)]
    everywhere = "".join(terms)
    alone = [place for place, letter in enumerate(letters) if letter in result and everywhere.count(letter) == 1]
    return frozenset[int]().union(*(origins[place] for place in alone))


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(map(size_of, node.meta["val"].shape))


RULES = {**SHAPE_RULES, **PART_RULES, **ELEMENT_RULES, **PRODUCT_RULES, **LAYER_RULES}

_SPLITS = ("split", "split_with_sizes")

# Operators of the tracer that run a subgraph, such as the code under `torch.no_grad()`.
_WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


@dataclass
class DependencyAnalysis:
    """One pass through a graph.

    Attributes:
        channel_ids: The ids of the whole model.
        choices: Which factor to cut where a reshape splits a dimension, by name of the call.
        cut_norms: Whether channels that are averaged over may be cut.
        splits: Filled with every split, and the result of its call.
        averages: Filled with every average, if averages may lose channels: the call, the dimension and its ids.
        reshapes: Filled with every reshape or split into pieces, and the axes of its result or of its pieces.
    """

    channel_ids: ChannelIds
    choices: Mapping[str, int]
    cut_norms: bool = False
    splits: list[tuple[ReshapeSplit, ResultIds]] = field(default_factory=list)
    averages: list[tuple[fx.Node, int, NDArray[np.int64]]] = field(default_factory=list)
    reshapes: list[tuple[fx.Node, ResultIds]] = field(default_factory=list)

    def run(self, graph: fx.Graph, inputs: Mapping[fx.Node, ResultIds]) -> list[ResultIds]:
        """Go through `graph` and return the ids of its outputs.

        Args:
            graph: A graph of the tracer.
            inputs: The ids of its placeholders.
        """
        known: dict[fx.Node, ResultIds] = {}
        for node in graph.nodes:
            if node.op == "placeholder":
                known[node] = inputs.get(node, no_ids(node.meta.get("val")))
            elif node.op == "output":
                return [known.get(source, ()) for source in _nodes_in(node.args)]
            else:
                known[node] = self._run_call(node, known)
        return []

    def _run_call(self, node: fx.Node, known: Mapping[fx.Node, ResultIds]) -> ResultIds:
        if node.op == "get_attr":
            return no_ids(node.meta.get("val"))
        call = OperatorCall(node, self.channel_ids, known, self.choices, averages=[] if self.cut_norms else None)
        if node.target is operator.getitem:
            results, index = known[call.inputs()[0]], node.args[1]
            if isinstance(results, list) and isinstance(index, int):
                return results[index]
            return no_ids(node.meta.get("val"))
        if call.name in _WRAPPERS:
            return self._run_wrapper(node, known)
        if call.name == "cond":
            return self._run_cond(call, known)
        value = node.meta.get("val")
        if call.name.startswith("sym_") or not (call.inputs() or isinstance(value, (torch.Tensor, list, tuple))):
            return no_ids(value)  # a size, or a number that is computed from sizes
        try:
            result = _find_rule(call)(call)
        except (KeyError, IndexError, TypeError, ValueError):
            # The rule does not know this form of the operator, such as an overload with other arguments.
            result = unknown_operator(call)
        self.splits.extend((split, result) for split in call.splits)
        self.averages.extend((node, dim, axis) for dim, axis in call.averages or ())
        if call.name in (_SPLITS if isinstance(result, list) else RESHAPES):
            self.reshapes.append((node, result))
        return result

    def _run_wrapper(self, node: fx.Node, known: Mapping[fx.Node, ResultIds]) -> ResultIds:
        position = next(k for k, arg in enumerate(node.args) if isinstance(arg, fx.Node) and arg.op == "get_attr")
        return self._run_subgraph(node, node.args[position], node.args[position + 1 :], known)

    def _run_cond(self, call: OperatorCall, known: Mapping[fx.Node, ResultIds]) -> ResultIds:
        """`torch.cond`: run both branches and tie their results."""
        _, if_true, if_false, operands = call.node.args
        first, second = (self._run_subgraph(call.node, branch, operands, known) for branch in (if_true, if_false))
        return [tuple(map(call.tie, a, b)) for a, b in zip(first, second, strict=True)]

    def _run_subgraph(
        self, node: fx.Node, subgraph: object, operands: object, known: Mapping[fx.Node, ResultIds]
    ) -> list[TensorIds]:
        """The results of a subgraph for `operands`."""
        module = getattr(node.graph.owning_module, str(subgraph.target))  # type: ignore[attr-defined]
        placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
        inputs = [known[operand] for operand in _nodes_in(operands)]
        results = self.run(module.graph, dict(zip(placeholders, inputs, strict=True)))
        return [result for result in results if not isinstance(result, list)]


def _find_rule(call: OperatorCall) -> Rule:
    name = call.name if call.name in RULES else call.name.rstrip("_")
    if name in RULES:
        return RULES[name]
    target = call.node.target
    is_pointwise = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
    return pointwise if is_pointwise else unknown_operator


def _nodes_in(value: object) -> list[fx.Node]:
    if isinstance(value, fx.Node):
        return [value]
    if isinstance(value, (tuple, list)):
        return [node for item in value for node in _nodes_in(item)]
    return [node for item in value.values() for node in _nodes_in(item)] if isinstance(value, dict) else []


def _results_in(ids: ResultIds) -> list[TensorIds]:
    """The axes of each result of a call."""
    return ids if isinstance(ids, list) else [ids]


# One dimension of one parameter or buffer: its first name and the dimension.
TensorAxis = tuple[str, int]
# One channel, neuron or head: the indices of every tensor axis that can only be removed together.
Unit = Mapping[TensorAxis, tuple[int, ...]]


@dataclass(frozen=True)
class AveragingCall:
    """A call that averages over channels that may be removed, such as a layer norm.

    Attributes:
        node: The call.
        dim: The dimension of its input that it averages over, counted from the last.
        sources: For each index of that dimension, an axis of a parameter that holds the channel and the index there;
            None if no parameter holds it.
    """

    node: fx.Node
    dim: int
    sources: tuple[tuple[TensorAxis, int] | None, ...]

    @property
    def module(self) -> str:
        """Dotted name of the module that makes the call."""
        return module_of(self.node)

    def kept(self, removed: Mapping[TensorAxis, Collection[int]]) -> list[int]:
        """Return the indices of the dimension that are left when `removed` is removed from parameters."""
        return [
            index
            for index, source in enumerate(self.sources)
            if source is None or source[1] not in removed.get(source[0], ())
        ]


@dataclass(frozen=True)
class ReshapeCall:
    """A reshape, or a split into pieces, whose result holds channels that may be removed.

    Attributes:
        module: Dotted name of the module that makes the call.
        n_dims: How many dimensions the result has.
        end: How many of them follow the last one in `sizes`, or the one that is split.
        sizes: The sizes of adjacent dimensions: those that hold channels, and those that one dimension was split into
            together with them. For a split, the sizes of the pieces.
        sources: For each of them, as in `AveragingCall`; empty if it holds no channels.
    """

    module: str
    n_dims: int
    end: int
    sizes: tuple[int, ...]
    sources: tuple[tuple[tuple[TensorAxis, int] | None, ...], ...]
    is_split: bool = False

    def sizes_after(self, removed: Mapping[TensorAxis, Collection[int]]) -> tuple[int, ...]:
        """Return the sizes when `removed` is removed from parameters."""
        return tuple(
            size - sum(source is not None and source[1] in removed.get(source[0], ()) for source in sources)
            for size, sources in zip(self.sizes, self.sources, strict=True)
        )


@dataclass(frozen=True)
class ChannelGroup:
    """Units with indices in the same tensor axes: the channels of one layer and of all layers coupled with it.

    Attributes:
        tensor_axes: The axes that hold the units.
        units: Each can be removed by itself, but `min_kept` of them must stay.
        splits: Reshapes that split a dimension of this group.
        producers: Weights whose outputs these channels are.
        averages: Calls that average over these channels.
        reshapes: Reshapes whose result holds these channels.
    """

    tensor_axes: tuple[TensorAxis, ...]
    units: tuple[Unit, ...]
    splits: tuple[ReshapeSplit, ...] = ()
    producers: tuple[str, ...] = ()
    averages: tuple[AveragingCall, ...] = ()
    reshapes: tuple[ReshapeCall, ...] = ()

    @property
    def min_kept(self) -> int:
        """How many units must stay. A norm over a single channel would give the same for every input."""
        return 2 if self.averages else 1

    @property
    def name(self) -> str:
        """The first weight whose outputs these channels are."""
        return (self.producers or tuple(name for name, _ in self.tensor_axes))[0]


@dataclass(frozen=True)
class ChannelDependencies:
    """Which channels of a model can be cut, and which cannot.

    Attributes:
        groups: In the order of the model's parameters.
        frozen: For the name of a parameter whose outputs cannot be cut, the reason.
        averages: All calls that average over channels that can be cut.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: Mapping[str, str] = field(default_factory=dict)
    averages: tuple[AveragingCall, ...] = ()


def find_dependencies(
    model: nn.Module, traced: Trace, *, training: Trace | None = None, cut_norms: bool = False
) -> ChannelDependencies:
    """Find the groups of channels of `model` that can only be removed together.

    Where a reshape splits a dimension and none of it can be cut, the other factors are tried as well. The analysis with
    the most units is returned.

    Args:
        model: The model that was traced.
        traced: Its graph.
        training: Its graph in training mode, if it differs: an auxiliary head may run in this mode only.
        cut_norms: Whether channels that a norm averages over may be cut.
    """
    choices: dict[str, int] = {}
    graphs = [traced, *([training] if training else [])]
    best, frozen_splits = _analyze(model, graphs, choices, cut_norms)
    for _ in range(_MAX_RETRIES):
        choices |= {split.node: _next_factor(split) for split in frozen_splits}
        if not frozen_splits:
            break
        other, frozen_splits = _analyze(model, graphs, choices, cut_norms)
        if sum(len(group.units) for group in other.groups) > sum(len(group.units) for group in best.groups):
            best = other
    return best


# Dimensions are split into two or three factors, so two changes try them all.
_MAX_RETRIES = 2


def _next_factor(split: ReshapeSplit) -> int:
    return split.varying[(split.varying.index(split.axis) + 1) % len(split.varying)]


def _analyze(
    model: nn.Module, graphs: Sequence[Trace], choices: Mapping[str, int], cut_norms: bool
) -> tuple[ChannelDependencies, list[ReshapeSplit]]:
    """The dependencies under `choices`, and the splits with other choices that ended frozen."""
    channel_ids = ChannelIds()
    names = {name for traced in graphs for name in traced.tensors.values()}
    tensor_ids = {
        name: tuple(channel_ids.new_axis(size) for size in tensor.shape)
        for name, tensor in named_tensors(model).items()
        if name in names
    }
    _freeze_custom_attention(model, tensor_ids, channel_ids)
    _freeze_kernels(model, tensor_ids, channel_ids)
    analysis = DependencyAnalysis(channel_ids, choices, cut_norms)
    outputs: dict[str, set[int]] = {}
    for traced in graphs:
        for result in analysis.run(traced.graph, {node: tensor_ids[name] for node, name in traced.tensors.items()}):
            for axes in _results_in(result):
                channel_ids.freeze_all(axes, "it is an output of the model, and outputs keep their shape")
        for node, name in traced.tensors.items():
            outputs.setdefault(name, set()).update(output_dims(node))
    channel_ids.tie_slices()
    splits = [(split, _roots_in(result, channel_ids)) for split, result in analysis.splits]
    weights = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    frozen_splits = [split for split, roots in splits if len(split.varying) > 1 and roots <= {NO_CHANNEL}]
    sources = _sources(tensor_ids, channel_ids)
    averages = _collect_averages(analysis, sources, channel_ids)
    reshapes = _collect_reshapes(analysis, sources, channel_ids)
    return _collect_groups(tensor_ids, channel_ids, outputs, splits, averages, reshapes, weights), frozen_splits


def _freeze_custom_attention(model: nn.Module, tensor_ids: Mapping[str, TensorIds], channel_ids: ChannelIds) -> None:
    """Freeze the parameters of subclasses of torch's attention, because their code may rely on the shapes."""
    tensors = named_tensors(model)
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) and not isinstance(module, HeadwiseAttention):
            inside = {id(parameter) for parameter in module.parameters()}
            reason = f"{type(module).__name__}, a subclass of torch.nn.MultiheadAttention, cannot lose heads"
            for name, axes in tensor_ids.items():
                if id(tensors[name]) in inside:
                    channel_ids.freeze_all(axes, reason)


def _freeze_kernels(model: nn.Module, tensor_ids: Mapping[str, TensorIds], channel_ids: ChannelIds) -> None:
    """Freeze the positions of the kernels of convolutions before the graph is followed.

    Code that computes on the weights, such as weight standardization, may merge them with the inputs of the layer.
    """
    kernels = {id(module.weight) for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd)}
    tensors = named_tensors(model)
    for name, axes in tensor_ids.items():
        if id(tensors[name]) in kernels:
            channel_ids.freeze_all(axes[2:], "a convolution treats it as positions")


def _collect_groups(
    tensor_ids: Mapping[str, TensorIds],
    channel_ids: ChannelIds,
    outputs: Mapping[str, set[int]],
    splits: list[tuple[ReshapeSplit, set[int]]],
    averages: list[tuple[AveragingCall, set[int]]],
    reshapes: list[tuple[ReshapeCall, set[int]]],
    weights: set[str],
) -> ChannelDependencies:
    """Make a unit of each set of tied ids, and a group of the units with the same tensor axes."""
    units: dict[int, dict[TensorAxis, list[int]]] = {}
    frozen: dict[str, str] = {}
    for name, axes in tensor_ids.items():
        for dim, axis in enumerate(axes):
            for index, root in enumerate(channel_ids.roots(axis).tolist()):
                if root != NO_CHANNEL:
                    units.setdefault(root, {}).setdefault((name, dim), []).append(index)
                elif dim in outputs[name] and axis is not None:
                    frozen.setdefault(name, channel_ids.reason_frozen(int(axis[index])) or "it cannot be cut")
    roots_by_axes: dict[tuple[TensorAxis, ...], list[int]] = {}
    for root, unit in units.items():
        roots_by_axes.setdefault(tuple(unit), []).append(root)
    groups = []
    for tensor_axes, roots in roots_by_axes.items():
        # Ids in no weight matrix are not channels, but a lone vector or a buffer.
        if not weights & {name for name, _ in tensor_axes}:
            continue
        members = tuple({axis: tuple(indices) for axis, indices in units[root].items()} for root in roots)
        group_splits = tuple(split for split, split_roots in splits if split_roots & set(roots))
        group_averages = tuple(average for average, average_roots in averages if average_roots & set(roots))
        group_reshapes = tuple(dict.fromkeys(call for call, call_roots in reshapes if call_roots & set(roots)))
        producers = [name for name, dim in tensor_axes if dim in outputs[name]]
        matrices = [name for name in producers if len(tensor_ids[name]) > 1]
        found = tuple(matrices or producers)
        groups.append(ChannelGroup(tensor_axes, members, group_splits, found, group_averages, group_reshapes))
    return ChannelDependencies(tuple(groups), frozen, tuple(average for average, _ in averages))


# For the root of a set of tied ids, an axis of a parameter that holds the channel, and the index there.
Sources = Mapping[int, tuple[TensorAxis, int]]


def _sources(tensor_ids: Mapping[str, TensorIds], channel_ids: ChannelIds) -> Sources:
    sources: dict[int, tuple[TensorAxis, int]] = {}
    for name, axes in tensor_ids.items():
        for dim, axis in enumerate(axes):
            for index, channel_id in enumerate(() if axis is None else axis.tolist()):
                sources.setdefault(channel_ids.find(channel_id), ((name, dim), index))
    return sources


def _sources_of(
    axis: NDArray[np.int64], sources: Sources, channel_ids: ChannelIds
) -> tuple[tuple[TensorAxis, int] | None, ...]:
    """The source of each id of an axis; None if no parameter holds it."""
    ids = axis.tolist()
    return tuple(None if channel_id < 0 else sources.get(channel_ids.find(channel_id)) for channel_id in ids)


def _collect_averages(
    analysis: DependencyAnalysis, sources: Sources, channel_ids: ChannelIds
) -> list[tuple[AveragingCall, set[int]]]:
    """The averages of the analysis, each with the roots of the channels that it is over."""
    return [
        (
            AveragingCall(node, dim, _sources_of(axis, sources, channel_ids)),
            set(channel_ids.roots(axis).tolist()) - {NO_CHANNEL},
        )
        for node, dim, axis in analysis.averages
    ]


def _collect_reshapes(
    analysis: DependencyAnalysis, sources: Sources, channel_ids: ChannelIds
) -> list[tuple[ReshapeCall, set[int]]]:
    """The reshapes of the analysis whose results hold channels, each with their roots."""
    found: list[tuple[ReshapeCall, set[int]]] = []
    for node, axes in analysis.reshapes:
        if isinstance(axes, list):
            found += _collect_split(node, axes, sources, channel_ids)
            continue
        roots = [set(channel_ids.roots(axis).tolist()) - {NO_CHANNEL} for axis in axes]
        cut = [dim for dim, of_dim in enumerate(roots) if of_dim]
        if not cut:
            continue
        old, new = _shape(node.all_input_nodes[0]), _shape(node)
        start, stop = _run_around(cut, old, new)
        of_dims = tuple(
            _sources_of(axis, sources, channel_ids) if axis is not None and roots[dim] else ()
            for dim, axis in enumerate(axes)
        )
        call = ReshapeCall(module_of(node), len(new), len(new) - stop, new[start:stop], of_dims[start:stop])
        found.append((call, set().union(*roots)))
    return found


def _collect_split(
    node: fx.Node, pieces: list[TensorIds], sources: Sources, channel_ids: ChannelIds
) -> list[tuple[ReshapeCall, set[int]]]:
    """A split of a dimension of channels; nothing if none of them can be cut."""
    n_dims = len(pieces[0])
    dim = OperatorCall(node, ChannelIds(), {})["dim"] % n_dims
    axes = [piece[dim] for piece in pieces]
    roots = {root for axis in axes for root in channel_ids.roots(axis).tolist()} - {NO_CHANNEL}
    if not roots or any(axis is None for axis in axes):
        return []
    sizes = tuple(len(axis) for axis in axes if axis is not None)
    of_pieces = tuple(_sources_of(axis, sources, channel_ids) for axis in axes if axis is not None)
    return [(ReshapeCall(module_of(node), n_dims, n_dims - 1 - dim, sizes, of_pieces, is_split=True), roots)]


def _run_around(cut: list[int], old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, int]:
    """The first of the dimensions of `new` that were split together with those in `cut`, and the end of the last."""
    olds = [index for index, size in enumerate(old) if size != 1]
    news = [index for index, size in enumerate(new) if size != 1]
    factors = common_factors([old[index] for index in olds], [new[index] for index in news]) or []
    split = {i for i, j, _ in factors if news[j] in cut}
    together = [*cut, *(news[j] for i, j, _ in factors if i in split)]
    return min(together), max(together) + 1


def _roots_in(ids: ResultIds, channel_ids: ChannelIds) -> set[int]:
    return {root for axes in _results_in(ids) for axis in axes for root in channel_ids.roots(axis).tolist()}
