"""Acquisition functions against numbers by hand, quadrature, Monte Carlo, finite differences and BoTorch."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from nbcompress.optimize.acquisition import (
    PI_MARGIN,
    UCB_WIDTH,
    AnalyticAcquisition,
    QLogExpectedImprovement,
    SumAcquisition,
    analytic_acquisition,
    confidence_bound,
    log_expected_improvement,
    log_feasibility,
    log_h,
    log_probability_below,
)
from nbcompress.optimize.outcome_transform import OutcomeTransform
from nbcompress.optimize.surrogates.botorch import as_botorch, tensor
from nbcompress.optimize.surrogates.closed_form import GaussianProcess, Hyperparameters, ModelSpec

FORMULAS = {
    "ei": lambda mean, std: log_expected_improvement(mean, std, 0.3),
    "pi": lambda mean, std: log_probability_below(mean, std, 0.3),
    "ucb": confidence_bound,
}


def ei(mean: float, std: float, target: float) -> float:
    value, _ = quad(
        lambda y: (target - y) * stats.norm.pdf(y, mean, std), mean - 40 * std, target, points=[mean], limit=200
    )
    return value


def test_numbers_by_hand() -> None:
    # h(0) = phi(0) = 1 / sqrt(2 pi); h(1) = .24197 + .84134
    assert float(log_h(np.array(0.0))) == pytest.approx(np.log(0.3989422804))
    assert float(log_h(np.array(1.0))) == pytest.approx(np.log(1.0833154706))


@pytest.mark.parametrize(("mean", "std", "target"), [(0, 1, 0), (1, 0.5, 0.2), (-2, 3, 1), (0.3, 0.01, 0.3), (2, 1, 0)])
def test_against_quadrature(mean: float, std: float, target: float) -> None:
    value = log_expected_improvement(np.array(mean), np.array(std), target)[0]
    assert float(np.exp(value)) == pytest.approx(ei(mean, std, target), rel=1e-7)


@pytest.mark.parametrize("name", ["logei", "pi", "ucb"])
def test_equal_to_botorch(name: str) -> None:
    """Values and gradients by features."""
    from botorch.acquisition.analytic import (
        LogExpectedImprovement,
        LogProbabilityOfImprovement,
        UpperConfidenceBound,
    )

    rng = np.random.default_rng(0)
    hyper = Hyperparameters(np.array([0.3, 0.5]), 1.2, 1e-4)
    gp = GaussianProcess(ModelSpec(), hyper, np.array([0, 1]), rng.random((10, 2)), rng.standard_normal(10))
    model, best = as_botorch(gp, -1.0), float(gp.y.min())
    botorch_acquisition = {
        "logei": LogExpectedImprovement(model, -best),
        "pi": LogProbabilityOfImprovement(model, -best + PI_MARGIN),
        "ucb": UpperConfidenceBound(model, UCB_WIDTH**2),
    }[name]
    x = tensor(rng.random((8, 2))).requires_grad_(True)
    expected = botorch_acquisition(x[:, None])
    (slopes,) = torch.autograd.grad(expected.sum(), x)
    value, gradient = analytic_acquisition(name, gp, best).score_with_gradients(x.detach().numpy())
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, slopes.numpy(), rtol=1e-6, atol=1e-6)


def test_against_monte_carlo() -> None:
    draws = np.random.default_rng(0).normal(0.4, 0.7, 400_000)
    value = log_expected_improvement(np.array(0.4), np.array(0.7), 0.1)[0]
    assert float(np.exp(value)) == pytest.approx(np.maximum(0.1 - draws, 0).mean(), rel=0.01)


def test_stable_where_the_plain_formula_underflows() -> None:
    z = np.array([-1e8, -1e5 - 1, -1e5 + 1, -1e3, -101.0, -99.0, -40.0, -1.0001, -0.9999, 5.0])
    value = log_h(z)
    assert np.isfinite(value).all()
    assert (np.diff(value) > 0).all()
    # log h(z) = -z^2 / 2 - log sqrt(2 pi) - 2 log|z| + log(1 - 3 / z^2 + 15 / z^4 ...)
    far = np.array([-40.0, -99.0, -101.0, -1e3])
    series = -0.5 * far**2 - 0.5 * np.log(2 * np.pi) - 2 * np.log(-far) + np.log1p(-3 / far**2 + 15 / far**4)
    np.testing.assert_allclose(log_h(far), series, atol=3e-8, rtol=0)


def test_continuous_where_the_branches_meet() -> None:
    for z in (-1.0, -100.0, -1e5):
        below, above = log_h(np.array([z * (1 + 1e-9), z * (1 - 1e-9)]))
        assert above - below == pytest.approx(2e-9 * z * z, abs=max(1e-7, 1e-8 * z * z))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("mean", [-2.0, 0.3, 1.0, 8.0])
@pytest.mark.parametrize("std", [0.05, 1.0])
def test_derivatives(name: str, mean: float, std: float) -> None:
    formula = FORMULAS[name]
    _, by_mean, by_std = formula(np.array(mean), np.array(std))
    step = 1e-6

    def slope(dm: float, ds: float) -> float:
        ahead, behind = (formula(np.array(mean + s * dm), np.array(std + s * ds))[0] for s in (step, -step))
        return float(ahead - behind) / (2 * step)

    assert float(by_mean) == pytest.approx(slope(1, 0), rel=1e-5, abs=1e-7)
    assert float(by_std) == pytest.approx(slope(0, 1), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["logei", "ucb", "pi"])
def test_values_and_gradients_in_corners(name: str) -> None:
    rng = np.random.default_rng(0)
    features = np.vstack([rng.random((10, 2)), [[0.0, 0.0], [1.0, 1.0]]])
    hyper = Hyperparameters(np.array([0.2, 0.3]), 1.0, 1e-6)
    model = GaussianProcess(ModelSpec(), hyper, np.array([0, 1]), features, rng.standard_normal(12))
    limit = GaussianProcess(
        ModelSpec(), hyper, np.array([0, 1]), features, rng.standard_normal(12), OutcomeTransform(3.0)
    )
    total = SumAcquisition([analytic_acquisition(name, model, -3.0), log_feasibility(limit)])
    corners = np.array([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)])
    scores = total.score(np.vstack([corners, features]))
    assert scores.shape == (16,)
    assert np.isfinite(scores).all()
    values, gradients = total.score_with_gradients(corners)
    np.testing.assert_allclose(values, scores[:4], rtol=1e-6)
    assert np.isfinite(gradients).all()
    assert gradients.shape == (4, 2)


def test_the_gradient_of_a_sum() -> None:
    rng = np.random.default_rng(0)
    hyper = Hyperparameters(np.array([0.4, 0.3]), 1.0, 1e-4)
    model = GaussianProcess(ModelSpec(), hyper, np.array([0, 1]), rng.random((8, 2)), rng.standard_normal(8))
    total = SumAcquisition([analytic_acquisition("logei", model, -0.5), log_feasibility(model)])
    x = np.array([0.3, 0.7])
    numeric = [(total.score((x + e)[None]) - total.score((x - e)[None]))[0] / 2e-6 for e in 1e-6 * np.eye(2)]
    np.testing.assert_allclose(total.score_with_gradients(x[None])[1][0], numeric, rtol=1e-5)


def test_feasibility_is_in_the_units_of_the_slack() -> None:
    features = np.array([[0.0], [1.0]])
    hyper = Hyperparameters(np.array([0.3]), 1.0, 1e-6)
    # Slacks 40 and -40: shift 0, scale 40.
    model = GaussianProcess(
        ModelSpec(), hyper, np.array([0]), features, np.array([1.0, -1.0]), OutcomeTransform(0.0, 40.0)
    )
    chance = np.exp(log_feasibility(model).score(features))
    assert chance[0] < 1e-6
    assert chance[1] > 1 - 1e-6
    assert isinstance(log_feasibility(model), AnalyticAcquisition)


HYPER = Hyperparameters(np.array([0.3, 0.5]), 1.2, 1e-4)
PENDING = np.array([[0.2, 0.3], [0.8, 0.9]])


def model() -> GaussianProcess:
    rng = np.random.default_rng(0)
    return GaussianProcess(ModelSpec(), HYPER, np.array([0, 1]), rng.random((10, 2)), rng.standard_normal(10))


def gain(n_samples: int = 64) -> QLogExpectedImprovement:
    gp = model()
    return QLogExpectedImprovement(gp, PENDING, float(gp.y.min()), np.random.default_rng(1), n_samples)


def test_equal_to_what_botorch_adds_up() -> None:
    """qLogEI of x and what runs, less that of what runs alone; by so many samples that both agree to a percent."""
    from botorch.acquisition.logei import qLogExpectedImprovement
    from botorch.sampling.normal import SobolQMCNormalSampler

    gp = model()
    sampler = SobolQMCNormalSampler(torch.Size([2**15]), seed=0)
    best = -float(gp.y.min())
    botorch_acquisition = qLogExpectedImprovement(as_botorch(gp, -1.0), best, sampler, tau_max=1e-4, tau_relu=1e-8)
    x = np.array([[0.1, 0.9], [0.4, 0.4], [0.25, 0.35], [0.6, 0.1]])
    with torch.no_grad():
        alone = float(botorch_acquisition(tensor(PENDING)).exp())
        together = [float(botorch_acquisition(tensor(np.vstack([row, PENDING]))).exp()) for row in x]
    np.testing.assert_allclose(np.exp(gain(2**14).score(x)), np.array(together) - alone, rtol=0.02, atol=2e-5)


def test_gradient() -> None:
    found = gain()
    for x in np.random.default_rng(2).random((4, 2)):
        numeric = [(found.score((x + e)[None]) - found.score((x - e)[None]))[0] / 2e-6 for e in 1e-6 * np.eye(2)]
        value, gradient = found.score_with_gradients(x[None])
        assert value[0] == pytest.approx(found.score(x[None])[0])
        np.testing.assert_allclose(gradient[0], numeric, rtol=1e-5, atol=1e-6)


def test_where_one_runs_there_is_least_to_gain() -> None:
    gp = model()
    nothing_runs = analytic_acquisition("logei", gp, float(gp.y.min())).score(PENDING)
    assert (gain().score(PENDING) < nothing_runs - 1).all()
