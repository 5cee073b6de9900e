"""What the arguments of a parameter may be: one check, and one sentence, for each law."""

from __future__ import annotations

import math
from typing import Any

from nbcompress.errors import ParameterError
from nbcompress.space.values import Value, as_value, is_finite_number, is_number, shown


def checked_names(each: Any) -> tuple[str, ...]:
    """Check `each=` and return its names."""
    if isinstance(each, (str, bytes)) or not hasattr(each, "__iter__"):
        raise ParameterError(f"each= is a list of names, but got {shown(each)}. Write each=[...].", "each")
    names = tuple(each)
    if not names:
        raise ParameterError("each= has at least one name, but got an empty list.", "each")
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise ParameterError(f"each= is a list of names, that is texts, but got {shown(name)} in it.", "each")
        if name in names[:index]:
            raise ParameterError(f"The names in each= differ, but got {name!r} twice.", "each")
    return tuple(str.__str__(name) for name in names)


def number_in(parameter: Any, name: str) -> Any:
    given = getattr(parameter, name)
    try:
        value = as_value(given)
    except TypeError:
        value = None
    if not is_number(value):
        raise ParameterError(f"{name} is a number, but got {shown(given)}.", name)
    if not is_finite_number(value):
        raise ParameterError(f"{name} is a finite number, but got {given!r}.", name)
    return value


def whole(name: str, value: int | float) -> int:
    if value != int(value):
        raise ParameterError(f"An Int's {name} is a whole number, but got {value!r}. Write Float for others.", name)
    return int(value)


def log_of(parameter: Any) -> bool:
    if type(parameter.log).__name__ in ("bool", "bool_"):  # the latter is NumPy's
        return bool(parameter.log)
    hint = f" Write step={parameter.log!r} if you mean the step." if is_number(parameter.log) else ""
    raise ParameterError(f"log is True or False, but got {shown(parameter.log)}.{hint}", "log")


def check_bounds(parameter: Any, low: int | float, high: int | float, log: bool) -> None:
    if low > high:
        kind = type(parameter).__name__
        raise ParameterError(
            f"low <= high must hold, but got {low!r} and {high!r}. Write {kind}({high!r}, {low!r}).", "low"
        )
    if log and low <= 0:
        raise ParameterError(f"With log, low is above 0, but got {low!r}.", "low")


def step_of(parameter: Any) -> Any:
    step = number_in(parameter, "step")
    if step <= 0:
        raise ParameterError(f"step is above 0, but got {step!r}.", "step")
    return step


def checked_option(given: Any, index: int) -> Value:
    try:
        value = as_value(given)
    except TypeError as err:
        several = isinstance(given, (list, tuple, set, frozenset, range, dict))
        hint = " Write Choice(*options) with a star, if these are the options." if several else ""
        raise ParameterError(
            f"An option of a Choice is None, a bool, an int, a float or a str, but got {shown(given)}.{hint}",
            "options",
            index,
        ) from err
    if isinstance(value, float) and not math.isfinite(value):
        raise ParameterError(f"A number among the options is finite, but got {value!r}.", "options", index)
    return value
