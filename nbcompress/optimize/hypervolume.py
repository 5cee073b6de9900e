"""What one more trial is worth with two objectives: the expected gain in hypervolume, in closed form.

The part of the plane that no front point dominates is cut into strips along the first loss. With the front
`p_1 .. p_K` sorted by it, and the reference point r,

    strip k = (a_k, a_(k+1)) x (-inf, c_k),   a_0 = -inf, a_k = p_k1, a_(K+1) = r1;   c_0 = r2, c_k = p_k2
    EHVI = sum_k (psi_1(a_(k+1)) - psi_1(a_k)) psi_2(c_k),      psi_j(t) = E[max(t - loss_j, 0)]

Each factor is an expected improvement, so everything stays in logarithms (see `acquisition.py`).

References:
    Emmerich, Deutz, Klinkenberg (2011), "Hypervolume-based expected improvement: Monotonicity properties and exact
    computation".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from nbcompress.optimize.acquisition import log_expected_improvement
from nbcompress.optimize.history import Array
from nbcompress.optimize.surrogate import GaussianProcess

# How far behind the worst known the reference lies, as a share of the extent of the losses. A heuristic.
REFERENCE_MARGIN = 0.1
# Strips thinner than this share of the plane's extent hold no hypervolume worth a logarithm.
THIN = 1e-12


def is_efficient(losses: Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Say for each row of `(n, m)` whether no other row is at most as large everywhere and smaller somewhere."""
    below = (losses[:, None, :] <= losses[None, :, :]).all(-1)
    strictly = (losses[:, None, :] < losses[None, :, :]).any(-1)
    return np.asarray(~(below & strictly).any(0))


def reference_point(losses: Array) -> Array:
    """Return the reference for losses `(n, m)`: behind the worst known of each, so that the ends of the front count.

    A reference just behind the front (its "nadir") closes in on the first few points when these lie close together,
    and the search then never leaves them; seen on ZDT1.
    """
    worst, extent = losses.max(0), np.ptp(losses, axis=0)
    return np.asarray(worst + REFERENCE_MARGIN * np.where(extent > 0, extent, 1.0))


@dataclass(frozen=True, eq=False)
class LogHypervolumeImprovement:
    """Log EHVI of two independent processes.

    Args:
        processes: One for each of the two losses.
        front: Shape `(K, 2)`, standardised; dominated rows and those beyond the reference are dropped.
        reference: Shape `(2,)`, standardised.
    """

    processes: tuple[GaussianProcess, GaussianProcess]
    front: Array
    reference: Array

    def __post_init__(self) -> None:
        front = self.front[(self.front < self.reference).all(1)]
        front = front[is_efficient(front)]
        front = front[np.argsort(front[:, 0], kind="stable")]
        a = np.concatenate([[-np.inf], front[:, 0], self.reference[:1]])
        c = np.concatenate([self.reference[1:], front[:, 1]])
        extent = max(1.0, float(np.abs(a[1:]).max()))
        thick = np.diff(a) > THIN * extent
        object.__setattr__(self, "_strips", (a[:-1][thick], a[1:][thick], c[thick]))

    def _value(self, mean: Array, std: Array) -> tuple[Array, Array, Array]:
        """From means and deviations `(m, 2)` to log EHVI `(m,)` and its derivatives, each `(m, 2)`."""
        low, high, c = self._strips  # type: ignore[attr-defined]
        first = mean[:, :1], std[:, :1]
        upper = log_expected_improvement(*first, high)
        lower = log_expected_improvement(*first, np.where(np.isinf(low), 0.0, low))
        # psi(-inf) = 0: the leftmost strip has no lower part.
        share = np.where(np.isinf(low), 0.0, np.exp(np.minimum(lower[0] - upper[0], -1e-15)))
        second = log_expected_improvement(mean[:, 1:], std[:, 1:], c)
        parts = upper[0] + np.log1p(-share) + second[0]
        value = logsumexp(parts, axis=1)
        weight = np.exp(parts - value[:, None])
        by_first = [(weight * (upper[i] - share * lower[i]) / (1.0 - share)).sum(1) for i in (1, 2)]
        by_second = [(weight * second[i]).sum(1) for i in (1, 2)]
        return value, np.stack([by_first[0], by_second[0]], 1), np.stack([by_first[1], by_second[1]], 1)

    def score(self, features: Array) -> Array:
        predictions = [process.predict(features) for process in self.processes]
        mean, std = (np.stack([one[i] for one in predictions], 1) for i in (0, 1))
        return self._value(mean, std)[0]

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        predictions = [process.predict_with_gradients(features) for process in self.processes]
        mean, std = (np.stack([one[i] for one in predictions], 1) for i in (0, 1))
        value, by_mean, by_std = self._value(mean, std)
        gradient = np.zeros_like(features)
        for j, (_, _, mean_gradient, std_gradient) in enumerate(predictions):
            gradient += by_mean[:, [j]] * mean_gradient + by_std[:, [j]] * std_gradient
        return value, gradient
