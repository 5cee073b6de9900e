"""A Gaussian process in closed form: prediction, gradients, leave-one-out; with an optional additive trend.

Notation, here and in `fit.py` (all numbers in double precision):

    n, d, D   known points, parameters, features (see `encoding.py`)
    F         (n, D)   features of the known points
    y         (n,)     their values, standardized; smaller is better
    l         (d,)     lengthscales; l[owner] is one for each feature
    s2        signal variance
    v         noise variance, at least NOISE_FLOOR
    r2        squared distance of features divided by lengthscales
    k(r2)     correlation: k(0) = 1; k' is its derivative by r2
    t2, P     variance of the trend and its basis (n, 2D); t2 = 0 without a trend
    K         (n, n)   s2 k(r2) + t2 P P' + v I;  L its Cholesky factor
    H, b      (n, p), (p,)  basis of the mean and its coefficients (p = 0, 1 or 1 + D)
    e         y - H b;  a = K^-1 e

The trend is a sum of lines and parabolas along single features, whose coefficients share one prior variance t2. Most
losses of mixed spaces are close to a sum over parameters. A stationary kernel of all features cannot express that, and
learns each option of a choice anew for each value of the other parameters.

References:
    Rasmussen & Williams (2006), "Gaussian Processes for Machine Learning": (2.25), (2.26), (4.17), (5.9), (5.12);
    section 2.7 for explicit basis functions as part of the covariance.
    Duvenaud, Nickisch, Rasmussen (2011), "Additive Gaussian Processes".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dtrtri

from nbcompress.choices import KERNELS, MEANS
from nbcompress.errors import GoalError, did_you_mean
from nbcompress.optimize.history import Array
from nbcompress.optimize.outcome_transform import OutcomeTransform

# Small enough for a deterministic objective, large enough for a Cholesky factor of K in double precision.
NOISE_FLOOR = 1e-6
# A predicted variance (of standardized values) below this is rounding error.
VARIANCE_FLOOR = 1e-12
# Prior standard deviation of the coefficients of the mean, in standardized units. Keeps `linear` proper for n < p.
MEAN_PRIOR_STD = 1.0

IDENTITY = OutcomeTransform()

# --- The trend ---

# For evenly spread u in [0, 1]: the standard deviation of u, and standard deviation and mean of (u - 1/2)^2.
_LINE_STD, _PARABOLA_STD, _PARABOLA_MEAN = np.sqrt(1.0 / 12.0), np.sqrt(1.0 / 180.0), 1.0 / 12.0


def trend_basis(features: Array) -> tuple[Array, Array]:
    """Return the basis of the trend and its derivatives.

    For evenly spread features each column of P has mean 0 and the rows have length 1 on average, so t2 is the mean
    variance of the trend.

    Args:
        features: Shape `(n, D)`.

    Returns:
        P `(n, 2D)`, first the lines and then the parabolas; and the derivative of each column by its feature.
    """
    centred = features - 0.5
    share = np.sqrt(0.5 / max(features.shape[1], 1))
    columns = np.hstack([centred / _LINE_STD, (centred * centred - _PARABOLA_MEAN) / _PARABOLA_STD])
    slopes = np.hstack([np.full_like(centred, 1.0 / _LINE_STD), (2.0 / _PARABOLA_STD) * centred])
    return share * columns, share * slopes


def sum_by_feature(by_column: Array) -> Array:
    """Add up the line and the parabola of each feature: from `(n, 2D)` to `(n, D)`."""
    lines, parabolas = np.hsplit(by_column, 2)
    return np.asarray(lines + parabolas)


# --- Hyperparameters, kernel and mean ---

_SQRT3, _SQRT5 = np.sqrt(3.0), np.sqrt(5.0)
# Distances below this count as this in the slope of `matern12`, which is infinite at 0.
_MIN_DISTANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Hyperparameters:
    """The hyperparameters of a Gaussian process.

    Attributes:
        lengthscales: Shape `(d,)`; one per parameter.
        signal, noise: Variances, of standardized values.
        n_fitted: The number of values they were fitted to.
        trend: Variance of the trend; 0 without one.
    """

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
class ModelSpec:
    """The kernel and the mean of a surrogate.

    Attributes:
        kernel: `matern52`, `rbf`, `matern32` or `matern12`.
        mean: `constant`, `linear` or `zero`.
        has_trend: Whether an additive trend is fitted beside the kernel.
        flat: What has no prior: some of `lengthscale`, `signal`, `noise` and `mean` (of a constant mean).
        bounds: Bounds other than those of `fit.py`, by the same names (not for the mean).
        noise: A fixed noise variance of standardized values; None fits it.

    Raises:
        GoalError: Unknown kernel or mean.
    """

    kernel: str = "matern52"
    mean: str = "constant"
    has_trend: bool = False
    flat: frozenset[str] = frozenset()
    bounds: tuple[tuple[str, float, float], ...] = ()
    noise: float | None = None

    def __post_init__(self) -> None:
        for what, name, known in (("kernel", self.kernel, KERNELS), ("mean", self.mean, MEANS)):
            if name not in known:
                hint = did_you_mean(name, known)
                raise GoalError(f"The {what} is one of {', '.join(known)}, but got {name!r}.{hint}")

    def correlation(self, r2: Array) -> tuple[Array, Array]:
        """Return k and k' at squared distances, each of the shape of `r2`."""
        if self.kernel == "rbf":
            k = np.exp(-0.5 * r2)
            return k, -0.5 * k
        if self.kernel == "matern12":
            r = np.sqrt(r2)
            k = np.exp(-r)
            return k, -0.5 * k / np.maximum(r, _MIN_DISTANCE)
        if self.kernel == "matern32":
            r = _SQRT3 * np.sqrt(r2)
            decay = np.exp(-r)
            return (1.0 + r) * decay, -1.5 * decay
        r = _SQRT5 * np.sqrt(r2)
        decay = np.exp(-r)
        slope = (1.0 + r) * decay
        return slope + r2 * decay * (5.0 / 3.0), slope * (-5.0 / 6.0)

    def correlation_of(self, left: Array, right: Array) -> tuple[Array, Array]:
        """Return k and k' between scaled features `(m, D)` and `(n, D)`, each `(m, n)`."""
        if self.kernel == "matern12":
            # Its k has a kink at 0, which shows the rounding error of `squared_distances` as its root, 1e-8.
            from scipy.spatial.distance import cdist

            return self.correlation(cdist(left, right, "sqeuclidean"))
        return self.correlation(squared_distances(left, right))

    @property
    def mean_precision(self) -> float:
        """The inverse variance of the prior of the coefficients of the mean."""
        return 0.0 if "mean" in self.flat else 1.0 / MEAN_PRIOR_STD**2

    def mean_basis(self, features: Array) -> Array:
        """Return H for features `(n, D)`: shape `(n, p)`."""
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


