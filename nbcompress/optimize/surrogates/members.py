"""A Gaussian process for families of parameters (`each=`): what one member does is learned from what all do together.

Trials where all members share a value tell what a shared value does. Size and harm of a network are about sums over its
layers. So the process is

    y(x) = sum_u w_u f(x_u) + (lines and parabolas of each feature) + (a stationary process) + noise

    f     the mean of a Gaussian process of the shared parameters, fitted to trials that share them
    x_u   the values of member u, in every family, taken for a shared point
    w_u   weights that add up to 1, with independent priors around m_u; U members

With `w_u = m_u (1 + e_u)` and columns `h_u = m_u (f(x_u) - sum_v m_v f(x_v))`, the covariance is a sum of known
matrices with unknown variances. Only these are fitted: some ten trials cannot tell dozens of lengthscales.

    K = t_1 H H' + t_2 P P' + t_3 M + v I       M: Matern 5/2, with one lengthscale for all features

The prior means m_u are 1/U, or follow from a sensitivity of each member that was measured before: m_u is proportional
to a power of it, 0, 1/2 or 1, whichever makes the known values most likely. A measurement at one level tells which
members matter, but not how much at another level; and the power 0 leaves it out where it misleads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nbcompress.optimize.batched_bfgs import batched_minimize
from nbcompress.optimize.history import Array
from nbcompress.optimize.outcome_transform import OutcomeTransform
from nbcompress.optimize.surrogates.closed_form import (
    NOISE_FLOOR,
    VARIANCE_FLOOR,
    GaussianProcess,
    Hyperparameters,
    ModelSpec,
    inverse_cholesky,
    squared_distances,
    sum_by_feature,
    trend_basis,
)
from nbcompress.optimize.surrogates.fit import fit

# Features of equal values differ by no more than this.
ROUNDING = 1e-9
# f is fitted to at least so many points.
MIN_SHARED = 3
# Priors of t_1, t_2, t_3 and v: normal in the logarithm, (median, width). Heuristics, see
# benchmarks.md#many-parameters.
PRIORS = ((1.0, 1.0), (0.03, 1.5), (0.03, 1.5), (1e-4, 3.0))
BOUNDS = ((1e-2, 1e2), (1e-4, 1e1), (1e-4, 1e1), (NOISE_FLOOR, 1.0))
# The powers of a measured sensitivity that are tried, and its least value as a share of the mean. Heuristics, see
# benchmarks.md#measured-sensitivity.
POWERS, LEAST_SENSITIVITY = (0.0, 0.5, 1.0), 1e-3
# The lengthscale of M, times the root of the number of features. Heuristic.
LENGTHSCALE = 0.5
MAX_EVALUATIONS, LARGE_N, LARGE_N_EVALUATIONS = 40, 200, 8
FIRST_STEP, GRADIENT_TOLERANCE, VALUE_TOLERANCE = 0.5, 1e-2, 1e-3


@dataclass(frozen=True, eq=False)
class MemberMaps:
    """Linear maps from the features of all parameters to those of the shared ones, one for each member.

    Attributes:
        maps: Shape `(U, D, S)`; D features of all parameters, S of the shared ones.
    """

    maps: Array

    def members(self, features: Array) -> Array:
        """Return the shared features that each member would give all others: `(n, D)` gives `(n, U, S)`."""
        return np.asarray(np.einsum("nd,uds->nus", features, self.maps, optimize=True))

    def pull_back(self, gradients: Array) -> Array:
        """Turn gradients by the members' features `(n, U, S)` into gradients by all features `(n, D)`."""
        return np.asarray(np.einsum("nus,uds->nd", gradients, self.maps, optimize=True))


