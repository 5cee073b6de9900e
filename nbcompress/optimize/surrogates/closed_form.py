"""A Gaussian process in closed form: prediction, gradients, leave-one-out.

Notation, here and in `fitting.py` (all numbers in double precision):

    n, d, D   known points, parameters, features (see `embedding.py`)
    F         (n, D)   features of the known points
    y         (n,)     their values, standardised
    l         (d,)     lengthscales; l[owner] is one for each feature
    s2        signal variance
    v         noise variance, at least NOISE_FLOOR
    r2        squared distance of features divided by lengthscales
    k(r2)     correlation: k(0) = 1; k' is its derivative by r2
    t2, P     variance of the trend and its basis (n, 2D), see `trend.py`; t2 = 0 without one
    K         (n, n)   s2 k(r2) + t2 P P' + v I;  L its Cholesky factor
    H, b      (n, p), (p,)  basis of the mean and its coefficients (p = 0, 1 or 1 + D)
    e         y - H b;  a = K^-1 e

Small is better throughout the package, so `y` is a loss.

References:
    Rasmussen & Williams (2006), "Gaussian Processes for Machine Learning": (2.25), (2.26), (4.17), (5.9), (5.12).

A trend: lines and parabolas along single features, added up, with coefficients that are drawn from one variance.

Most losses of mixed spaces are close to a sum: a choice costs so much, a number has a best value. A stationary kernel
of all features cannot say so, and learns each option of a choice anew for each value of the others. The trend says it
in one product of matrices: its covariance is `t2 P P'`, beside the kernel's.

References:
    Duvenaud, Nickisch, Rasmussen (2011), "Additive Gaussian Processes".
    Rasmussen & Williams (2006), section 2.7: explicit basis functions as part of the covariance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dtrtri

from nbcompress.choices import KERNELS, MEANS
from nbcompress.errors import GoalError, did_you_mean
from nbcompress.optimize.history import Array
from nbcompress.optimize.outcome_transform import Units
from nbcompress.optimize.surrogates import closed_form as trend

# On even points between 0 and 1: the standard deviation of u, and that of (u - 1/2)^2 and its mean.
_LINE, _PARABOLA, _MEAN = np.sqrt(1.0 / 12.0), np.sqrt(1.0 / 180.0), 1.0 / 12.0


def basis(features: Array) -> tuple[Array, Array]:
    """Return P `(n, 2D)`, the lines and then the parabolas along features `(n, D)`, and its derivatives `(n, 2D)`.

    On even points each column has mean 0, and P's rows have length 1 on average: so t2 is the trend's mean variance.
    """
    centred = features - 0.5
    share = np.sqrt(0.5 / max(features.shape[1], 1))
    columns = np.hstack([centred / _LINE, (centred * centred - _MEAN) / _PARABOLA])
    slopes = np.hstack([np.full_like(centred, 1.0 / _LINE), (2.0 / _PARABOLA) * centred])
    return share * columns, share * slopes


def by_feature(by_column: Array) -> Array:
    """Add up what P's columns `(n, 2D)` say of each feature: shape `(n, D)`."""
    lines, parabolas = np.hsplit(by_column, 2)
    return np.asarray(lines + parabolas)


# Enough for a deterministic objective, and K stays well within reach of a Cholesky factor.
NOISE_FLOOR = 1e-6
# Below this the predicted variance (of standardised values) is rounding error.
VARIANCE_FLOOR = 1e-12
# Prior standard deviation of the coefficients of the mean, in standardised units. Keeps `linear` proper for n < p.
MEAN_WIDTH = 1.0

PLAIN = Units()
_SQRT5 = np.sqrt(5.0)


@dataclass(frozen=True, eq=False)
class Hyperparameters:
    """What a fit learns: lengthscales `(d,)`, variances of signal, noise and trend; and from how many values."""

    lengthscales: Array
    signal: float
    noise: float
    n_fitted: int = 0
    trend: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "lengthscales": self.lengthscales.tolist(),
            "signal": self.signal,
            "noise": self.noise,
            "n_fitted": self.n_fitted,
            "trend": self.trend,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Hyperparameters:
        lengthscales = np.array(data["lengthscales"], dtype=np.float64)
        n_fitted, trend = int(data.get("n_fitted", 0)), float(data.get("trend", 0.0))
        return cls(lengthscales, float(data["signal"]), float(data["noise"]), n_fitted, trend)


