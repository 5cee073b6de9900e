"""Learning hyperparameters: the posterior's mode, with gradients in closed form. Notation: see `surrogate.py`.

The loss is `e' K^-1 e / 2 + log|K| / 2` plus the negative log prior, in the logarithms of l, s2 and v. With
`G = (K^-1 - a a') / 2`, the derivative by K, and `W = G * s2 k'`, the derivative by log l_i is

    -2 sum_{features f of i} sum_{jm} W_jm (z_jf - z_mf)^2  =  -4 sum_f (z_f^2 . W 1 - z_f . W z_f)

which needs no array of shape n x n x D. The coefficients b are at their optimum for each K, so they add nothing
(envelope theorem).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from nbcompress.optimize.history import Array
from nbcompress.optimize.surrogate import (
    MEAN_WIDTH,
    NOISE_FLOOR,
    Form,
    GaussianProcess,
    Hyperparameters,
    inverse_factor,
    mean_coefficients,
    squared_distances,
)

# Priors, normal in the logarithm: (median, width). Heuristics, chosen on Branin, Hartmann 6, Levy 4 and Ackley 5.
# Distances grow with the root of the dimension, so lengthscales do; a longer prior gets stuck on Hartmann 6.
LENGTHSCALE_MEDIAN, LENGTHSCALE_WIDTH = 0.25, 0.8
SIGNAL_MEDIAN, SIGNAL_WIDTH = 1.0, 1.0
NOISE_MEDIAN, NOISE_WIDTH = 1e-5, 3.0
LENGTHSCALE_BOUNDS = (0.02, 50.0)
SIGNAL_BOUNDS = (1e-2, 1e2)
NOISE_BOUNDS = (NOISE_FLOOR, 2.0)
MAX_ITERATIONS = 60
# With more points than this one more hardly moves the optimum, and each step costs n^3: only the last good
# hyperparameters start, and take a few steps.
MANY, FEW_ITERATIONS = 200, 5
# What a start that leads to no factorisation counts: worse than any real loss.
HOPELESS = 1e25


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted process; `trouble` says why older hyperparameters had to serve, or is empty."""

    process: GaussianProcess
    trouble: str = ""


def standardise(values: Array) -> tuple[Array, float, float]:
    """Return `(y, shift, scale)` with mean 0 and standard deviation 1; safe for constant and for huge values."""
    largest = float(np.abs(values).max(initial=0.0))
    unit = values / largest if largest > 0 else values
    shift, scale = float(unit.mean()), float(unit.std())
    # What is left of equal values after rounding is not a scale.
    scale = scale if scale > 1e-12 else 1.0
    return (unit - shift) / scale, shift * (largest or 1.0), scale * (largest or 1.0)


