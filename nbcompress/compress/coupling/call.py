"""One operator call of the traced graph, as the rules see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from nbcompress.compress.coupling.labels import Axes, Axis, Labels

Marks = Axes | list[Axes]


@dataclass(frozen=True)
class Split:
    """A dimension that a reshape splits, so that whole rows or whole columns of it can go.

    Attributes:
        node: Name of the call.
        axis: Which of the factors is cut.
        sizes: The factors.
        total: Length of the dimension before.
        varying: The factors among which there was a choice.
    """

    node: str
    axis: int
    sizes: tuple[int, ...]
    total: int
    varying: tuple[int, ...]


@dataclass
class Call:
    """One call: arguments by name, and the axes of the tensors among them.

    Attributes:
        node: The call in the traced graph.
        labels: The labels of the whole model.
        marks: Axes of every tensor seen so far, by node; a list for a call with several results.
        choices: Which factor of a split dimension to cut, by name of the call, where the default is wrong.
        splits: Filled by reshapes.
        averages: Filled by averages: dimension, counted from the last, and its labels. None if nothing that is averaged
            over may be cut.
    """

    node: fx.Node
    labels: Labels
    marks: Mapping[fx.Node, Marks]
    choices: Mapping[str, int] = field(default_factory=dict)
    splits: list[Split] = field(default_factory=list)
    averages: list[tuple[int, NDArray[np.int64]]] | None = None

    @property
    def name(self) -> str:
        """The operator as one would write it, such as `layer_norm`."""
        target = self.node.target
        if isinstance(target, torch._ops.OpOverload):
            return target._schema.name.split("::")[-1]
        return getattr(target, "__name__", str(target))

    @property
    def where(self) -> str:
        """The module that makes the call, for messages; an empty string for the model itself."""
        return owner_of(self.node)

    def __getitem__(self, name: str) -> Any:
        """The argument called `name` in the operator's schema, or its default."""
        arguments = self.node.target._schema.arguments  # type: ignore[union-attr]
        for position, argument in enumerate(arguments):
            if argument.name == name:
                if not argument.kwarg_only and position < len(self.node.args):
                    return self.node.args[position]
                return self.node.kwargs.get(name, argument.default_value if argument.has_default_value() else None)
        raise KeyError(name)

    def axes(self, node: object) -> Axes:
        """The axes of a tensor argument."""
        marks = self.marks[node] if isinstance(node, fx.Node) else ()
        if isinstance(marks, list):
            raise TypeError(f"{node} has several results")
        return marks

    def shape(self, node: object = None) -> tuple[int, ...]:
        """The shape of a tensor argument, or of the call's result."""
        value = (self.node if node is None else node).meta["val"]  # type: ignore[attr-defined]
        return tuple(map(size_of, value.shape))

    def inputs(self) -> list[fx.Node]:
        """Every tensor argument, also inside lists. A number that the graph computes is none."""
        return [node for node in self.node.all_input_nodes if not isinstance(node.meta.get("val"), _NUMBERS)]

    def freeze(self, axis: Axis, does: str) -> None:
        """Freeze one axis, because the call `does` something to it."""
        self.labels.freeze(axis, f"{self.name}{self._place} {does}")

    def average(self, axes: Axes, dim: int, does: str = "computes a mean over it") -> None:
        """Say that the call averages over one dimension of its input, which freezes it unless such may be cut."""
        axis = axes[dim]
        if self.averages is None:
            self.freeze(axis, does)
        elif axis is not None:
            self.averages.append((dim - len(axes) if dim >= 0 else dim, axis))

    def tie(self, one: Axis, other: Axis) -> Axis:
        """Tie two axes that meet in this call."""
        return self.labels.tie(one, other, f"{self.name}{self._place} joins it with an input, a constant or a position")

    def note_part(self, axis: NDArray[np.int64], start: int, stop: int) -> None:
        """Say that the call takes the part from `start` to `stop` of a dimension by itself."""
        self.labels.note_part(axis, start, stop, f"{self.name}{self._place} takes a slice of it that the code fixes")

    @property
    def _place(self) -> str:
        return f" in {self.where}" if self.where else ""


class UnknownSize(int):
    """A size that depends on the data, as that of `x[mask]`: some number that stands for it in one walk.

    Sizes that are computed from it, as that of a reshaped tensor, agree with it. It is no size of channels.
    """


# What stands for the first unknown size, the second, ...: primes, so that their products can be told apart.
_STAND_INS = (211, 223, 227, 229, 233, 239, 241, 251, 257, 263, 269, 271, 277, 281, 283, 293)
_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool)


def size_of(size: int | torch.SymInt) -> int:
    """A size in the graph as a number."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    places = {one: int("".join(filter(str.isdigit, str(one))) or 0) for one in expression.free_symbols}
    number = expression.subs({one: _STAND_INS[place % len(_STAND_INS)] for one, place in places.items()})
    # A difference may come out as anything; a dimension of length 1 would be another thing.
    return UnknownSize(max(2, abs(int(number)))) if places else int(number)


def owner_of(node: fx.Node) -> str:
    """Dotted name of the innermost module that makes the call `node`."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(paths[-1]) if paths else ""


Rule = Callable[[Call], Marks]

__all__ = ["Call", "Marks", "Rule", "Split", "UnknownSize", "owner_of", "size_of"]
