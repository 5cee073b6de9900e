"""What one more trial is worth while others run: their outcomes are drawn, the rest is in closed form.

With the points P that run, and the best known loss b,

    E[max(min(b, f(P)) - f(x), 0)] = qEI(x and P) - qEI(P)

so the x with the largest value is the one with the largest expected improvement of all of them together. Only f(P) is
sampled: given a draw, x has an expected improvement as in `acquisition.py`, below what the draw found. All draws share
one standard deviation, and their means differ by a product of matrices.

This is `qlogei`. The default, `logei`, takes pending points at their predicted means instead (`believing` in
`surrogate.py`), since that found better points: with four workers and 40 trials, six seeds each of moved Branin,
Hartmann 6, Levy 4, Rosenbrock 4, a random process and a conditional problem, the mean logarithm (base 10) of the final
regret was lower by .3 (lower on five problems of the six, on none significantly), and a suggestion cost .44 as much.

References:
    Ginsbourger, Le Riche, Carraro (2010), "Kriging is well-suited to parallelize optimization": qEI.
    Snoek, Larochelle, Adams (2012), "Practical Bayesian Optimization of Machine Learning Algorithms": pending trials.

What one more trial is worth, as a function of where it is made: values and gradients in closed form.

Everything is in logarithms and larger is better, so that terms add up: improvement, and the probabilities that the
constraints hold and that the trial does not fail.

Notation: mu, s the predicted mean and standard deviation of a loss; t a target; z = (t - mu) / s;
phi, Phi the normal density and distribution; h(z) = phi(z) + z Phi(z), so that EI = s h(z).

References:
    Ament, Daulton, Eriksson, Balandat, Bakshy (2023), "Unexpected Improvements to Expected Improvement for Bayesian
    Optimization": LogEI, equation 9 and appendix A.
    Gardner, Kusner, Xu, Weinberger, Cunningham (2014), "Bayesian Optimization with Inequality Constraints".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import erfcx, log_ndtr, logsumexp, ndtri
from scipy.stats import qmc

from nbcompress.optimize.history import Array
from nbcompress.optimize.surrogates.closed_form import GaussianProcess

# `qlogei` is `logei` with what is not known for sure drawn: what trials that run will find (`pending.py`), and with
# several objectives where the front lies (`botorch_model.py`).
# Standard deviations that the confidence bound reaches below the mean.
BOUND_WIDTH = 2.0
# How far below the best, in standardised units, the probability of improvement aims: at 0 it never leaves the best.
PI_MARGIN = 0.01

_LOG_SQRT_2PI = 0.5 * np.log(2 * np.pi)
_SQRT_HALF = np.sqrt(0.5)
_SQRT_PI_HALF = np.sqrt(0.5 * np.pi)
# Below this z the plain sum phi + z Phi loses digits; below the second, erfcx(-z / sqrt 2) equals its asymptote.
_PLAIN, _ASYMPTOTIC = -1.0, -1e5

Formula = Callable[[Array, Array], tuple[Array, Array, Array]]
"""From mean and standard deviation to the value and its derivatives by the two; all of one shape."""


def log_density(z: Array) -> Array:
    """Return log phi(z)."""
    return np.asarray(-0.5 * z * z - _LOG_SQRT_2PI)


def log_h(z: Array) -> Array:
    """Return log(phi(z) + z Phi(z)), exact to about 1e-10 relative for every finite z.

    For z < -1 it is log phi(z) + log(1 - sqrt(pi/2) |z| erfcx(|z| / sqrt 2)); for z < -1e5 the second term is
    -2 log|z| to double precision (the next term of the series is -3 / z^2).
    """
    z = np.asarray(z, dtype=np.float64)
    plain = np.maximum(z, _PLAIN)
    upper = np.log(np.exp(log_density(plain)) + plain * np.exp(log_ndtr(plain)))
    middle = np.clip(z, _ASYMPTOTIC, _PLAIN)
    ratio = _SQRT_PI_HALF * erfcx(-middle * _SQRT_HALF) * -middle
    # For large |z| the ratio tends to 1 - 1 / z^2: from |z| = 100 on the series is more exact than 1 - ratio.
    inverse = 1.0 / (middle * middle)
    series = inverse * (1.0 - 3.0 * inverse * (1.0 - 5.0 * inverse))
    rest = np.where(middle < -100.0, series, 1.0 - ratio)
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


def confidence_bound(mean: Array, std: Array, width: float = BOUND_WIDTH) -> tuple[Array, Array, Array]:
    """Return `width * std - mean`, the negative lower bound of a loss, and its derivatives."""
    return width * std - mean, np.full_like(mean, -1.0), np.full_like(std, width)


class Acquisition(Protocol):
    """A function of features; larger is better."""

    def score(self, features: Array) -> Array:
        """Return the values at features `(m, D)`: shape `(m,)`."""
        ...

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        """Return the values at features `(m, D)`, shape `(m,)`, and their gradients `(m, D)`."""
        ...


@dataclass(frozen=True)
class Term:
    """A formula of one process's prediction."""

    process: GaussianProcess
    formula: Formula

    def score(self, features: Array) -> Array:
        return self.formula(*self.process.predict(features))[0]

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        mean, std, mean_gradient, std_gradient = self.process.predict_with_gradients(features)
        value, by_mean, by_std = self.formula(mean, std)
        return value, by_mean[:, None] * mean_gradient + by_std[:, None] * std_gradient