@dataclass(frozen=True, eq=False)
class MemberProcess:
    """The process of this module, with given variances, conditioned on known points.

    Args:
        maps: From all features to those of each member.
        shared: f, for values that are standardized as y.
        variances: t_1, t_2, t_3 and v.
        features: Shape `(n, D)`.
        y: Standardized values, shape `(n,)`.
        outcome_transform: Between y and the original values.
        weights: The prior means m_u, shape `(U,)`.
    """

    maps: MemberMaps
    shared: GaussianProcess
    variances: Array
    features: Array
    y: Array
    outcome_transform: OutcomeTransform
    weights: Array
    _parts: tuple[Array, Array] = field(init=False, repr=False)
    _L_inverse: Array = field(init=False, repr=False)
    _a: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        f, H, P = self._basis(self.features)
        K = np.tensordot(self.variances[:3], covariances(H, P, self.features), 1)
        K[np.diag_indices_from(K)] += self.variances[3]
        L_inverse, _ = inverse_cholesky(K)
        a = L_inverse.T @ (L_inverse @ (self.y - f))
        for name, value in (("_parts", (H, P)), ("_L_inverse", L_inverse), ("_a", a)):
            object.__setattr__(self, name, value)

    @property
    def scale(self) -> float:
        return lengthscale(self.features.shape[1])

    def _basis(self, features: Array) -> tuple[Array, Array, Array]:
        return basis(self.maps, self.shared, self.weights, features)

    def _cross(self, H: Array, P: Array, features: Array) -> tuple[Array, Array]:
        """Return the prior covariances with the known points, and the derivatives of the Matern part by r2."""
        t1, t2, t3, _ = self.variances
        r2 = squared_distances(features / self.scale, self.features / self.scale)
        k, slope = ModelSpec().correlation(r2)
        return t1 * (H @ self._parts[0].T) + t2 * (P @ self._parts[1].T) + t3 * k, t3 * slope

    def _prior_variances(self, H: Array, P: Array) -> Array:
        t1, t2, t3, _ = self.variances
        return np.asarray(t1 * (H * H).sum(1) + t2 * (P * P).sum(1) + t3)

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation `(m,)` of the noise-free values at features `(m, D)`, standardized."""
        f, H, P = self._basis(features)
        k, _ = self._cross(H, P, features)
        half = k @ self._L_inverse.T
        variance = self._prior_variances(H, P) - (half * half).sum(1)
        return f + k @ self._a, np.sqrt(np.maximum(variance, VARIANCE_FLOOR))

    def predict_mean(self, features: Array) -> Array:
        """Return only the mean of `predict`."""
        f, H, P = self._basis(features)
        return np.asarray(f + self._cross(H, P, features)[0] @ self._a)

    def predict_with_gradients(self, features: Array) -> tuple[Array, Array, Array, Array]:
        """Return mean and standard deviation `(m,)` and their gradients `(m, D)` at features `(m, D)`."""
        t1, t2, _, _ = self.variances
        f, H, P = self._basis(features)
        P_slope = trend_basis(features)[1]
        H_known, P_known = self._parts
        k, slope = self._cross(H, P, features)
        half = k @ self._L_inverse.T
        variance = self._prior_variances(H, P) - (half * half).sum(1)
        is_known = variance <= VARIANCE_FLOOR
        std = np.sqrt(np.maximum(variance, VARIANCE_FLOOR))
        weights = half @ self._L_inverse
        z, Z = features / self.scale, self.features / self.scale

        def stationary(w: Array) -> Array:
            return np.asarray((w.sum(1)[:, None] * z - w @ Z) * (2.0 / self.scale))

        by_H_mean = np.broadcast_to(t1 * (self._a @ H_known), H.shape)
        by_H_std = t1 * (H - weights @ H_known) / std[:, None]
        slopes = self._member_slopes(features)
        by_mean = self._pulled(slopes, self.weights + self._by_member(by_H_mean))
        by_std = self._pulled(slopes, self._by_member(by_H_std))
        by_mean += stationary(slope * self._a) + t2 * sum_by_feature((self._a @ P_known) * P_slope)
        by_std -= stationary(slope * weights) / std[:, None]
        by_std += t2 * sum_by_feature((P - weights @ P_known) * P_slope) / std[:, None]
        by_std[is_known] = 0.0
        return f + k @ self._a, std, by_mean, by_std

    def _by_member(self, by_H: Array) -> Array:
        """Turn derivatives by the columns of H into those by the values of f at each member: `(m, U)`."""
        return np.asarray(self.weights * (by_H - (by_H @ self.weights)[:, None]))

    def _member_slopes(self, features: Array) -> Array:
        """Return the gradients of f at each member's values: `(m, U, S)`."""
        members = self.maps.members(features)
        flat = members.reshape(-1, members.shape[2])
        return self.shared.mean_gradients(flat).reshape(members.shape)

    def _pulled(self, slopes: Array, weights: Array) -> Array:
        return self.maps.pull_back(slopes * weights[:, :, None])

    @property
    def n(self) -> int:
        return len(self.y)

    def joint(self, features: Array, *, observation_noise: bool = True) -> tuple[Array, Array]:
        """Return the joint mean `(m,)` and covariance `(m, m)` of values at features `(m, D)`."""
        f, H, P = self._basis(features)
        k, _ = self._cross(H, P, features)
        half = k @ self._L_inverse.T
        prior = np.tensordot(self.variances[:3], covariances(H, P, features), 1)
        noise = self.variances[3] if observation_noise else 0.0
        return f + k @ self._a, prior - half @ half.T + noise * np.eye(len(features))

    def untransform(self, mean: Array, std: Array) -> tuple[Array, Array]:
        """Return standardized predictions in the units of the values."""
        return self.outcome_transform.untransform(mean, std)

    def leave_one_out(self) -> tuple[Array, Array]:
        """Return mean and standard deviation of each known value given all others; f stays as it is."""
        precision = np.einsum("ij,ij->j", self._L_inverse, self._L_inverse)
        return self.y - self._a / precision, 1.0 / np.sqrt(precision)

    def condition_on_mean(self, X_pending: Array) -> MemberProcess:
        """Return the process conditioned on its own mean at pending points `(m, D)`; see `GaussianProcess`."""
        if len(X_pending) == 0:
            return self
        y = np.concatenate([self.y, self.predict_mean(X_pending)])
        return replace(self, features=np.vstack([self.features, X_pending]), y=y)


