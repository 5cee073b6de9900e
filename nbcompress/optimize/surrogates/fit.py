"""Fit hyperparameters: the mode of their posterior, with gradients in closed form. Notation: see `closed_form.py`.

The loss is `e' K^-1 e / 2 + log|K| / 2` plus the negative log prior, in the logarithms of l, s2, v and t2. With
`G = (K^-1 - a a') / 2`, the derivative by K, and `W = G * s2 k'`, the derivatives are

    log l_i   -2 sum_{features f of i} sum_{jm} W_jm (z_jf - z_mf)^2  =  -4 sum_f (z_f^2 . W 1 - z_f . W z_f)
    log v     v tr G
    log t2    sum_{jm} G_jm t2 (P P')_jm
    log s2    sum_{jm} G_jm s2 k_jm  =  (n - a' e) / 2 - those by log v and log t2        since K a = e

which needs no array of shape n x n x D. The coefficients b are optimal for each K, so they contribute no derivative
(envelope theorem). All starts of a fit are evaluated at once, in stacks of shape `(S, n, n)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri

from nbcompress.optimize.batched_bfgs import batched_minimize
from nbcompress.optimize.history import Array
from nbcompress.optimize.outcome_transform import OutcomeTransform
from nbcompress.optimize.surrogates.closed_form import (
    NOISE_FLOOR,
    GaussianProcess,
    Hyperparameters,
    ModelSpec,
    known_or,
    squared_distances,
    trend_basis,
)

# Priors are normal in the logarithm: (median, width). Heuristics, see benchmarks.md#surrogate-priors.
# Distances grow with the root of the dimension, so the median of the lengthscales does too.
LENGTHSCALE_PRIOR_MEDIAN, LENGTHSCALE_PRIOR_WIDTH = 0.25, 0.8
# With several objectives each one may depend on few parameters (a size does not depend on a learning rate), so
# lengthscales vary more. Otherwise a search keeps expecting gains along irrelevant parameters.
LENGTHSCALE_PRIOR_WIDTH_MULTI_OBJECTIVE = 1.1
SIGNAL_PRIOR_MEDIAN, SIGNAL_PRIOR_WIDTH = 1.0, 1.0
NOISE_PRIOR_MEDIAN, NOISE_PRIOR_WIDTH = 1e-5, 3.0
TREND_PRIOR_MEDIAN, TREND_PRIOR_WIDTH = 0.5, 1.5
LENGTHSCALE_BOUNDS = (0.02, 50.0)
SIGNAL_BOUNDS = (1e-2, 1e2)
NOISE_BOUNDS = (NOISE_FLOOR, 2.0)
TREND_BOUNDS = (1e-4, 1e2)
MAX_EVALUATIONS = 60
# With more than REUSE_FROM points one more hardly moves the optimum: hyperparameters are reused until the number of
# points has grown by the factor REFIT_GROWTH.
REUSE_FROM, REFIT_GROWTH = 24, 1.05
# With more than LARGE_N points, where each evaluation costs n^3, only the earlier hyperparameters are a start.
LARGE_N, LARGE_N_EVALUATIONS = 200, 8
# First step and tolerances of a fit: a hundredth of a nat changes no decision.
FIRST_STEP, GRADIENT_TOLERANCE, VALUE_TOLERANCE = 0.5, 1e-2, 1e-3
# The same for a fit that starts only at earlier hyperparameters (warm start).
WARM_FIRST_STEP, WARM_GRADIENT_TOLERANCE, WARM_VALUE_TOLERANCE = 0.1, 2e-2, 3e-3
# With more than WARM_START_FROM points a fit starts only at the earlier hyperparameters, except when the number of
# points is a multiple of RESTART_EVERY: then all starts are used, so that a fit can leave a local optimum.
WARM_START_FROM, RESTART_EVERY = 16, 5


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model.

    Attributes:
        model: The Gaussian process.
        error: Why the fit fell back to earlier hyperparameters, or an empty text.
    """

    model: GaussianProcess
    error: str = ""


