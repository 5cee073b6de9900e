"""From a traced model to the groups of channels that can only be removed together."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import fx, nn

from nbcompress.compress.coupling.call import Call, Marks, Split, owner_of
from nbcompress.compress.coupling.labels import NO_LABEL, Labels
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
    """

    places: tuple[Place, ...]
    units: tuple[Unit, ...]
    splits: tuple[Split, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Modules whose outputs these channels are, or the parameter's own name for a bare one."""
        makers = [name for name, dim in self.places if _makes(name, dim)]
        return tuple(dict.fromkeys(_holder(name) for name in makers or [name for name, _ in self.places]))


def _makes(name: str, dim: int) -> bool:
    return dim == 0 and not name.endswith(("bias", "running_mean", "running_var"))


def _holder(name: str) -> str:
    return name.rpartition(".")[0] or name


@dataclass(frozen=True)
class Coupling:
    """What may be cut from a model, and what may not.

    Attributes:
        groups: In the order of the model's parameters.
        frozen: Why the outputs of a parameter (its dimension 0) may not be cut, by its name.
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
    return _gather(own, labels, splits, marks)


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


def _freeze_opaque(model: nn.Module, own: Mapping[str, tuple[object, ...]], labels: Labels) -> None:
    """Freeze what torch's own attention computes inside: its code ties the width of heads to that of the input."""
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            for name, axes in own.items():
                if name.startswith(f"{path}." if path else ""):
                    labels.freeze_all(axes, "torch.nn.MultiheadAttention cannot lose heads")  # type: ignore[arg-type]


def _gather(
    own: Mapping[str, tuple[object, ...]],
    labels: Labels,
    splits: list[tuple[Split, fx.Node]],
    marks: Mapping[fx.Node, Marks],
) -> Coupling:
    units: dict[int, dict[Place, list[int]]] = {}
    why: dict[str, str] = {}
    for name, axes in own.items():
        for dim, axis in enumerate(axes):
            if not isinstance(axis, np.ndarray):
                continue
            for index, root in enumerate(labels.roots(axis).tolist()):
                if root != NO_LABEL:
                    units.setdefault(root, {}).setdefault((name, dim), []).append(index)
                elif dim == 0:
                    why.setdefault(name, labels.why_frozen(int(axis[index])) or "it is fixed")
    alike: dict[tuple[Place, ...], list[int]] = {}
    for root, unit in units.items():
        alike.setdefault(tuple(unit), []).append(root)
    seen = [(split, _roots_of(marks[node], labels)) for split, node in splits]
    groups = []
    for places, roots in alike.items():
        members = tuple({place: tuple(indices) for place, indices in units[root].items()} for root in roots)
        touched = tuple(split for split, found in seen if found & set(roots))
        groups.append(Group(places, members, touched))
    return Coupling(tuple(groups), why)


def _roots_of(marks: Marks, labels: Labels) -> set[int]:
    found: set[int] = set()
    for axes in marks if isinstance(marks, list) else [marks]:
        for axis in axes:
            if axis is not None:
                found |= set(labels.roots(axis).tolist())
    return found


__all__ = ["RULES", "Coupling", "Group", "Place", "Unit", "couple", "owner_of"]
