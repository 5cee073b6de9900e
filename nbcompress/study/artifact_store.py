"""Values that trials keep: the protocol of a store for them, and the mapping `Trial.kept`.

The stores themselves, which know the file format of tensors and modules, are in `nbcompress.run.kept`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

# The name under which an artifact store holds what a trial displayed. It is no name that a trial can keep.
OUTPUTS = "displayed outputs"


class ArtifactStore(Protocol):
    """Stores the values that trials keep, by number of the trial and name of the value."""

    def put(self, number: int, name: str, value: Any) -> None:
        """Store a value. An earlier one of that number and name is replaced."""

    def get(self, number: int, name: str) -> Any:
        """Return the value, or a handle with `.load(into=...)` for a module that cannot be rebuilt without its class.

        Raises:
            KeyError: There is no value of that number and name.
        """

    def names(self, number: int) -> tuple[str, ...]:
        """Return the sorted names of the values that a trial keeps."""

    def drop(self, number: int) -> None:
        """Remove all values of a trial, if there are any."""

    def pin(self, number: int) -> None:
        """Let the values of a trial stay when it is not on the front: a person asked for them."""

    def pinned(self) -> frozenset[int]:
        """Return the numbers of the trials that were pinned."""


@dataclass
class ArtifactStoreSlot:
    """Holds the artifact store of a study. The store may be set after trials were read.

    Trials refer to this object and not to the study. So the study is deleted as soon as nobody uses it, and its running
    trials are known to be abandoned.
    """

    store: ArtifactStore | None = None


class KeptValues(Mapping[str, Any]):
    """The values that one trial keeps, by name. Each is read from the study's artifact store at access."""

    def __init__(self, slot: ArtifactStoreSlot, number: int) -> None:
        self._slot, self._number = slot, number

    def __getitem__(self, name: str) -> Any:
        names = self._names()
        if self._slot.store is None or name not in names:
            raise KeyError(f"trial {self._number} keeps no {name!r}, but {', '.join(names) or 'nothing'}")
        return self._slot.store.get(self._number, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __repr__(self) -> str:
        return f"KeptValues({', '.join(self)})"

    def _names(self) -> tuple[str, ...]:
        names = self._slot.store.names(self._number) if self._slot.store is not None else ()
        return tuple(name for name in names if name != OUTPUTS)
