"""Channel ids: which indices of which tensor dimensions belong to the same channel.

Every index of every dimension of every parameter starts with an id of its own. The rules of operators tie ids that can
only be removed together, and freeze ids that cannot be removed at all.

Notation:
    axis        The ids of one dimension: an integer array as long as the dimension. `NO_CHANNEL` marks an index that
                does not come from a parameter, such as a constant that was concatenated. `None` stands for a dimension
                without channels: a batch, a position, or a dimension of length 1.
    axes        One axis for each dimension of a tensor.
    constant    An axis of ids that do not come from a parameter and along which all values are equal, such as zeros.
                It can lose indices together with channels, if its length in the user's code is changed too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

AxisIds = NDArray[np.int64] | None
TensorIds = tuple[AxisIds, ...]
# The ids of the result of a call; a list for a call with several results.
ResultIds = TensorIds | list[TensorIds]

NO_CHANNEL = -1


class ChannelIds:
    """A union-find over channel ids. A set of tied ids can be frozen, with a reason."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}
        # Roots of the sets that hold an id of a parameter.
        self._parameter_ids: set[int] = set()
        self._slices: dict[bytes, tuple[NDArray[np.int64], set[tuple[int, int]], str]] = {}

    def new_axis(self, length: int, *, is_constant: bool = False) -> AxisIds:
        """Return new ids for a dimension; None for length 1, because no channel of it could be removed."""
        if length <= 1:
            return None
        start = len(self._parent)
        self._parent.extend(range(start, start + length))
        if not is_constant:
            self._parameter_ids.update(range(start, start + length))
        return np.arange(start, start + length, dtype=np.int64)

    def is_constant(self, axis: AxisIds) -> bool:
        """Whether no index of `axis` is tied to a parameter."""
        return axis is not None and not any(
            channel_id >= 0 and self.find(channel_id) in self._parameter_ids for channel_id in axis.tolist()
        )

    def find(self, channel_id: int) -> int:
        """Return the root of the set that `channel_id` belongs to."""
        parent = self._parent
        while parent[channel_id] != channel_id:
            parent[channel_id] = parent[parent[channel_id]]
            channel_id = parent[channel_id]
        return channel_id

    def roots(self, axis: AxisIds) -> NDArray[np.int64]:
        """Return `axis` with each id replaced by its root, and by `NO_CHANNEL` if it is frozen."""
        if axis is None:
            return np.empty(0, dtype=np.int64)
        return np.array([self._free_root(channel_id) for channel_id in axis.tolist()], dtype=np.int64)

    def _free_root(self, channel_id: int) -> int:
        root = self.find(channel_id) if channel_id >= 0 else NO_CHANNEL
        return NO_CHANNEL if root in self._reasons else root

    def reason_frozen(self, channel_id: int) -> str | None:
        """Why `channel_id` cannot be removed; None if it can."""
        return self._reasons.get(self.find(channel_id))

    def freeze(self, axis: AxisIds, reason: str) -> None:
        """Forbid the removal of every id of `axis`. A reason that was given earlier stays."""
        if axis is None:
            return
        for channel_id in set(axis.tolist()):
            if channel_id >= 0:
                self._reasons.setdefault(self.find(channel_id), reason)

    def freeze_all(self, axes: TensorIds, reason: str) -> None:
        """Forbid the removal of every id of a tensor."""
        for axis in axes:
            self.freeze(axis, reason)

    def tie(self, first: AxisIds, second: AxisIds, reason: str) -> AxisIds:
        """Tie two axes index by index and return the common axis.

        An id that meets an index without an id is frozen for `reason`, because that index cannot be removed with it.

        Raises:
            ValueError: The axes have different lengths.
        """
        if first is None or second is None:
            self.freeze(first, reason)
            self.freeze(second, reason)
            return None
        if len(first) != len(second):
            raise ValueError(f"axes of equal length can be tied, got {len(first)} and {len(second)}")
        if np.array_equal(first, second):
            return first
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            if a >= 0 and b >= 0:
                self._union(a, b)
            elif a >= 0 or b >= 0:
                self._reasons.setdefault(self.find(max(a, b)), reason)
        return np.where(second < 0, second, first)

    def tie_rows(self, table: NDArray[np.int64]) -> None:
        """Tie the rows of a matrix of ids, so that the ids of each column become one set."""
        for row in table[1:]:
            self.tie(table[0], row, "it is combined with a constant")

    def add_slice(self, axis: NDArray[np.int64], start: int, stop: int, reason: str) -> None:
        """Note that the code reads the slice from `start` to `stop` of `axis`; `reason` is used if it is frozen."""
        self._slices.setdefault(axis.tobytes(), (axis, set(), reason))[1].add((start, stop))

    def tie_slices(self) -> None:
        """Tie the slices of each axis, once all slices are known.

        Slices of one length, such as thirds of an axis, must lose the same indices, because the code computes their
        borders from the length. Slices of several lengths (many heads of queries and few of keys in one layer) may have
        lengths that are numbers of the module: they are tied too, unless that would tie all channels to each other.
        Slices that do not divide the axis evenly freeze it, unless they cover it without overlap.
        """
        for axis, spans, reason in self._slices.values():
            lengths = {stop - start for start, stop in spans}
            unit = min(lengths)
            borders = sorted(spans)
            covers = [start for start, _ in borders] + [len(axis)] == [0] + [stop for _, stop in borders]
            if len(axis) % unit == 0 and not any(start % unit or stop % unit for start, stop in spans):
                table = axis.reshape(-1, unit)
                if len(lengths) == 1 or not covers or self._n_sets_if_tied(table) > 1:
                    self.tie_rows(table)
            elif not covers:
                self.freeze(axis, reason)

    def _n_sets_if_tied(self, table: NDArray[np.int64]) -> int:
        """How many sets would be left if the ids of each column of `table` became one set."""
        tied: list[set[int]] = []
        for column in self.roots(table.reshape(-1)).reshape(table.shape).T:
            meeting = [roots for roots in tied if roots & set(column.tolist())]
            tied = [roots for roots in tied if roots not in meeting] + [set(column.tolist()).union(*meeting)]
        return len(tied)

    def _union(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        self._parent[b] = a
        if b in self._parameter_ids:
            self._parameter_ids.add(a)
        if b in self._reasons:
            reason = self._reasons.pop(b)
            self._reasons.setdefault(a, reason)


@dataclass(frozen=True)
class ReshapeSplit:
    """A dimension that a reshape splits into factors. Whole indices of one factor can be removed.

    Attributes:
        node: Name of the call.
        axis: Which of the factors can lose indices.
        sizes: The factors.
        total: Length of the dimension before.
        varying: The factors that could have been chosen.
    """

    node: str
    axis: int
    sizes: tuple[int, ...]
    total: int
    varying: tuple[int, ...]


@dataclass
class OperatorCall:
    """One call of an operator in the traced graph: its arguments by name, and the channel ids of its tensors.

    Attributes:
        node: The call in the traced graph.
        channel_ids: The ids of the whole model.
        known: The ids of every tensor that was computed so far, by node.
        choices: Which factor of a split dimension to cut, by name of the call, where the default was wrong.
        splits: Filled by the rule of reshapes.
        averages: Filled by the rules of averages: the dimension, counted from the last, and its ids. None if channels
            that are averaged over must stay.
    """

    node: fx.Node
    channel_ids: ChannelIds
    known: Mapping[fx.Node, ResultIds]
    choices: Mapping[str, int] = field(default_factory=dict)
    splits: list[ReshapeSplit] = field(default_factory=list)
    averages: list[tuple[int, NDArray[np.int64]]] | None = None

    @property
    def name(self) -> str:
        """The operator's name, such as `layer_norm`."""
        target = self.node.target
        if isinstance(target, torch._ops.OpOverload):
            return target._schema.name.split("::")[-1]
        return getattr(target, "__name__", str(target))

    @property
    def module_path(self) -> str:
        """The dotted name of the module that makes the call; an empty string for the model itself."""
        return module_of(self.node)

    def __getitem__(self, name: str) -> Any:
        """Return the argument called `name` in the operator's schema, or its default.

        Raises:
            KeyError: The schema has no such argument.
        """
        arguments = self.node.target._schema.arguments  # type: ignore[union-attr]
        for position, argument in enumerate(arguments):
            if argument.name == name:
                if not argument.kwarg_only and position < len(self.node.args):
                    return self.node.args[position]
                return self.node.kwargs.get(name, argument.default_value if argument.has_default_value() else None)
        raise KeyError(name)

    def axes(self, node: object) -> TensorIds:
        """Return the axes of a tensor argument.

        Raises:
            TypeError: The argument is a call with several results.
        """
        ids = self.known[node] if isinstance(node, fx.Node) else ()
        if isinstance(ids, list):
            raise TypeError(f"{node} has several results")
        return ids

    def shape(self, node: object = None) -> tuple[int, ...]:
        """Return the shape of a tensor argument, or of the call's result."""
        value = (self.node if node is None else node).meta["val"]  # type: ignore[attr-defined]
        return tuple(map(size_of, value.shape))

    def inputs(self) -> list[fx.Node]:
        """Return every tensor argument, also those inside lists. Numbers that the graph computes are left out."""
        return [node for node in self.node.all_input_nodes if not isinstance(node.meta.get("val"), _SYMBOLIC_NUMBERS)]

    def freeze(self, axis: AxisIds, action: str) -> None:
        """Freeze an axis; `action` says what the call does with it, such as `reverses it`."""
        self.channel_ids.freeze(axis, f"{self.name}{self._location} {action}")

    def average(self, axes: TensorIds, dim: int, action: str = "computes a mean over it") -> None:
        """Note that the call averages over a dimension. The dimension is frozen unless averages may lose channels."""
        axis = axes[dim]
        if self.averages is None:
            self.freeze(axis, action)
        elif axis is not None:
            self.averages.append((dim - len(axes) if dim >= 0 else dim, axis))

    def tie(self, first: AxisIds, second: AxisIds) -> AxisIds:
        """Tie two axes that meet in this call, and return the common axis."""
        reason = f"{self.name}{self._location} joins it with an input, a constant or a position"
        return self.channel_ids.tie(first, second, reason)

    def add_slice(self, axis: NDArray[np.int64], start: int, stop: int) -> None:
        """Note that the call reads the slice from `start` to `stop` of a dimension."""
        reason = f"{self.name}{self._location} takes a slice of it with fixed borders"
        self.channel_ids.add_slice(axis, start, stop, reason)

    @property
    def _location(self) -> str:
        return f" in {self.module_path}" if self.module_path else ""


class UnknownSize(int):
    """A size that depends on the data, such as that of `x[mask]`: a number that stands for it during one analysis.

    Sizes that are computed from it, such as those of a reshaped tensor, agree with it. It never counts channels.
    """


# Numbers for the first unknown size, the second, and so on. They are primes, so that their products differ.
_STAND_IN_SIZES = (211, 223, 227, 229, 233, 239, 241, 251, 257, 263, 269, 271, 277, 281, 283, 293)
_SYMBOLIC_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool)


def size_of(size: int | torch.SymInt) -> int:
    """Return a size in the graph as a number; `UnknownSize` if it depends on the data."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    numbers = {symbol: int("".join(filter(str.isdigit, str(symbol))) or 0) for symbol in expression.free_symbols}
    stand_ins = {symbol: _STAND_IN_SIZES[number % len(_STAND_IN_SIZES)] for symbol, number in numbers.items()}
    value = expression.subs(stand_ins)
    # A difference of sizes can have any value, and length 1 would be treated as a dimension without channels.
    return UnknownSize(max(2, abs(int(value)))) if numbers else int(value)


def module_of(node: fx.Node) -> str:
    """Return the dotted name of the innermost module that makes the call `node`."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(paths[-1]) if paths else ""


Rule = Callable[[OperatorCall], ResultIds]
