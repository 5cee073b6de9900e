"""The values that a parameter takes (None, bool, int, float, str), points, and the names of parameters and metrics."""

from __future__ import annotations

import keyword
import math
import unicodedata
from collections.abc import Mapping
from decimal import Context, Decimal
from typing import Any, TypeGuard

from nbcompress.errors import GoalError, SpaceError, shown

Value = None | bool | int | float | str
Point = dict[str, Value]

# These columns of `study.trials` are ours, so no parameter and no metric may have their names.
RESERVED = frozenset({"number", "state", "seconds"})


def check_name(name: object) -> None:
    """Check the name of a parameter.

    Raises:
        SpaceError: It is no Python identifier, Python would read it as another name, or it is reserved.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise SpaceError(f"A parameter is named by a Python identifier, but got {shown(name)}.")
    plain = unicodedata.normalize("NFKC", name)
    if plain != name:
        raise SpaceError(f"Python reads the name {name!r} as {plain!r}. Write {plain!r}.")
    if name in RESERVED:
        raise SpaceError(f"The name {name!r} is taken by a column of the trials; choose another.")


def check_metric_name(name: str) -> None:
    """Check the name of a metric. It may be a keyword of Python, since a function returns its metrics in a dict.

    Raises:
        GoalError: It is no Python identifier, or it is reserved.
    """
    if not name.isidentifier():
        raise GoalError(f"A metric is named by a Python identifier, but got {name!r}.")
    if name in RESERVED:
        raise GoalError(f"The metric name {name!r} is taken by a column of the trials; choose another.")


def as_value(given: Any) -> Value:
    """Return `given` as a plain Python scalar.

    Scalars and 0-d arrays of NumPy and torch are converted with `item()`. Members of a string enumeration, and of
    other subclasses, are converted to the plain class.

    Raises:
        TypeError: It is no scalar.
    """
    if getattr(given, "shape", None) == () and hasattr(given, "item"):
        given = given.item()
    if given is None or isinstance(given, bool):
        return given
    for kind in (int, float, str):
        if isinstance(given, kind):
            # `str(given)` would call the `__str__` of the subclass, which may print something else.
            return str.__str__(given) if kind is str else kind(given)
    raise TypeError(f"a {type(given).__name__} is no scalar")


def is_number(value: Any) -> TypeGuard[int | float]:
    """Say whether `value` is an int or a float; a bool is not a number here."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_finite_number(value: Any) -> TypeGuard[int | float]:
    return is_number(value) and (isinstance(value, int) or math.isfinite(value))


def is_same(value: Value, other: Value) -> bool:
    """Say whether two values are the same: `1` and `1.0` are, `1` and `True` are not."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def shown_point(point: Mapping[str, Value]) -> str:
    """Return the text of a point for a message: `method = 'plain', bits = 4`."""
    return ", ".join(f"{name} = {shown(value)}" for name, value in point.items())


# --- Grids ----


def _as_decimal(number: float) -> Decimal:
    return Decimal(repr(number))


# A context of its own, since a trial may change that of its thread.
_EXACT = Context(prec=60)


def grid_value(low: float, step: float, index: int) -> float:
    """Return value `index` of a grid, computed in decimals: so 0.1 + 2 * 0.1 is 0.3 and not 0.30000000000000004."""
    return float(_EXACT.fma(Decimal(index), _as_decimal(step), _as_decimal(low)))


def grid_position(low: float, step: float, value: float) -> Decimal:
    """Return how many steps `value` is above `low`."""
    return _EXACT.divide(_EXACT.subtract(_as_decimal(value), _as_decimal(low)), _as_decimal(step))


def grid_index(low: float, step: float, value: float) -> int | None:
    """Return which value of a grid `value` is, or None.

    Values of a fine grid are rounded by up to half a step, so their positions alone do not tell.
    """
    below = math.floor(grid_position(low, step, value))
    return next((index for index in (below, below + 1) if grid_value(low, step, index) == value), None)


def n_grid_steps(low: float, step: float, high: float) -> int:
    """Return the number of whole steps from `low` to `high`."""
    index = grid_index(low, step, high)
    if index is not None:
        return index
    # A bound that was added up in floating point may miss its grid by a rounding error.
    return math.floor(_EXACT.add(grid_position(low, step, high), Decimal("1e-9")))
