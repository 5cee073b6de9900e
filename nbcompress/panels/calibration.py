"""Whether the surrogate can be trusted: every trial compared with what the others foretell of it."""

from __future__ import annotations

from collections.abc import Iterable
from math import comb
from typing import Any

import numpy as np

from nbcompress.panels.text import finite

# Half the width, in standard deviations, of the interval that holds 95 % of a normal distribution.
WIDTH_95 = 1.959964
# Fewer trials say nothing, and a picture needs no more.
FEWEST, MOST = 8, 200
# A surrogate that keeps its promise falls this far behind it in one of twenty studies.
DOUBT = 0.05
# Residuals should spread like a standard normal distribution; with less than this, the bands are far too wide.
CAUTIOUS = 0.4


def calibration_data(residuals: Iterable[float], metric: str) -> dict[str, Any] | None:
    """Return the comparison as data against the schema; None if no trial could be compared.

    Args:
        residuals: `(known - foretold) / standard deviation` of each trial, left out of what the surrogate learns from.
        metric: Which metric they are about.
    """
    known = np.array([one for one in map(float, residuals) if np.isfinite(one)])
    if not len(known):
        return None
    inside = int((np.abs(known) <= WIDTH_95).sum())
    return {
        "metric": metric,
        "residuals": [finite(f"{one:.3g}") for one in known[-MOST:]],
        "inside": inside / len(known),
        "sentence": _sentence(inside, known),
    }


def _sentence(inside: int, residuals: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    n = len(residuals)
    fact = f"{inside} of {n} trials lie in the 95 % interval that the other trials foretell"
    if n < FEWEST:
        return f"{fact}: too few to say whether the surrogate can be trusted."
    if _at_most(inside, n) < DOUBT:
        return f"Only {fact}: the surrogate is too sure of itself, and its bands are too narrow."
    if float(np.sqrt(np.mean(residuals**2))) < CAUTIOUS:
        return f"{fact}, most of them near its middle: the surrogate's bands are wider than they need be."
    return f"{fact}: the surrogate's bands can be trusted."


def _at_most(inside: int, n: int) -> float:
    """Return how likely at most so many of `n` lie inside if each does with probability .95."""
    return sum(comb(n, k) * 0.95**k * 0.05 ** (n - k) for k in range(inside + 1))
