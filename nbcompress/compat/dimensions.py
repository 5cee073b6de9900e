"""Spaces of scikit-optimize and bayes_opt, as parameters."""

from __future__ import annotations

import math
import numbers
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from nbcompress.compat.search import CallError, limits_of
from nbcompress.errors import NbcompressWarning, PointError, SearchError, SpaceError, shown
from nbcompress.space import Choice, Float, Int, Parameter, Space, Value

Number = TypeVar("Number", int, float)

_PRIORS = ("uniform", "log-uniform")
# How the surrogate of scikit-optimize transforms values. Nothing changes here.
_TRANSFORMS = (None, "identity", "normalize")
# Types that a study stores unchanged.
_STORED = (bool, int, float, str)
_CATEGORY_TRANSFORMS = (None, "identity", "onehot", "label", "string")


@dataclass(frozen=True)
class _Range(Generic[Number]):
    """What `Real` and `Integer` have in common."""

    low: Number
    high: Number
    prior: str = "uniform"
    base: int = 10
    transform: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check(self, prior=_PRIORS, transform=_TRANSFORMS)

    @property
    def bounds(self) -> tuple[Number, Number]:
        return self.low, self.high

    @property
    def is_logarithmic(self) -> bool:
        return self.prior == "log-uniform"


@dataclass(frozen=True)
class Real(_Range[float]):
    """A real number from `low` to `high`.

    Args:
        low, high: The bounds, both included.
        prior: `uniform` or `log-uniform`.
        base: Base of the logarithm. It has no effect.
        transform: How scikit-optimize's surrogate reads values. It has no effect here.
        name: Of the parameter.
        dtype: As `transform`.

    Raises:
        SpaceError: An option has a value that is not supported.

    Example:
        >>> Real(1e-4, 1e-1, prior="log-uniform", name="lr").parameter()
        Float(0.0001, 0.1, log=True)
    """

    dtype: Any = field(default=float, repr=False)

    def parameter(self) -> Float:
        return Float(self.low, self.high, log=self.is_logarithmic)


@dataclass(frozen=True)
class Integer(_Range[int]):
    """An integer from `low` to `high`, both included. The arguments are those of `Real`.

    Raises:
        SpaceError: An option has a value that is not supported.

    Example:
        >>> Integer(1, 8, name="bits").parameter()
        Int(1, 8)
    """

    dtype: Any = field(default=int, repr=False)

    def parameter(self) -> Int:
        return Int(self.low, self.high, log=self.is_logarithmic)


@dataclass(frozen=True)
class Categorical:
    """One of several categories without an order.

    Args:
        categories: The categories. One that is not a number, str, bool or None is stored as its `repr`.
        prior: Ignored with a warning: all categories are equally likely.
        transform: How scikit-optimize's surrogate reads values. It has no effect here.
        name: Of the parameter.

    Raises:
        SpaceError: An option has a value that is not supported.

    Example:
        >>> Categorical(["prune", "cluster"], name="method").parameter()
        Choice('prune', 'cluster')
    """

    categories: Sequence[Any]
    prior: Sequence[float] | None = None
    transform: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        values = tuple(
            category.item() if isinstance(category, np.generic) else category for category in self.categories
        )
        object.__setattr__(self, "categories", values)
        _check(self, transform=_CATEGORY_TRANSFORMS)
        if self.prior is not None:
            what = f"Categorical here ignores prior={list(self.prior)!r:.60}: all categories are as likely."
            warnings.warn(what, NbcompressWarning, stacklevel=3)

    @property
    def bounds(self) -> tuple[Any, ...]:
        return tuple(self.categories)

    @property
    def options(self) -> tuple[Value, ...]:
        """What stands for each category in the study."""
        return tuple(
            category if category is None or isinstance(category, _STORED) else repr(category)
            for category in self.categories
        )

    def parameter(self) -> Choice:
        return Choice(*self.options, ordered=False)

    def stored(self, category: Any) -> Any:
        """Return what stands for a category; something else, which the space refuses, for what is none."""
        return category if category in self.options else repr(category)

    def category(self, option: Value) -> Any:
        """Return the category that an option stands for."""
        return self.categories[self.options.index(option)]


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
    def of(cls, given: Any) -> Dimensions:
        """Read a list of dimensions, or a space of scikit-optimize."""
        return cls(tuple(dimension_of(dimension) for dimension in getattr(given, "dimensions", given)))

    def __iter__(self) -> Iterator[Dimension]:
        return iter(self.dimensions)

    def __len__(self) -> int:
        return len(self.dimensions)

    def __getitem__(self, index: int) -> Dimension:
        return self.dimensions[index]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(_name(dimension.name, f"x{i}") for i, dimension in enumerate(self.dimensions))

    @property
    def dimension_names(self) -> list[str]:
        return list(self.names)

    @property
    def bounds(self) -> list[tuple[Any, ...]]:
        return [dimension.bounds for dimension in self.dimensions]

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
        return Space({name: dimension.parameter() for name, dimension in zip(self.names, self.dimensions, strict=True)})

    def point(self, x: Sequence[Any]) -> dict[str, Any]:
        """Return a list of values as a point.

        Raises:
            SpaceError: It has another length.
        """
        if len(x) != len(self.dimensions):
            raise SpaceError(f"A point has {len(self.dimensions)} values, one a dimension, but got {x!r}.")
        values = [
            dimension.stored(value) if isinstance(dimension, Categorical) else value
            for dimension, value in zip(self.dimensions, x, strict=True)
        ]
        return dict(zip(self.names, values, strict=True))

    def values(self, point: Mapping[str, Value]) -> list[Any]:
        """Return a point as a list of values."""
        values = [point[name] for name in self.names]
        return [
            dimension.category(value) if isinstance(dimension, Categorical) else value
            for dimension, value in zip(self.dimensions, values, strict=True)
        ]


