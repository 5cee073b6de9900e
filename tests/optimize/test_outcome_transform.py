"""Outcome transforms: order, round trip, log tail and penalties."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nbcompress.optimize.outcome_transform import OutcomeTransform, without_penalties

VALUES = st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 3)), min_size=2, max_size=30)


@given(VALUES, st.booleans())
@example(values=[0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.5, -16056.0], log_tail=True)
def test_order_and_way_back(values: list[float], log_tail: bool) -> None:
    y, transform = OutcomeTransform.fit(np.array(values), log_tail=log_tail)
    assert (np.diff(y[np.argsort(values, kind="stable")]) >= -1e-9).all()
    back, width = transform.untransform(y, np.full_like(y, 0.1))
    np.testing.assert_allclose(back, values, rtol=1e-6, atol=1e-6 * max(1.0, np.abs(values).max()))
    assert (width > 0).all()


def test_log_tail_by_hand() -> None:
    """0 .. 100 has its knee at 50, and its unit (to the 16 % quantile) is 34; values above come closer."""
    y, transform = OutcomeTransform.fit(np.arange(101.0), log_tail=True)
    assert (transform.knee, transform.unit) == (pytest.approx(50.0), pytest.approx(34.0))
    steps = np.diff(y) * transform.scale
    np.testing.assert_allclose(steps[:50], 1 / 34)
    assert steps[50:].max() < 1 / 34
    assert transform.linear_scale == pytest.approx(34 * transform.scale)


def test_an_outlier_no_longer_hides_the_others() -> None:
    values = np.append(np.arange(9.0), 1e6)
    plain, tailed = OutcomeTransform.fit(values)[0], OutcomeTransform.fit(values, log_tail=True)[0]
    assert np.ptp(plain[:9]) < 1e-4
    assert np.ptp(tailed[:9]) > 0.2


@pytest.mark.parametrize("worst", [1e6, 1e12, 1e30, 1e300])
def test_however_large_the_outlier_is(worst: float) -> None:
    values = np.append(np.arange(9.0), worst)
    y, transform = OutcomeTransform.fit(values, log_tail=True)
    assert np.ptp(y[:9]) > 0.003
    np.testing.assert_allclose(transform.untransform(y[:9], np.ones(9))[0], values[:9], atol=1e-9)


def test_half_of_them_equal_and_best_have_no_log_tail() -> None:
    assert not OutcomeTransform.fit(np.array([1.0, 1.0, 1.0, 5.0]), log_tail=True)[1].has_log_tail


def test_penalties_by_hand() -> None:
    """The rest reaches from 1 to 3: what lies beyond 3 + 10 * 2 comes to 3 + 2."""
    values = np.array([1.0, 100.0, 2.0, 3.0, 2.5, 1e9, 1.5])
    assert without_penalties(values).tolist() == [1.0, 5.0, 2.0, 3.0, 2.5, 5.0, 1.5]
    # Too near, too many of them, too little known, or on the front: as they are.
    for few in (
        [1.0, 22.0, 2.0, 3.0, 2.5],
        [1.0, 100.0, 200.0, 2.0, 3.0],
        [1.0, 100.0],
        [100.0],
        [],
        [2.0, 2.0, 2.0, 9.0],
    ):
        assert without_penalties(np.array(few)).tolist() == few
    assert without_penalties(values, known_good=100.0)[1] == 100.0


@given(values=arrays(np.float64, st.integers(0, 30), elements=st.floats(-1e308, 1e308)))
def test_without_penalties_the_order_stays_and_most_values_too(values: np.ndarray) -> None:
    found = without_penalties(values)
    order = np.argsort(values, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    assert (found <= values).all()
    assert (found == values).sum() >= np.ceil(len(values) * 2 / 3 - 1e-9)