def known_or(known: Array, noise: float) -> Array:
    """Return known noise variances, not below the floor, and `noise` where they are NaN."""
    return np.where(np.isnan(known), noise, np.maximum(known, NOISE_FLOOR))


def inverse_cholesky(K: Array) -> tuple[Array, float]:
    """Return L^-1 (lower) and log |K|.

    Raises:
        np.linalg.LinAlgError: K is not positive definite in double precision.
    """
    L, info = dpotrf(K, lower=1, clean=1)
    if info != 0:
        raise np.linalg.LinAlgError("the covariance is not positive definite")
    inverse, _ = dtrtri(L, lower=1)
    return inverse, 2.0 * float(np.log(np.diag(L)).sum())


def mean_coefficients(H: Array, y: Array, L_inverse: Array, precision: float = 1.0 / MEAN_PRIOR_STD**2) -> Array:
    """Return the posterior mode of b, given K and the inverse variance of its prior."""
    if H.shape[1] == 0:
        return np.empty(0)
    A = L_inverse @ H
    return np.asarray(np.linalg.solve(A.T @ A + np.eye(H.shape[1]) * precision, A.T @ (L_inverse @ y)))


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """A Gaussian process with given hyperparameters, conditioned on known points.

    Args:
        spec: Kernel and mean.
        hyper: The hyperparameters.
        owner: Shape `(D,)`; the parameter of each feature.
        features: F, shape `(n, D)`.
        y: Standardized values, shape `(n,)`.
        outcome_transform: Between y and the original values.
        known_noise: Shape `(n,)`; known noise variances of y, which replace v; NaN where unknown. None if none is.

    Raises:
        np.linalg.LinAlgError: K is not positive definite in double precision.
    """

    spec: ModelSpec
    hyper: Hyperparameters
    owner: NDArray[np.intp]
    features: Array
    y: Array
    outcome_transform: OutcomeTransform = IDENTITY
    known_noise: Array | None = None
    b: Array = field(init=False)
    _Z: Array = field(init=False, repr=False)
    _L_inverse: Array = field(init=False, repr=False)
    _a: Array = field(init=False, repr=False)
    _P: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        Z = self.features / self.hyper.lengthscales[self.owner]
        K = self.hyper.signal * self.spec.correlation_of(Z, Z)[0]
        K[np.diag_indices_from(K)] = self.hyper.signal + self.noise_variances
        P = trend_basis(self.features)[0]
        if self.hyper.trend > 0:
            K += self.hyper.trend * (P @ P.T)
        L_inverse, _ = inverse_cholesky(K)
        H = self.spec.mean_basis(self.features)
        b = mean_coefficients(H, self.y, L_inverse, self.spec.mean_precision)
        a = L_inverse.T @ (L_inverse @ (self.y - H @ b))
        for name, value in (("b", b), ("_Z", Z), ("_L_inverse", L_inverse), ("_a", a), ("_P", P)):
            object.__setattr__(self, name, value)

    @property
    def n(self) -> int:
        return len(self.y)

    @property
    def noise_variances(self) -> Array | float:
        """The noise variances of the known points: v, or shape `(n,)`."""
        return self.hyper.noise if self.known_noise is None else known_or(self.known_noise, self.hyper.noise)

    @property
    def new_noise(self) -> float:
        """The noise variance of a new value: v, or the mean of the known ones."""
        return self.hyper.noise if self.known_noise is None else float(np.mean(self.noise_variances))

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation `(m,)` of the noise-free values at features `(m, D)`, standardized."""
        k = self.cross_covariances(features)
        mean = self.spec.mean_basis(features) @ self.b + k @ self._a
        half = k @ self._L_inverse.T
        variance = self._prior_variances(features) - np.einsum("ij,ij->i", half, half)
        return mean, np.sqrt(np.maximum(variance, VARIANCE_FLOOR))

    def joint(self, features: Array, *, observation_noise: bool = True) -> tuple[Array, Array]:
        """Return the joint mean `(m,)` and covariance `(m, m)` of values at features `(m, D)`, noise included."""
        z = features / self.hyper.lengthscales[self.owner]
        k = self.cross_covariances(features)
        half = k @ self._L_inverse.T
        prior = self.hyper.signal * self.spec.correlation_of(z, z)[0]
        if self.hyper.trend > 0:
            P = trend_basis(features)[0]
            prior += self.hyper.trend * (P @ P.T)
        covariance = prior - half @ half.T + (self.new_noise if observation_noise else 0.0) * np.eye(len(z))
        return self.spec.mean_basis(features) @ self.b + k @ self._a, covariance

    def cross_covariances(self, features: Array) -> Array:
        """Return the prior covariances of features `(m, D)` with the known points: shape `(m, n)`."""
        z = features / self.hyper.lengthscales[self.owner]
        k = self.hyper.signal * self.spec.correlation_of(z, self._Z)[0]
        if self.hyper.trend > 0:
            k += self.hyper.trend * (trend_basis(features)[0] @ self._P.T)
        return k

    def _prior_variances(self, features: Array) -> Array:
        variances = np.full(len(features), self.hyper.signal)
        if self.hyper.trend > 0:
            P = trend_basis(features)[0]
            variances += self.hyper.trend * np.einsum("ij,ij->i", P, P)
        return variances

    def cross_covariance_gradients(self, features: Array, weights: Array) -> Array:
        """Return the gradients of `sum_j w_j k(x, x_j)` at features `(m, D)`, weights `(m, n)`: shape `(m, D)`."""
        scales = self.hyper.lengthscales[self.owner]
        z = features / scales
        slope = (2.0 * self.hyper.signal) * self.spec.correlation_of(z, self._Z)[1]
        gradients = self._by_feature(slope * weights, z) / scales
        if self.hyper.trend > 0:
            gradients += self.hyper.trend * sum_by_feature((weights @ self._P) * trend_basis(features)[1])
        return gradients

    def solve(self, values: Array) -> Array:
        """Return K^-1 values, for values `(n, S)`."""
        return np.asarray(self._L_inverse.T @ (self._L_inverse @ values))

    def predict_mean(self, features: Array) -> Array:
        """Return only the mean of `predict`, shape `(m,)`; it costs less."""
        return np.asarray(self.spec.mean_basis(features) @ self.b + self.cross_covariances(features) @ self._a)

    def mean_gradients(self, features: Array) -> Array:
        """Return the gradients of `predict_mean` at features `(m, D)`: shape `(m, D)`."""
        by_mean = self.cross_covariance_gradients(features, np.broadcast_to(self._a, (len(features), self.n)))
        return by_mean + self.b[1:] if len(self.b) > 1 else by_mean

    def predict_with_gradients(self, features: Array) -> tuple[Array, Array, Array, Array]:
        """Return mean and standard deviation `(m,)` and their gradients `(m, D)` at features `(m, D)`.

        The gradient of `sum_j w_j k(x, x_j)` by x is `2 sum_j w_j k' (z - z_j) / l`: no array of shape m x n x D.
        """
        scales = self.hyper.lengthscales[self.owner]
        z = features / scales
        k, slope = self.spec.correlation_of(z, self._Z)
        k, slope = self.hyper.signal * k, (2.0 * self.hyper.signal) * slope
        t2 = self.hyper.trend
        if t2 > 0:
            P, P_slope = trend_basis(features)
            k += t2 * (P @ self._P.T)
        mean = self.spec.mean_basis(features) @ self.b + k @ self._a
        half = k @ self._L_inverse.T
        variance = self._prior_variances(features) - np.einsum("ij,ij->i", half, half)
        is_known = variance <= VARIANCE_FLOOR
        std = np.sqrt(np.maximum(variance, VARIANCE_FLOOR))
        by_mean = self._by_feature(slope * self._a, z) / scales
        if len(self.b) > 1:
            by_mean += self.b[1:]
        weights = half @ self._L_inverse
        by_std = self._by_feature(slope * weights, z) / (-std[:, None] * scales)
        if t2 > 0:
            by_mean += t2 * sum_by_feature((self._P.T @ self._a) * P_slope)
            by_std += t2 * sum_by_feature((P - weights @ self._P) * P_slope) / std[:, None]
        by_std[is_known] = 0.0
        return mean, std, by_mean, by_std

    def _by_feature(self, weights: Array, z: Array) -> Array:
        return np.asarray(weights.sum(1)[:, None] * z - weights @ self._Z)

    def untransform(self, mean: Array, std: Array) -> tuple[Array, Array]:
        """Return standardized predictions in the units of the values."""
        return self.outcome_transform.untransform(mean, std)

    def condition_on_mean(self, X_pending: Array) -> GaussianProcess:
        """Return the model conditioned on its own mean at pending points (kriging believer).

        The mean stays the same; the variance near the pending points shrinks, so the next proposal keeps away from
        them. Heuristic, see benchmarks.md#pending-trials.

        Args:
            X_pending: Shape `(m, D)`; features. With `m = 0` the model itself is returned.

        References:
            Ginsbourger, Le Riche, Carraro (2010), "Kriging is well-suited to parallelize optimization".
        """
        if len(X_pending) == 0:
            return self
        y = np.concatenate([self.y, self.predict(X_pending)[0]])
        return self._with_points(X_pending, y, self.new_noise)

    def condition_on_values(self, features: Array, values: Array) -> GaussianProcess:
        """Return the model conditioned on noise-free values `(m,)`, standardized, at features `(m, D)`."""
        return self._with_points(features, np.concatenate([self.y, values]), NOISE_FLOOR)

    def _with_points(self, features: Array, y: Array, noise: float) -> GaussianProcess:
        """Return the model with more points, whose noise variance is `noise`."""
        known = self.known_noise
        if known is not None or noise != self.hyper.noise:
            before = np.full(self.n, np.nan) if known is None else known
            known = np.concatenate([before, np.full(len(features), noise)])
        return replace(self, features=np.vstack([self.features, features]), y=y, known_noise=known)

    def leave_one_out(self) -> tuple[Array, Array]:
        """Return mean and standard deviation (noise included) of each known value given all others: shapes `(n,)`.

        Hyperparameters and mean coefficients are not fitted again; Rasmussen & Williams (5.12).
        """
        precision = np.einsum("ij,ij->j", self._L_inverse, self._L_inverse)
        return self.y - self._a / precision, 1.0 / np.sqrt(precision)