class NegativeLogPosterior:
    """The loss of hyperparameters: a function of `theta = log(l.., s2, v)`, and log t2 if there is a trend."""

    def __init__(
        self,
        spec: ModelSpec,
        owner: NDArray[np.intp],
        d: int,
        features: Array,
        y: Array,
        width: float = LENGTHSCALE_PRIOR_WIDTH,
        known_noise: Array | None = None,
    ) -> None:
        self.spec, self.owner, self.d, self.F, self.y = spec, owner, d, features, y
        self.known_noise = known_noise
        self.H = spec.mean_basis(features)
        median = LENGTHSCALE_PRIOR_MEDIAN * np.sqrt(max(d, 1))
        self.n_theta = d + 2 + spec.has_trend
        medians = [median] * d + [SIGNAL_PRIOR_MEDIAN, NOISE_PRIOR_MEDIAN, TREND_PRIOR_MEDIAN]
        self.center = np.log(np.array(medians[: self.n_theta]))
        self.width = np.array(
            ([width] * d + [SIGNAL_PRIOR_WIDTH, NOISE_PRIOR_WIDTH, TREND_PRIOR_WIDTH])[: self.n_theta]
        )
        names = ["lengthscale"] * d + ["signal", "noise", "trend"]
        if spec.flat:
            self.width[[name in spec.flat for name in names[: self.n_theta]]] = np.inf
        known = {"lengthscale": LENGTHSCALE_BOUNDS, "signal": SIGNAL_BOUNDS, "noise": NOISE_BOUNDS} | {
            name: (low, high) for name, low, high in spec.bounds
        }
        bounds = [known.get(name, TREND_BOUNDS) for name in names]
        low, high = np.array(bounds[: self.n_theta]).T
        self.low, self.high = np.log(low), np.log(high)
        self._diagonal = np.arange(len(y))
        self._owned = np.eye(d)[owner]  # (D, d): adds up the features of a parameter
        P = trend_basis(features)[0]
        self._PP = P @ P.T

    @property
    def is_large(self) -> bool:
        return len(self.y) > LARGE_N

    def negative_log_likelihood(self, theta: Array) -> tuple[Array, Array]:
        """Return the negative log marginal likelihoods at `theta` `(S, d + 2 or 3)`, and their gradients.

        The constant is left out and the prior of b is included. Infinite where K is not positive definite in double
        precision.
        """
        lengthscales, (signal, noise, *t2) = np.exp(theta[:, : self.d]), np.exp(theta[:, self.d :].T)
        Z = self.F / lengthscales[:, self.owner][:, None, :]
        K, slope = self.spec.correlation(squared_distances(Z, Z))
        K *= signal[:, None, None]
        # Exact, without rounding errors.
        variances = noise[:, None] if self.known_noise is None else self._noise_variances(noise)
        K[:, self._diagonal, self._diagonal] = signal[:, None] + variances
        for variance in t2:
            K += variance[:, None, None] * self._PP
        inverse, log_determinant = self._invert_(K)
        b, a, fit_term = self._coefficients(inverse)
        value = 0.5 * (fit_term + log_determinant + (b * b).sum(1) * self.spec.mean_precision)
        by_variances: Array | float
        if self.known_noise is None:
            trace = 0.5 * (inverse[:, self._diagonal, self._diagonal].sum(1) - (a * a).sum(1))
            by_noise = by_variances = noise * trace
        else:  # the known variances do not change with v
            each = 0.5 * variances * (inverse[:, self._diagonal, self._diagonal] - a * a)
            by_noise, by_variances = each[:, np.isnan(self.known_noise)].sum(1), each.sum(1)
        by_trend = [0.5 * variance * ((inverse * self._PP).sum((1, 2)) - (a @ self._PP * a).sum(1)) for variance in t2]
        Z1 = np.concatenate([Z, np.ones((*Z.shape[:2], 1))], axis=2)
        inverse *= slope
        WZ1 = inverse @ Z1 - a[:, :, None] * (slope @ (a[:, :, None] * Z1))
        by_feature = ((Z * Z) * WZ1[:, :, -1:] - Z * WZ1[:, :, :-1]).sum(1) @ self._owned
        by_signal = 0.5 * (len(self.y) - fit_term) - by_variances - sum(by_trend)
        by_lengthscale = (-2.0 * signal)[:, None] * by_feature
        return value, np.hstack([by_lengthscale, np.stack([by_signal, by_noise, *by_trend], axis=1)])

    def _noise_variances(self, noise: Array) -> Array:
        """Return the noise variance of every point for each v `(S,)`: shape `(S, n)`."""
        assert self.known_noise is not None
        return np.stack([known_or(self.known_noise, v) for v in noise.tolist()])

    def _invert_(self, K: Array) -> tuple[Array, Array]:
        """Turn a stack `(S, n, n)` into its inverses, in place, and return them with log |K| `(S,)`."""
        log_determinant = np.full(len(K), np.inf)
        for s, matrix in enumerate(K):
            factor, info = dpotrf(matrix.T, lower=1, clean=1, overwrite_a=1)
            if info != 0:
                matrix[:] = np.eye(len(matrix))
                continue
            log_determinant[s] = 2.0 * float(np.log(factor.diagonal()).sum())
            lower, _ = dpotri(factor, lower=1, overwrite_c=1)
            np.add(lower, lower.T, out=matrix)
            matrix[self._diagonal, self._diagonal] *= 0.5
        return K, log_determinant

    def _coefficients(self, inverse: Array) -> tuple[Array, Array, Array]:
        """Return b `(S, p)`, a `(S, n)` and `e' a` `(S,)`."""
        p = self.H.shape[1]
        if p == 0:
            a = inverse @ self.y
            return np.empty((len(inverse), 0)), a, a @ self.y
        A = inverse @ self.H
        right = (A.swapaxes(1, 2) @ self.y)[:, :, None]
        b = np.linalg.solve(self.H.T @ A + np.eye(p) * self.spec.mean_precision, right)[:, :, 0]
        e = self.y - b @ self.H.T
        a = (inverse @ e[:, :, None])[:, :, 0]
        return np.asarray(b), a, np.asarray((e * a).sum(1))

    def __call__(self, theta: Array) -> tuple[Array, Array]:
        """Return the losses at `theta` `(S, d + 2 or 3)`, and their gradients."""
        value, gradient = self.negative_log_likelihood(theta)
        deviation = (theta - self.center) / self.width
        return value + 0.5 * (deviation * deviation).sum(1), gradient + deviation / self.width

    def hyperparameters(self, theta: Array) -> Hyperparameters:
        signal, noise, *t2 = np.exp(theta[self.d :]).tolist()
        return Hyperparameters(np.exp(theta[: self.d]), signal, noise, len(self.y), *t2)

    def starts(self, warm: Hyperparameters | None) -> Array:
        """Return the starts, one per row: earlier hyperparameters, the prior's median, and short scales with low noise.

        "All is noise" is a local optimum; the last start avoids it. A warm start uses the earlier hyperparameters only.
        """
        known = None
        if warm is not None and len(warm.lengthscales) == self.d and (warm.trend > 0) == self.spec.has_trend:
            known = np.log([*warm.lengthscales, warm.signal, warm.noise, warm.trend or 1.0][: self.n_theta])
        n = len(self.y)
        if known is not None and (self.is_large or (n > WARM_START_FROM and n % RESTART_EVERY > 0)):
            return known[None]
        short = self.center.copy()
        short[: self.d] += np.log(0.5)
        short[self.d + 1] = np.log(10 * NOISE_FLOOR)
        return np.array([self.center, short] if known is None else [known, self.center, short])


