"""A Gaussian process classifier by expectation propagation: the probability that a trial fails.

A latent Gaussian process f says how much the point speaks for failure. The label of a trial is

    P(failed | f) = c + (1 - c) Phi(f),

where c is the chance that a trial fails whatever its point: the label noise. It is learned with the lengthscales and
the variance of f, at the mode of their approximate posterior. So failures by chance (a flaky machine) lower no
probability, and those that depend on the point (too little memory) do. A success is never by chance: nothing succeeds
where there is too little memory.

Expectation propagation replaces the label of each point by a value of f with noise, such that mean and variance of f
there are right given all other points. The posterior of f is then that of a regression on these values: a
`GaussianProcess`, whose predictions and gradients serve here. Laplace's approximation, which takes the mode of f for
its mean, was measured too: it said .77 where all of a dozen neighbours failed, see
benchmarks.md#failures-by-chance.

Notation beside that of `closed_form.py`:

    y         (n,)  labels, 1 or -1
    t, T      (n,)  value and precision (inverse noise variance) that replace a label
    m, v      (n,)  mean and variance of f given all other points (of the cavity)
    q         (n,)  probability of the label given all other points: (c or 0) + (1 - c) Phi(y m / (1 + v)^.5)
    p, w      (n,)  d log q / dm and -d^2 log q / dm^2;  so T = w / (1 - v w) and t = m + p / w
    R         (n, n)  (K + 1 / T)^-1;  a = R (t - H b)

References:
    Rasmussen & Williams (2006), "Gaussian Processes for Machine Learning": section 3.6, (3.58), (3.59), (3.65), (5.27).
    Kuss, Rasmussen (2005), "Assessing Approximate Inference for Binary Gaussian Process Classification": Laplace's
    approximation is underconfident, expectation propagation is close to the truth.
    Kim, Ghahramani (2008), "Outlier Robust Gaussian Process Classification": labels that are flipped by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

from nbcompress.optimize.batched_bfgs import batched_minimize
from nbcompress.optimize.history import Array
from nbcompress.optimize.surrogates import fit as priors
from nbcompress.optimize.surrogates.closed_form import (
    GaussianProcess,
    Hyperparameters,
    ModelSpec,
    inverse_cholesky,
    squared_distances,
)

# Labels of a failed and of a successful trial: like a constraint, at most 0 is good.
FAILED, SUCCEEDED = 1.0, -1.0
# Priors are normal in the logarithm, that of c in its logit: (median, width). f is no standardized value but says how
# sure a label is, so its variance is large; a region of failure is wide beside the details of a loss, so lengthscales
# are longer. Heuristics, see benchmarks.md#failures-by-chance.
LENGTHSCALE_MEDIAN, LENGTHSCALE_WIDTH = 0.5, 0.8
SIGNAL_MEDIAN, SIGNAL_WIDTH, SIGNAL_BOUNDS = 100.0, 1.0, (1e-2, 1e4)
CHANCE_MEDIAN, CHANCE_WIDTH, CHANCE_BOUNDS = 0.05, 2.0, (1e-6, 0.999)
# The acquisition multiplies the mean of f by this: an edge is sharper than f is known. Heuristic, see
# benchmarks.md#failures-by-chance.
SHARPNESS = 3.0
# Expectation propagation ends when no label's log probability changes more than this, in nats. All values and
# precisions move at once, by a share of the way: by the second one where the first leads round in circles.
TOLERANCE, MAX_ITERATIONS = 1e-5, 60
STEPS, LONG_STEPS = (0.9, 0.5), 15
# A hundredth of a nat changes no decision; where the last fit ended, few evaluations are left to do.
MAX_EVALUATIONS = 25
# A label that contradicts the others by chance has no positive precision; it gets this one.
MIN_PRECISION = 1e-6
_LOG_SQRT_2PI = 0.5 * np.log(2 * np.pi)


def logit(share: float) -> float:
    """Return log(share / (1 - share))."""
    return float(np.log(share) - np.log1p(-share))


def log_probability(z: Array, coin: Array | float, chance: float) -> tuple[Array, Array]:
    """Return log(coin + (1 - c) Phi(z)) and its derivative by z; `coin` is c for a failed trial, else 0."""
    log_point = np.log1p(-chance)
    with np.errstate(divide="ignore"):
        value = np.logaddexp(np.log(coin), log_point + log_ndtr(z))
    return value, np.exp(log_point - 0.5 * z * z - _LOG_SQRT_2PI - value)


@dataclass(frozen=True, eq=False)
class Posterior:
    """What replaces the labels, and the evidence.

    Attributes:
        values, precisions: t and T, shape `(n,)`.
        log_evidence: log of the approximate probability of the labels, with the prior of b; -inf if no fixed point was
            reached.
        R, a: See the module.
        by_chance: Derivative of the log evidence by c.
    """

    values: Array
    precisions: Array
    log_evidence: float
    R: Array
    a: Array
    by_chance: float

    @classmethod
    def of(cls, K: Array, H: Array, precision: float, labels: Array, chance: float) -> Posterior:
        """Return it for the prior covariance K of f, and the basis H of its mean with the prior precision of b.

        Raises:
            np.linalg.LinAlgError: K is not finite.
        """
        n, change = len(labels), np.inf
        coin = np.where(labels == FAILED, chance, 0.0)
        T, tT = np.zeros(n), np.zeros(n)
        before = np.full(n, np.inf)
        for iteration in range(MAX_ITERATIONS):
            root = np.sqrt(T)
            L_inverse, log_determinant = inverse_cholesky(np.eye(n) + root[:, None] * K * root)
            half = L_inverse * root
            R = half.T @ half
            R_t = half.T @ (L_inverse @ (tT / np.where(T > 0, root, 1.0)))
            RH = R @ H
            b = np.linalg.solve(H.T @ RH + precision * np.eye(H.shape[1]), H.T @ R_t)
            a = R_t - RH @ b
            half_K = half @ K
            variance = np.diag(K) - np.einsum("ij,ij->j", half_K, half_K)
            rest = 1.0 - T * variance
            v, m = variance / rest, (H @ b + K @ a - variance * tT) / rest
            spread = np.sqrt(1.0 + v)
            z = labels * m / spread
            log_q, by_z = log_probability(z, coin, chance)
            p = labels * by_z / spread
            w = np.maximum(p * p + by_z * z / (1.0 + v), MIN_PRECISION)
            rest = 1.0 - v * w
            step = 1.0 if iteration == 0 else STEPS[iteration > LONG_STEPS]
            change = np.abs(log_q - before).max()
            if change < TOLERANCE or iteration == MAX_ITERATIONS - 1:
                break
            before = log_q
            T = T + step * (w / rest - T)
            tT = tT + step * ((p + m * w) / rest - tT)
        gap = m - tT / T
        log_evidence = log_q.sum() + 0.5 * (np.log1p(T * v) + gap * gap * T / (1.0 + T * v)).sum()
        log_evidence -= 0.5 * (log_determinant + (tT / T - H @ b) @ a + precision * (b @ b))
        if change >= TOLERANCE:  # what is no fixed point has no evidence
            log_evidence = -np.inf
        by_chance = float(((np.where(labels == FAILED, 1.0, 0.0) - ndtr(z)) * np.exp(-log_q)).sum())
        return cls(tT / T, T, float(log_evidence), R, a, by_chance)


class NegativeLogEvidence:
    """The negative log evidence (Laplace) of labels plus the negative log prior of `theta = log(l.., s2), logit(c)`."""

    def __init__(self, spec: ModelSpec, owner: NDArray[np.intp], d: int, features: Array, labels: Array) -> None:
        self.spec, self.owner, self.d, self.F, self.labels = spec, owner, d, features, labels
        median = LENGTHSCALE_MEDIAN * np.sqrt(max(d, 1))
        self.center = np.array([np.log(median)] * d + [np.log(SIGNAL_MEDIAN), logit(CHANCE_MEDIAN)])
        self.width = np.array([LENGTHSCALE_WIDTH] * d + [SIGNAL_WIDTH, CHANCE_WIDTH])
        bounds = np.log([priors.LENGTHSCALE_BOUNDS] * d + [SIGNAL_BOUNDS])
        self.low = np.append(bounds[:, 0], logit(CHANCE_BOUNDS[0]))
        self.high = np.append(bounds[:, 1], logit(CHANCE_BOUNDS[1]))
        self._owned = np.eye(d)[owner]

    def __call__(self, theta: Array) -> tuple[Array, Array]:
        """Return the losses at `theta` `(S, d + 2)`, and their gradients."""
        values, gradients = zip(*[self.negative_log_evidence(row) for row in theta], strict=True)
        deviation = (theta - self.center) / self.width
        return np.array(values) + 0.5 * (deviation * deviation).sum(1), np.array(gradients) + deviation / self.width

    def negative_log_evidence(self, theta: Array) -> tuple[float, Array]:
        """Return the negative log evidence at `theta` `(d + 2,)` and its gradient.

        At the fixed point neither t, T nor b contribute to the gradient.
        """
        hyper = self.hyperparameters(theta)
        n, signal, chance = len(self.labels), hyper.signal, hyper.noise
        Z = self.F / hyper.lengthscales[self.owner]
        k, slope = self.spec.correlation(squared_distances(Z, Z))
        k[np.diag_indices(n)] = 1.0
        K = signal * k
        found = Posterior.of(K, self.spec.mean_basis(self.F), self.spec.mean_precision, self.labels, chance)
        G = 0.5 * (found.R - np.outer(found.a, found.a))
        weights = G * (signal * slope)
        by_feature = 4.0 * ((weights @ Z) * Z - weights.sum(1)[:, None] * Z * Z).sum(0)
        by_chance = -found.by_chance * chance * (1.0 - chance)
        return -found.log_evidence, np.array([*(by_feature @ self._owned), float((G * K).sum()), by_chance])

    def hyperparameters(self, theta: Array) -> Hyperparameters:
        """Return them; `noise` is c."""
        chance = float(1.0 / (1.0 + np.exp(-theta[-1])))
        return Hyperparameters(np.exp(theta[: self.d]), float(np.exp(theta[self.d])), chance, len(self.labels))


@dataclass(frozen=True, eq=False)
class Classifier:
    """A fitted classifier.

    Attributes:
        latent: The posterior of f, as the regression that has it.
        chance: c, the probability that a trial fails whatever its point.
        hyper: Lengthscales and variance of f; `noise` is c.
    """

    latent: GaussianProcess
    chance: float
    hyper: Hyperparameters

    @classmethod
    def at(
        cls, spec: ModelSpec, hyper: Hyperparameters, owner: NDArray[np.intp], features: Array, labels: Array
    ) -> Classifier:
        """Return the classifier with given hyperparameters.

        Args:
            spec: The kernel, and a constant mean.
            hyper: `noise` is c.
            owner: Shape `(D,)`; the parameter of each feature.
            features: Shape `(n, D)`.
            labels: Shape `(n,)`; 1 failed, -1 succeeded.
        """
        Z = features / hyper.lengthscales[owner]
        k = spec.correlation(squared_distances(Z, Z))[0]
        k[np.diag_indices(len(k))] = 1.0
        found = Posterior.of(hyper.signal * k, spec.mean_basis(features), spec.mean_precision, labels, hyper.noise)
        latent = GaussianProcess(
            spec, replace(hyper, noise=1.0), owner, features, found.values, known_noise=1.0 / found.precisions
        )
        return cls(latent, hyper.noise, hyper)

    def log_success(self, mean: Array, std: Array) -> tuple[Array, Array, Array]:
        """Return log P(success) for the acquisition, and its derivatives by mean and standard deviation of f.

        It is `(1 - c) Phi(-3 f)`, with f at its mean. Averaged over f, as `probability` is, it falls only like one over
        the number of failures nearby. Since failures teach the models of the losses nothing, the search then returns to
        a failing region whenever little is to be gained elsewhere. See benchmarks.md#failures-by-chance.
        """
        value, by_z = log_probability(-SHARPNESS * mean, 0.0, self.chance)
        return value, -SHARPNESS * by_z, np.zeros_like(std)

    def probability(self, features: Array) -> Array:
        """Return the probability that a trial fails at features `(m, D)`, averaged over f: shape `(m,)`."""
        mean, std = self.latent.predict(features)
        return np.asarray(self.chance + (1.0 - self.chance) * ndtr(mean / np.sqrt(1.0 + std * std)))


def fit_classifier(
    spec: ModelSpec,
    owner: NDArray[np.intp],
    d: int,
    features: Array,
    labels: Array,
    earlier: Sequence[Hyperparameters] = (),
) -> Classifier:
    """Fit a classifier to labels at features.

    Args:
        spec: The kernel, and a constant mean.
        owner: Shape `(D,)`; the parameter of each feature.
        d: The number of parameters.
        features: Shape `(n, D)`.
        labels: Shape `(n,)`; 1 failed, -1 succeeded.
        earlier: Hyperparameters of earlier fits, newest first.

    Raises:
        np.linalg.LinAlgError: A covariance is not positive definite in double precision.
    """
    # Each step of a fit costs the cube of n, so that many labels only choose the posterior and not the hyperparameters.
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), priors.LARGE_N)).round().astype(int))
    n = len(chosen)
    warm = [hyper for hyper in earlier if len(hyper.lengthscales) == d]
    if warm and n > priors.REUSE_FROM and warm[0].n_fitted * priors.REFIT_GROWTH >= n:
        return Classifier.at(spec, warm[0], owner, features, labels)
    loss = NegativeLogEvidence(spec, owner, d, features[chosen], labels[chosen])
    # The prior's median, and much chance: each of the two may be a local optimum.
    by_chance = loss.center.copy()
    by_chance[-1] = logit(0.5)
    starts = np.array([loss.center, by_chance])
    if warm:
        known = np.array([*np.log([*warm[0].lengthscales, warm[0].signal]), logit(warm[0].noise)])
        is_short = n > priors.WARM_START_FROM and n % priors.RESTART_EVERY > 0
        starts = known[None] if is_short else np.vstack([known, starts])
    thetas, values = batched_minimize(
        lambda theta, _: loss(theta),
        starts,
        loss.low,
        loss.high,
        evaluations=MAX_EVALUATIONS,
        first_step=priors.FIRST_STEP,
        gradient_tolerance=priors.GRADIENT_TOLERANCE,
        value_tolerance=priors.VALUE_TOLERANCE,
    )
    return Classifier.at(spec, loss.hyperparameters(thetas[int(values.argmin())]), owner, features, labels)