def lengthscale(n_features: int) -> float:
    return LENGTHSCALE * float(np.sqrt(max(n_features, 1)))


def basis(maps: MemberMaps, shared: GaussianProcess, weights: Array, features: Array) -> tuple[Array, Array, Array]:
    """Return the weighted mean of f over members `(n,)`, H `(n, U)` and P `(n, 2D)`."""
    members = maps.members(features)
    h = shared.predict_mean(members.reshape(-1, members.shape[-1])).reshape(len(features), -1)
    f = h @ weights
    return f, weights * (h - f[:, None]), trend_basis(features)[0]


def prior_weights(n_members: int, sensitivity: Array | None) -> list[Array]:
    """Return the prior means m_u that are tried, each of the shape `(U,)`.

    Args:
        n_members: U.
        sensitivity: Shape `(U,)`; of each member, at least 0, in any unit; None if nothing was measured.
    """
    if sensitivity is None or not sensitivity.any():
        return [np.full(n_members, 1.0 / n_members)]
    floored = np.maximum(sensitivity, LEAST_SENSITIVITY * sensitivity.mean())
    powers = [floored**power for power in POWERS]
    return [power / power.sum() for power in powers]


def covariances(H: Array, P: Array, features: Array) -> Array:
    """Return the covariances whose sum, times their variances, is that of the process: shape `(3, n, n)`."""
    z = features / lengthscale(features.shape[1])
    return np.stack([H @ H.T, P @ P.T, ModelSpec().correlation(squared_distances(z, z))[0]])


def fit_members(
    maps: MemberMaps,
    shared: GaussianProcess,
    features: Array,
    y: Array,
    outcome_transform: OutcomeTransform,
    sensitivity: Array | None = None,
) -> MemberProcess:
    """Return the process with the mode of its variances; the start is the medians of the priors.

    Args:
        maps, shared, features, y, outcome_transform: See `MemberProcess`.
        sensitivity: Shape `(U,)`; see `prior_weights`. The most likely of its powers is taken.
    """
    fits = [
        (*_mode(maps, shared, weights, features, y), weights) for weights in prior_weights(len(maps.maps), sensitivity)
    ]
    variances, _, weights = min(fits, key=lambda found: found[1])
    return MemberProcess(maps, shared, variances, features, y, outcome_transform, weights)


