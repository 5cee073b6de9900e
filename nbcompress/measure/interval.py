"""Confidence intervals of proportions and medians.

References:
    Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    David and Nagaraja (2003), "Order Statistics", section 7.1: the interval of a median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist, median

from nbcompress.errors import MeasureError


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval.

    Attributes:
        value: The estimate.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Whether the two intervals have a number in common."""
        return self.low <= other.high and other.low <= self.high


def proportion_interval(n_hits: int, n: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a proportion, such as an accuracy of `n_hits` of `n` examples.

    It keeps its confidence for few examples and near 0 and 1, where the normal approximation does not.

    Raises:
        MeasureError: Not `0 <= n_hits <= n` with `n >= 1`, or a confidence outside (0, 1).
    """
    if n < 1 or not 0 <= n_hits <= n:
        raise MeasureError(f"a proportion needs 0 <= hits <= n and n >= 1, got {n_hits} of {n}")
    z = z_score(confidence)
    share = n_hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and at n hits one end equals the share; rounding must not put it on the wrong side.
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


def z_score(confidence: float = 0.95) -> float:
    """Return half the width of the central interval of a normal distribution, in standard deviations; 1.96 for 0.95.

    Raises:
        MeasureError: A confidence outside (0, 1).
    """
    _check_confidence(confidence)
    return NormalDist().inv_cdf((1 + confidence) / 2)


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the median of `samples` and its interval, without an assumption on their distribution.

    With `k` the largest rank for which `2 P(Binomial(n, 1/2) < k) <= 1 - confidence`, the interval goes from the k-th
    smallest sample to the k-th largest. With fewer than 6 samples no such rank exists for 95 %; the interval then spans
    all samples.

    Raises:
        MeasureError: No samples, or a confidence outside (0, 1).
    """
    n = len(samples)
    if not n:
        raise MeasureError("a median needs at least one sample, got none")
    _check_confidence(confidence)
    rank, below = 0, 1  # below: number of the 2^n sign patterns with fewer than rank + 1 samples under the median
    while 2 * below <= (1 - confidence) * 2**n:
        rank += 1
        below += comb(n, rank)
    rank = max(rank, 1)
    ordered = sorted(samples)
    return Interval(median(ordered), ordered[rank - 1], ordered[n - rank])


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise MeasureError(f"confidence must lie between 0 and 1, got {confidence}")


__all__ = ["Interval", "median_interval", "proportion_interval", "z_score"]
