"""The three kinds of parameter: `Float`, `Int` and `Choice`.

A parameter is a frozen value that checks itself: a wrong one cannot exist. Each one maps its values to the unit
interval, where samplers and surrogates work:

| parameter | value to unit |
| --- | --- |
| `Float(low, high)`, `Int(low, high)` | `(value - low) / (high - low)`; with `log` the same of the logarithms |
| with `step`, and `Int` | the same, for the values `low, low + step, ...` only |
| `Choice` with `k` options | `index / (k - 1)`, counted by value if ordered numbers, else as given |

The lowest value is 0 and the highest is 1; if there is only one, it is 0. Back from the unit interval, what can be
counted takes the nearest value.

The unit interval: where a value lies on it, and which value lies at a place.

What the arguments of a parameter may be: one check, and one sentence, for each law.

What the three kinds of parameter have in common.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from functools import cached_property
from typing import Any

from nbcompress.errors import ParameterError, PointError
from nbcompress.space.conditions import Condition
from nbcompress.space.values import Value, as_value, is_finite_number, is_number, is_same, shown


def clipped(u: float) -> float:
    if math.isnan(u):
        raise PointError("A place in the unit interval is a number, but got NaN.")
    return min(max(float(u), 0.0), 1.0)


def place_of(value: float, low: float, high: float, log: bool) -> float:
    if low == high:
        return 0.0
    width = math.log(high) - math.log(low) if log else 0.0
    # Neighbouring floats can have equal logarithms; between them a logarithmic axis is a linear one.
    if width > 0:
        return min(max((math.log(value) - math.log(low)) / width, 0.0), 1.0)
    return (value - low) / (high - low)


def value_at(u: float, low: float, high: float, log: bool) -> float:
    # The ends are exact, whatever the logarithm rounds to.
    if u in (0.0, 1.0):
        return high if u else low
    value = math.exp(math.log(low) + u * (math.log(high) - math.log(low))) if log else low + u * (high - low)
    return min(max(value, low), high)


def as_decimal(number: float) -> Decimal:
    return Decimal(repr(number))


def on_grid(low: float, step: float, index: int) -> float:
    # In decimals, so that 0.1 + 2 * 0.1 is 0.3, as a person writes it.
    return float(as_decimal(low) + index * as_decimal(step))


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


# Beyond, the unit interval in double precision cannot tell neighbours apart on a logarithmic axis.
LARGEST_INT = 10**12
# A value may be off the grid by this share of a step, as what was added up in floating point is.
_OFF_GRID = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class Float(Parameter):
    """A real number from `low` to `high`, both included.

    With `log` its magnitudes are equally likely. With `step` it takes only `low, low + step, ...`; `high` becomes the
    last of these, so `Float(0, 1, step=0.3)` ends at 0.9 and says so.

    Raises:
        ParameterError: The arguments fit no parameter.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    each: Sequence[str] | None = field(default=None, kw_only=True)
    when: Condition | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        low, high = (number_in(self, name) for name in ("low", "high"))
        try:
            low, high = float(low) + 0.0, float(high) + 0.0  # -0.0 is 0.0
        except OverflowError as err:
            raise ParameterError("A Float's bounds fit into a float; got a larger integer.", "low") from err
        log = log_of(self)
        check_bounds(self, low, high, log)
        if not math.isfinite(high - low):
            raise ParameterError(
                f"The width high - low is a finite number, but got {low!r} and {high!r}. Take a smaller range or log.",
                "high",
            )
        step = None
        if self.step is not None:
            step = float(step_of(self))
            if log:
                raise ParameterError(
                    f"A Float with log has no step, but got step={step!r}. Leave out one of them, or list the values "
                    "with Choice.",
                    "step",
                )
            if step < 2 * math.ulp(max(abs(low), abs(high))):
                raise ParameterError(f"step is wide enough to change low and high, but got step={step!r}.", "step")
            ratio = (as_decimal(high) - as_decimal(low)) / as_decimal(step)
            # A bound that was added up in floating point may miss its grid by a rounding error.
            n_steps = int((ratio + Decimal("1e-9")).to_integral_value(ROUND_FLOOR))
            if n_steps == 0 and low < high:
                raise ParameterError(f"step is at most high - low = {high - low!r}, but got step={step!r}.", "step")
            if n_steps > LARGEST_INT:
                raise ParameterError(f"A grid has at most {LARGEST_INT:,} steps, but got step={step!r}.", "step")
            high = on_grid(low, step, n_steps)
        self._set(low=low, high=high, log=log, step=step)
        self._set_common()

    @property
    def n_values(self) -> int | None:
        if self.low == self.high:
            return 1
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    def check(self, value: object) -> float:
        number = _number(self, value)
        if self.step is not None:
            index = max(0, round((number - self.low) / self.step))
            nearest = on_grid(self.low, self.step, index)
            if nearest <= self.high and abs(number - nearest) <= _OFF_GRID * self.step:
                return nearest
            raise PointError(f"{self!r} takes steps of {self.step!r} from {self.low!r}, but got {number!r}.")
        return number

    def to_unit(self, value: object) -> float:
        return place_of(self.check(value), self.low, self.high, self.log)

    def from_unit(self, u: float) -> float:
        u = clipped(u)
        if self.step is not None:
            return on_grid(self.low, self.step, round(u * ((self.n_values or 1) - 1)))
        return value_at(u, self.low, self.high, self.log)

    def values(self) -> tuple[float, ...]:
        if self.n_values is None:
            raise _uncountable(self)
        if self.step is None:
            return (self.low,)
        return tuple(on_grid(self.low, self.step, index) for index in range(self.n_values))

    def alone_with(self, each: Sequence[str] | None, when: Condition | None) -> Float:
        return Float(self.low, self.high, self.log, self.step, each=each, when=when)

    def _json(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}

    def _arguments(self) -> list[str]:
        return _numeric_arguments(self, None)