@dataclass(frozen=True)
class Sum:
    """Terms added up: a product of probabilities and improvements."""

    terms: Sequence[Acquisition]

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


def improvement(name: str, process: GaussianProcess, best: float) -> Term:
    """Return the acquisition of this name for one objective; `best` is the standardised loss to beat."""
    if name == "ucb":
        return Term(process, confidence_bound)
    if name == "pi":
        return Term(process, lambda mean, std: log_probability_below(mean, std, best - PI_MARGIN))
    return Term(process, lambda mean, std: log_expected_improvement(mean, std, best))


def feasibility(process: GaussianProcess) -> Term:
    """Return the log probability that a slack is at most 0."""
    bound = process.units.standardised(0.0)
    return Term(process, lambda mean, std: log_probability_below(mean, std, bound))


# A power of two for the Sobol sequence.
N_DRAWS = 64


@dataclass(frozen=True, eq=False)
class ImprovementWhilePending:
    """The logarithm of the value above.

    Args:
        process: Before it believes anything of the pending points.
        pending: Shape `(p, D)`, p at least 1; their features.
        best: The standardised loss to beat, without them.
        rng: Draws their outcomes.
        n_draws: A power of two.
    """

    process: GaussianProcess
    pending: Array
    best: float
    rng: np.random.Generator
    n_draws: int = N_DRAWS

    def __post_init__(self) -> None:
        mean, covariance = self.process.joint(self.pending)
        uniform = qmc.Sobol(len(self.pending), scramble=True, seed=self.rng).random(self.n_draws)
        # A scrambled sequence may hold 0, whose quantile is infinite.
        normal = ndtri(uniform.clip(1e-9, 1 - 1e-9))
        off = normal @ np.linalg.cholesky(covariance).T
        grown = self.process.believing(self.pending)
        weights = grown.solved(np.vstack([np.zeros((self.process.n, self.n_draws)), off.T]))
        targets = np.minimum(self.best, (mean + off).min(1))
        for name, value in (("_grown", grown), ("_weights", weights), ("_targets", targets)):
            object.__setattr__(self, name, value)

    def _parts(self, features: Array, mean: Array, std: Array) -> tuple[Array, Array, Array]:
        """Return log EI of each draw, and its derivatives by that draw's mean and by the deviation; all `(m, S)`."""
        means = mean[:, None] + self._grown.covariances(features) @ self._weights  # type: ignore[attr-defined]
        return log_expected_improvement(means, std[:, None], self._targets)  # type: ignore[attr-defined]

    def score(self, features: Array) -> Array:
        mean, std = self._grown.predict(features)  # type: ignore[attr-defined]
        value = self._parts(features, mean, std)[0]
        return np.asarray(logsumexp(value, axis=1) - np.log(self.n_draws))

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        grown, weights = self._grown, self._weights  # type: ignore[attr-defined]
        mean, std, mean_gradient, std_gradient = grown.predict_with_gradients(features)
        value, by_mean, by_std = self._parts(features, mean, std)
        total = logsumexp(value, axis=1)
        share = np.exp(value - total[:, None])
        by_mean, by_std = share * by_mean, (share * by_std).sum(1)
        gradient = by_mean.sum(1)[:, None] * mean_gradient + by_std[:, None] * std_gradient
        gradient += grown.covariance_gradients(features, by_mean @ weights.T)
        return total - np.log(self.n_draws), gradient