@dataclass(frozen=True)
class Form:
    """The kernel and the mean by their names, and whether a trend is learned beside the kernel.

    Raises:
        GoalError: There is no such kernel or mean.
    """

    kernel: str = "matern52"
    mean: str = "constant"
    has_trend: bool = False

    def __post_init__(self) -> None:
        for what, name, known in (("kernel", self.kernel, KERNELS), ("mean", self.mean, MEANS)):
            if name not in known:
                hint = did_you_mean(name, known)
                raise GoalError(f"The {what} is one of {', '.join(known)}, but got {name!r}.{hint}")

    def correlation(self, r2: Array) -> tuple[Array, Array]:
        """Return k and k' at squared distances."""
        if self.kernel == "rbf":
            k = np.exp(-0.5 * r2)
            return k, -0.5 * k
        r = _SQRT5 * np.sqrt(r2)
        decay = np.exp(-r)
        slope = (1.0 + r) * decay
        return slope + r2 * decay * (5.0 / 3.0), slope * (-5.0 / 6.0)

    def basis(self, features: Array) -> Array:
        """Return H for features `(n, D)`."""
        if self.mean == "zero":
            return np.empty((len(features), 0))
        ones = np.ones((len(features), 1))
        return ones if self.mean == "constant" else np.hstack([ones, features])


def squared_distances(left: Array, right: Array) -> Array:
    """Return `|left_i - right_j|^2`, never below 0: `(.., n, D)` and `(.., m, D)` give `(.., n, m)`."""
    r2 = left @ (-2.0 * right.swapaxes(-1, -2))
    r2 += (left * left).sum(-1)[..., :, None]
    r2 += (right * right).sum(-1)[..., None, :]
    return np.asarray(np.maximum(r2, 0.0, out=r2))


def inverse_factor(K: Array) -> tuple[Array, float]:
    """Return L^-1 (lower) and log |K|.

    Raises:
        np.linalg.LinAlgError: K is not positive definite in double precision.
    """
    L, info = dpotrf(K, lower=1, clean=1)
    if info != 0:
        raise np.linalg.LinAlgError("the covariance is not positive definite")
    inverse, _ = dtrtri(L, lower=1)
    return inverse, 2.0 * float(np.log(np.diag(L)).sum())


