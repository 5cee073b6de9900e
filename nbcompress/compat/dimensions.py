"""Dimensions as scikit-optimize names them, as parameters of ours."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbcompress.errors import SpaceError
from nbcompress.space import Choice, Float, Int, Space, Value

_PRIORS = ("uniform", "log-uniform")


@dataclass(frozen=True)
class Real:
    """A real number from `low` to `high`. The base of the logarithm changes nothing, here as there.

    Raises:
        SpaceError: An option is one that cannot be honoured.
    """

    low: float
    high: float
    prior: str = "uniform"
    base: int = 10
    transform: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check(self, prior=_PRIORS, transform=(None, "normalize"))

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    def parameter(self) -> Float:
        return Float(self.low, self.high, log=self.prior == "log-uniform")


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`, both included.

    Raises:
        SpaceError: An option is one that cannot be honoured.
    """

    low: int
    high: int
    prior: str = "uniform"
    base: int = 10
    transform: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check(self, prior=_PRIORS, transform=(None, "normalize"))

    @property
    def bounds(self) -> tuple[int, int]:
        return self.low, self.high

    def parameter(self) -> Int:
        return Int(self.low, self.high, log=self.prior == "log-uniform")


@dataclass(frozen=True)
class Categorical:
    """One of several categories without an order, each None, a bool, a number or a text.

    Raises:
        SpaceError: An option is one that cannot be honoured, such as probabilities of the categories.
    """

    categories: Sequence[Value]
    prior: None = None
    transform: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check(self, prior=(None,), transform=(None, "onehot"))

    @property
    def bounds(self) -> tuple[Value, ...]:
        return tuple(self.categories)

    def parameter(self) -> Choice:
        return Choice(*self.categories, ordered=False)


Dimension = Real | Integer | Categorical


@dataclass(frozen=True)
class Dimensions:
    """The dimensions of a search in their order, as `result.space`.

    Attributes:
        dimensions: Real, Integer or Categorical.
        names: What the parameters of the study are called: the dimension's own name if it can be one, else `x0`, ...
    """

    dimensions: tuple[Dimension, ...]

    @classmethod
    def of(cls, given: Sequence[Any]) -> Dimensions:
        return cls(tuple(dimension_of(one) for one in given))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(_name(one.name, f"x{i}") for i, one in enumerate(self.dimensions))

    @property
    def dimension_names(self) -> list[str]:
        return list(self.names)

    @property
    def bounds(self) -> list[tuple[Any, ...]]:
        return [one.bounds for one in self.dimensions]

    @property
    def n_dims(self) -> int:
        return len(self.dimensions)

    def space(self) -> Space:
        """Return the space of the study.

        Raises:
            SpaceError: Two dimensions have one name.
        """
        for name in self.names:
            if self.names.count(name) > 1:
                raise SpaceError(f"Every dimension has a name of its own, but {name!r} is there twice.")
        return Space({name: one.parameter() for name, one in zip(self.names, self.dimensions, strict=True)})

    def point(self, x: Sequence[Any]) -> dict[str, Any]:
        """Return a list of values as a point.

        Raises:
            SpaceError: It has another length.
        """
        if len(x) != len(self.dimensions):
            raise SpaceError(f"A point has {len(self.dimensions)} values, one a dimension, but got {x!r}.")
        return dict(zip(self.names, x, strict=True))


def dimension_of(given: Any) -> Dimension:
    """Read a dimension: an object, `(low, high)`, `(low, high, prior)`, or a list of categories.

    Two whole numbers are an `Integer`, two numbers otherwise a `Real`; everything else lists categories.

    Raises:
        SpaceError: It is nothing of these.
    """
    if isinstance(given, Dimension):
        return given
    if not isinstance(given, (list, tuple, np.ndarray)) or len(given) == 0:
        raise SpaceError(
            "A dimension is Real, Integer, Categorical, (low, high), (low, high, prior) or a list of categories, "
            f"but got {given!r}."
        )
    values = [one.item() if isinstance(one, np.generic) else one for one in given]
    prior = values[2] if len(values) == 3 and values[2] in _PRIORS else "uniform"
    if len(values) == 2 or (len(values) == 3 and values[2] in _PRIORS):
        low, high = values[:2]
        if all(_is_whole(one) for one in (low, high)):
            return Integer(low, high, prior)
        if all(_is_number(one) for one in (low, high)):
            return Real(low, high, prior)
    return Categorical(tuple(values))


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _name(given: str | None, otherwise: str) -> str:
    """Return the name of a dimension if a parameter can have it."""
    if given is None:
        return otherwise
    try:
        Space({given: Float(0, 1)})
    except SpaceError:
        return otherwise
    return given


def _check(dimension: Dimension, **allowed: tuple[str | None, ...]) -> None:
    for option, values in allowed.items():
        value = getattr(dimension, option)
        if not any(value is one or (isinstance(value, str) and value == one) for one in values):
            known = " or ".join(map(repr, values))
            raise SpaceError(f"{option} of a {type(dimension).__name__} is {known} here, but got {value!r}.")
