"""The unit interval: where a value lies on it, and which value lies at a place."""

from __future__ import annotations

import math
from decimal import Decimal

from nbcompress.errors import PointError


def clipped(u: float) -> float:
    if math.isnan(u):
        raise PointError("A place in the unit interval is a number, but got NaN.")
    return min(max(float(u), 0.0), 1.0)


def place_of(value: float, low: float, high: float, log: bool) -> float:
    if low == high:
        return 0.0
    width = math.log(high) - math.log(low) if log else 0.0
    # Neighbouring floats can have equal logarithms; between them a logarithmic axis is a linear one.
    if width > 0:
        return min(max((math.log(value) - math.log(low)) / width, 0.0), 1.0)
    return (value - low) / (high - low)


def value_at(u: float, low: float, high: float, log: bool) -> float:
    # The ends are exact, whatever the logarithm rounds to.
    if u in (0.0, 1.0):
        return high if u else low
    value = math.exp(math.log(low) + u * (math.log(high) - math.log(low))) if log else low + u * (high - low)
    return min(max(value, low), high)


def as_decimal(number: float) -> Decimal:
    return Decimal(repr(number))


def on_grid(low: float, step: float, index: int) -> float:
    # In decimals, so that 0.1 + 2 * 0.1 is 0.3, as a person writes it.
    return float(as_decimal(low) + index * as_decimal(step))