def mean_coefficients(H: Array, y: Array, L_inverse: Array) -> Array:
    """Return the b of highest posterior density, given K."""
    if H.shape[1] == 0:
        return np.empty(0)
    A = L_inverse @ H
    return np.asarray(np.linalg.solve(A.T @ A + np.eye(H.shape[1]) / MEAN_WIDTH**2, A.T @ (L_inverse @ y)))


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """A process with given hyperparameters, conditioned on known points.

    Args:
        form: Kernel and mean.
        hyper: What was learned.
        owner: Shape `(D,)`; the parameter of each feature.
        features: F.
        y: Standardised values.
        units: What y means in the units of the values.

    Raises:
        np.linalg.LinAlgError: K is not positive definite in double precision.
    """

    form: Form
    hyper: Hyperparameters
    owner: NDArray[np.intp]
    features: Array
    y: Array
    units: Units = PLAIN
    b: Array = field(init=False)
    _Z: Array = field(init=False, repr=False)
    _L_inverse: Array = field(init=False, repr=False)
    _a: Array = field(init=False, repr=False)
    _P: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        Z = self.features / self.hyper.lengthscales[self.owner]
        K = self.hyper.signal * self.form.correlation(squared_distances(Z, Z))[0]
        K[np.diag_indices_from(K)] = self.hyper.signal + self.hyper.noise
        P = trend.basis(self.features)[0]
        if self.hyper.trend > 0:
            K += self.hyper.trend * (P @ P.T)
        L_inverse, _ = inverse_factor(K)
        H = self.form.basis(self.features)
        b = mean_coefficients(H, self.y, L_inverse)
        a = L_inverse.T @ (L_inverse @ (self.y - H @ b))
        for name, value in (("b", b), ("_Z", Z), ("_L_inverse", L_inverse), ("_a", a), ("_P", P)):
            object.__setattr__(self, name, value)

    @property
    def n(self) -> int:
        return len(self.y)

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the noise-free values at features `(m, D)`, standardised."""
        k = self.covariances(features)
        mean = self.form.basis(features) @ self.b + k @ self._a
        half = k @ self._L_inverse.T
        variance = self._prior_variances(features) - np.einsum("ij,ij->i", half, half)
        return mean, np.sqrt(np.maximum(variance, VARIANCE_FLOOR))

    def joint(self, features: Array) -> tuple[Array, Array]:
        """Return the mean `(m,)` and the covariance `(m, m)` of values at features `(m, D)`, noise included."""
        z = features / self.hyper.lengthscales[self.owner]
        k = self.covariances(features)
        half = k @ self._L_inverse.T
        prior = self.hyper.signal * self.form.correlation(squared_distances(z, z))[0]
        if self.hyper.trend > 0:
            P = trend.basis(features)[0]
            prior += self.hyper.trend * (P @ P.T)
        covariance = prior - half @ half.T + self.hyper.noise * np.eye(len(z))
        return self.form.basis(features) @ self.b + k @ self._a, covariance

    def covariances(self, features: Array) -> Array:
        """Return the prior covariances of features `(m, D)` with the known points: shape `(m, n)`."""
        z = features / self.hyper.lengthscales[self.owner]
        k = self.hyper.signal * self.form.correlation(squared_distances(z, self._Z))[0]
        if self.hyper.trend > 0:
            k += self.hyper.trend * (trend.basis(features)[0] @ self._P.T)
        return k

    def _prior_variances(self, features: Array) -> Array:
        variances = np.full(len(features), self.hyper.signal)
        if self.hyper.trend > 0:
            P = trend.basis(features)[0]
            variances += self.hyper.trend * np.einsum("ij,ij->i", P, P)
        return variances

    def covariance_gradients(self, features: Array, weights: Array) -> Array:
        """Return the gradients of `sum_j w_j k(x, x_j)` at features `(m, D)`, weights `(m, n)`: shape `(m, D)`."""
        scales = self.hyper.lengthscales[self.owner]
        z = features / scales
        slope = (2.0 * self.hyper.signal) * self.form.correlation(squared_distances(z, self._Z))[1]
        gradients = self._by_features(slope * weights, z) / scales
        if self.hyper.trend > 0:
            gradients += self.hyper.trend * trend.by_feature((weights @ self._P) * trend.basis(features)[1])
        return gradients

    def solved(self, values: Array) -> Array:
        """Return K^-1 values, for values `(n, S)`."""
        return np.asarray(self._L_inverse.T @ (self._L_inverse @ values))

    def means(self, features: Array) -> Array:
        """Return the means of `predict` alone, which cost less."""
        return np.asarray(self.form.basis(features) @ self.b + self.covariances(features) @ self._a)

    def predict_with_gradients(self, features: Array) -> tuple[Array, Array, Array, Array]:
        """Return mean and standard deviation `(m,)` and their gradients `(m, D)` at features `(m, D)`.

        The gradient of `sum_j w_j k(x, x_j)` by x is `2 sum_j w_j k' (z - z_j) / l`: no array of shape m x n x D.
        """
        scales = self.hyper.lengthscales[self.owner]
        z = features / scales
        k, slope = self.form.correlation(squared_distances(z, self._Z))
        k, slope = self.hyper.signal * k, (2.0 * self.hyper.signal) * slope
        t2 = self.hyper.trend
        if t2 > 0:
            P, P_slope = trend.basis(features)
            k += t2 * (P @ self._P.T)
        mean = self.form.basis(features) @ self.b + k @ self._a
        half = k @ self._L_inverse.T
        variance = self._prior_variances(features) - np.einsum("ij,ij->i", half, half)
        is_known = variance <= VARIANCE_FLOOR
        std = np.sqrt(np.maximum(variance, VARIANCE_FLOOR))
        by_mean = self._by_features(slope * self._a, z) / scales
        if len(self.b) > 1:
            by_mean += self.b[1:]
        weights = half @ self._L_inverse
        by_std = self._by_features(slope * weights, z) / (-std[:, None] * scales)
        if t2 > 0:
            by_mean += t2 * trend.by_feature((self._P.T @ self._a) * P_slope)
            by_std += t2 * trend.by_feature((P - weights @ self._P) * P_slope) / std[:, None]
        by_std[is_known] = 0.0
        return mean, std, by_mean, by_std

    def _by_features(self, weights: Array, z: Array) -> Array:
        return np.asarray(weights.sum(1)[:, None] * z - weights @ self._Z)

    def in_units(self, mean: Array, std: Array) -> tuple[Array, Array]:
        """Turn standardised predictions into the units of the values."""
        return self.units.restored(mean, std)

    def believing(self, features: Array) -> GaussianProcess:
        """Return the process after seeing its own mean at pending points `(m, D)`: there it is sure, elsewhere equal.

        So the next point keeps away from those that run already (the "kriging believer"; a heuristic). With
        four workers it finds better points than qLogEI does, for half of its cost; figures in `pending.py`.
        """
        if len(features) == 0:
            return self
        y = np.concatenate([self.y, self.predict(features)[0]])
        grown = np.vstack([self.features, features])
        return GaussianProcess(self.form, self.hyper, self.owner, grown, y, self.units)

    def leave_one_out(self) -> tuple[Array, Array]:
        """Return for each known value the mean and the standard deviation (noise included) given all the others.

        Hyperparameters and the mean's coefficients stay as they are; Rasmussen & Williams (5.12).
        """
        precision = np.einsum("ij,ij->j", self._L_inverse, self._L_inverse)
        return self.y - self._a / precision, 1.0 / np.sqrt(precision)
