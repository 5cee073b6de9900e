"""From a traced model to the groups of channels that can only be removed together.

Along which dimension of a weight do its outputs lie? That depends on what reads it.

Walk the traced graph in order and let each operator's rule tie, freeze and pass on labels.
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
    NO_LABEL,
    Axes,
    Call,
    Labels,
    Marks,
    Rule,
    Split,
    owner_of,
    size_of,
)
from nbcompress.compressors.coupling.rules_elements import ELEMENT_RULES, PRODUCT_RULES, pointwise
from nbcompress.compressors.coupling.rules_layers import LAYER_RULES, PART_RULES
from nbcompress.compressors.coupling.rules_shape import SHAPE_RULES, blank, frozen
from nbcompress.compressors.coupling.trace import Trace, named_tensors

# The original dimensions in each dimension of what a weight became on its way to its reader.
Origins = tuple[frozenset[int], ...]

_SAME = ("to", "_to_copy", "contiguous", "clone", "detach", "alias")
# Operators that read a weight whose outputs are not along its first dimension: argument and dimension.
_TABLES = ("embedding", "embedding_bag", "index", "index_select")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_SECOND = {"addmm": 2, "baddbmm": 2, "mm": 1, "bmm": 1, "matmul": 1, "_grouped_mm": 1, "grouped_mm_fallback": 1}


def output_dims(node: fx.Node) -> set[int]:
    """The dimensions of the weight `node` along which its outputs lie, for everything that reads it."""
    found: set[int] = set()
    for user, source, origins in _readers(node, tuple(frozenset([dim]) for dim in range(len(_shape(node))))):
        if origins:
            found |= _outputs(user, source, origins)
    return found


def _readers(node: fx.Node, origins: Origins) -> Iterator[tuple[fx.Node, fx.Node, Origins]]:
    """Each call that reads `node`, or what became of it when its dimensions were put in another order or form."""
    for user in node.users:
        if Call(user, Labels(), {}).name.startswith("_assert"):
            continue
        after = _passed_on(user, node, origins)
        if after is None:
            yield user, node, origins
        else:
            yield from _readers(user, after)


def _passed_on(user: fx.Node, node: fx.Node, origins: Origins) -> Origins | None:
    call = Call(user, Labels(), {})
    if call.name in _SAME:
        return origins
    if call.name == "permute":
        return tuple(origins[dim] for dim in call["dims"])
    if call.name == "transpose":
        order = list(origins)
        order[call["dim0"]], order[call["dim1"]] = origins[call["dim1"]], origins[call["dim0"]]
        return tuple(order)
    if call.name in ("t", "numpy_T"):
        return origins[::-1]
    return _regrouped(_shape(node), origins, _shape(user)) if call.name in ("reshape", "view") else None


def _regrouped(before: Sequence[int], origins: Origins, after: Sequence[int]) -> Origins:
    """Dimensions in the runs of both shapes that have as many numbers belong to each other."""
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


def _outputs(user: fx.Node, source: fx.Node, origins: Origins) -> frozenset[int]:
    name = Call(user, Labels(), {}).name
    if name == "einsum":
        return _outputs_of_einsum(user, source, origins)
    if name in _TABLES or _is_second(user, source):
        return origins[-1]
    if name in _TRANSPOSED and len(origins) > 1:
        return origins[1]
    # A bare parameter that is added, as the embedding of a class, has a first dimension for the batch.
    return origins[-1 if _shape(source)[:1] == (1,) else 0]


def _is_second(user: fx.Node, node: fx.Node) -> bool:
    """Whether `user` multiplies by `node` from the right."""
    place = _SECOND.get(Call(user, Labels(), {}).name)
    return place is not None and len(user.args) > place and user.args[place] is node


def _outputs_of_einsum(user: fx.Node, source: fx.Node, origins: Origins) -> frozenset[int]:
    """What only this operand brings into the result."""
    equation, operands = user.args[0], user.args[1]
    terms, _, result = str(equation).replace(" ", "").partition("->")
    own = terms.split(",")[list(operands).index(source)]  # type: ignore[arg-type]
    alone = [place for place, letter in enumerate(own) if letter in result and terms.count(letter) == 1]
    return frozenset[int]().union(*(origins[place] for place in alone))


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(map(size_of, node.meta["val"].shape))


RULES = {**SHAPE_RULES, **PART_RULES, **ELEMENT_RULES, **PRODUCT_RULES, **LAYER_RULES}

# Operators of the tracer around a part of the graph, such as what runs under `torch.no_grad()`.
_AROUND = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


@dataclass
class Walk:
    """One walk through a graph.

    Attributes:
        labels: The labels of the whole model.
        choices: Which factor to cut where a reshape splits a dimension, by name of the call.
        norms: Whether what is averaged over may be cut.
        splits: Every split on the way, with what the call gave.
        averages: Every average on the way, if they may be cut: the call, the dimension and its labels.
    """

    labels: Labels
    choices: Mapping[str, int]
    norms: bool = False
    splits: list[tuple[Split, Marks]] = field(default_factory=list)
    averages: list[tuple[fx.Node, int, NDArray[np.int64]]] = field(default_factory=list)

    def through(self, graph: fx.Graph, inputs: Mapping[fx.Node, Marks]) -> list[Marks]:
        """Walk through `graph`, given what its placeholders carry, and return what its outputs carry."""
        marks: dict[fx.Node, Marks] = {}
        for node in graph.nodes:
            if node.op == "placeholder":
                marks[node] = inputs.get(node, blank(node.meta.get("val")))
            elif node.op == "output":
                return [marks.get(source, ()) for source in _flat(node.args)]
            else:
                marks[node] = self._follow(node, marks)
        return []

    def _follow(self, node: fx.Node, marks: Mapping[fx.Node, Marks]) -> Marks:
        if node.op == "get_attr":
            return blank(node.meta.get("val"))
        call = Call(node, self.labels, marks, self.choices, averages=[] if self.norms else None)
        if node.target is operator.getitem:
            found = marks[call.inputs()[0]]
            index = node.args[1]
            return found[index] if isinstance(found, list) and isinstance(index, int) else blank(node.meta.get("val"))
        if call.name in _AROUND:
            return self._inside(node, marks)
        if call.name == "cond":
            return self._either(call, marks)
        value = node.meta.get("val")
        if call.name.startswith("sym_") or not (call.inputs() or isinstance(value, (torch.Tensor, list, tuple))):
            return blank(value)  # a size, or what is computed from sizes
        try:
            result = _rule_of(call)(call)
        except (KeyError, IndexError, TypeError, ValueError):
            # A form of the operator that its rule does not know, such as an overload with other arguments.
            result = frozen(call)
        self.splits.extend((split, result) for split in call.splits)
        self.averages.extend((node, dim, axis) for dim, axis in call.averages or ())
        return result

    def _inside(self, node: fx.Node, marks: Mapping[fx.Node, Marks]) -> Marks:
        place = next(k for k, arg in enumerate(node.args) if isinstance(arg, fx.Node) and arg.op == "get_attr")
        return self._part(node, node.args[place], node.args[place + 1 :], marks)

    def _either(self, call: Call, marks: Mapping[fx.Node, Marks]) -> Marks:
        """`torch.cond`: both branches are followed, and what they give is tied."""
        _, first, second, operands = call.node.args
        one, other = (self._part(call.node, branch, operands, marks) for branch in (first, second))
        return [tuple(map(call.tie, a, b)) for a, b in zip(one, other, strict=True)]

    def _part(self, node: fx.Node, part: object, operands: object, marks: Mapping[fx.Node, Marks]) -> list[Axes]:
        """What a part of the graph gives for `operands`."""
        inner = getattr(node.graph.owning_module, str(part.target))  # type: ignore[attr-defined]
        holders = [node for node in inner.graph.nodes if node.op == "placeholder"]
        given = [marks[operand] for operand in _flat(operands)]
        results = self.through(inner.graph, dict(zip(holders, given, strict=True)))
        return [result for result in results if not isinstance(result, list)]


def _rule_of(call: Call) -> Rule:
    name = call.name if call.name in RULES else call.name.rstrip("_")
    if name in RULES:
        return RULES[name]
    target = call.node.target
    is_pointwise = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
    return pointwise if is_pointwise else frozen


def _flat(value: object) -> list[fx.Node]:
    if isinstance(value, fx.Node):
        return [value]
    if isinstance(value, (tuple, list)):
        return [node for item in value for node in _flat(item)]
    return [node for item in value.values() for node in _flat(item)] if isinstance(value, dict) else []


def axes_in(marks: Marks) -> list[Axes]:
    """The axes of one result or of several."""
    return marks if isinstance(marks, list) else [marks]


# One dimension of one parameter or buffer, by its first name.
Place = tuple[str, int]
# One unit: all indices, in all places, that go together.
Unit = Mapping[Place, tuple[int, ...]]


@dataclass(frozen=True)
class Average:
    """A call of the graph that averages over channels that may go, as a layer norm does.

    Attributes:
        node: The call.
        dim: The dimension of its input that it averages over, counted from the last.
        sources: For each index of that dimension, where a parameter holds the channel; None if none does.
    """

    node: fx.Node
    dim: int
    sources: tuple[tuple[Place, int] | None, ...]

    @property
    def module(self) -> str:
        """Dotted name of the module that makes the call."""
        return owner_of(self.node)

    def kept(self, removed: Mapping[Place, Collection[int]]) -> list[int]:
        """The indices that are left when `removed` goes from parameters."""
        return [
            index
            for index, source in enumerate(self.sources)
            if source is None or source[1] not in removed.get(source[0], ())
        ]


@dataclass(frozen=True)
class Group:
    """Units that sit in the same places: the channels of one layer and of everything coupled with it.

    Attributes:
        places: Where the units sit.
        units: What may be removed, one by one, but never all.
        splits: Reshapes that split a dimension of this group.
        makers: Weights whose outputs these channels are.
        averages: Calls that average over these channels.
    """

    places: tuple[Place, ...]
    units: tuple[Unit, ...]
    splits: tuple[Split, ...] = ()
    makers: tuple[str, ...] = ()
    averages: tuple[Average, ...] = ()

    @property
    def n_stay(self) -> int:
        """How many units must stay. A norm over a single number gives the same for whatever it is."""
        return 2 if self.averages else 1

    @property
    def name(self) -> str:
        """The first weight whose outputs these channels are."""
        return (self.makers or tuple(name for name, _ in self.places))[0]


@dataclass(frozen=True)
class Coupling:
    """What may be cut from a model, and what may not.

    Attributes:
        groups: In the order of the model's parameters.
        frozen: Why the outputs of a parameter may not be cut, by its name.
        averages: All calls that average over what may be cut.
    """

    groups: tuple[Group, ...]
    frozen: Mapping[str, str] = field(default_factory=dict)
    averages: tuple[Average, ...] = ()


def couple(model: nn.Module, traced: Trace, *, norms: bool = False) -> Coupling:
    """Follow the channels of `model` through its graph.

    Where a reshape splits a dimension in a way that lets nothing of it go, the other factors are tried, as long as
    that sets more free.

    Args:
        model: The model that was traced.
        traced: Its graph.
        norms: Whether channels that a norm averages over may be cut.
    """
    choices: dict[str, int] = {}
    best, stuck = _couple_once(model, traced, choices, norms)
    for _ in range(_MOST_CHOICES):
        choices |= {split.node: _next(split) for split in stuck}
        if not stuck:
            break
        other, stuck = _couple_once(model, traced, choices, norms)
        if sum(len(group.units) for group in other.groups) > sum(len(group.units) for group in best.groups):
            best = other
    return best


# Dimensions are split into two or three factors, so two changes try them all.
_MOST_CHOICES = 2


def _next(split: Split) -> int:
    return split.varying[(split.varying.index(split.axis) + 1) % len(split.varying)]


def _couple_once(
    model: nn.Module, traced: Trace, choices: Mapping[str, int], norms: bool
) -> tuple[Coupling, list[Split]]:
    """The coupling under `choices`, and the splits with a choice that end frozen."""
    labels = Labels()
    names = set(traced.tensors.values())
    own = {
        name: tuple(labels.fresh(size) for size in tensor.shape)
        for name, tensor in named_tensors(model).items()
        if name in names
    }
    _freeze_opaque(model, own, labels)
    walk = Walk(labels, choices, norms)
    for marks in walk.through(traced.graph, {node: own[name] for node, name in traced.tensors.items()}):
        for axes in axes_in(marks):
            labels.freeze_all(axes, "it is an output of the model, and outputs keep their shape")
    labels.settle_parts()
    outputs: dict[str, set[int]] = {}
    for node, name in traced.tensors.items():
        outputs.setdefault(name, set()).update(output_dims(node))
    splits = [(split, _roots_of(marks, labels)) for split, marks in walk.splits]
    weights = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    stuck = [split for split, roots in splits if len(split.varying) > 1 and roots <= {NO_LABEL}]
    averages = _averages_of(walk, own, labels)
    return _gather(own, labels, outputs, splits, averages, weights), stuck


def _freeze_opaque(model: nn.Module, own: Mapping[str, Axes], labels: Labels) -> None:
    """Freeze what is inside of the user's own kinds of torch's attention, whose code may count on its form."""
    tensors = named_tensors(model)
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) and not isinstance(module, HeadwiseAttention):
            inside = {id(parameter) for parameter in module.parameters()}
            for name, axes in own.items():
                if id(tensors[name]) in inside:
                    kind = type(module).__name__
                    labels.freeze_all(axes, f"{kind}, a class made from torch.nn.MultiheadAttention, cannot lose heads")


def _gather(
    own: Mapping[str, Axes],
    labels: Labels,
    outputs: Mapping[str, set[int]],
    splits: list[tuple[Split, set[int]]],
    averages: list[tuple[Average, set[int]]],
    weights: set[str],
) -> Coupling:
    """Collect what the labels say: a unit for each class, a group for units in the same places."""
    units: dict[int, dict[Place, list[int]]] = {}
    why: dict[str, str] = {}
    for name, axes in own.items():
        for dim, axis in enumerate(axes):
            for index, root in enumerate(labels.roots(axis).tolist()):
                if root != NO_LABEL:
                    units.setdefault(root, {}).setdefault((name, dim), []).append(index)
                elif dim in outputs[name] and axis is not None:
                    why.setdefault(name, labels.why_frozen(int(axis[index])) or "it is fixed")
    alike: dict[tuple[Place, ...], list[int]] = {}
    for root, unit in units.items():
        alike.setdefault(tuple(unit), []).append(root)
    groups = []
    for places, roots in alike.items():
        # Without a matrix of weights they are no channels, but a lone vector or a buffer.
        if not weights & {name for name, _ in places}:
            continue
        members = tuple({place: tuple(indices) for place, indices in units[root].items()} for root in roots)
        touched = tuple(split for split, found in splits if found & set(roots))
        over = tuple(average for average, found in averages if found & set(roots))
        made = [name for name, dim in places if dim in outputs[name]]
        wide = [name for name in made if len(own[name]) > 1]
        groups.append(Group(places, members, touched, tuple(wide or made), over))
    return Coupling(tuple(groups), why, tuple(average for average, _ in averages))


def _averages_of(walk: Walk, own: Mapping[str, Axes], labels: Labels) -> list[tuple[Average, set[int]]]:
    """What the walk met, and the classes of channels that each average is over."""
    holders: dict[int, tuple[Place, int]] = {}
    for name, axes in own.items() if walk.averages else ():
        for dim, axis in enumerate(axes):
            for index, label in enumerate(() if axis is None else axis.tolist()):
                holders.setdefault(labels.find(label), ((name, dim), index))
    return [
        (
            Average(
                node, dim, tuple(None if index < 0 else holders.get(labels.find(index)) for index in axis.tolist())
            ),
            set(labels.roots(axis).tolist()) - {NO_LABEL},
        )
        for node, dim, axis in walk.averages
    ]


def _roots_of(marks: Marks, labels: Labels) -> set[int]:
    return {root for axes in axes_in(marks) for axis in axes for root in labels.roots(axis).tolist()}