@dataclass(frozen=True, eq=False, repr=False)
class Int(Parameter):
    """A whole number from `low` to `high`, both included, at most a trillion in size.

    With `log` its magnitudes are equally likely. With `step` it takes only `low, low + step, ...`; `high` becomes the
    last of these, so `Int(0, 10, step=3)` ends at 9 and says so.

    Raises:
        ParameterError: The arguments fit no parameter.
    """

    low: int
    high: int
    log: bool = False
    step: int = 1
    each: Sequence[str] | None = field(default=None, kw_only=True)
    when: Condition | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        low, high = (whole(name, number_in(self, name)) for name in ("low", "high"))
        log = log_of(self)
        check_bounds(self, low, high, log)
        for name, bound in (("low", low), ("high", high)):
            if abs(bound) > LARGEST_INT:
                raise ParameterError(
                    f"An Int's bounds lie within a trillion, 10**12, but got {name}={bound!r}. Take a Float.", name
                )
        step = whole("step", step_of(self))
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
        return place_of(self.check(value), self.low, self.high, self.log)

    def from_unit(self, u: float) -> int:
        u = clipped(u)
        if not self.log:
            return self.low + self.step * round(u * (self.n_values - 1))
        below = math.floor(value_at(u, self.low, self.high, log=True))
        near = [value for value in (below - 1, below, below + 1) if self.low <= value <= self.high]
        return min(near, key=lambda value: abs(place_of(value, self.low, self.high, log=True) - u))

    def values(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1, self.step))

    def alone_with(self, each: Sequence[str] | None, when: Condition | None) -> Int:
        return Int(self.low, self.high, self.log, self.step, each=each, when=when)

    def _json(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}

    def _arguments(self) -> list[str]:
        return _numeric_arguments(self, 1)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Choice(Parameter):
    """One of several options, each None, a bool, an int, a float or a str.

    Options that are all numbers (a bool is none) are ordered unless told otherwise: by value, in whatever order they
    are given. Other options are unordered; with `ordered=True` their order is the one they are given in.
    Two options must not be equal, and as for Python 1, 1.0 and True are: such a choice is refused.

    Raises:
        ParameterError: The arguments fit no parameter.
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
            plain = None if value is None else math.nan  # equal to no option
        place = self._places.get(plain)
        if place is None or not is_same(self._values[place], plain):
            raise PointError(f"{self!r} has no option {shown(value)}.")
        return self._values[place]

    def to_unit(self, value: object) -> float:
        index = self._places[self.check(value)]
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
    def _places(self) -> dict[Value, int]:
        return {value: place for place, value in enumerate(self._values)}

    def alone_with(self, each: Sequence[str] | None, when: Condition | None) -> Choice:
        return Choice(*self.options, ordered=self.ordered, each=each, when=when)

    def _json(self) -> dict[str, Any]:
        return {"options": list(self.options), "ordered": self.ordered}

    def _arguments(self) -> list[str]:
        arguments = [repr(option) for option in self.options]
        return arguments if self.ordered == self._by_value(self.options) else [*arguments, f"ordered={self.ordered}"]


def _number(parameter: Any, given: object) -> int | float:
    """Return a value for a `Float` or an `Int`, as number within its bounds."""
    try:
        value = as_value(given)
    except TypeError:
        value = None
    if not is_finite_number(value):
        raise PointError(f"{parameter!r} takes numbers, but got {shown(given)}.")
    if not parameter.low <= value <= parameter.high:
        slack = _OFF_GRID * (parameter.step or 0)
        if not parameter.low - slack <= value <= parameter.high + slack:
            raise PointError(f"{parameter!r} does not reach {value!r}.")
    return value if isinstance(parameter, Int) else float(value)


def _uncountable(parameter: Parameter) -> ParameterError:
    return ParameterError(f"The values of {parameter!r} cannot be listed: it is continuous. Give it a step.", "step")


def _numeric_arguments(parameter: Any, plain_step: int | None) -> list[str]:
    arguments = [repr(parameter.low), repr(parameter.high)]
    if parameter.log:
        arguments.append("log=True")
    if parameter.step != plain_step:
        arguments.append(f"step={parameter.step!r}")
    return arguments
