"""What the three kinds of parameter have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbcompress.errors import PointError
from nbcompress.space.conditions import Condition
from nbcompress.space.construction import checked_names
from nbcompress.space.values import Value


class Parameter:
    """The base of `Float`, `Int` and `Choice`.

    Attributes:
        each: Names, if the declaration stands for one parameter a name; else None.
        when: Where it is active, or None for everywhere.
    """

    each: Any
    when: Any

    @property
    def n_values(self) -> int | None:
        """How many values it has, or None if they cannot be counted."""
        raise NotImplementedError

    @property
    def is_ordered(self) -> bool:
        """Whether near values are near in meaning."""
        return True

    @property
    def is_continuous(self) -> bool:
        """Whether its values cannot be counted."""
        return self.n_values is None

    def check(self, value: object) -> Value:
        """Return `value` as the plain Python scalar that a point holds.

        Raises:
            PointError: The parameter does not take it.
        """
        raise NotImplementedError

    def to_unit(self, value: object) -> float:
        """Return where `value` lies in [0, 1].

        Raises:
            PointError: The parameter does not take it.
        """
        raise NotImplementedError

    def from_unit(self, u: float) -> Value:
        """Return the value at `u`, or the nearest one; `u` beyond [0, 1] is taken as the nearer end.

        Raises:
            PointError: `u` is NaN.
        """
        raise NotImplementedError

    def values(self) -> tuple[Value, ...]:
        """Return all values, in the order of the unit interval.

        Raises:
            SpaceError: They cannot be counted.
        """
        raise NotImplementedError

    def contains(self, value: object) -> bool:
        """Say whether the parameter takes `value`: 3.0 is an Int's 3, and True is no number."""
        try:
            self.check(value)
        except PointError:
            return False
        return True

    def alone(self) -> Any:
        """Return the parameter without `each` and `when`."""
        return self.alone_with(None, None)

    def alone_with(self, each: Sequence[str] | None, when: Condition | None) -> Any:
        """Return the parameter with another `each` and `when`."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the kind and all arguments as JSON data."""
        data: dict[str, Any] = {"kind": type(self).__name__, **self._json()}
        if self.each is not None:
            data["each"] = list(self.each)
        if self.when is not None:
            data["when"] = self.when.to_json()
        return data

    def _json(self) -> dict[str, Any]:
        raise NotImplementedError

    def _arguments(self) -> list[str]:
        raise NotImplementedError

    def __repr__(self) -> str:
        """Return the declaration, which evaluates to an equal parameter."""
        arguments = self._arguments()
        if self.each is not None:
            arguments.append(f"each={list(self.each)!r}")
        if self.when is not None:
            arguments.append(f"when={self.when!r}")
        return f"{type(self).__name__}({', '.join(arguments)})"

    def __eq__(self, other: object) -> bool:
        # By text, since 1, 1.0 and True are equal for Python, and are not the same option for a search.
        return repr(self) == repr(other) if isinstance(other, Parameter) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self))

    def _set(self, **attributes: object) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def _set_common(self) -> None:
        self._set(
            each=None if self.each is None else checked_names(self.each),
            when=None if self.when is None else Condition.of(self.when),
        )
