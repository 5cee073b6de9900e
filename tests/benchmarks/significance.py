"""Intervals of means over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from nbcompress.measure import Interval

Floats = NDArray[np.float64]


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of independent values with a 95 % interval by bootstrap."""
    return _interval(lambda numbers, axis: np.mean(numbers, axis=axis), values)


def share_interval(top: Sequence[float], bottom: Sequence[float], found: Sequence[float]) -> Interval:
    """Share of the gap between `bottom` and `top` that `found` closes, with a 95 % interval by bootstrap.

    A ratio of means over seeds, since the gap of a single seed can be zero. Seeds are drawn with their three values.
    """

    def share(tops: Floats, bottoms: Floats, founds: Floats, axis: int) -> Floats:
        low, high, here = (np.mean(column, axis=axis) for column in (bottoms, tops, founds))
        return np.asarray((here - low) / (high - low))

    return _interval(share, top, bottom, found)


def _interval(statistic: Callable[..., Floats], *columns: Sequence[float]) -> Interval:
    arrays = tuple(np.asarray(column, dtype=np.float64) for column in columns)
    drawn = bootstrap(
        arrays, statistic, paired=True, vectorized=True, n_resamples=9999, method="percentile", rng=0
    ).confidence_interval
    return Interval(float(statistic(*arrays, axis=0)), float(drawn.low), float(drawn.high))
