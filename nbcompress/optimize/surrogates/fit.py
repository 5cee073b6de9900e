"""Learning hyperparameters: the posterior's mode, with gradients in closed form. Notation: see `surrogate.py`.

The loss is `e' K^-1 e / 2 + log|K| / 2` plus the negative log prior, in the logarithms of l, s2, v and t2. With
`G = (K^-1 - a a') / 2`, the derivative by K, and `W = G * s2 k'`, the derivatives are

    log l_i   -2 sum_{features f of i} sum_{jm} W_jm (z_jf - z_mf)^2  =  -4 sum_f (z_f^2 . W 1 - z_f . W z_f)
    log v     v tr G
    log t2    sum_{jm} G_jm t2 (P P')_jm
    log s2    sum_{jm} G_jm s2 k_jm  =  (n - a' e) / 2 - those by log v and log t2        since K a = e

which needs no array of shape n x n x D. The coefficients b are at their optimum for each K, so they add nothing
(envelope theorem). All starts of a fit are evaluated at once, in stacks of shape `(S, n, n)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri

from nbcompress.optimize.batched_bfgs import minimise
from nbcompress.optimize.history import Array
from nbcompress.optimize.outcome_transform import Units
from nbcompress.optimize.surrogates import closed_form as trend
from nbcompress.optimize.surrogates.closed_form import (
    MEAN_WIDTH,
    NOISE_FLOOR,
    Form,
    GaussianProcess,
    Hyperparameters,
    squared_distances,
)

# Priors, normal in the logarithm: (median, width). Heuristics, chosen on Branin, Hartmann 6, Levy 4 and Ackley 5.
# Distances grow with the root of the dimension, so lengthscales do; a longer prior gets stuck on Hartmann 6.
LENGTHSCALE_MEDIAN, LENGTHSCALE_WIDTH = 0.25, 0.8
# With several objectives a single one depends on few parameters (a size knows no learning rate), so scales spread
# wider: otherwise a search keeps expecting gains along those that do not matter. Chosen on ZDT1, ZDT2 and a trade-off.
LENGTHSCALE_WIDTH_OF_SEVERAL = 1.1
SIGNAL_MEDIAN, SIGNAL_WIDTH = 1.0, 1.0
NOISE_MEDIAN, NOISE_WIDTH = 1e-5, 3.0
TREND_MEDIAN, TREND_WIDTH = 0.5, 1.5
LENGTHSCALE_BOUNDS = (0.02, 50.0)
SIGNAL_BOUNDS = (1e-2, 1e2)
NOISE_BOUNDS = (NOISE_FLOOR, 2.0)
TREND_BOUNDS = (1e-4, 1e2)
MAX_EVALUATIONS = 60
# With more points than SETTLED one more hardly moves the optimum: hyperparameters serve until the points have grown
# by a share. With MANY, where each step costs n^3, only the last good ones start, and take a few steps.
SETTLED, GROWN = 24, 1.05
MANY, FEW_EVALUATIONS = 200, 8
# The first step, and where a fit ends: a hundredth of a nat changes no decision. And the same from known ground.
FIRST_STEP, SLOPE_TOLERANCE, GAIN_TOLERANCE = 0.5, 1e-2, 1e-3
FAMILIAR_STEP, FAMILIAR_SLOPE, FAMILIAR_GAIN = 0.1, 2e-2, 3e-3
# From FAMILIAR points on the last good ones start alone, but at every so many points: then a fit may leave their basin.
FAMILIAR, FRESH = 16, 5


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted process; `trouble` says why older hyperparameters had to serve, or is empty."""

    process: GaussianProcess
    trouble: str = ""


