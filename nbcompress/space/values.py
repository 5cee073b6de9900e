"""The values that a parameter may take: None, bool, int, float and str, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

Value = None | bool | int | float | str
Point = dict[str, Value]

_SHOWN = 80


def as_value(given: Any) -> Value:
    """Return `given` as a plain Python scalar.

    Scalars and 0-d arrays of NumPy and torch become what their `item()` is; subclasses such as members of a string
    enumeration become their plain value.

    Raises:
        TypeError: It is no scalar.
    """
    if getattr(given, "shape", None) == () and hasattr(given, "item"):
        given = given.item()
    if given is None or isinstance(given, bool):
        return given
    for kind in (int, float, str):
        if isinstance(given, kind):
            # The method of the plain class, for subclasses like to print themselves in their own way.
            return str.__str__(given) if kind is str else kind(given)
    raise TypeError(f"a {type(given).__name__} is no scalar")


def is_number(value: Any) -> TypeGuard[int | float]:
    """Say whether `value` is an int or a float; a bool is not a number here."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_finite_number(value: Any) -> TypeGuard[int | float]:
    return is_number(value) and (isinstance(value, int) or math.isfinite(value))


def is_same(one: Value, other: Value) -> bool:
    """Say whether two values are the same: `1` and `1.0` are, `1` and `True` are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def shown(given: object) -> str:
    """Return the text of a value for a message, cut to a readable length."""
    text = repr(given)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def shown_point(point: Mapping[str, Value]) -> str:
    """Return `method = 'plain', bits = 4`."""
    return ", ".join(f"{name} = {shown(value)}" for name, value in point.items())
