"""From a traced model to the groups of channels that can only be removed together."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from nbcompress.compress.coupling.call import Call, Marks, Split, owner_of
from nbcompress.compress.coupling.labels import NO_LABEL, Axes, Labels
from nbcompress.compress.coupling.rules_layers import LAYER_RULES, pointwise
from nbcompress.compress.coupling.rules_shape import SHAPE_RULES, blank, frozen
from nbcompress.compress.coupling.trace import Trace, named_tensors

RULES = {**SHAPE_RULES, **LAYER_RULES}

# One dimension of one parameter or buffer, by its first name.
Place = tuple[str, int]
# One unit: all indices, in all places, that go together.
Unit = Mapping[Place, tuple[int, ...]]


@dataclass(frozen=True)
class Group:
    """Units that sit in the same places: the channels of one layer and of everything coupled with it.

    Attributes:
        places: Where the units sit.
        units: What may be removed, one by one, but never all.
        splits: Reshapes that split a dimension of this group.
        makers: Weights whose outputs these channels are.
    """

    places: tuple[Place, ...]
    units: tuple[Unit, ...]
    splits: tuple[Split, ...] = ()

    makers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The first weight whose outputs these channels are."""
        return (self.makers or tuple(name for name, _ in self.places))[0]

    @property
    def layers(self) -> tuple[str, ...]:
        """Modules whose outputs these channels are, or the parameter's own name for a bare one."""
        return tuple(name.rpartition(".")[0] or name for name in self.makers)


@dataclass(frozen=True)
class Coupling:
    """What may be cut from a model, and what may not.

    Attributes:
        groups: In the order of the model's parameters.
        frozen: Why the outputs of a parameter may not be cut, by its name.
    """

    groups: tuple[Group, ...]
    frozen: Mapping[str, str] = field(default_factory=dict)


def couple(model: nn.Module, traced: Trace, choices: Mapping[str, int] | None = None) -> Coupling:
    """Follow the channels of `model` through its graph.

    Args:
        model: The model that was traced.
        traced: Its graph.
        choices: Which factor to cut where a reshape splits a dimension, by name of the call.
    """
    labels = Labels()
    tensors = {name: tensor for name, tensor in named_tensors(model).items() if name in set(traced.tensors.values())}
    own = {name: tuple(labels.fresh(size) for size in tensor.shape) for name, tensor in tensors.items()}
    _freeze_opaque(model, own, labels)
    marks: dict[fx.Node, Marks] = {}
    splits: list[tuple[Split, fx.Node]] = []
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            name = traced.tensors.get(node)
            marks[node] = blank(node.meta.get("val")) if name is None else own[name]
        elif node.op == "output":
            _freeze_outputs(node, marks, labels)
        else:
            call = Call(node, labels, marks, choices or {})
            marks[node] = _follow(call)
            splits.extend((split, node) for split in call.splits)
    outputs = {name: _output_dims(node) for node, name in traced.tensors.items()}
    return _gather(own, labels, outputs, [(split, _roots_of(marks[node], labels)) for split, node in splits])


# Operators that read a weight whose outputs are not along its first dimension: argument and dimension.
_LAST = ("embedding", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_SECOND = {"addmm": 2, "baddbmm": 2, "mm": 1, "bmm": 1, "matmul": 1}


def _output_dims(node: fx.Node) -> set[int]:
    """The dimensions of a weight along which its outputs lie, for everything that reads it."""
    found = set()
    for user in node.users:
        name = Call(user, Labels(), {}).name
        is_second = name in _SECOND and len(user.args) > _SECOND[name] and user.args[_SECOND[name]] is node
        found.add(1 if name in _LAST else len(node.meta["val"].shape) - 1 if is_second else 0)
    return found


def _follow(call: Call) -> Marks:
    node = call.node
    if node.op == "get_attr":
        return blank(node.meta.get("val"))
    if node.target is operator.getitem:
        source, index = node.args
        marks = call.marks[source]  # type: ignore[index]
        return marks[index] if isinstance(marks, list) else blank(node.meta.get("val"))  # type: ignore[index]
    name = call.name if call.name in RULES else call.name.rstrip("_")
    rule = RULES.get(name)
    if rule is None:
        is_pointwise = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
        rule = pointwise if is_pointwise else frozen
    try:
        return rule(call)
    except (KeyError, IndexError, TypeError, ValueError):
        # A form of the operator that its rule does not know, such as an overload with other arguments.
        return frozen(call)


def _freeze_outputs(node: fx.Node, marks: Mapping[fx.Node, Marks], labels: Labels) -> None:
    for source in node.all_input_nodes:
        found = marks[source]
        for axes in found if isinstance(found, list) else [found]:
            labels.freeze_all(axes, "it is an output of the model, and outputs keep their shape")


def _freeze_opaque(model: nn.Module, own: Mapping[str, Axes], labels: Labels) -> None:
    """Freeze what torch's own attention computes inside: its code ties the width of heads to that of the input."""
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            for name, axes in own.items():
                if name.startswith(f"{path}." if path else ""):
                    labels.freeze_all(axes, "torch.nn.MultiheadAttention cannot lose heads")


def _gather(
    own: Mapping[str, Axes],
    labels: Labels,
    outputs: Mapping[str, set[int]],
    splits: list[tuple[Split, set[int]]],
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
        members = tuple({place: tuple(indices) for place, indices in units[root].items()} for root in roots)
        touched = tuple(split for split, found in splits if found & set(roots))
        made = [name for name, dim in places if dim in outputs[name]]
        wide = [name for name in made if len(own[name]) > 1]
        groups.append(Group(places, members, touched, tuple(wide or made)))
    return Coupling(tuple(groups), why)


def _roots_of(marks: Marks, labels: Labels) -> set[int]:
    found: set[int] = set()
    for axes in marks if isinstance(marks, list) else [marks]:
        for axis in axes:
            if axis is not None:
                found |= set(labels.roots(axis).tolist())
    return found


__all__ = ["RULES", "Coupling", "Group", "Place", "Unit", "couple", "owner_of"]
