"""One operator call of the traced graph, as the rules see it.

Labels: which indices of which dimensions belong to the same channel.

Every index of every dimension of every parameter starts with a label of its own. Operators tie labels that can
only be removed together, and freeze labels that cannot be removed at all.

Notation:
    axis    the labels of one dimension, an integer array of its length. `NO_LABEL` marks an index that no
            parameter makes, such as a constant that was concatenated. `None` stands for a dimension that has no
            channels at all: a batch, a position, or one of length 1.
    axes    one axis for each dimension of a tensor.
    soft    of labels that no parameter makes, along which all values are equal, such as zeros: what is tied to them
            can go, if the number in the code that says how many there are can follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

Axis = NDArray[np.int64] | None
Axes = tuple[Axis, ...]

NO_LABEL = -1


class Labels:
    """A union-find over labels that remembers why a class of them is frozen."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._why: dict[int, str] = {}
        self._hard: set[int] = set()
        self._parts: dict[bytes, tuple[NDArray[np.int64], set[tuple[int, int]], str]] = {}

    def fresh(self, length: int, *, soft: bool = False) -> Axis:
        """New labels for a dimension; a dimension of length 1 has no channel that could go."""
        if length <= 1:
            return None
        start = len(self._parent)
        self._parent.extend(range(start, start + length))
        if not soft:
            self._hard.update(range(start, start + length))
        return np.arange(start, start + length, dtype=np.int64)

    def is_soft(self, axis: Axis) -> bool:
        """Whether no index of `axis` is tied to a parameter."""
        return axis is not None and not any(label >= 0 and self.find(label) in self._hard for label in axis.tolist())

    def find(self, label: int) -> int:
        """The label that stands for the class of `label`."""
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def roots(self, axis: Axis) -> NDArray[np.int64]:
        """`axis` with each label replaced by the one that stands for its class, frozen ones by `NO_LABEL`."""
        if axis is None:
            return np.empty(0, dtype=np.int64)
        return np.array(
            [NO_LABEL if label < 0 or (root := self.find(label)) in self._why else root for label in axis.tolist()],
            dtype=np.int64,
        )

    def why_frozen(self, label: int) -> str | None:
        """The reason why the class of `label` may not be cut; None if it may."""
        return self._why.get(self.find(label))

    def freeze(self, axis: Axis, why: str) -> None:
        """Forbid to cut any of `axis`. The first reason stays."""
        if axis is None:
            return
        for label in set(axis.tolist()):
            if label >= 0:
                self._why.setdefault(self.find(label), why)

    def freeze_all(self, axes: Axes, why: str) -> None:
        """Forbid to cut any index of a tensor."""
        for axis in axes:
            self.freeze(axis, why)

    def tie(self, one: Axis, other: Axis, why: str) -> Axis:
        """Tie two axes index by index and return what stands for both.

        Where only one of them has a label, it is frozen for the reason `why`: the other cannot be cut with it.
        """
        if one is None or other is None:
            self.freeze(one, why)
            self.freeze(other, why)
            return None
        if len(one) != len(other):
            raise ValueError(f"axes of one length can be tied, got {len(one)} and {len(other)}")
        if np.array_equal(one, other):
            return one
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            if a >= 0 and b >= 0:
                self._join(a, b)
            elif a >= 0 or b >= 0:
                self._why.setdefault(self.find(max(a, b)), why)
        return np.where(other < 0, other, one)

    def tie_all(self, axis: NDArray[np.int64]) -> None:
        """Tie everything along the first dimension of the matrix `axis`: its columns become one label each."""
        for row in axis[1:]:
            self.tie(axis[0], row, "it shares its place with a constant")

    def note_part(self, axis: NDArray[np.int64], start: int, stop: int, why: str) -> None:
        """Remember that the part from `start` to `stop` of `axis` is taken by itself; `why` says so if it is frozen."""
        self._parts.setdefault(axis.tobytes(), (axis, set(), why))[1].add((start, stop))

    def settle_parts(self) -> None:
        """Tie the parts of dimensions that are taken by themselves, once all are known.

        Where the borders follow from the length, as in thirds of it, every part must lose the same places. Parts of
        several lengths, as many heads of queries and few of keys in one layer, may stand for numbers of their own: they
        are tied unless all channels would hang together then. What is neither is fixed.
        """
        for axis, spans, why in self._parts.values():
            lengths = {stop - start for start, stop in spans}
            unit = min(lengths)
            borders = sorted(spans)
            covers = [start for start, _ in borders] + [len(axis)] == [0] + [stop for _, stop in borders]
            if len(axis) % unit == 0 and not any(start % unit or stop % unit for start, stop in spans):
                table = axis.reshape(-1, unit)
                if len(lengths) == 1 or not covers or self._n_classes(table) > 1:
                    self.tie_all(table)
            elif not covers:
                self.freeze(axis, why)

    def _n_classes(self, table: NDArray[np.int64]) -> int:
        """How many classes would be left if the columns of `table` became one label each."""
        tied: list[set[int]] = []
        for column in self.roots(table.reshape(-1)).reshape(table.shape).T:
            meeting = [name for name in tied if name & set(column.tolist())]
            tied = [name for name in tied if name not in meeting] + [set(column.tolist()).union(*meeting)]
        return len(tied)

    def _join(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        self._parent[b] = a
        if b in self._hard:
            self._hard.add(a)
        if b in self._why:
            why = self._why.pop(b)
            self._why.setdefault(a, why)


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
    places = {
        free_symbol: int("".join(filter(str.isdigit, str(free_symbol))) or 0) for free_symbol in expression.free_symbols
    }
    number = expression.subs({one: _STAND_INS[place % len(_STAND_INS)] for one, place in places.items()})
    # A difference may come out as anything; a dimension of length 1 would be another thing.
    return UnknownSize(max(2, abs(int(number)))) if places else int(number)


def owner_of(node: fx.Node) -> str:
    """Dotted name of the innermost module that makes the call `node`."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(paths[-1]) if paths else ""


Rule = Callable[[Call], Marks]
