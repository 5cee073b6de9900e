"""Acquisition functions of one objective, in logarithms: LogEI, UCB, PI, feasibility and qLogEI.

Larger is better. Values are logarithms, so terms add up: the improvement, and the probabilities that the constraints
hold and that the trial does not fail. Values and gradients are in closed form.

Notation: mu, s the predicted mean and standard deviation of a loss; t a target; z = (t - mu) / s;
phi, Phi the normal density and distribution; h(z) = phi(z) + z Phi(z), so that EI = s h(z).

References:
    Ament, Daulton, Eriksson, Balandat, Bakshy (2023), "Unexpected Improvements to Expected Improvement for Bayesian
    Optimization": LogEI, equation 9 and appendix A.
    Gardner, Kusner, Xu, Weinberger, Cunningham (2014), "Bayesian Optimization with Inequality Constraints".
    Ginsbourger, Le Riche, Carraro (2010), "Kriging is well-suited to parallelize optimization": qEI.
    Snoek, Larochelle, Adams (2012), "Practical Bayesian Optimization of Machine Learning Algorithms": pending trials.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy.special import erfcx, log_ndtr, logsumexp, ndtri
from scipy.stats import qmc

from nbcompress.optimize.history import Array
from nbcompress.optimize.surrogates.closed_form import GaussianProcess
from nbcompress.optimize.surrogates.protocol import Surrogate

# Width of the confidence bound in standard deviations; the square root of BoTorch's `beta`.
UCB_WIDTH = 2.0
# The target of `pi` lies this far below the best loss, in standardized units: with 0 it never leaves the best point.
PI_MARGIN = 0.01
# Samples of qLogEI: a power of two, for the Sobol sequence.
N_SAMPLES = 64
# Points at which a function is sampled, and samples of its minimum. Powers of two, for the Sobol sequence.
N_SAMPLED_POINTS, N_MINIMA = 256, 16
# Added to a covariance without noise before it is factorized.
_JITTER = 1e-8

_LOG_SQRT_2PI = 0.5 * np.log(2 * np.pi)
_SQRT_HALF = np.sqrt(0.5)
_SQRT_PI_HALF = np.sqrt(0.5 * np.pi)
# Below the first z the plain sum phi + z Phi loses digits; below the second erfcx(-z / sqrt 2) equals its asymptote.
_PLAIN, _ASYMPTOTIC = -1.0, -1e5

Formula = Callable[[Array, Array], tuple[Array, Array, Array]]
"""From mean and standard deviation to the value and its derivatives by the two; all of one shape."""


def log_density(z: Array) -> Array:
    """Return log phi(z)."""
    return np.asarray(-0.5 * z * z - _LOG_SQRT_2PI)


def log_h(z: Array) -> Array:
    """Return log h(z) with a relative error of about 1e-10 for every finite z.

    For z < -1 it is log phi(z) + log(1 - sqrt(pi/2) |z| erfcx(|z| / sqrt 2)); for z < -1e5 the second term is
    -2 log|z| to double precision (the next term of the series is -3 / z^2).
    """
    z = np.asarray(z, dtype=np.float64)
    plain = np.maximum(z, _PLAIN)
    upper = np.log(np.exp(log_density(plain)) + plain * np.exp(log_ndtr(plain)))
    center = np.clip(z, _ASYMPTOTIC, _PLAIN)
    ratio = _SQRT_PI_HALF * erfcx(-center * _SQRT_HALF) * -center
    # For large |z| the ratio tends to 1 - 1 / z^2, so from |z| = 100 on the series is more accurate than 1 - ratio.
    inverse = 1.0 / (center * center)
    series = inverse * (1.0 - 3.0 * inverse * (1.0 - 5.0 * inverse))
    rest = np.where(center < -100.0, series, 1.0 - ratio)
    tail = np.where(z < _ASYMPTOTIC, -2.0 * np.log(np.maximum(-z, 1.0)), np.log(rest))
    return np.asarray(np.where(z > _PLAIN, upper, log_density(np.minimum(z, _PLAIN)) + tail))


def log_expected_improvement(mean: Array, std: Array, target: Array | float) -> tuple[Array, Array, Array]:
    """Return log E[max(target - loss, 0)] and its derivatives by mean and standard deviation."""
    z = (target - mean) / std
    log_of_h = log_h(z)
    by_mean = -np.exp(log_ndtr(z) - log_of_h) / std
    by_std = np.exp(log_density(z) - log_of_h) / std
    return np.log(std) + log_of_h, by_mean, by_std


def log_probability_below(mean: Array, std: Array, target: Array | float) -> tuple[Array, Array, Array]:
    """Return log P(loss <= target) and its derivatives by mean and standard deviation."""
    z = (target - mean) / std
    value = log_ndtr(z)
    hazard = np.exp(log_density(z) - value)
    return value, -hazard / std, -hazard * z / std


def confidence_bound(mean: Array, std: Array, width: float = UCB_WIDTH) -> tuple[Array, Array, Array]:
    """Return `width * std - mean`, the negated lower confidence bound of a loss, and its derivatives."""
    return width * std - mean, np.full_like(mean, -1.0), np.full_like(std, width)


class AcquisitionFunction(Protocol):
    """An acquisition function of features; larger is better."""

    def score(self, features: Array) -> Array:
        """Return the values at features `(m, D)`: shape `(m,)`."""
        ...

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        """Return the values at features `(m, D)`, shape `(m,)`, and their gradients `(m, D)`."""
        ...


@dataclass(frozen=True)
class AnalyticAcquisition:
    """A formula of the prediction of one model."""

    model: Surrogate
    formula: Formula

    def score(self, features: Array) -> Array:
        return self.formula(*self.model.predict(features))[0]

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        mean, std, mean_gradient, std_gradient = self.model.predict_with_gradients(features)
        value, by_mean, by_std = self.formula(mean, std)
        return value, by_mean[:, None] * mean_gradient + by_std[:, None] * std_gradient


@dataclass(frozen=True)
class SumAcquisition:
    """A sum of acquisition functions; of logarithms, so it is a product of improvements and probabilities."""

    terms: Sequence[AcquisitionFunction]

    def score(self, features: Array) -> Array:
        total = np.zeros(len(features))
        for term in self.terms:
            total = total + term.score(features)
        return total

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        total, gradient = np.zeros(len(features)), np.zeros_like(features)
        for term in self.terms:
            value, by_features = term.score_with_gradients(features)
            total, gradient = total + value, gradient + by_features
        return total, gradient


def analytic_acquisition(name: str, model: Surrogate, best: float) -> AnalyticAcquisition:
    """Return `logei`, `ucb` or `pi` of one objective.

    Args:
        name: The acquisition; `ei` is maximized in its logarithm, and `qlogei` without pending trials is `logei`.
        model: Of the loss.
        best: The best standardized loss.
    """
    if name == "ucb":
        return AnalyticAcquisition(model, confidence_bound)
    if name == "pi":
        return AnalyticAcquisition(model, lambda mean, std: log_probability_below(mean, std, best - PI_MARGIN))
    return AnalyticAcquisition(model, lambda mean, std: log_expected_improvement(mean, std, best))


def log_feasibility(model: Surrogate) -> AnalyticAcquisition:
    """Return the log probability that the value of a constraint is at most 0."""
    target = model.outcome_transform.transform(0.0)
    return AnalyticAcquisition(model, lambda mean, std: log_probability_below(mean, std, target))


def draw_functions(model: Surrogate, features: Array, rng: np.random.Generator, n: int) -> Array:
    """Return `n` samples of the noise-free values at features `(m, D)`, drawn jointly: shape `(n, m)`."""
    mean, covariance = model.joint(features, observation_noise=False)
    jitter = _JITTER * float(np.diag(covariance).max(initial=1.0))
    factor = np.linalg.cholesky(covariance + jitter * np.eye(len(mean)))
    return np.asarray(mean + rng.standard_normal((n, len(mean))) @ factor.T)


def entropy_search(model: Surrogate, features: Array, best: float, rng: np.random.Generator) -> AnalyticAcquisition:
    """Return max-value entropy search, `mes`: the log of the information on the smallest loss.

    With samples y* of the smallest loss and g = (mu - y*) / s it is the mean of `g phi(g) / (2 Phi(g)) - log Phi(g)`,
    equation 6 of the reference.

    Args:
        model: Of the loss.
        features: Shape `(m, D)`; where the loss is sampled.
        best: The best standardized loss; a sampled minimum is not above it.
        rng: For the samples.

    References:
        Wang, Jegelka (2017), "Max-value Entropy Search for Efficient Bayesian Optimization".
    """
    minima = np.minimum(draw_functions(model, features, rng, N_MINIMA).min(1), best)

    def formula(mean: Array, std: Array) -> tuple[Array, Array, Array]:
        g = (mean[:, None] - minima) / std[:, None]
        log_below = log_ndtr(g)
        hazard = np.exp(log_density(g) - log_below)
        value = (0.5 * g * hazard - log_below).mean(1)
        by_g = (-0.5 * hazard - 0.5 * g * hazard * (g + hazard)) / (np.maximum(value, 1e-300) * len(minima))[:, None]
        return np.log(np.maximum(value, 1e-300)), by_g.sum(1) / std, -(by_g * g).sum(1) / std

    return AnalyticAcquisition(model, formula)


def negated_mean(mean: Array, std: Array) -> tuple[Array, Array, Array]:
    """Return `-mean` and its derivatives: the formula of a sampled function, see `sampled_function`."""
    return -mean, np.full_like(mean, -1.0), np.zeros_like(std)


def sampled_function(model: Surrogate, features: Array, rng: np.random.Generator) -> Surrogate:
    """Return a model whose mean is a sample of the model's functions: `thompson` minimizes it.

    The function is sampled at the features `(m, D)`, and in between it is the mean given these values.

    References:
        Thompson (1933), "On the likelihood that one unknown probability exceeds another".
    """
    return model.condition_on_values(features, draw_functions(model, features, rng, 1)[0])


@dataclass(frozen=True, eq=False)
class QLogExpectedImprovement:
    """qLogEI of one new point while others are pending: outcomes of the pending points are sampled.

    With the pending points P and the best known loss b,

        E[max(min(b, f(P)) - f(x), 0)] = qEI(x and P) - qEI(P),

    so the x with the largest value has the largest expected improvement together with P. Only f(P) is sampled. Given a
    sample, x has a closed-form expected improvement over the smaller of b and the sample. All samples share one
    standard deviation, and their means differ by a product of matrices.

    The default `logei` conditions on the predicted means at pending points instead (`condition_on_mean`), which finds
    better points at lower cost: see benchmarks.md#pending-trials.

    Args:
        model: Not conditioned on the pending points.
        X_pending: Shape `(p, D)`, p at least 1; features.
        best: The best standardized loss among the known points.
        rng: For the samples.
        n_samples: A power of two.
    """

    model: GaussianProcess
    X_pending: Array
    best: float
    rng: np.random.Generator
    n_samples: int = N_SAMPLES
    _conditioned: GaussianProcess = field(init=False, repr=False)
    _weights: Array = field(init=False, repr=False)
    _targets: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        mean, covariance = self.model.joint(self.X_pending)
        uniform = qmc.Sobol(len(self.X_pending), scramble=True, seed=self.rng).random(self.n_samples)
        # A scrambled sequence may hold 0, whose quantile is infinite.
        normal = ndtri(uniform.clip(1e-9, 1 - 1e-9))
        deviations = normal @ np.linalg.cholesky(covariance).T
        conditioned = self.model.condition_on_mean(self.X_pending)
        weights = conditioned.solve(np.vstack([np.zeros((self.model.n, self.n_samples)), deviations.T]))
        targets = np.minimum(self.best, (mean + deviations).min(1))
        for name, value in (("_conditioned", conditioned), ("_weights", weights), ("_targets", targets)):
            object.__setattr__(self, name, value)

    def _parts(self, features: Array, mean: Array, std: Array) -> tuple[Array, Array, Array]:
        """Return log EI of each sample, and its derivatives by the sample's mean and by the deviation; all `(m, S)`."""
        means = mean[:, None] + self._conditioned.cross_covariances(features) @ self._weights
        return log_expected_improvement(means, std[:, None], self._targets)

    def score(self, features: Array) -> Array:
        mean, std = self._conditioned.predict(features)
        value = self._parts(features, mean, std)[0]
        return np.asarray(logsumexp(value, axis=1) - np.log(self.n_samples))

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        conditioned, weights = self._conditioned, self._weights
        mean, std, mean_gradient, std_gradient = conditioned.predict_with_gradients(features)
        value, by_mean, by_std = self._parts(features, mean, std)
        total = logsumexp(value, axis=1)
        share = np.exp(value - total[:, None])
        by_mean, by_std = share * by_mean, (share * by_std).sum(1)
        gradient = by_mean.sum(1)[:, None] * mean_gradient + by_std[:, None] * std_gradient
        gradient += conditioned.cross_covariance_gradients(features, by_mean @ weights.T)
        return total - np.log(self.n_samples), gradient
