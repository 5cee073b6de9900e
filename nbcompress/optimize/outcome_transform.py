"""Between the units of known values and the standardised numbers that a process sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nbcompress.optimize.history import Array

# What is left of equal values after rounding is not a scale: shares of the largest value.
ROUNDING = 1e-12
# The unit of damping is the distance of these quantiles; for bell-shaped values one standard deviation.
MIDDLE, LOWER = 0.5, 0.16
# Up to so many units above the knee the scale is nearly linear. A heuristic, chosen on Levy 4, Rosenbrock 4, Ackley 5
# and 30 layers: less loses half of the gain there, more finds no way out of a first good branch of a conditional space.
DAMPING = 3.0
# The logarithmic side ends so many powers of e above the knee: one value far below the others makes a standardised unit
# so long that the band around a middling one would reach past every number.
REACH = 300.0
# What a cell returns for a run that went wrong, 100 or 1e9, says "bad" and no more; taken at its word it leaves no
# difference among the good. Values are such penalties if they are at most a third of all, beyond a gap of so many times
# the extent of the rest. A heuristic: with a tenth of the space at 100, searches of 30 trials ended at .019 instead of
# .12 (a conditional problem, 10 seeds) and at 7e-5 instead of .008 (a mixed one); none of the usual problems has them.
FAR, MOST_PENALTIES = 10.0, 1 / 3


def without_penalties(values: Array, known_good: float = -np.inf) -> Array:
    """Return values `(n,)` with those far beyond the rest brought to twice its extent.

    Args:
        values: Smaller is better.
        known_good: Values up to this one are no penalties, however far they lie.
    """
    ordered = np.sort(values)
    n_rest = np.arange(1, len(ordered))
    with np.errstate(over="ignore"):
        extent, gaps = ordered[:-1] - ordered[:1], np.diff(ordered)
        is_end = (n_rest >= (1 - MOST_PENALTIES) * len(ordered)) & (extent > 0) & (gaps > FAR * extent)
        ends = np.flatnonzero(is_end & (ordered[:-1] >= known_good))
        return np.minimum(values, (ordered[:-1] + extent)[ends[0]]) if len(ends) > 0 else values


@dataclass(frozen=True)
class Units:
    """A monotone scale: `value = knee + unit * expand(shift + scale * y)`.

    `expand(w)` is w; or, damped, w below 0 and D (exp(w / D) - 1) above, with D = DAMPING. So values worse than the
    knee, the median, count by their logarithm: how bad the worst are is no reason to see no difference among the good.
    Better values, and with them every improvement, keep a linear scale.
    """

    shift: float = 0.0
    scale: float = 1.0
    knee: float = 0.0
    unit: float = 1.0
    is_damped: bool = False

    @classmethod
    def of(cls, values: Array, *, damped: bool = False) -> tuple[Array, Units]:
        """Return `(y, units)` with mean 0 and standard deviation 1; safe for constant and for huge values."""
        largest = float(np.abs(values).max(initial=0.0)) or 1.0
        unit_values = values / largest
        knee, unit = 0.0, 1.0
        if damped:
            low, knee = np.quantile(unit_values, [LOWER, MIDDLE]).tolist()
            unit = knee - low
            # Beside one huge value these two are tiny; whether they differ by rounding is a matter of their own size.
            damped = unit > ROUNDING * max(abs(low), abs(knee))
            knee, unit = (knee, unit) if damped else (0.0, 1.0)
        w = _compress((unit_values - knee) / unit) if damped else unit_values
        shift, scale = float(w.mean()), float(w.std())
        scale = scale if scale > ROUNDING else 1.0
        return (w - shift) / scale, cls(shift, scale, knee * largest, unit * largest, damped)

    @property
    def slope(self) -> float:
        """What one standardised unit is worth below the knee."""
        return self.unit * self.scale

    def standardised(self, value: float) -> float:
        w = np.array((value - self.knee) / self.unit)
        return (float(_compress(w) if self.is_damped else w) - self.shift) / self.scale

    def restored(self, mean: Array, std: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation in the units of the values; damped: the median, and half of its band."""
        w = self.shift + self.scale * mean
        if not self.is_damped:
            return self.knee + self.unit * w, self.slope * std
        band = self.scale * std
        width = 0.5 * (_expand(w + band) - _expand(w - band))
        return self.knee + self.unit * _expand(w), self.unit * width


def _compress(w: Array) -> Array:
    return np.where(w > 0.0, DAMPING * np.log1p(np.maximum(w, 0.0) / DAMPING), w)


def _expand(w: Array) -> Array:
    return np.where(w > 0.0, DAMPING * np.expm1(np.clip(w / DAMPING, 0.0, REACH)), w)
