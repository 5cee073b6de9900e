"""Values kept with a trial: what a shelf can do, and how a trial shows it.

What tensors and modules look like on disk is known on a higher floor; here is only the shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Shelf(Protocol):
    """Where the values of trials are kept, by number of the trial and name of the value."""

    def put(self, number: int, name: str, value: Any) -> None:
        """Keep a value, in place of an earlier one."""

    def get(self, number: int, name: str) -> Any:
        """Return the value, or a handle with `.load(into=...)` where it cannot be rebuilt alone.

        Raises:
            KeyError: Nothing is kept under that number and name.
        """

    def names(self, number: int) -> tuple[str, ...]:
        """Return the names kept for a trial, sorted."""

    def drop(self, number: int) -> None:
        """Remove everything that is kept for a trial. Nothing kept is no error."""


@dataclass
class ShelfSlot:
    """Where a study puts its shelf, which may come after its trials. Trials hold this and not the study, so that a
    study that nobody uses is gone at once and its running trials are known to be abandoned."""

    shelf: Shelf | None = None


class KeptValues(Mapping[str, Any]):
    """The kept values of one trial. Each is read from the study's shelf when it is asked for."""

    def __init__(self, slot: ShelfSlot, number: int) -> None:
        self._slot, self._number = slot, number

    def __getitem__(self, name: str) -> Any:
        names = self._names()
        if self._slot.shelf is None or name not in names:
            raise KeyError(f"trial {self._number} keeps no {name!r}, but {', '.join(names) or 'nothing'}")
        return self._slot.shelf.get(self._number, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __repr__(self) -> str:
        return f"KeptValues({', '.join(self)})"

    def _names(self) -> tuple[str, ...]:
        return self._slot.shelf.names(self._number) if self._slot.shelf is not None else ()