class PosteriorMode:
    """The loss of hyperparameters as a function of `theta = log(l.., s2, v)`, shape `(d + 2,)`."""

    def __init__(self, form: Form, owner: NDArray[np.intp], d: int, features: Array, y: Array) -> None:
        self.form, self.owner, self.d, self.F, self.y = form, owner, d, features, y
        self.H = form.basis(features)
        median = LENGTHSCALE_MEDIAN * np.sqrt(max(d, 1))
        self.center = np.log(np.array([median] * d + [SIGNAL_MEDIAN, NOISE_MEDIAN]))
        self.width = np.array([LENGTHSCALE_WIDTH] * d + [SIGNAL_WIDTH, NOISE_WIDTH])
        low, high = np.array([LENGTHSCALE_BOUNDS] * d + [SIGNAL_BOUNDS, NOISE_BOUNDS]).T
        self.bounds = list(zip(np.log(low), np.log(high), strict=True))

    @property
    def is_large(self) -> bool:
        return len(self.y) > MANY

    def likelihood(self, theta: Array) -> tuple[float, Array]:
        """Return the negative log marginal likelihood (without its constant; b's prior included) and its gradient."""
        lengthscales, (signal, noise) = np.exp(theta[: self.d]), np.exp(theta[self.d :])
        Z = self.F / lengthscales[self.owner]
        k, slope = self.form.correlation(squared_distances(Z, Z))
        k[np.diag_indices_from(k)] = 1.0  # free of rounding
        K = signal * k
        K[np.diag_indices_from(K)] += noise
        L_inverse, log_determinant = inverse_factor(K)
        b = mean_coefficients(self.H, self.y, L_inverse)
        e = self.y - self.H @ b
        K_inverse = L_inverse.T @ L_inverse
        a = K_inverse @ e
        value = 0.5 * float(e @ a) + 0.5 * log_determinant + 0.5 * float(b @ b) / MEAN_WIDTH**2
        G = 0.5 * (K_inverse - np.outer(a, a))
        W = G * (signal * slope)
        by_feature = -4.0 * ((Z * Z).T @ W.sum(1) - np.einsum("ij,ij->j", Z, W @ Z))
        by_lengthscale = np.bincount(self.owner, by_feature, minlength=self.d)
        return value, np.append(by_lengthscale, [signal * (G * k).sum(), noise * np.trace(G)])

    def __call__(self, theta: Array) -> tuple[float, Array]:
        try:
            value, gradient = self.likelihood(theta)
        except np.linalg.LinAlgError:
            return HOPELESS, np.zeros_like(theta)
        off = (theta - self.center) / self.width
        return value + 0.5 * float(off @ off), gradient + off / self.width

    def hyperparameters(self, theta: Array) -> Hyperparameters:
        return Hyperparameters(np.exp(theta[: self.d]), float(np.exp(theta[-2])), float(np.exp(theta[-1])))

    def starts(self, warm: Hyperparameters | None) -> list[Array]:
        """Return the last good hyperparameters, the prior's median, and short scales with hardly any noise.

        "All is noise" is a local optimum, which the last start keeps away from. With many points the first alone.
        """
        known = None if warm is None else np.log([*warm.lengthscales, warm.signal, warm.noise])
        if known is not None and len(known) != self.d + 2:
            known = None
        low, high = np.array(self.bounds).T
        if known is not None and self.is_large:
            return [known.clip(low, high)]
        short = self.center.copy()
        short[: self.d] += np.log(0.5)
        short[-1] = np.log(10 * NOISE_FLOOR)
        found = [self.center, short] if known is None else [known, self.center, short]
        return [one.clip(low, high) for one in found]


def fit(
    form: Form,
    owner: NDArray[np.intp],
    d: int,
    features: Array,
    values: Array,
    last: Sequence[Hyperparameters] = (),
) -> Fit:
    """Fit a process to finite values `(n,)` at features `(n, D)`.

    Args:
        form: Kernel and mean.
        owner: Shape `(D,)`; the parameter of each feature.
        d: The number of parameters.
        features: F.
        values: In any units, finite.
        last: Hyperparameters of earlier fits, newest first: the first is a start, and serves if the fit fails.
    """
    y, shift, scale = standardise(values)
    loss = PosteriorMode(form, owner, d, features, y)
    best: tuple[float, Array] | None = None
    trouble = ""
    iterations = FEW_ITERATIONS if loss.is_large and last else MAX_ITERATIONS
    for start in loss.starts(last[0] if last else None):
        try:
            found = minimize(
                loss, start, jac=True, method="L-BFGS-B", bounds=loss.bounds, options={"maxiter": iterations}
            )
        except (ValueError, FloatingPointError, np.linalg.LinAlgError) as err:
            trouble = str(err)
            continue
        usable = np.isfinite(found.fun) and found.fun < HOPELESS and np.isfinite(found.x).all()
        if usable and (best is None or found.fun < best[0]):
            best = (float(found.fun), found.x)
    candidates = [loss.hyperparameters(best[1])] if best else []
    for hyper in [*candidates, *last, loss.hyperparameters(loss.center)]:
        try:
            process = GaussianProcess(form, hyper, owner, features, y, shift, scale)
        except (ValueError, np.linalg.LinAlgError) as err:
            trouble = str(err)
            continue
        failed = not candidates or hyper is not candidates[0]
        return Fit(process, f"the fit failed ({trouble}); older hyperparameters serve" if failed else "")
    # Only values that are not finite lead here, since the noise floor makes every K positive definite.
    raise np.linalg.LinAlgError(trouble)