def dimension_of(given: Any) -> Dimension:
    """Read a dimension: an object (also one of scikit-optimize's), `(low, high)`, `(low, high, prior)`, or categories.

    Two whole numbers are an `Integer`, two numbers otherwise a `Real`; everything else lists categories.

    Raises:
        SpaceError: It is nothing of these.
    """
    if isinstance(given, Dimension):
        return given
    if type(given).__name__ in _THEIRS:
        return _from_skopt(given)
    if not isinstance(given, (list, tuple, np.ndarray)) or len(given) == 0:
        raise SpaceError(
            "A dimension is Real, Integer, Categorical, (low, high), (low, high, prior) or a list of categories, "
            f"but got {given!r}."
        )
    values = [item.item() if isinstance(item, np.generic) else item for item in given]
    prior = values[2] if len(values) == 3 and values[2] in _PRIORS else "uniform"
    if len(values) == 2 or (len(values) == 3 and values[2] in _PRIORS):
        low, high = values[:2]
        if all(_is_whole(bound) for bound in (low, high)):
            return Integer(low, high, prior)
        if all(_is_number(bound) for bound in (low, high)):
            return Real(low, high, prior)
    return Categorical(tuple(values))


_THEIRS = ("Real", "Integer", "Categorical")


def _from_skopt(given: Any) -> Dimension:
    """Read an object of scikit-optimize by its attributes."""
    if type(given).__name__ == "Categorical":
        prior = given.prior if given.prior is None or len(set(given.prior)) > 1 else None
        return Categorical(given.categories, prior, name=given.name)
    low, high = (bound.item() if isinstance(bound, np.generic) else bound for bound in (given.low, given.high))
    kind = Integer if type(given).__name__ == "Integer" else Real
    return kind(low, high, given.prior, name=given.name)


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


def _check(dimension: object, **allowed: tuple[str | None, ...]) -> None:
    for option, values in allowed.items():
        value = getattr(dimension, option)
        if not any(value is known or (isinstance(value, str) and value == known) for known in values):
            known = " or ".join(map(repr, values))
            raise SpaceError(f"{option} of a {type(dimension).__name__} is {known} here, but got {value!r}.")


# --- bayes_opt --------------------------------------------------------------------------------------------------------


class NotUniqueError(SearchError):
    """A point is registered a second time, and `allow_duplicate_points` is not set.

    Example:
        >>> optimizer = BayesianOptimization(None, {"x": (0, 1)}, random_state=0)
        >>> optimizer.register({"x": 0.5}, 1.0)
        >>> try:
        ...     optimizer.register({"x": 0.5}, 2.0)
        ... except NotUniqueError:
        ...     print("known")
        known
    """


class NothingKnownError(SearchError, RuntimeError):
    """A prediction is asked for before there is a target."""


