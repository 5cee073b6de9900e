"""Labels: which indices of which dimensions belong to the same channel.

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

import numpy as np
from numpy.typing import NDArray

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
            meeting = [one for one in tied if one & set(column.tolist())]
            tied = [one for one in tied if one not in meeting] + [set(column.tolist()).union(*meeting)]
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


__all__ = ["NO_LABEL", "Axes", "Axis", "Labels"]
