"""The three kinds of parameter: `Float`, `Int` and `Choice`.

A parameter is frozen and checks its arguments when it is made. It maps its values to the unit interval, in which
samplers and surrogates work:

| parameter | value to unit |
| --- | --- |
| `Float(low, high)`, `Int(low, high)` | `(value - low) / (high - low)`; with `log` the same of the logarithms |
| with `step`, and `Int` | the same, for the values `low, low + step, ...` only |
| `Choice` with `k` options | `index / (k - 1)`, counted by value if ordered numbers, else as given |

The lowest value is mapped to 0 and the highest to 1; a single value is mapped to 0. In the other direction, a
parameter with countable values takes the nearest one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nbcompress.errors import ParameterError, PointError, shown
from nbcompress.space.conditions import Condition
from nbcompress.space.values import (
    Value,
    as_value,
    grid_index,
    grid_position,
    grid_value,
    is_finite_number,
    is_number,
    is_same,
    n_grid_steps,
)

# --- The unit interval ------------------------------------------------------------------------------------------------


def clipped(u: float) -> float:
    if math.isnan(u):
        raise PointError("A position in the unit interval is a number, but got NaN.")
    return min(max(float(u), 0.0), 1.0)


def normalized(value: float, low: float, high: float, log: bool) -> float:
    if low == high:
        return 0.0
    width = math.log(high) - math.log(low) if log else 0.0
    # Neighbouring floats can have equal logarithms; between them the logarithmic scale is replaced by the linear one.
    if width > 0:
        return min(max((math.log(value) - math.log(low)) / width, 0.0), 1.0)
    return (value - low) / (high - low)


def unnormalized(u: float, low: float, high: float, log: bool) -> float:
    # The bounds are returned exactly: `exp(log(high))` may differ from `high` by rounding.
    if u in (0.0, 1.0):
        return high if u else low
    value = math.exp(math.log(low) + u * (math.log(high) - math.log(low))) if log else low + u * (high - low)
    return min(max(value, low), high)


# --- Checks of arguments: each rule has one function and one sentence ------------------------------------------------


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


def checked_number(parameter: Any, name: str) -> Any:
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


def checked_whole_number(name: str, value: int | float) -> int:
    if value != int(value):
        raise ParameterError(f"An Int's {name} is a whole number, but got {value!r}. Write Float for others.", name)
    return int(value)


def checked_log(parameter: Any) -> bool:
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


def checked_step(parameter: Any) -> Any:
    step = checked_number(parameter, "step")
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


# --- Parameters -------------------------------------------------------------------------------------------------------


class Parameter:
    """The base class of `Float`, `Int` and `Choice`.

    Attributes:
        each: Names, if the declaration stands for one parameter per name; else None.
        when: The condition under which it is active, or None if it is always active.
    """

    each: Any
    when: Any

    @property
    def n_values(self) -> int | None:
        """The number of values, or None if it is continuous."""
        raise NotImplementedError

    @property
    def is_ordered(self) -> bool:
        """Whether the order of its values has a meaning."""
        return True

    @property
    def is_continuous(self) -> bool:
        """Whether it has more values than can be counted."""
        return self.n_values is None

    def check(self, value: object) -> Value:
        """Return `value` as a plain Python scalar, as a point holds it.

        Raises:
            PointError: `value` is outside the parameter.
        """
        raise NotImplementedError

    def to_unit(self, value: object) -> float:
        """Return the position of `value` in [0, 1].

        Raises:
            PointError: `value` is outside the parameter.
        """
        raise NotImplementedError

    def from_unit(self, u: float) -> Value:
        """Return the value at position `u`, or the nearest one; `u` is clipped to [0, 1].

        Raises:
            PointError: `u` is NaN.
        """
        raise NotImplementedError

    def values(self) -> tuple[Value, ...]:
        """Return all values, in the order of the unit interval.

        Raises:
            SpaceError: The parameter is continuous.
        """
        raise NotImplementedError

    def contains(self, value: object) -> bool:
        """Say whether `value` is inside the parameter: 3.0 is the 3 of an Int, and True is no number."""
        try:
            self.check(value)
        except PointError:
            return False
        return True

    def replaced(self, each: Sequence[str] | None, when: Condition | None) -> Any:
        """Return a copy with another `each` and `when`."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the kind and all arguments as JSON data, which `Space.from_json` reads."""
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
        # By text, since 1, 1.0 and True are equal in Python but are different options of a Choice.
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


