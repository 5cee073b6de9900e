"""Intervals against numbers worked out by hand, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcompress.errors import MeasureError
from nbcompress.measure import Interval, median_interval, proportion_interval


def test_wilson_by_hand() -> None:
    # 8 of 10 with z = 1.959964: middle (0.8 + 0.192073) / 1.384146 = 0.716740,
    # half width 1.959964 / 1.384146 * sqrt(0.016 + 0.0096036) = 0.226577.
    found = proportion_interval(8, 10)
    assert found.value == 0.8
    assert found.low == pytest.approx(0.490162, abs=1e-5)
    assert found.high == pytest.approx(0.943318, abs=1e-5)


def test_wilson_at_the_ends_by_hand() -> None:
    # 0 of n: from 0 to z^2 / (n + z^2) = 3.841459 / 13.841459.
    assert proportion_interval(0, 10) == Interval(0.0, 0.0, pytest.approx(0.277533, abs=1e-5))
    assert proportion_interval(10, 10) == Interval(1.0, pytest.approx(0.722467, abs=1e-5), 1.0)


@given(st.integers(1, 10_000), st.data())
def test_wilson_holds_the_share_and_is_symmetric(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    found, mirrored = proportion_interval(hits, n), proportion_interval(n - hits, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low == pytest.approx(1 - mirrored.high, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "low", "high"),
    [
        (1, 1, 1),
        (5, 1, 5),  # 2 / 32 > 0.05: no pair of samples is sure enough, so all of them
        (6, 1, 6),  # 2 / 64 <= 0.05
        (9, 2, 8),  # 2 (1 + 9) / 512 = 0.039; with 36 more it is 0.18
        (10, 2, 9),  # 2 (1 + 10) / 1024 = 0.021; with 45 more it is 0.11
        (30, 10, 21),
    ],
)
def test_the_median_of_the_first_numbers(n: int, low: int, high: int) -> None:
    found = median_interval([float(sample) for sample in range(n, 0, -1)])
    assert found == Interval((n + 1) / 2, low, high)


def test_the_median_interval_covers() -> None:
    samples = np.random.default_rng(0).exponential(size=(2000, 25))
    median = np.log(2)
    covered = sum(found.low <= median <= found.high for found in map(median_interval, samples.tolist()))
    assert covered / 2000 > 0.945  # the confidence: at least 95 %, here 95.7 %


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: proportion_interval(3, 2), "0 <= hits <= n and n >= 1, got 3 of 2"),
        (lambda: proportion_interval(0, 0), "got 0 of 0"),
        (lambda: proportion_interval(1, 2, confidence=1), "confidence must lie between 0 and 1, got 1"),
        (lambda: median_interval([]), "at least one sample"),
        (lambda: median_interval([1.0], confidence=0), "confidence must lie between 0 and 1"),
    ],
)
def test_what_has_no_interval(call, text: str) -> None:
    with pytest.raises(MeasureError, match=text):
        call()
