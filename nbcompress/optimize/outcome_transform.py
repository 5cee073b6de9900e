"""Standardize the values that a surrogate learns from, with a logarithmic tail for bad values.

`OutcomeTransform` plays the role of BoTorch's outcome transforms. `without_penalties` pulls in penalty values, such as
1e9 for a failed run, before a transform is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nbcompress.optimize.history import Array

# Differences below this share of the largest value are rounding errors, not a scale.
ROUNDING = 1e-12
# The log tail begins at the first quantile, the knee. The distance between the two quantiles is its unit; for normally
# distributed values that is one standard deviation.
KNEE_QUANTILE, UNIT_QUANTILE = 0.5, 0.16
# The tail is nearly linear up to about this many units above the knee. Heuristic, see benchmarks.md#outcome-transform.
LOG_TAIL_SCALE = 3.0
# Limit of the exponent when a tail value is untransformed. One value far below the others makes a standardized unit so
# long that the band around a median prediction would overflow otherwise.
MAX_TAIL_EXPONENT = 300.0
# Values are penalties if they are at most this share of all values and lie beyond a gap of this many times the extent
# of the rest. Heuristic, see benchmarks.md#outcome-transform.
PENALTY_GAP, MAX_PENALTY_SHARE = 10.0, 1 / 3


def without_penalties(values: Array, known_good: float = -np.inf) -> Array:
    """Replace values far beyond the rest by the best value plus twice the extent of the rest.

    A penalty such as 100 or 1e9 only says that a run went wrong. Taken literally, it would hide all differences among
    the good values.

    Args:
        values: Shape `(n,)`; smaller is better.
        known_good: Values up to this one are never penalties.

    Returns:
        Shape `(n,)`.
    """
    ordered = np.sort(values)
    n_rest = np.arange(1, len(ordered))
    with np.errstate(over="ignore"):
        extent, gaps = ordered[:-1] - ordered[:1], np.diff(ordered)
        is_end = (n_rest >= (1 - MAX_PENALTY_SHARE) * len(ordered)) & (extent > 0) & (gaps > PENALTY_GAP * extent)
        ends = np.flatnonzero(is_end & (ordered[:-1] >= known_good))
        return np.minimum(values, (ordered[:-1] + extent)[ends[0]]) if len(ends) > 0 else values


@dataclass(frozen=True)
class OutcomeTransform:
    """A monotone transform between values and standardized values y: `value = knee + unit * expand(shift + scale * y)`.

    `expand(w)` is w. With a log tail it is w below 0 and `D (exp(w / D) - 1)` above, where D = LOG_TAIL_SCALE. So
    values worse than the median count by their logarithm, and very bad values do not hide differences among good ones.
    Better values, and every improvement, keep a linear scale.
    """

    shift: float = 0.0
    scale: float = 1.0
    knee: float = 0.0
    unit: float = 1.0
    has_log_tail: bool = False

    @classmethod
    def fit(cls, values: Array, *, log_tail: bool = False) -> tuple[Array, OutcomeTransform]:
        """Standardize values to mean 0 and standard deviation 1. Safe for constant and for huge values.

        Args:
            values: Shape `(n,)`, finite.
            log_tail: Whether values above the median count by their logarithm. It is left out where the median and the
                16 % quantile are equal.

        Returns:
            The standardized values `(n,)`, and the transform.
        """
        largest = float(np.abs(values).max(initial=0.0)) or 1.0
        unit_values = values / largest
        knee, unit = 0.0, 1.0
        if log_tail:
            low, knee = np.quantile(unit_values, [UNIT_QUANTILE, KNEE_QUANTILE]).tolist()
            unit = knee - low
            # Both may be tiny beside one huge value, so rounding is judged by their own magnitude.
            log_tail = unit > ROUNDING * max(abs(low), abs(knee))
            knee, unit = (knee, unit) if log_tail else (0.0, 1.0)
        w = _compress((unit_values - knee) / unit) if log_tail else unit_values
        shift, scale = float(w.mean()), float(w.std())
        scale = scale if scale > ROUNDING else 1.0
        return (w - shift) / scale, cls(shift, scale, knee * largest, unit * largest, log_tail)

    @property
    def linear_scale(self) -> float:
        """The difference of values that one standardized unit stands for, below the knee."""
        return self.unit * self.scale

    def transform(self, value: float) -> float:
        """Return one value, standardized."""
        w = np.array((value - self.knee) / self.unit)
        return (float(_compress(w) if self.has_log_tail else w) - self.shift) / self.scale

    def slopes(self, values: Array) -> Array:
        """Return the derivative of the standardized values by the values, at values `(n,)`."""
        w = (values - self.knee) / self.unit
        inner = 1.0 / (1.0 + np.maximum(w, 0.0) / LOG_TAIL_SCALE) if self.has_log_tail else np.ones_like(w)
        return np.asarray(inner / self.linear_scale)

    def untransform(self, mean: Array, std: Array) -> tuple[Array, Array]:
        """Return standardized means and standard deviations in the units of the values.

        With a log tail these are the median and half the width of the one-sigma band.
        """
        w = self.shift + self.scale * mean
        if not self.has_log_tail:
            return self.knee + self.unit * w, self.linear_scale * std
        band = self.scale * std
        width = 0.5 * (_expand(w + band) - _expand(w - band))
        return self.knee + self.unit * _expand(w), self.unit * width


def _compress(w: Array) -> Array:
    return np.where(w > 0.0, LOG_TAIL_SCALE * np.log1p(np.maximum(w, 0.0) / LOG_TAIL_SCALE), w)


def _expand(w: Array) -> Array:
    return np.where(w > 0.0, LOG_TAIL_SCALE * np.expm1(np.clip(w / LOG_TAIL_SCALE, 0.0, MAX_TAIL_EXPONENT)), w)
