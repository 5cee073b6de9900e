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
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from functools import cached_property
from typing import Any

from nbcompress.errors import ParameterError, PointError
from nbcompress.space.axis import as_decimal, clipped, on_grid, place_of, value_at
from nbcompress.space.conditions import Condition
from nbcompress.space.construction import (
    check_bounds,
    checked_option,
    log_of,
    number_in,
    step_of,
    whole,
)
from nbcompress.space.parameter import Parameter
from nbcompress.space.values import Value, as_value, is_finite_number, is_number, is_same, shown

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
