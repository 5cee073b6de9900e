"""Standardised numbers and the units of the values, there and back."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nbcompress.optimize.units import Units

VALUES = st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 3)), min_size=2, max_size=30)


@given(VALUES, st.booleans())
@example(values=[0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.5, -16056.0], damped=True)
def test_order_and_way_back(values: list[float], damped: bool) -> None:
    y, units = Units.of(np.array(values), damped=damped)
    assert (np.diff(y[np.argsort(values, kind="stable")]) >= -1e-9).all()
    back, width = units.restored(y, np.full_like(y, 0.1))
    np.testing.assert_allclose(back, values, rtol=1e-6, atol=1e-6 * max(1.0, np.abs(values).max()))
    assert (width > 0).all()


def test_damping_by_hand() -> None:
    """0 .. 100 has its knee at 50, and its unit (to the 16 % quantile) is 34; values above come closer."""
    y, units = Units.of(np.arange(101.0), damped=True)
    assert (units.knee, units.unit) == (pytest.approx(50.0), pytest.approx(34.0))
    steps = np.diff(y) * units.scale
    np.testing.assert_allclose(steps[:50], 1 / 34)
    assert steps[50:].max() < 1 / 34
    assert units.slope == pytest.approx(34 * units.scale)


def test_an_outlier_no_longer_hides_the_others() -> None:
    values = np.append(np.arange(9.0), 1e6)
    plain, damped = Units.of(values)[0], Units.of(values, damped=True)[0]
    assert np.ptp(plain[:9]) < 1e-4
    assert np.ptp(damped[:9]) > 0.2


@pytest.mark.parametrize("worst", [1e6, 1e12, 1e30, 1e300])
def test_however_large_the_outlier_is(worst: float) -> None:
    values = np.append(np.arange(9.0), worst)
    y, units = Units.of(values, damped=True)
    assert np.ptp(y[:9]) > 0.003
    np.testing.assert_allclose(units.restored(y[:9], np.ones(9))[0], values[:9], atol=1e-9)


def test_half_of_them_equal_and_best_are_not_damped() -> None:
    assert not Units.of(np.array([1.0, 1.0, 1.0, 5.0]), damped=True)[1].is_damped
