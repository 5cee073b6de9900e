"""Log EHVI and scalarized acquisitions: by hand, against Monte Carlo and against BoTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbcompress.optimize import multi_objective as hypervolume
from nbcompress.optimize.acquisition import log_expected_improvement
from nbcompress.optimize.history import History
from nbcompress.optimize.multi_objective import (
    SCALARIZED_PI_MARGIN,
    SMOOTHING,
    LogExpectedHypervolumeImprovement,
    box_decomposition_2d,
    draw_weights,
    reference_point,
    scalarize,
    scalarized_acquisition,
    useful_limits,
)
from nbcompress.optimize.surrogates import botorch_acquisition as botorch_model
from nbcompress.optimize.surrogates.botorch import as_botorch, tensor
from nbcompress.optimize.surrogates.botorch_acquisition import (
    box_decomposition,
    noisy_hypervolume_improvement,
)
from nbcompress.optimize.surrogates.closed_form import GaussianProcess, Hyperparameters, ModelSpec
from nbcompress.study.front import is_non_dominated

OWNER = np.array([0, 1])
HYPER = Hyperparameters(np.array([0.3, 0.4]), 1.0, 1e-4)


def models_of(m: int, n: int = 10) -> list[GaussianProcess]:
    rng = np.random.default_rng(m)
    features = rng.random((n, 2))
    return [GaussianProcess(ModelSpec(), HYPER, OWNER, features, rng.standard_normal(n)) for _ in range(m)]


def known(*rows: tuple[float, float], bound: float | None = None, slack: float = 0.0) -> History:
    """A history of errors and sizes, with a bound on the size; or with a constraint on something else."""
    history = History.empty(2, 1)
    for i, (error, size) in enumerate(rows):
        value = size - bound if bound is not None else slack + i
        history = history.with_point({"x": float(i)}, "told", [error, size], [value])
    return history


def test_useful_limits_by_hand() -> None:
    """Errors from .1 to .9 are of use up to .5, and sizes up to a tenth of their extent beyond the bound."""
    rows = [(0.1, 30.0), (0.4, 9.0), (0.9, 1.0)]
    np.testing.assert_allclose(useful_limits(known(*rows, bound=10.0)), [0.5, 10.9])
    # While no feasible error is that good, a tenth of the extent beyond the best one.
    np.testing.assert_allclose(useful_limits(known((0.1, 30.0), (0.8, 9.0), (0.9, 1.0), bound=10.0)), [0.88, 10.9])
    # A penalty is no extent.
    np.testing.assert_allclose(useful_limits(known(*rows, (1e9, 2.0), bound=10.0))[0], 0.1 + (0.8 * 2) / 2)


def test_without_a_bound_on_an_objective_there_are_no_limits() -> None:
    assert np.isinf(useful_limits(known((0.1, 30.0), (0.9, 1.0), (0.5, 3.0), slack=-5.0))).all()
    assert np.isinf(useful_limits(known((0.1, 30.0), bound=1.0))).all()
    assert np.isinf(useful_limits(History.empty(2, 1))).all()


def test_scalarize_by_hand() -> None:
    """Reference (4, 4), weights (.6, .8): (1, 0) gives 3 / .6 = 4 / .8 = 5; (1, 2) gives 2 / .8."""
    losses = np.array([[1.0, 0.0], [1.0, 2.0], [5.0, 0.0]])
    np.testing.assert_allclose(scalarize(losses, np.array([4.0, 4.0]), np.array([0.6, 0.8])), [5.0, 2.5, -1 / 0.6])


@given(seed=st.integers(0, 2**31), m=st.integers(2, 4))
@settings(deadline=None)
def test_weights_are_positive_and_of_length_one(seed: int, m: int) -> None:
    weights = draw_weights(np.random.default_rng(seed), m)
    assert weights.shape == (m,)
    assert (weights > 0.01).all()
    assert np.linalg.norm(weights) == pytest.approx(1.0)


@pytest.mark.parametrize("m", [2, 3])
def test_the_mean_over_weights_is_the_hypervolume(m: int) -> None:
    """One point at 0 below the reference 1 dominates the unit cube: volume 1, for every m.

    E[S^m] over the part of the unit sphere where w > 0 is the volume times 2^m / (volume of the unit ball).
    """
    rng = np.random.default_rng(0)
    all_weights = np.abs(rng.standard_normal((200_000, m)))
    all_weights /= np.linalg.norm(all_weights, axis=1)[:, None]
    reached = np.array((1.0 / all_weights).min(1))
    ball = {2: np.pi, 3: 4 * np.pi / 3}[m]
    assert (reached**m).mean() * ball / 2**m == pytest.approx(1.0, rel=0.01)


def test_pi_against_monte_carlo() -> None:
    both = models_of(2)
    losses = np.stack([gp.predict_mean(both[0].features) for gp in both], axis=1)
    reference, weights = reference_point(losses), np.array([0.6, 0.8])
    x = np.array([[0.2, 0.9], [0.5, 0.5]])
    rng = np.random.default_rng(0)
    drawn = np.stack([mean + std * rng.standard_normal((400_000, 2)) for mean, std in (p.predict(x) for p in both)], 2)
    best = scalarize(losses, reference, weights).max()
    expected = [(scalarize(drawn[:, i], reference, weights) > best + SCALARIZED_PI_MARGIN).mean() for i in range(2)]
    value = scalarized_acquisition("pi", both, losses, reference, weights).score(x)
    np.testing.assert_allclose(np.exp(value), expected, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("m", [2, 3])
def test_ucb_is_the_scalarized_value_of_optimistic_losses(m: int) -> None:
    several = models_of(m)
    losses = np.stack([gp.predict_mean(several[0].features) for gp in several], axis=1)
    reference, weights = reference_point(losses), draw_weights(np.random.default_rng(3), m)
    x = np.random.default_rng(1).random((20, 2))
    predicted = [gp.predict(x) for gp in several]
    optimistic = np.stack([mean - 2 * std for mean, std in predicted], axis=1)
    value = scalarized_acquisition("ucb", several, losses, reference, weights).score(x)
    exact = scalarize(optimistic, reference, weights)
    assert (value <= exact + 1e-12).all()
    assert (value >= exact - SMOOTHING * np.log(m) - 1e-12).all()


@pytest.mark.parametrize("name", ["ucb", "pi"])
@pytest.mark.parametrize("m", [2, 4])
def test_gradients(name: str, m: int) -> None:
    several = models_of(m)
    losses = np.stack([gp.predict_mean(several[0].features) for gp in several], axis=1)
    gain = scalarized_acquisition(
        name, several, losses, reference_point(losses), draw_weights(np.random.default_rng(0), m)
    )
    x = np.random.default_rng(5).random((5, 2))
    value, gradient = gain.score_with_gradients(x)
    np.testing.assert_allclose(value, gain.score(x))
    for i in range(2):
        step = np.zeros(2)
        step[i] = 1e-6
        numeric = (gain.score(x + step) - gain.score(x - step)) / 2e-6
        np.testing.assert_allclose(gradient[:, i], numeric, rtol=1e-4, atol=1e-5)


def models_with_shared_draws(m: int = 2, n: int = 10) -> list[GaussianProcess]:
    rng = np.random.default_rng(0)
    features = rng.random((n, 2))
    return [GaussianProcess(ModelSpec(), HYPER, OWNER, features, rng.standard_normal(n)) for _ in range(m)]


def losses_of(found: list[GaussianProcess]) -> np.ndarray:
    return np.stack([gp.predict(found[0].features)[0] for gp in found], axis=1)


def test_unbeaten_rows() -> None:
    losses = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 3.0], [3.0, 1.0], [2.0, 2.0]])
    assert is_non_dominated(losses).tolist() == [True, True, False, True, True]


def test_the_reference_lies_behind_the_worst() -> None:
    assert reference_point(np.array([[0.0, 5.0], [10.0, 5.0]])).tolist() == pytest.approx([11.0, 5.1])


def test_one_point_by_hand() -> None:
    """An almost certain candidate at (0, 0), a front of (1, 1) and the reference (3, 2): 3 * 2 - 2 * 1 = 4."""
    features = np.array([[0.0, 0.0]])
    sure = Hyperparameters(np.array([1.0, 1.0]), 1e-2, 1e-6)
    both = [GaussianProcess(ModelSpec(mean="zero"), sure, OWNER, features, np.zeros(1)) for _ in range(2)]
    gain = LogExpectedHypervolumeImprovement(both, np.array([[1.0, 1.0]]), np.array([3.0, 2.0]))
    assert float(np.exp(gain.score(features)[0])) == pytest.approx(4.0, rel=1e-3)


def test_three_losses_by_hand() -> None:
    """Almost certainly (0, 0, 0): the front (1, 2, 2), (2, 1, 2) keeps 2 + 2 - 1 of the 27 below (3, 3, 3)."""
    features = np.array([[0.0, 0.0]])
    sure = Hyperparameters(np.array([1.0, 1.0]), 1e-2, 1e-6)
    three = [GaussianProcess(ModelSpec(mean="zero"), sure, OWNER, features, np.zeros(1)) for _ in range(3)]
    front = np.array([[1.0, 2.0, 2.0], [2.0, 1.0, 2.0], [2.0, 2.0, 2.0], [0.0, 0.0, 4.0]])
    gain = LogExpectedHypervolumeImprovement(three, front, np.array([3.0, 3.0, 3.0]))
    assert float(np.exp(gain.score(features)[0])) == pytest.approx(24.0, rel=1e-3)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_equal_to_botorch(m: int) -> None:
    from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
    from botorch.models.model_list_gp_regression import ModelListGP
    from botorch.utils.multi_objective.box_decompositions import NondominatedPartitioning

    both = models_with_shared_draws(m)
    losses = losses_of(both)
    reference = reference_point(losses)
    model = ModelListGP(*[as_botorch(gp, -1.0) for gp in both])
    partitioning = NondominatedPartitioning(ref_point=tensor(-reference), Y=tensor(-losses))
    botorch_ehvi = ExpectedHypervolumeImprovement(model, (-reference).tolist(), partitioning)
    x = np.random.default_rng(1).random((6, 2))
    points = tensor(x).requires_grad_(True)
    expected = botorch_ehvi(points[:, None])
    (slopes,) = torch.autograd.grad(expected.sum(), points)
    value, gradient = LogExpectedHypervolumeImprovement(both, losses, reference).score_with_gradients(x)
    np.testing.assert_allclose(np.exp(value), expected.detach().numpy(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(np.exp(value)[:, None] * gradient, slopes.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_gradient_and_far_away(m: int) -> None:
    both = models_with_shared_draws(m)
    losses = losses_of(both)
    gain = LogExpectedHypervolumeImprovement(both, losses, reference_point(losses))
    for x in np.random.default_rng(1).random((4, 2)):
        numeric = [(gain.score((x + e)[None]) - gain.score((x - e)[None]))[0] / 2e-6 for e in 1e-6 * np.eye(2)]
        value, gradient = gain.score_with_gradients(x[None])
        assert value[0] == pytest.approx(gain.score(x[None])[0])
        np.testing.assert_allclose(gradient[0], numeric, rtol=1e-5, atol=1e-6)
    hopeless = LogExpectedHypervolumeImprovement(both, losses - 30.0, reference_point(losses - 30.0))
    value, gradient = hopeless.score_with_gradients(np.array([[0.5, 0.5]]))
    assert np.isfinite(value).all()
    assert value[0] < -100
    assert np.isfinite(gradient).all()


# Each sample has a front of its own, whose boxes become many with objectives and points.
@pytest.mark.parametrize(("m", "n", "n_samples"), [(2, 10, 2048), (3, 7, 512), (4, 3, 512)])
def test_sampled_hypervolume(m: int, n: int, n_samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = models_with_shared_draws(m, n)
    losses = losses_of(found)
    reference = reference_point(losses)
    before = torch.random.get_rng_state()
    gain = noisy_hypervolume_improvement(found, found[0].features[is_non_dominated(losses)], reference, seed=0)
    x = np.random.default_rng(1).random((3, 2))
    scores = gain.score(x)
    value, gradient = gain.score_with_gradients(x)
    assert torch.equal(before, torch.random.get_rng_state())
    assert value == pytest.approx(scores, abs=1e-6)
    assert np.isfinite(gradient).all()
    again = noisy_hypervolume_improvement(found, found[0].features[is_non_dominated(losses)], reference, seed=0)
    assert again.score(x).tolist() == scores.tolist()
    # With more and more samples it comes to the closed form, for here the known losses are all but certain.
    monkeypatch.setattr(botorch_model, "N_SAMPLES", n_samples)
    sampled = noisy_hypervolume_improvement(found, found[0].features[is_non_dominated(losses)], reference, seed=0)
    exact = LogExpectedHypervolumeImprovement(found, losses, reference)
    np.testing.assert_allclose(np.exp(sampled.score(x)), np.exp(exact.score(x)), rtol=0.03, atol=1e-6)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_boxes_fill_what_the_front_leaves_and_do_not_overlap(m: int) -> None:
    rng = np.random.default_rng(m)
    front = rng.random((12, m))
    front = front[is_non_dominated(front)]
    reference = np.full(m, 1.1)
    low, high = box_decomposition_2d(front, reference) if m == 2 else box_decomposition(front, reference)
    points = rng.uniform(-0.2, 1.3, (2000, m))
    inside = ((low <= points[:, None]) & (points[:, None] < high)).all(-1).sum(1)
    is_free = (points < reference).all(1) & ~(front <= points[:, None]).all(-1).any(1)
    assert inside.tolist() == is_free.astype(int).tolist()


@pytest.mark.parametrize("m", [2, 3, 4])
def test_without_a_front_all_of_the_box_below_the_reference_counts(m: int) -> None:
    found, x = models_with_shared_draws(m), np.random.default_rng(1).random((3, 2))
    gain = LogExpectedHypervolumeImprovement(found, np.full((1, m), 9.0), np.ones(m))
    expected = sum(log_expected_improvement(*gp.predict(x), 1.0)[0] for gp in found)
    np.testing.assert_allclose(gain.score(x), expected)
    assert gain.score(np.empty((0, 2))).shape == (0,)


def test_many_rows_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    found, x = models_with_shared_draws(3), np.random.default_rng(1).random((20, 2))
    losses = losses_of(found)
    gain = LogExpectedHypervolumeImprovement(found, losses, reference_point(losses))
    value, gradient = gain.score_with_gradients(x)
    monkeypatch.setattr(hypervolume, "MAX_ROWS_TIMES_BOXES", 100)
    parted = gain.score_with_gradients(x)
    np.testing.assert_allclose(parted[0], value, rtol=1e-14)
    np.testing.assert_allclose(parted[1], gradient, rtol=1e-14)