def _best_hyperparameters(loss: NegativeLogPosterior, earlier: Sequence[Hyperparameters]) -> list[Hyperparameters]:
    """Return the best hyperparameters found, or an empty list if no start has a finite loss."""
    starts = loss.starts(earlier[0] if earlier else None)
    is_warm = len(starts) == 1
    thetas, values = batched_minimize(
        lambda theta, _: loss(theta),
        starts,
        loss.low,
        loss.high,
        evaluations=LARGE_N_EVALUATIONS if loss.is_large and earlier else MAX_EVALUATIONS,
        first_step=WARM_FIRST_STEP if is_warm else FIRST_STEP,
        gradient_tolerance=WARM_GRADIENT_TOLERANCE if is_warm else GRADIENT_TOLERANCE,
        value_tolerance=WARM_VALUE_TOLERANCE if is_warm else VALUE_TOLERANCE,
    )
    best = int(values.argmin())
    return [loss.hyperparameters(thetas[best])] if np.isfinite(values[best]) else []


def fit(
    spec: ModelSpec,
    owner: NDArray[np.intp],
    d: int,
    features: Array,
    values: Array,
    earlier: Sequence[Hyperparameters] = (),
    *,
    log_tail: bool = False,
    width: float = LENGTHSCALE_PRIOR_WIDTH,
    known_stds: Array | None = None,
    growth: float = 1.0,
) -> Fit:
    """Fit a Gaussian process to values at features.

    Args:
        spec: Kernel and mean.
        owner: Shape `(D,)`; the parameter of each feature.
        d: The number of parameters.
        features: F, shape `(n, D)`.
        values: Shape `(n,)`; in any units, finite.
        earlier: Hyperparameters of earlier fits, newest first. The first is a start; if the fit fails, the first one
            that gives a valid covariance is used.
        log_tail: Whether values worse than the median count by their logarithm; see `OutcomeTransform`.
        width: Of the prior on lengthscales, in the logarithm.
        known_stds: Shape `(n,)`; known standard deviations of the values, in their units; NaN where unknown.
        growth: How many times more points are known than these.

    Returns:
        The fitted model; its `error` is set if the fit failed.
    """
    # Those of another model, such as one of fewer parameters, are no use here.
    earlier = [hyper for hyper in earlier if len(hyper.lengthscales) == d]
    y, outcome_transform = OutcomeTransform.fit(values, log_tail=log_tail)
    known_noise = known_noise_of(spec, values, outcome_transform, known_stds)
    loss = NegativeLogPosterior(spec, owner, d, features, y, width, known_noise)
    error, candidates = "", []
    if len(y) > REUSE_FROM and earlier and _is_reusable(earlier[0], round(growth * len(y)), d):
        candidates = [earlier[0]]
    else:
        try:
            found = _best_hyperparameters(loss, earlier)
            candidates = [replace(hyper, n_fitted=round(growth * len(y))) for hyper in found]
        except (ValueError, FloatingPointError, np.linalg.LinAlgError) as err:
            error = str(err)
    for hyper in [*candidates, *earlier, loss.hyperparameters(loss.center)]:
        try:
            model = GaussianProcess(spec, hyper, owner, features, y, outcome_transform, known_noise)
        except (ValueError, np.linalg.LinAlgError) as err:
            error = str(err)
            continue
        failed = not candidates or hyper is not candidates[0]
        return Fit(model, f"the fit failed ({error}); fell back to earlier hyperparameters" if failed else "")
    # Only values that are not finite lead here: the noise floor makes every K positive definite.
    raise np.linalg.LinAlgError(error)


def known_noise_of(
    spec: ModelSpec, values: Array, outcome_transform: OutcomeTransform, known_stds: Array | None
) -> Array | None:
    """Return the known noise variances of standardized values, NaN where unknown; None if none is known."""
    if known_stds is None or not np.isfinite(known_stds).any():
        return None if spec.noise is None else np.full(len(values), spec.noise)
    variances = np.square(known_stds * outcome_transform.slopes(values))
    return variances if spec.noise is None else np.where(np.isnan(variances), spec.noise, variances)


def _is_reusable(hyper: Hyperparameters, n: int, d: int) -> bool:
    """Say whether hyperparameters of an earlier fit are used as they are for `n` points and `d` parameters."""
    return hyper.n_fitted * REFIT_GROWTH >= n and len(hyper.lengthscales) == d
