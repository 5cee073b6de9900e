"""Batched BFGS against known minima and SciPy's L-BFGS-B."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, rosen, rosen_der

from nbcompress.optimize.batched_bfgs import batched_minimize


def minimized(function, starts, low=-2.0, high=2.0, evaluations=200, **rest):
    d = starts.shape[1]
    bounds = np.full(d, low), np.full(d, high)
    return batched_minimize(function, starts, *bounds, evaluations=evaluations, first_step=0.2, **rest)


def rosenbrock(x, on):
    return np.array([rosen(row) for row in x]), np.array([rosen_der(row) for row in x])


@pytest.mark.parametrize("high", [2.0, 0.5])
def test_as_good_as_scipy(high: float) -> None:
    """With and without a bound that holds."""
    starts = np.random.default_rng(0).uniform(-2, high, (6, 4))
    x, values = minimized(rosenbrock, starts, high=high)
    scipy_values = [
        minimize(rosen, start, jac=rosen_der, method="L-BFGS-B", bounds=[(-2, high)] * 4).fun for start in starts
    ]
    assert values.min() <= min(scipy_values) + 1e-8
    assert (np.sort(values) <= np.sort(scipy_values) + 1e-6).all()
    np.testing.assert_allclose(values, [rosen(row) for row in x])


@given(seed=st.integers(0, 1000), d=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_a_bowl_in_a_box(seed: int, d: int) -> None:
    """The minimum of a separable bowl is its centre, moved into the box."""
    rng = np.random.default_rng(seed)
    centre, weights = rng.uniform(-3, 3, d), 10 ** rng.uniform(-1, 1, d)
    starts = rng.uniform(-2, 2, (3, d))
    x, _ = minimized(lambda u, on: ((weights * (u - centre) ** 2).sum(1), 2 * weights * (u - centre)), starts)
    np.testing.assert_allclose(x, np.repeat(centre.clip(-2, 2)[None], 3, axis=0), atol=1e-3)


def test_starts_are_on_their_own() -> None:
    """Alone or with others, a start goes the same way; and each is told which one it is."""
    starts = np.random.default_rng(1).uniform(-2, 2, (4, 3))
    targets = np.arange(4.0)[:, None] / 4

    def bowls(x, on):
        away = x - targets[on]
        return (away**4).sum(1), 4 * away**3

    together = minimized(bowls, starts)[0]
    alone = minimized(lambda x, on: bowls(x, on + 2), starts[2:3])[0]
    np.testing.assert_allclose(together[2], alone[0], atol=1e-12)
    np.testing.assert_allclose(together, np.repeat(targets, 3, axis=1), atol=0.05)


def test_what_is_not_finite_is_too_far() -> None:
    """log is undefined below 0; a start there stays, the other finds the minimum of x - log x."""

    def barrier(x, on):
        with np.errstate(invalid="ignore", divide="ignore"):
            return (x - np.log(x)).sum(1), 1 - 1 / x

    x, values = minimized(barrier, np.array([[0.05], [-1.0]]))
    assert x[0, 0] == pytest.approx(1.0, abs=1e-3)
    assert x[1, 0] == -1.0
    assert values[1] == np.inf


def test_bounds_that_pin_and_nothing_to_do() -> None:
    starts = np.array([[0.3, 0.7], [0.1, 0.2]])
    low, high = np.array([[0.3, 0.0], [0.1, 0.2]]), np.array([[0.3, 1.0], [0.1, 0.2]])
    x, _ = batched_minimize(lambda u, on: ((u**2).sum(1), 2 * u), starts, low, high, evaluations=50, first_step=0.1)
    np.testing.assert_allclose(x, [[0.3, 0.0], [0.1, 0.2]], atol=1e-6)


def test_no_more_calls_than_allowed() -> None:
    calls = []
    minimized(lambda x, on: (calls.append(len(x)), rosenbrock(x, on))[1], np.full((2, 4), -1.5), evaluations=7)
    assert len(calls) == 7


def test_in_a_race_those_far_behind_give_up() -> None:
    """Bowls whose depth is their number: the deepest is found as ever, in fewer and smaller calls."""
    starts = np.random.default_rng(2).uniform(-2, 2, (5, 3))

    def bowls(x, on):
        sizes.append(len(on))
        return (x**4).sum(1) - 10.0 * on, 4 * x**3

    found = {}
    n_evaluated = {}
    for patience in (np.inf, 2.0):
        sizes: list[int] = []
        found[patience] = minimized(bowls, starts, value_tolerance=1e-12, patience=patience)
        n_evaluated[patience] = sum(sizes)
    assert found[2.0][1].argmin() == 4
    assert found[2.0][1][4] == found[np.inf][1][4]
    assert n_evaluated[2.0] < n_evaluated[np.inf] / 2
    # Those that gave up are told where they stood.
    np.testing.assert_allclose(found[2.0][1], bowls(found[2.0][0], np.arange(5))[0])


def test_a_race_of_one_is_none() -> None:
    start = np.array([[-1.2, 1.0]])
    alone, racing = minimized(rosenbrock, start), minimized(rosenbrock, start, patience=1e-3)
    np.testing.assert_array_equal(alone[0], racing[0])
