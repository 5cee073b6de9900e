"""The classifier of failures: exact probabilities of few labels, gradients, learned chance; GPyTorch's posterior."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbcompress.optimize.acquisition import AnalyticAcquisition
from nbcompress.optimize.surrogates.classifier import (
    FAILED,
    SUCCEEDED,
    Classifier,
    NegativeLogEvidence,
    Posterior,
    fit_classifier,
)
from nbcompress.optimize.surrogates.closed_form import Hyperparameters, ModelSpec
from nbcompress.optimize.surrogates.fit import LARGE_N

ZERO_MEAN = ModelSpec(mean="zero")
SIGNAL = 4.0


def evidence_of(labels: list[float], correlation: float, chance: float) -> float:
    n = len(labels)
    K = SIGNAL * np.where(np.eye(n, dtype=bool), 1.0, correlation)
    return math.exp(Posterior.of(K, np.empty((n, 0)), 1.0, np.array(labels), chance).log_evidence)


@pytest.mark.parametrize("chance", [0.0, 0.2])
def test_one_label(chance: float) -> None:
    """f is symmetric about 0, so a trial without chance fails at a half."""
    assert evidence_of([SUCCEEDED], 1.0, chance) == pytest.approx(0.5 * (1 - chance), rel=1e-9)
    assert evidence_of([FAILED], 1.0, chance) == pytest.approx(chance + 0.5 * (1 - chance), rel=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_two_labels(correlation: float) -> None:
    """Both fail with the probability of a quadrant, 1/4 + asin(r) / 2 pi, where r = s2 k / (s2 + 1)."""
    quadrant = 0.25 + math.asin(SIGNAL * correlation / (SIGNAL + 1.0)) / (2 * math.pi)
    assert evidence_of([FAILED, FAILED], correlation, 0.0) == pytest.approx(quadrant, abs=5e-3)
    assert evidence_of([FAILED, SUCCEEDED], correlation, 0.0) == pytest.approx(0.5 - quadrant, abs=5e-3)
    # By chance: both fail, or one does and the other by its point, or both by their points.
    c = 0.3
    known = c * c + 2 * c * (1 - c) * 0.5 + (1 - c) ** 2 * quadrant
    assert evidence_of([FAILED, FAILED], correlation, c) == pytest.approx(known, abs=5e-3)


def test_the_probability_beside_one_failure() -> None:
    """P(both fail) / P(one fails), with the quadrant of above."""
    hyper, X = Hyperparameters(np.array([0.5]), SIGNAL, 0.0), np.array([[0.4]])
    fitted = Classifier.at(ZERO_MEAN, hyper, np.array([0]), X, np.array([FAILED]))
    at = np.array([[0.4], [0.6], [100.0]])
    k = SIGNAL * ZERO_MEAN.correlation(((at[:, 0] - 0.4) / 0.5) ** 2)[0] / (SIGNAL + 1.0)
    np.testing.assert_allclose(fitted.probability(at), 0.5 + np.arcsin(k) / math.pi, atol=0.01)


def labelled() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of two parameters, the second with two features; those beyond a half fail, and one more by chance."""
    X = np.random.default_rng(0).random((14, 3))
    labels = np.where(X[:, 0] > 0.5, FAILED, SUCCEEDED)
    labels[3] = FAILED
    return X, labels, np.array([0, 1, 1])


@pytest.mark.parametrize("theta", [[-1.4, -0.3, 4.6, -2.9], [-0.7, 0.2, 1.0, -3.5]])
def test_gradients_of_the_evidence(theta: list[float]) -> None:
    X, labels, owner = labelled()
    loss = NegativeLogEvidence(ModelSpec(), owner, 2, X, labels)
    at = np.array(theta)
    steps = 1e-4 * np.eye(4)
    known = [(loss((at + e)[None])[0][0] - loss((at - e)[None])[0][0]) / 2e-4 for e in steps]
    np.testing.assert_allclose(loss(at[None])[1][0], known, rtol=2e-2, atol=2e-2)


def test_gradients_of_the_acquisition() -> None:
    X, labels, owner = labelled()
    fitted = fit_classifier(ModelSpec(), owner, 2, X, labels)
    term = AnalyticAcquisition(fitted.latent, fitted.log_success)
    at = np.random.default_rng(1).random((5, 3))
    value, gradient = term.score_with_gradients(at)
    np.testing.assert_allclose(value, term.score(at))
    for i, step in enumerate(1e-5 * np.eye(3)):
        known = (term.score(at + step) - term.score(at - step)) / 2e-5
        np.testing.assert_allclose(gradient[:, i], known, rtol=1e-5, atol=1e-5)


def test_equal_labels_give_equal_fits() -> None:
    X, labels, owner = labelled()
    first, second = (fit_classifier(ModelSpec(), owner, 2, X, labels) for _ in range(2))
    assert first.hyper.to_json() == second.hyper.to_json()
    np.testing.assert_array_equal(first.probability(X), second.probability(X))


def test_of_many_labels_some_choose_the_hyperparameters() -> None:
    """A fit to all 400 would take more than ten times as long."""
    X = np.linspace(0, 1, 400)[:, None]
    labels = np.where(X[:, 0] > 0.5, FAILED, SUCCEEDED)
    fitted = fit_classifier(ModelSpec(), np.array([0]), 1, X, labels)
    assert (fitted.hyper.n_fitted, fitted.latent.n) == (LARGE_N, 400)
    low, high = fitted.probability(np.array([[0.45], [0.55]]))
    assert low < 0.1 < 0.9 < high
    again = fit_classifier(ModelSpec(), np.array([0]), 1, X[:390], labels[:390], [fitted.hyper])
    assert again.hyper is fitted.hyper


@pytest.mark.parametrize("every", [2, 3])
def test_chance_is_learned(every: int) -> None:
    """Every second or third trial fails: so do new ones everywhere, and no point is much better than another."""
    X = np.linspace(0, 1, 30)[:, None]
    labels = np.where(np.arange(30) % every == 0, FAILED, SUCCEEDED)
    fitted = fit_classifier(ModelSpec(), np.array([0]), 1, X, labels)
    found = fitted.probability(X)
    np.testing.assert_allclose(found, 1 / every, atol=0.12)
    assert np.ptp(found) < 0.1


def test_a_region_is_learned_beside_chance() -> None:
    X = np.linspace(0, 1, 40)[:, None]
    labels = np.where((X[:, 0] > 0.6) | (np.arange(40) % 4 == 2), FAILED, SUCCEEDED)
    fitted = fit_classifier(ModelSpec(), np.array([0]), 1, X, labels)
    low, high = fitted.probability(np.array([[0.3], [0.9]]))
    assert low < 0.4 < 0.9 < high
    assert 0.1 < fitted.chance < 0.4


def test_the_posterior_is_that_of_the_gpytorch_definition() -> None:
    """GPyTorch's is the variational one: another approximation of the same posterior, within .03 in probability."""
    from nbcompress.optimize.surrogates.botorch import failure_probability, fit_variational

    X, labels, owner = labelled()
    at = np.random.default_rng(2).random((20, 3))
    for signal, chance in ((3.0, 0.2), (30.0, 0.05)):
        fitted = Classifier.at(ModelSpec(), Hyperparameters(np.array([0.5, 0.9]), signal, chance), owner, X, labels)
        model, likelihood = fit_variational(fitted, labels)
        np.testing.assert_allclose(fitted.probability(at), failure_probability(model, likelihood, at), atol=0.03)
