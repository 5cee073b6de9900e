"""Checks of option values: each states the law, the value that came, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from numbers import Integral, Real

from nbcompress.errors import CompressionError, did_you_mean


def check_number(name: str, value: object, low: float, high: float, *, is_open_low: bool = False) -> float:
    """Return `value` as a float in `[low, high]` (in `(low, high]` if `is_open_low`); bool and NaN are refused."""
    bounds = f"{'above' if is_open_low else 'from'} {low:g}" + (f" to {high:g}" if isfinite(high) else "")
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise CompressionError(f"{name} must be a number {bounds}, got {value!r}")
    number = float(value)
    if number < low or number > high or (is_open_low and number == low):
        raise CompressionError(f"{name} must be a number {bounds}, got {value!r}")
    return number


def check_count(name: str, value: object, low: int, high: int | None = None) -> int:
    """Return `value` as an int in `low ... high`; bool and fractions are refused."""
    bounds = f"from {low}" + (f" to {high}" if high is not None else "")
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise CompressionError(f"{name} must be a whole number {bounds}, got {value!r}")
    number = int(value)
    if number < low or (high is not None and number > high):
        raise CompressionError(f"{name} must be a whole number {bounds}, got {value!r}")
    return number


def check_seed(seed: object) -> int:
    """Return `seed` if every generator takes it."""
    return check_count("seed", seed, 0, 2**63 - 1)


def check_choice(name: str, value: object, known: Iterable[str], later: Mapping[str, str] | None = None) -> str:
    """Return `value` if it is among `known`.

    Args:
        name: The option's name.
        value: What came.
        known: What works.
        later: What is a word of ours that does not work here, with the reason.
    """
    options = list(known)
    if isinstance(value, str) and value in options:
        return value
    listed = ", ".join(options)
    if later and isinstance(value, str) and value in later:
        raise CompressionError(f"{name}={value!r} {later[value]}; choose from: {listed}")
    hint = did_you_mean(value, options) if isinstance(value, str) else ""
    raise CompressionError(f"{name} must be one of {listed}, got {value!r}.{hint}")


__all__ = ["check_choice", "check_count", "check_number", "check_seed"]