class PosteriorMode:
    """The loss of hyperparameters as a function of `theta = log(l.., s2, v)`, and t2 if there is a trend."""

    def __init__(
        self, form: Form, owner: NDArray[np.intp], d: int, features: Array, y: Array, width: float = LENGTHSCALE_WIDTH
    ) -> None:
        self.form, self.owner, self.d, self.F, self.y = form, owner, d, features, y
        self.H = form.basis(features)
        median = LENGTHSCALE_MEDIAN * np.sqrt(max(d, 1))
        self.n_theta = d + 2 + form.has_trend
        medians = [median] * d + [SIGNAL_MEDIAN, NOISE_MEDIAN, TREND_MEDIAN]
        self.center = np.log(np.array(medians[: self.n_theta]))
        self.width = np.array(([width] * d + [SIGNAL_WIDTH, NOISE_WIDTH, TREND_WIDTH])[: self.n_theta])
        bounds = [LENGTHSCALE_BOUNDS] * d + [SIGNAL_BOUNDS, NOISE_BOUNDS, TREND_BOUNDS]
        low, high = np.array(bounds[: self.n_theta]).T
        self.low, self.high = np.log(low), np.log(high)
        self._diagonal = np.arange(len(y))
        self._owned = np.eye(d)[owner]  # (D, d): adds up the features of a parameter
        P = trend.basis(features)[0]
        self._PP = P @ P.T

    @property
    def is_large(self) -> bool:
        return len(self.y) > MANY

    def likelihood(self, theta: Array) -> tuple[Array, Array]:
        """Return the negative log marginal likelihoods at `theta` `(S, d + 2 or 3)`, and their gradients.

        Without the constant, b's prior included; infinite where K is not positive definite in double precision.
        """
        lengthscales, (signal, noise, *t2) = np.exp(theta[:, : self.d]), np.exp(theta[:, self.d :].T)
        Z = self.F / lengthscales[:, self.owner][:, None, :]
        K, slope = self.form.correlation(squared_distances(Z, Z))
        K *= signal[:, None, None]
        K[:, self._diagonal, self._diagonal] = (signal + noise)[:, None]  # free of rounding
        for one in t2:
            K += one[:, None, None] * self._PP
        inverse, log_determinant = self._inverses(K)
        b, a, fit_term = self._coefficients(inverse)
        value = 0.5 * (fit_term + log_determinant + (b * b).sum(1) / MEAN_WIDTH**2)
        trace = 0.5 * (inverse[:, self._diagonal, self._diagonal].sum(1) - (a * a).sum(1))
        by_trend = [0.5 * one * ((inverse * self._PP).sum((1, 2)) - (a @ self._PP * a).sum(1)) for one in t2]
        Z1 = np.concatenate([Z, np.ones((*Z.shape[:2], 1))], axis=2)
        inverse *= slope
        WZ1 = inverse @ Z1 - a[:, :, None] * (slope @ (a[:, :, None] * Z1))
        by_feature = ((Z * Z) * WZ1[:, :, -1:] - Z * WZ1[:, :, :-1]).sum(1) @ self._owned
        by_signal = 0.5 * (len(self.y) - fit_term) - noise * trace - sum(by_trend)
        by_lengthscale = (-2.0 * signal)[:, None] * by_feature
        return value, np.hstack([by_lengthscale, np.stack([by_signal, noise * trace, *by_trend], axis=1)])

    def _inverses(self, K: Array) -> tuple[Array, Array]:
        """Turn a stack `(S, n, n)` into its inverses, in place, and return them with log |K| `(S,)`."""
        log_determinant = np.full(len(K), np.inf)
        for s, one in enumerate(K):
            factor, info = dpotrf(one.T, lower=1, clean=1, overwrite_a=1)
            if info != 0:
                one[:] = np.eye(len(one))
                continue
            log_determinant[s] = 2.0 * float(np.log(factor.diagonal()).sum())
            lower, _ = dpotri(factor, lower=1, overwrite_c=1)
            np.add(lower, lower.T, out=one)
            one[self._diagonal, self._diagonal] *= 0.5
        return K, log_determinant

    def _coefficients(self, inverse: Array) -> tuple[Array, Array, Array]:
        """Return b `(S, p)`, a `(S, n)` and `e' a` `(S,)`."""
        p = self.H.shape[1]
        if p == 0:
            a = inverse @ self.y
            return np.empty((len(inverse), 0)), a, a @ self.y
        A = inverse @ self.H
        right = (A.swapaxes(1, 2) @ self.y)[:, :, None]
        b = np.linalg.solve(self.H.T @ A + np.eye(p) / MEAN_WIDTH**2, right)[:, :, 0]
        e = self.y - b @ self.H.T
        a = (inverse @ e[:, :, None])[:, :, 0]
        return np.asarray(b), a, np.asarray((e * a).sum(1))

    def __call__(self, theta: Array) -> tuple[Array, Array]:
        """Return the losses at `theta` `(S, d + 2 or 3)`, and their gradients."""
        value, gradient = self.likelihood(theta)
        off = (theta - self.center) / self.width
        return value + 0.5 * (off * off).sum(1), gradient + off / self.width

    def hyperparameters(self, theta: Array) -> Hyperparameters:
        signal, noise, *t2 = np.exp(theta[self.d :]).tolist()
        return Hyperparameters(np.exp(theta[: self.d]), signal, noise, len(self.y), *t2)

    def starts(self, warm: Hyperparameters | None) -> Array:
        """Return, one a row, the last good hyperparameters, the prior's median, and short scales with hardly any noise.

        "All is noise" is a local optimum, which the last start keeps away from. With many points the first alone.
        """
        known = None
        if warm is not None and len(warm.lengthscales) == self.d and (warm.trend > 0) == self.form.has_trend:
            known = np.log([*warm.lengthscales, warm.signal, warm.noise, warm.trend or 1.0][: self.n_theta])
        n = len(self.y)
        if known is not None and (self.is_large or (n > FAMILIAR and n % FRESH > 0)):
            return known[None]
        short = self.center.copy()
        short[: self.d] += np.log(0.5)
        short[self.d + 1] = np.log(10 * NOISE_FLOOR)
        return np.array([self.center, short] if known is None else [known, self.center, short])