# Above it, neighbours on a logarithmic axis have the same position in the unit interval in double precision.
LARGEST_INT = 10**12
# A value may be off the grid by this share of a step, because sums of floats are rounded.
_GRID_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class Float(Parameter):
    """A real number from `low` to `high`, both included.

    Args:
        low: The smallest value.
        high: The largest value. With `step` it becomes the last value of the grid: `Float(0, 1, step=0.3)` ends at 0.9.
        log: Search on a logarithmic scale; `low` must be above 0.
        step: Take only the values `low, low + step, ...`; not with `log`.
        each: Names, to declare one such parameter per name. They are called `group[name]`.
        when: The parameter is active only where a Choice has these values, such as `{"method": "cluster"}` or
            `{"method": ("prune", "cluster")}`; a list of such dicts if one of them must hold.

    Raises:
        ParameterError: An argument is of the wrong type or out of range, or two arguments exclude each other.

    Example:
        >>> lr = Float(1e-4, 1e-1, log=True)
        >>> round(lr.from_unit(1 / 3), 6), lr.to_unit(0.1)
        (0.001, 1.0)
        >>> Float(0, 1, step=0.3)
        Float(0.0, 0.9, step=0.3)
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    each: Sequence[str] | None = field(default=None, kw_only=True)
    when: Condition | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        low, high = (checked_number(self, name) for name in ("low", "high"))
        try:
            low, high = float(low) + 0.0, float(high) + 0.0  # -0.0 is 0.0
        except OverflowError as err:
            raise ParameterError("A Float's bounds fit into a float; got a larger integer.", "low") from err
        log = checked_log(self)
        check_bounds(self, low, high, log)
        if not math.isfinite(high - low):
            raise ParameterError(
                f"The width high - low is a finite number, but got {low!r} and {high!r}. Take a smaller range or log.",
                "high",
            )
        step = None
        if self.step is not None:
            step = float(checked_step(self))
            if log:
                raise ParameterError(
                    f"A Float with log has no step, but got step={step!r}. Leave out one of them, or list the values "
                    "with Choice.",
                    "step",
                )
            if step < 2 * math.ulp(max(abs(low), abs(high))):
                raise ParameterError(f"step is wide enough to change low and high, but got step={step!r}.", "step")
            n_steps = n_grid_steps(low, step, high)
            if n_steps == 0 and low < high:
                raise ParameterError(f"step is at most high - low = {high - low!r}, but got step={step!r}.", "step")
            if n_steps > LARGEST_INT:
                raise ParameterError(f"A grid has at most {LARGEST_INT:,} steps, but got step={step!r}.", "step")
            high = grid_value(low, step, n_steps)
        self._set(low=low, high=high, log=log, step=step)
        self._set_common()

    @property
    def n_values(self) -> int | None:
        if self.low == self.high:
            return 1
        return None if self.step is None else self._n_steps + 1

    @cached_property
    def _n_steps(self) -> int:
        assert self.step is not None
        return n_grid_steps(self.low, self.step, self.high)

    def check(self, value: object) -> float:
        number = _number(self, value)
        return number if self.step is None else grid_value(self.low, self.step, self._index_of(number))

    def _index_of(self, number: float) -> int:
        """Return which value of the grid a number is, up to rounding errors; a PointError if it is between two."""
        assert self.step is not None
        index = grid_index(self.low, self.step, number)
        if index is None:
            index = min(max(0, round(grid_position(self.low, self.step, number))), self._n_steps)
            if abs(number - grid_value(self.low, self.step, index)) > _GRID_TOLERANCE * self.step:
                raise PointError(f"{self!r} takes steps of {self.step!r} from {self.low!r}, but got {number!r}.")
        return index

    def to_unit(self, value: object) -> float:
        number = _number(self, value)
        if self.step is not None:
            return self._index_of(number) / max(1, self._n_steps)
        return normalized(number, self.low, self.high, self.log)

    def from_unit(self, u: float) -> float:
        u = clipped(u)
        if self.step is not None:
            return grid_value(self.low, self.step, round(u * ((self.n_values or 1) - 1)))
        return unnormalized(u, self.low, self.high, self.log)

    def values(self) -> tuple[float, ...]:
        if self.n_values is None:
            raise _uncountable(self)
        if self.step is None:
            return (self.low,)
        return tuple(grid_value(self.low, self.step, index) for index in range(self.n_values))

    def replaced(self, each: Sequence[str] | None, when: Condition | None) -> Float:
        return Float(self.low, self.high, self.log, self.step, each=each, when=when)

    def _json(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}

    def _arguments(self) -> list[str]:
        return _numeric_arguments(self, None)


@dataclass(frozen=True, eq=False, repr=False)
class Int(Parameter):
    """A whole number from `low` to `high`, both included.

    Args:
        low: The smallest value, at least -10**12.
        high: The largest value, at most 10**12. With `step` it becomes the last value of the grid: `Int(0, 10, step=3)`
            ends at 9.
        log: Search on a logarithmic scale; `low` must be above 0.
        step: Take only the values `low, low + step, ...`; not with `log`.
        each: Names, to declare one such parameter per name. They are called `group[name]`.
        when: Where the parameter is active, see `Float`.

    Raises:
        ParameterError: An argument is of the wrong type or out of range, or two arguments exclude each other.

    Example:
        >>> Int(0, 10, step=3).values()
        (0, 3, 6, 9)
    """

    low: int
    high: int
    log: bool = False
    step: int = 1
    each: Sequence[str] | None = field(default=None, kw_only=True)
    when: Condition | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        low, high = (checked_whole_number(name, checked_number(self, name)) for name in ("low", "high"))
        log = checked_log(self)
        check_bounds(self, low, high, log)
        for name, bound in (("low", low), ("high", high)):
            if abs(bound) > LARGEST_INT:
                raise ParameterError(
                    f"An Int's bounds lie within a trillion, 10**12, but got {name}={bound!r}. Take a Float.", name
                )
        step = checked_whole_number("step", checked_step(self))
        if log and step != 1:
            raise ParameterError(
                f"An Int with log has step 1, but got step={step!r}. Leave out one of them, or list the values with "
                "Choice.",
                "step",
            )
        if step > high - low > 0:
            raise ParameterError(f"step is at most high - low = {high - low!r}, but got step={step!r}.", "step")
        self._set(low=low, high=high - (high - low) % step, log=log, step=step)
        self._set_common()

    @property
    def n_values(self) -> int:
        return (self.high - self.low) // self.step + 1

    def check(self, value: object) -> int:
        number = _number(self, value)
        if number != int(number):
            raise PointError(f"{self!r} takes whole numbers, but got {number!r}.")
        if (int(number) - self.low) % self.step:
            raise PointError(f"{self!r} takes steps of {self.step!r} from {self.low!r}, but got {number!r}.")
        return int(number)

    def to_unit(self, value: object) -> float:
        return normalized(self.check(value), self.low, self.high, self.log)

    def from_unit(self, u: float) -> int:
        u = clipped(u)
        if not self.log:
            return self.low + self.step * round(u * (self.n_values - 1))
        below = math.floor(unnormalized(u, self.low, self.high, log=True))
        near = [value for value in (below - 1, below, below + 1) if self.low <= value <= self.high]
        return min(near, key=lambda value: abs(normalized(value, self.low, self.high, log=True) - u))

    def values(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1, self.step))

    def replaced(self, each: Sequence[str] | None, when: Condition | None) -> Int:
        return Int(self.low, self.high, self.log, self.step, each=each, when=when)

    def _json(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}

    def _arguments(self) -> list[str]:
        return _numeric_arguments(self, 1)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Choice(Parameter):
    """One of several options.

    Args:
        options: Each is None, a bool, an int, a float or a str. Two of them must not be equal in Python, as 1, 1.0
            and True are.
        ordered: Whether the order of the options has a meaning. By default it has if all options are numbers (a bool
            is not a number). Numbers are ordered by value, other options as they are given.
        each: Names, to declare one such parameter per name. They are called `group[name]`.
        when: Where the parameter is active, see `Float`.

    Raises:
        ParameterError: An option has another type, two options are equal, or there is none.

    Example:
        >>> Choice(8, 2, 4).values()
        (2, 4, 8)
        >>> Choice("prune", "cluster").is_ordered
        False
    """

    options: tuple[Value, ...]
    ordered: bool
    each: Sequence[str] | None
    when: Condition | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None

    def __init__(
        self,
        *options: Value,
        ordered: bool | None = None,
        each: Sequence[str] | None = None,
        when: Condition | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        if not options:
            raise ParameterError("A Choice has at least one option. Write for example Choice(2, 4, 8).", "options")
        if ordered is not None and not isinstance(ordered, bool):
            raise ParameterError(f"ordered is None, True or False, but got {shown(ordered)}.", "ordered")
        checked = tuple(checked_option(given, index) for index, given in enumerate(options))
        firsts: dict[Value, Value] = {}
        for index, option in enumerate(checked):
            if option in firsts:
                first = firsts[option]
                raise ParameterError(
                    f"The options of a Choice differ, but got {shown(first)} and {shown(option)}, which are equal"
                    f"{'' if repr(first) == repr(option) else ' to Python'}. Leave out one of them.",
                    "options",
                    index,
                )
            firsts[option] = option
        self._set(
            options=checked, ordered=self._by_value(checked) if ordered is None else ordered, each=each, when=when
        )
        self._set_common()

    @staticmethod
    def _by_value(options: Sequence[Value]) -> bool:
        return all(is_number(option) for option in options)

    @property
    def n_values(self) -> int:
        return len(self.options)

    @property
    def is_ordered(self) -> bool:
        return self.ordered

    def check(self, value: object) -> Value:
        try:
            plain = as_value(value)
        except TypeError:
            plain = math.nan  # is equal to no option
        index = self._index_of.get(plain)
        if index is None or not is_same(self._values[index], plain):
            raise PointError(f"{self!r} has no option {shown(value)}.")
        return self._values[index]

    def to_unit(self, value: object) -> float:
        index = self._index_of[self.check(value)]
        return index / (len(self.options) - 1) if index else 0.0

    def from_unit(self, u: float) -> Value:
        return self._values[round(clipped(u) * (len(self.options) - 1))]

    def values(self) -> tuple[Value, ...]:
        return self._values

    @cached_property
    def _values(self) -> tuple[Value, ...]:
        numbers = [option for option in self.options if is_number(option)]
        return tuple(sorted(numbers)) if self.ordered and len(numbers) == len(self.options) else self.options

    @cached_property
    def _index_of(self) -> dict[Value, int]:
        return {value: index for index, value in enumerate(self._values)}

    def replaced(self, each: Sequence[str] | None, when: Condition | None) -> Choice:
        return Choice(*self.options, ordered=self.ordered, each=each, when=when)

    def _json(self) -> dict[str, Any]:
        return {"options": list(self.options), "ordered": self.ordered}

    def _arguments(self) -> list[str]:
        arguments = [repr(option) for option in self.options]
        return arguments if self.ordered == self._by_value(self.options) else [*arguments, f"ordered={self.ordered}"]


def _number(parameter: Any, given: object) -> int | float:
    """Return `given` as a number within the bounds of a `Float` or an `Int`."""
    try:
        value = as_value(given)
    except TypeError:
        value = None
    if not is_finite_number(value):
        raise PointError(f"{parameter!r} takes numbers, but got {shown(given)}.")
    if not parameter.low <= value <= parameter.high:
        tolerance = _GRID_TOLERANCE * (parameter.step or 0)
        if not parameter.low - tolerance <= value <= parameter.high + tolerance:
            raise PointError(f"{parameter!r} does not reach {value!r}.")
    return value if isinstance(parameter, Int) else float(value)


def _uncountable(parameter: Parameter) -> ParameterError:
    return ParameterError(f"The values of {parameter!r} cannot be listed: it is continuous. Give it a step.", "step")


def _numeric_arguments(parameter: Any, default_step: int | None) -> list[str]:
    arguments = [repr(parameter.low), repr(parameter.high)]
    if parameter.log:
        arguments.append("log=True")
    if parameter.step != default_step:
        arguments.append(f"step={parameter.step!r}")
    return arguments
