"""A search space of Optuna as a space of ours, whose parameters have names of their own: Optuna takes any text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from nbcompress.errors import ParameterError, PointError
from nbcompress.space import Choice, Float, Int, Parameter, Point, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from nbcompress.optuna.conditions import Conditions


@dataclass(frozen=True)
class SearchSpace:
    """Distributions by name, and when they are asked for.

    Raises:
        KeyError: At `space`: a distribution has no parameter of ours; `parameter_of` tells.
    """

    distributions: Mapping[str, BaseDistribution]
    conditions: Conditions = field(default_factory=dict)

    @cached_property
    def _inner(self) -> dict[str, str]:
        return {name: f"p{i}" for i, name in enumerate(self.distributions)}

    @cached_property
    def space(self) -> Space:
        parents = {parent for parent, _ in self.conditions.values()}
        parameters: dict[str, Parameter] = {}
        for name, distribution in self.distributions.items():
            when = None
            if name in self.conditions:
                parent, values = self.conditions[name]
                when = {self._inner[parent]: values}
            parameter = parameter_of(distribution, is_parent=name in parents, when=when)
            if parameter is None:
                raise KeyError(name)
            parameters[self._inner[name]] = parameter
        return Space(parameters)

    def point(self, values: Mapping[str, Any]) -> Point | None:
        """Return values by Optuna's names as a point, or None if they are no whole point of the space."""
        given = {inner: values[name] for name, inner in self._inner.items() if name in values}
        try:
            return self.space.check(given)
        except PointError:  # asked for elsewhere, or enqueued outside of the range, which Optuna allows
            return None

    def values(self, point: Point) -> dict[str, Any]:
        """Return a point by Optuna's names."""
        return {name: point[inner] for name, inner in self._inner.items() if inner in point}


def parameter_of(
    distribution: BaseDistribution, *, is_parent: bool = False, when: Mapping[str, Any] | None = None
) -> Parameter | None:
    """Return the parameter with the same values, or None if there is none, as for an integer beyond 10**12.

    Choices that are all numbers count as ordered, as everywhere here. A whole number that others hang on is a choice.
    """
    try:
        if isinstance(distribution, FloatDistribution):
            return Float(distribution.low, distribution.high, distribution.log, distribution.step, when=when)
        if isinstance(distribution, IntDistribution) and is_parent:
            return Choice(*range(distribution.low, distribution.high + 1, distribution.step), when=when)
        if isinstance(distribution, IntDistribution):
            return Int(distribution.low, distribution.high, distribution.log, distribution.step, when=when)
        if isinstance(distribution, CategoricalDistribution):
            return Choice(*distribution.choices, when=when)
    except ParameterError:
        pass
    return None