def _minima(loss: PosteriorMode, last: Sequence[Hyperparameters]) -> list[Hyperparameters]:
    """Return the best hyperparameters found, or nothing if no start led anywhere."""
    starts = loss.starts(last[0] if last else None)
    is_familiar = len(starts) == 1
    found, values = minimise(
        lambda theta, _: loss(theta),
        starts,
        loss.low,
        loss.high,
        evaluations=FEW_EVALUATIONS if loss.is_large and last else MAX_EVALUATIONS,
        first_step=FAMILIAR_STEP if is_familiar else FIRST_STEP,
        gradient_tolerance=FAMILIAR_SLOPE if is_familiar else SLOPE_TOLERANCE,
        value_tolerance=FAMILIAR_GAIN if is_familiar else GAIN_TOLERANCE,
    )
    best = int(values.argmin())
    return [loss.hyperparameters(found[best])] if np.isfinite(values[best]) else []


def fit(
    form: Form,
    owner: NDArray[np.intp],
    d: int,
    features: Array,
    values: Array,
    last: Sequence[Hyperparameters] = (),
    *,
    damped: bool = False,
    width: float = LENGTHSCALE_WIDTH,
) -> Fit:
    """Fit a process to finite values `(n,)` at features `(n, D)`.

    Args:
        form: Kernel and mean.
        owner: Shape `(D,)`; the parameter of each feature.
        d: The number of parameters.
        features: F.
        values: In any units, finite.
        last: Hyperparameters of earlier fits, newest first: the first is a start, and serves if the fit fails.
        damped: Whether values worse than the median count by their logarithm; see `Units`.
        width: Of the prior on lengthscales, in the logarithm.
    """
    y, units = Units.of(values, damped=damped)
    loss = PosteriorMode(form, owner, d, features, y, width)
    trouble, candidates = "", []
    if len(y) > SETTLED and last and last[0].n_fitted * GROWN >= len(y) and len(last[0].lengthscales) == d:
        candidates = [last[0]]
    else:
        try:
            candidates = _minima(loss, last)
        except (ValueError, FloatingPointError, np.linalg.LinAlgError) as err:
            trouble = str(err)
    for hyper in [*candidates, *last, loss.hyperparameters(loss.center)]:
        try:
            process = GaussianProcess(form, hyper, owner, features, y, units)
        except (ValueError, np.linalg.LinAlgError) as err:
            trouble = str(err)
            continue
        failed = not candidates or hyper is not candidates[0]
        return Fit(process, f"the fit failed ({trouble}); older hyperparameters serve" if failed else "")
    # Only values that are not finite lead here, since the noise floor makes every K positive definite.
    raise np.linalg.LinAlgError(trouble)
