"""Our parameters as Optuna's distributions, for its samplers, its plots and its dashboard."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from nbcompress.space import Choice, Float, Int, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distribution_of(parameter: Float | Int | Choice) -> BaseDistribution:
    """Return the distribution of Optuna with the same values, or the nearest one.

    Optuna has no step together with `log`, nor one whose last value is not a float: there the step is dropped. Of
    `True` and `1` among options it takes the first. Only what its tools show is affected: the exact point is stored
    with the trial.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.options)
    if isinstance(parameter, Int):
        step = 1 if parameter.log else parameter.step
        # Here the last step may end below the upper bound. Optuna warns of that, so its upper bound is the last step.
        high = parameter.high - (parameter.high - parameter.low) % step
        return IntDistribution(parameter.low, high, log=parameter.log, step=step)
    if parameter.step is None or parameter.log:
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    last = _last_step(parameter.low, parameter.high, parameter.step)
    return FloatDistribution(
        parameter.low, parameter.high if last is None else last, step=None if last is None else parameter.step
    )


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Return the distribution of every parameter by its flat name."""
    return {name: distribution_of(space[name]) for name in space.names}


def _last_step(low: float, high: float, step: float) -> float | None:
    """Return the last value of the grid in decimal arithmetic, as Optuna has it; None if no float has that value."""
    base, width = Decimal(str(low)), Decimal(str(step))
    exact = base + (Decimal(str(high)) - base) // width * width
    return float(exact) if Decimal(str(float(exact))) == exact else None
