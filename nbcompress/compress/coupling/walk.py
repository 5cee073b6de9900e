"""Walk the traced graph in order and let each operator's rule tie, freeze and pass on labels."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from nbcompress.compress.coupling.call import Call, Marks, Rule, Split
from nbcompress.compress.coupling.labels import Axes, Labels
from nbcompress.compress.coupling.rules_elements import ELEMENT_RULES, pointwise
from nbcompress.compress.coupling.rules_layers import LAYER_RULES
from nbcompress.compress.coupling.rules_parts import PART_RULES
from nbcompress.compress.coupling.rules_products import PRODUCT_RULES
from nbcompress.compress.coupling.rules_shape import SHAPE_RULES, blank, frozen

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
        place = next(k for k, one in enumerate(node.args) if isinstance(one, fx.Node) and one.op == "get_attr")
        return self._part(node, node.args[place], node.args[place + 1 :], marks)

    def _either(self, call: Call, marks: Mapping[fx.Node, Marks]) -> Marks:
        """`torch.cond`: both branches are followed, and what they give is tied."""
        _, first, second, operands = call.node.args
        one, other = (self._part(call.node, branch, operands, marks) for branch in (first, second))
        return [tuple(map(call.tie, a, b)) for a, b in zip(one, other, strict=True)]

    def _part(self, node: fx.Node, part: object, operands: object, marks: Mapping[fx.Node, Marks]) -> list[Axes]:
        """What a part of the graph gives for `operands`."""
        inner = getattr(node.graph.owning_module, str(part.target))  # type: ignore[attr-defined]
        holders = [one for one in inner.graph.nodes if one.op == "placeholder"]
        given = [marks[one] for one in _flat(operands)]
        results = self.through(inner.graph, dict(zip(holders, given, strict=True)))
        return [one for one in results if not isinstance(one, list)]


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
        return [node for one in value for node in _flat(one)]
    return [node for one in value.values() for node in _flat(one)] if isinstance(value, dict) else []


def axes_in(marks: Marks) -> list[Axes]:
    """The axes of one result or of several."""
    return marks if isinstance(marks, list) else [marks]


__all__ = ["RULES", "Walk", "axes_in"]