class ArraySpace(ABC):
    """Points as arrays: one number for each number, and for categories one for each, 1 at the one that is meant."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, Float | Int | Choice]:
        """The parameters by name."""

    @property
    def keys(self) -> list[str]:
        return list(self.parameters)

    @property
    def dim(self) -> int:
        """The length of the array of a point."""
        return len(self.bounds)

    @property
    def bounds(self) -> NDArray[np.float64]:
        """The bounds now, of the shape `(dim, 2)`."""
        rows: list[tuple[float, float]] = []
        for parameter in self.parameters.values():
            if isinstance(parameter, Choice):
                rows += [(0.0, 1.0)] * len(parameter.options)
            else:
                rows.append((parameter.low, parameter.high))
        return np.array(rows, dtype=np.float64)

    def params_to_array(self, params: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return values by name as an array.

        Raises:
            PointError: The names are others.
        """
        if set(params) != set(self.keys):
            raise PointError(f"A point has the parameters {', '.join(self.keys)}, but got {shown(params)}.")
        columns: list[float] = []
        for key, parameter in self.parameters.items():
            if isinstance(parameter, Choice):
                columns += [float(params[key] == option) for option in parameter.options]
            else:
                columns.append(float(params[key]))
        return np.array(columns, dtype=np.float64)

    def array_to_params(self, x: Any) -> dict[str, Any]:
        """Return an array as values by name, with the nearest whole number where that is needed.

        Raises:
            PointError: It has another length.
        """
        row = np.asarray(x, dtype=np.float64).ravel()
        if len(row) != self.dim:
            raise PointError(f"The array of a point has {self.dim} numbers, but got {len(row)}.")
        params: dict[str, Any] = {}
        position = 0
        for key, parameter in self.parameters.items():
            n = len(parameter.options) if isinstance(parameter, Choice) else 1
            part = row[position : position + n]
            position += n
            if isinstance(parameter, Choice):
                params[key] = parameter.options[int(part.argmax())]
            elif isinstance(parameter, Int) and math.isfinite(part[0]):
                params[key] = round(part[0])
            else:
                params[key] = float(part[0])
        return params


def union_of(left: Float | Int | Choice, right: Float | Int | Choice) -> Parameter:
    """Return a parameter that covers both, which are of the same kind."""
    if isinstance(left, Choice) or isinstance(right, Choice):
        return Choice(*dict.fromkeys((*limits_of(left), *limits_of(right))))
    if isinstance(left, Int) and isinstance(right, Int):
        return Int(min(left.low, right.low), max(left.high, right.high))
    return Float(min(left.low, right.low), max(left.high, right.high))


def parameter_of_limits(kind: str, *limits: Any) -> Float | Int | Choice:
    """Return a parameter of a saved state."""
    if kind == "Choice":
        return Choice(*limits)
    return Int(*limits) if kind == "Int" else Float(*limits)


def parameter_of_bounds(name: str, bounds: Any) -> Float | Int | Choice:
    values = [] if isinstance(bounds, str) or not isinstance(bounds, Iterable) else list(bounds)
    if len(values) == 3 and values[2] in (int, float):
        return Int(*values[:2]) if values[2] is int else Float(*values[:2])
    if len(values) == 2 and not any(isinstance(value, (str, bool, type(None))) for value in values):
        return Float(*values)
    if not values or any(isinstance(value, type) for value in values):
        raise SpaceError(
            f"The bounds of {name!r} are (low, high), (low, high, int) or a list of categories, but got "
            f"{shown(bounds)}."
        )
    return Choice(*values)


def is_row(params: Any) -> bool:
    """Say whether a point is given as numbers only, as an array of a `TargetSpace` is."""
    return isinstance(params, np.ndarray) and params.dtype != object and params.dtype.kind in "biuf"


def values_by_name(values: Any, names: Collection[str]) -> dict[str, Any]:
    """Return a point that is given as a list of values.

    Raises:
        PointError: It is no list with a value for each name.
    """
    found = [] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if len(found) != len(names):
        raise PointError(f"A point has a value for each of {', '.join(names)}, but got {shown(values)}.")
    return dict(zip(names, found, strict=True))


def check_bounds(pbounds: object) -> None:
    if not isinstance(pbounds, Mapping):
        example = "{'x': (2, 4), 'y': (-3, 3)}"
        raise CallError(f"pbounds is a dict of bounds by name, such as {example}, but got {shown(pbounds)}.")


def listed_points(params: Any) -> Iterable[Any]:
    if isinstance(params, str) or not isinstance(params, Iterable):
        raise CallError(f"params must be a dict or iterable of dicts, but got {shown(params)}.")
    return [params] if isinstance(params, Mapping) else params