def _mode(maps: MemberMaps, shared: GaussianProcess, weights: Array, features: Array, y: Array) -> tuple[Array, float]:
    """Return the mode of the variances for these prior weights, and the loss there."""
    f, H, P = basis(maps, shared, weights, features)
    parts = np.concatenate([covariances(H, P, features), np.eye(len(y))[None]])
    e = y - f
    center = np.log([median for median, _ in PRIORS])
    width = np.array([wide for _, wide in PRIORS])

    def loss(theta: Array, _: object) -> tuple[Array, Array]:
        values, gradients = [], []
        for row in theta:
            value, gradient = _negative_log_likelihood(np.exp(row), parts, e)
            deviation = (row - center) / width
            values.append(value + 0.5 * float(deviation @ deviation))
            gradients.append(gradient + deviation / width)
        return np.array(values), np.array(gradients)

    low, high = np.log(np.array(BOUNDS)).T
    thetas, values = batched_minimize(
        loss,
        center[None],
        low,
        high,
        evaluations=MAX_EVALUATIONS if len(y) <= LARGE_N else LARGE_N_EVALUATIONS,
        first_step=FIRST_STEP,
        gradient_tolerance=GRADIENT_TOLERANCE,
        value_tolerance=VALUE_TOLERANCE,
    )
    return np.exp(thetas[0] if np.isfinite(values[0]) else center), float(values[0])


@dataclass(frozen=True, eq=False)
class MemberFit:
    """How a process of families is fitted to values.

    Attributes:
        maps: From all features to those of each member.
        owner: Shape `(S,)`; the shared parameter of each shared feature.
        d: The number of shared parameters.
        has_trend: Whether f has a trend.
    """

    maps: MemberMaps
    owner: NDArray[np.intp]
    d: int
    has_trend: bool

    def is_shared(self, features: Array) -> NDArray[np.bool_]:
        """Say which points `(n, D)` share the values of all members; shape `(n,)`."""
        members = self.maps.members(features)
        return np.asarray((np.abs(members - members[:, :1]) <= ROUNDING).all((1, 2)))

    def is_enough(self, features: Array) -> bool:
        """Say whether enough known points share their values for f to be fitted."""
        return int(self.is_shared(features).sum()) >= MIN_SHARED

    def fit(
        self,
        spec: ModelSpec,
        features: Array,
        values: Array,
        earlier: Sequence[Hyperparameters],
        *,
        log_tail: bool,
        width: float,
        sensitivity: Array | None = None,
    ) -> MemberProcess:
        """Fit f to the points that share values, and the variances to all.

        Args:
            spec: Kernel and mean of f.
            features: Shape `(n, D)`.
            values: Shape `(n,)`; in any units, finite.
            earlier: Hyperparameters of earlier fits of f, newest first.
            log_tail, width: See `fit`.
            sensitivity: Of each member, shape `(U,)`; see `prior_weights`.
        """
        is_shared = self.is_shared(features)
        shared = self.maps.members(features[is_shared])[:, 0]
        spec = replace(spec, has_trend=self.has_trend)
        fitted = fit(spec, self.owner, self.d, shared, values[is_shared], earlier, log_tail=log_tail, width=width)
        transform = fitted.model.outcome_transform
        y = np.array([transform.transform(value) for value in values.tolist()])
        return fit_members(self.maps, fitted.model, features, y, transform, sensitivity)


def _negative_log_likelihood(variances: Array, parts: Array, e: Array) -> tuple[float, Array]:
    """Return the negative log likelihood, and its gradient by the logarithms of the variances."""
    try:
        L_inverse, log_determinant = inverse_cholesky(np.tensordot(variances, parts, 1))
    except np.linalg.LinAlgError:
        return np.inf, np.zeros(len(variances))
    inverse = L_inverse.T @ L_inverse
    a = inverse @ e
    G = 0.5 * (inverse - np.outer(a, a))
    return 0.5 * (float(e @ a) + log_determinant), variances * np.einsum("ij,cij->c", G, parts)
