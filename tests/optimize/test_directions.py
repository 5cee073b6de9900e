"""Several losses along one direction: by hand, against Monte Carlo, and what a search makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbcompress.optimize.directions import FURTHER, ROUNDED, draw_direction, improvement_along, reach
from nbcompress.optimize.hypervolume import reference_point
from nbcompress.optimize.surrogate import Form, GaussianProcess, Hyperparameters

OWNER = np.array([0, 1])
HYPER = Hyperparameters(np.array([0.3, 0.4]), 1.0, 1e-4)


def processes(m: int, n: int = 10) -> list[GaussianProcess]:
    rng = np.random.default_rng(m)
    features = rng.random((n, 2))
    return [GaussianProcess(Form(), HYPER, OWNER, features, rng.standard_normal(n)) for _ in range(m)]


def test_reach_by_hand() -> None:
    """From (4, 4) along (.6, .8): the losses (1, 0) go 3 / .6 = 5 along both, (1, 2) are held back by the second."""
    losses = np.array([[1.0, 0.0], [1.0, 2.0], [5.0, 0.0]])
    np.testing.assert_allclose(reach(losses, np.array([4.0, 4.0]), np.array([0.6, 0.8])), [5.0, 2.5, -1 / 0.6])


@given(seed=st.integers(0, 2**31), m=st.integers(2, 4))
@settings(deadline=None)
def test_a_direction_is_positive_and_of_length_one(seed: int, m: int) -> None:
    direction = draw_direction(np.random.default_rng(seed), m)
    assert direction.shape == (m,)
    assert (direction > 0.01).all()
    assert np.linalg.norm(direction) == pytest.approx(1.0)


@pytest.mark.parametrize("m", [2, 3])
def test_the_mean_over_directions_is_the_hypervolume(m: int) -> None:
    """One point at 0 below the reference 1 dominates the unit cube: volume 1, for every m.

    E[reach^m] over the part of the unit sphere where w > 0 is the volume times 2^m / (volume of the unit ball).
    """
    rng = np.random.default_rng(0)
    directions = np.abs(rng.standard_normal((200_000, m)))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    reached = np.array((1.0 / directions).min(1))
    ball = {2: np.pi, 3: 4 * np.pi / 3}[m]
    assert (reached**m).mean() * ball / 2**m == pytest.approx(1.0, rel=0.01)


def test_pi_against_monte_carlo() -> None:
    both = processes(2)
    losses = np.stack([one.means(both[0].features) for one in both], axis=1)
    reference, direction = reference_point(losses), np.array([0.6, 0.8])
    x = np.array([[0.2, 0.9], [0.5, 0.5]])
    rng = np.random.default_rng(0)
    drawn = np.stack([mean + std * rng.standard_normal((400_000, 2)) for mean, std in (p.predict(x) for p in both)], 2)
    best = reach(losses, reference, direction).max()
    expected = [(reach(drawn[:, i], reference, direction) > best + FURTHER).mean() for i in range(2)]
    value = improvement_along("pi", both, losses, reference, direction).score(x)
    np.testing.assert_allclose(np.exp(value), expected, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("m", [2, 3])
def test_ucb_is_how_far_the_optimistic_losses_reach(m: int) -> None:
    several = processes(m)
    losses = np.stack([one.means(several[0].features) for one in several], axis=1)
    reference, direction = reference_point(losses), draw_direction(np.random.default_rng(3), m)
    x = np.random.default_rng(1).random((20, 2))
    predicted = [one.predict(x) for one in several]
    optimistic = np.stack([mean - 2 * std for mean, std in predicted], axis=1)
    value = improvement_along("ucb", several, losses, reference, direction).score(x)
    exact = reach(optimistic, reference, direction)
    assert (value <= exact + 1e-12).all()
    assert (value >= exact - ROUNDED * np.log(m) - 1e-12).all()


@pytest.mark.parametrize("name", ["ucb", "pi"])
@pytest.mark.parametrize("m", [2, 4])
def test_gradients(name: str, m: int) -> None:
    several = processes(m)
    losses = np.stack([one.means(several[0].features) for one in several], axis=1)
    gain = improvement_along(
        name, several, losses, reference_point(losses), draw_direction(np.random.default_rng(0), m)
    )
    x = np.random.default_rng(5).random((5, 2))
    value, gradient = gain.score_with_gradients(x)
    np.testing.assert_allclose(value, gain.score(x))
    for i in range(2):
        step = np.zeros(2)
        step[i] = 1e-6
        numeric = (gain.score(x + step) - gain.score(x - step)) / 2e-6
        np.testing.assert_allclose(gradient[:, i], numeric, rtol=1e-4, atol=1e-5)
