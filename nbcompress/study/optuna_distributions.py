"""Convert between our parameters and Optuna's distributions, for its storages, samplers and dashboard."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from nbcompress.errors import ParameterError
from nbcompress.space import Choice, Float, Int, Parameter, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distribution_of(parameter: Float | Int | Choice, *, keep_step: bool = False) -> BaseDistribution:
    """Return the distribution with the same values.

    A step whose last value is not exact in decimal arithmetic is dropped, because Optuna would not read it back
    unchanged. This only affects what Optuna's tools show; the exact point is stored with the trial.

    Args:
        parameter: The parameter.
        keep_step: Keep such a step, too. A sampler needs it to stay on the grid.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.options)
    if isinstance(parameter, Int):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    if parameter.step is None or keep_step:
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    last = _last_step(parameter.low, parameter.step, (parameter.n_values or 1) - 1)
    return FloatDistribution(
        parameter.low, parameter.high if last is None else last, step=None if last is None else parameter.step
    )


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Return the distribution of every parameter by its flat name."""
    return {name: distribution_of(space[name]) for name in space.names}


def parameter_of(
    distribution: BaseDistribution, *, is_parent: bool = False, when: Mapping[str, Any] | None = None
) -> Parameter | None:
    """Return the parameter with the same values, or None if there is none, such as for an integer above 10**12.

    A choice whose options are all numbers counts as ordered, as everywhere in this package.

    Args:
        distribution: Of Optuna.
        is_parent: Whether other parameters depend on it; then an integer becomes a choice.
        when: The condition of the parameter.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

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


def _last_step(low: float, step: float, n_steps: int) -> float | None:
    """Return the last value of the grid in decimal arithmetic, as Optuna computes it; None if it is not a float."""
    exact = Decimal(str(low)) + n_steps * Decimal(str(step))
    return float(exact) if Decimal(str(float(exact))) == exact else None
