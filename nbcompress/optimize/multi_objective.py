"""Acquisition functions of several objectives: log EHVI in closed form, and random scalarizations for UCB and PI.

**Log EHVI.** The region below the reference that no front point dominates is cut into boxes that do not overlap. With
independent predictions,

    EHVI = sum over boxes of prod_j (psi_j(high_j) - psi_j(low_j)),      psi_j(t) = E[max(t - loss_j, 0)]

Each psi is an expected improvement, so everything stays in logarithms (see `acquisition.py`); psi(-inf) = 0. With two
objectives the boxes are strips along the first loss. With the front `p_1 .. p_K` sorted by it, and the reference r,

    strip k = (a_k, a_(k+1)) x (-inf, c_k),   a_0 = -inf, a_k = p_k1, a_(K+1) = r1;   c_0 = r2, c_k = p_k2

**Scalarization.** With the reference r and weights w > 0 of length 1, losses y are scalarized to

    S(y) = min_j (r_j - y_j) / w_j

The largest S over a set of points, to the power of the number of objectives and averaged over all w, is the dominated
hypervolume up to a constant factor. So a larger S for random weights adds to the hypervolume. Every proposal draws its
own weights.

    ucb   S(mu - 2 s), the value of optimistic losses
    pi    log P(S(y) > t) = sum_j log P(y_j < r_j - w_j t),   t a little above the largest known S

References:
    Emmerich, Deutz, Klinkenberg (2011), "Hypervolume-based expected improvement: Monotonicity properties and exact
    computation".
    Lacour, Klamroth, Fonseca (2017), "A box decomposition algorithm to compute the hypervolume indicator": the boxes of
    three and four objectives, computed by BoTorch.
    Zhang, Golovin (2020), "Random Hypervolume Scalarizations for Provable Multi-Objective Black Box Optimization".
    Knowles (2006), "ParEGO": one random scalarization per proposal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from nbcompress.optimize.acquisition import (
    AcquisitionFunction,
    AnalyticAcquisition,
    Formula,
    SumAcquisition,
    confidence_bound,
    log_expected_improvement,
    log_probability_below,
)
from nbcompress.optimize.history import Array, History
from nbcompress.optimize.outcome_transform import without_penalties
from nbcompress.optimize.surrogates.protocol import Surrogate
from nbcompress.study.front import is_non_dominated

# Distance of the reference beyond the worst known losses, as a share of their extent. Heuristic.
REFERENCE_MARGIN = 0.1
# Losses without a bound are of use up to this share of their extent, if another loss has a bound. Heuristic.
USEFUL_SHARE = 0.5
# A constraint is one on a loss if they differ by a constant, up to this share of the extent of the loss.
SAME_BOUND = 1e-9
# Boxes thinner than this share of the extent are dropped: their hypervolume is negligible.
MIN_BOX_WIDTH = 1e-12
# Bounds memory: rows are scored in chunks, so that rows times boxes stays below this.
MAX_ROWS_TIMES_BOXES = 2**18
# Margin of `pi` above the largest known scalarized value. Heuristic, see benchmarks.md#multi-objective.
SCALARIZED_PI_MARGIN = 0.1
# Temperature of the smooth minimum, in standardized units. The exact minimum has a kink where two objectives are equal,
# which is where its largest value lies; a gradient method needs it smooth.
SMOOTHING = 0.02
# Lower bound of each weight before normalization, so that no objective is ignored.
MIN_WEIGHT = 0.02


# --- Expected hypervolume improvement ---


def reference_point(losses: Array) -> Array:
    """Return the reference point of known losses `(n, m)`: shape `(m,)`, beyond the worst of each loss.

    So the ends of the front count. A reference just beyond the front (its nadir) would keep the search near the first
    few points where these lie close together.
    """
    worst, extent = losses.max(0), np.ptp(losses, axis=0)
    return np.asarray(worst + REFERENCE_MARGIN * np.where(extent > 0, extent, 1.0))


def useful_limits(history: History) -> Array:
    """Return the largest value of each loss that is still of use, shape `(m,)`; infinite where that is not known.

    It is known if a constraint bounds one of the losses, such as a size. Then that loss is of use up to its bound, and
    every other one, such as an error, up to the middle of its known values. Otherwise most hypervolume would lie where
    a model is small and knows nothing.
    """
    limits = np.full(history.losses.shape[1], np.inf)
    known = history.has_status("told") & np.isfinite(history.losses).all(1)
    losses, slacks = history.losses[known], history.slacks[known]
    if len(losses) < 2:
        return limits
    extents = np.ptp(losses, axis=0)
    for j, i in product(range(losses.shape[1]), range(slacks.shape[1])):
        distances = losses[:, j] - slacks[:, i]
        # All are equal to the bound where the constraint is one on this loss.
        if np.ptp(distances) <= SAME_BOUND * extents[j]:
            limits[j] = min(limits[j], distances[0] + REFERENCE_MARGIN * max(0.0, distances[0] - losses[:, j].min()))
    if np.isinf(limits).all():
        return limits
    feasible = history.losses[history.is_feasible]
    for j in np.flatnonzero(np.isinf(limits)).tolist():
        values = without_penalties(losses[:, j])
        best, extent = values.min(), np.ptp(values)
        # While no feasible value is that good, each better one is a gain.
        least = feasible[:, j].min() + REFERENCE_MARGIN * extent if len(feasible) > 0 else best
        limits[j] = max(best + USEFUL_SHARE * extent, least)
    return limits


@dataclass(frozen=True, eq=False)
class BoxSides:
    """The sides of B boxes along one loss. Many boxes share an end, and each end is evaluated once.

    Attributes:
        ends: Shape `(E,)`; the distinct finite ends.
        low, high: Shape `(B,)`; the index of each end in `ends`; `low` is -1 where a side is unbounded below.
    """

    ends: Array
    low: NDArray[np.intp]
    high: NDArray[np.intp]

    @classmethod
    def between(cls, low: Array, high: Array) -> BoxSides:
        ends, which = np.unique(np.concatenate([high, low[np.isfinite(low)]]), return_inverse=True)
        lower = np.full(len(low), -1)
        lower[np.isfinite(low)] = which[len(high) :]
        return cls(ends, lower, which[: len(high)])

    def log_gain(self, mean: Array, std: Array) -> tuple[Array, Array, Array]:
        """Return log(psi(high) - psi(low)) for means and deviations `(k, 1)`: `(k, B)`, and its derivatives."""
        value, by_mean, by_std = log_expected_improvement(mean, std, self.ends)
        log_share = value[:, self.low] - value[:, self.high]
        share = np.where(self.low < 0, 0.0, np.exp(np.minimum(log_share, -1e-15)))
        slopes = [(order[:, self.high] - share * order[:, self.low]) / (1.0 - share) for order in (by_mean, by_std)]
        return value[:, self.high] + np.log1p(-share), slopes[0], slopes[1]


def box_decomposition_2d(front: Array, reference: Array) -> tuple[Array, Array]:
    """Return boxes of the region that a front `(K, 2)` does not dominate: lower and upper corners, each `(B, 2)`."""
    front = front[np.argsort(front[:, 0], kind="stable")]
    edges = np.concatenate([[-np.inf], front[:, 0], reference[:1]])
    tops = np.concatenate([reference[1:], front[:, 1]])
    low = np.stack([edges[:-1], np.full_like(tops, -np.inf)], axis=1)
    return low, np.stack([edges[1:], tops], axis=1)


@dataclass(frozen=True, eq=False)
class LogExpectedHypervolumeImprovement:
    """Log EHVI of independent models.

    Args:
        models: One for each of the m losses, 2 to 4.
        front: Shape `(K, m)`, standardized; dominated rows and rows beyond the reference are dropped.
        reference: Shape `(m,)`, standardized.
    """

    models: Sequence[Surrogate]
    front: Array
    reference: Array
    _sides: list[BoxSides] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        front = self.front[(self.front < self.reference).all(1)]
        front = front[is_non_dominated(front)]
        if len(self.reference) == 2:
            low, high = box_decomposition_2d(front, self.reference)
        else:
            from nbcompress.optimize.surrogates.botorch_acquisition import box_decomposition

            low, high = box_decomposition(front, self.reference)
        extent = np.maximum(1.0, np.abs(high).max(0))
        thick = (high - low > MIN_BOX_WIDTH * extent).all(1)
        object.__setattr__(
            self, "_sides", [BoxSides.between(*side) for side in zip(low[thick].T, high[thick].T, strict=True)]
        )

    def _value(self, mean: Array, std: Array) -> tuple[Array, Array, Array]:
        """Return log EHVI `(k,)` of means and deviations `(k, m)`, and its derivatives, each `(k, m)`."""
        step = max(1, MAX_ROWS_TIMES_BOXES // len(self._sides[0].high))
        starts = range(0, max(1, len(mean)), step)
        parts = [self._chunk_value(mean[i : i + step], std[i : i + step]) for i in starts]
        value, by_mean, by_std = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return value, by_mean, by_std

    def _chunk_value(self, mean: Array, std: Array) -> tuple[Array, Array, Array]:
        factors = [side.log_gain(mean[:, [j]], std[:, [j]]) for j, side in enumerate(self._sides)]
        parts = sum(factor[0] for factor in factors)
        value = logsumexp(parts, axis=1)
        weight = np.exp(parts - value[:, None])
        by_mean, by_std = (np.stack([(weight * factor[i]).sum(1) for factor in factors], 1) for i in (1, 2))
        return value, by_mean, by_std

    def score(self, features: Array) -> Array:
        predictions = [model.predict(features) for model in self.models]
        mean, std = (np.stack([prediction[i] for prediction in predictions], 1) for i in (0, 1))
        return self._value(mean, std)[0]

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        predictions = [model.predict_with_gradients(features) for model in self.models]
        mean, std = (np.stack([prediction[i] for prediction in predictions], 1) for i in (0, 1))
        value, by_mean, by_std = self._value(mean, std)
        gradient = np.zeros_like(features)
        for j, (_, _, mean_gradient, std_gradient) in enumerate(predictions):
            gradient += by_mean[:, [j]] * mean_gradient + by_std[:, [j]] * std_gradient
        return value, gradient


# --- Random scalarization ---


def draw_weights(rng: np.random.Generator, m: int) -> Array:
    """Return random positive weights of length 1: shape `(m,)`."""
    weights = np.abs(rng.standard_normal(m))
    weights = np.maximum(weights / np.linalg.norm(weights), MIN_WEIGHT)
    return np.asarray(weights / np.linalg.norm(weights))


def scalarize(losses: Array, reference: Array, weights: Array) -> Array:
    """Return the scalarized values of losses `(n, m)`: shape `(n,)`; larger is better, below 0 beyond the reference."""
    return np.asarray(((reference - losses) / weights).min(1))


def scalarized_acquisition(
    name: str, models: Sequence[Surrogate], losses: Array, reference: Array, weights: Array
) -> AcquisitionFunction:
    """Return `ucb` or `pi` of scalarized losses.

    Args:
        name: `ucb` or `pi`.
        models: One for each loss.
        losses: Shape `(n, m)`, standardized; the known ones.
        reference: Shape `(m,)`, standardized; r.
        weights: Shape `(m,)`; w.
    """
    if name == "ucb":
        return ScalarizedConfidenceBound(models, reference, weights)
    target = float(scalarize(losses, reference, weights).max()) + SCALARIZED_PI_MARGIN
    return SumAcquisition(
        [_below(model, float(t)) for model, t in zip(models, reference - weights * target, strict=True)]
    )


def _below(model: Surrogate, target: float) -> AnalyticAcquisition:
    return AnalyticAcquisition(model, lambda mean, std: log_probability_below(mean, std, target))


@dataclass(frozen=True, eq=False)
class ScalarizedConfidenceBound:
    """The scalarized value of the lower confidence bounds of all losses, with a smooth minimum.

    With `formula=negated_mean` it is that of the means.
    """

    models: Sequence[Surrogate]
    reference: Array
    weights: Array
    formula: Formula = confidence_bound

    def _bounds(self) -> list[AnalyticAcquisition]:
        return [AnalyticAcquisition(model, self.formula) for model in self.models]

    def score(self, features: Array) -> Array:
        bounds = np.stack([term.score(features) for term in self._bounds()], axis=1)
        return _smooth_minimum((self.reference + bounds) / self.weights)[0]

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        values = [term.score_with_gradients(features) for term in self._bounds()]
        bounds = np.stack([value for value, _ in values], axis=1)
        value, slopes = _smooth_minimum((self.reference + bounds) / self.weights)
        slopes = slopes / self.weights
        return value, np.asarray(sum(slopes[:, [j]] * gradient for j, (_, gradient) in enumerate(values)))


def _smooth_minimum(values: Array) -> tuple[Array, Array]:
    """Return a smooth lower bound of each row's minimum, and its derivatives by the entries of the row."""
    total = logsumexp(-values / SMOOTHING, axis=1)
    return -SMOOTHING * total, np.exp(-values / SMOOTHING - total[:, None])
