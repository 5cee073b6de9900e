"""Values kept with a trial: what a shelf can do, and how a trial shows it.

What tensors and modules look like on disk is known on a higher floor; here is only the shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


class HasShelf(Protocol):
    """A study, as far as kept values need it."""

    shelf: Shelf | None


class KeptValues(Mapping[str, Any]):
    """The kept values of one trial. Each is read from the study's shelf when it is asked for."""

    def __init__(self, study: HasShelf, number: int) -> None:
        self._study, self._number = study, number

    def __getitem__(self, name: str) -> Any:
        names = self._names()
        if self._study.shelf is None or name not in names:
            raise KeyError(f"trial {self._number} keeps no {name!r}, but {', '.join(names) or 'nothing'}")
        return self._study.shelf.get(self._number, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __repr__(self) -> str:
        return f"KeptValues({', '.join(self)})"

    def _names(self) -> tuple[str, ...]:
        return self._study.shelf.names(self._number) if self._study.shelf is not None else ()
