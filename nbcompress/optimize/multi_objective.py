"""What one more trial is worth with several objectives, seen along one direction at a time.

With a reference r behind all losses and a direction w > 0 of length 1, losses y reach

    reach(y) = min_j (r_j - y_j) / w_j

from r along w. Its largest value over a set of points, to the power of the number of objectives and averaged over all
directions, is the hypervolume they dominate, but for a constant. So what reaches further in a random direction adds
to the hypervolume, and every proposal draws its own.

    ucb   how far the optimistic losses mu - 2 s reach
    pi    log P(reach(y) > t) = sum_j log P(y_j < r_j - w_j t),   t a little beyond the furthest known reach

References:
    Zhang, Golovin (2020), "Random Hypervolume Scalarizations for Provable Multi-Objective Black Box Optimization".
    Knowles (2006), "ParEGO": one random direction a proposal.

What one more trial is worth with several objectives: the expected gain in hypervolume, in closed form.

What no front point dominates, below the reference, is cut into boxes that do not overlap. With independent predictions,

    EHVI = sum over boxes of prod_j (psi_j(high_j) - psi_j(low_j)),      psi_j(t) = E[max(t - loss_j, 0)]

Each psi is an expected improvement, so everything stays in logarithms (see `acquisition.py`); psi(-inf) = 0. With two
objectives the boxes are strips along the first loss. With the front `p_1 .. p_K` sorted by it, and the reference r,

    strip k = (a_k, a_(k+1)) x (-inf, c_k),   a_0 = -inf, a_k = p_k1, a_(K+1) = r1;   c_0 = r2, c_k = p_k2

References:
    Emmerich, Deutz, Klinkenberg (2011), "Hypervolume-based expected improvement: Monotonicity properties and exact
    computation".
    Lacour, Klamroth, Fonseca (2017), "A box decomposition algorithm to compute the hypervolume indicator": the boxes of
    three and four objectives, as BoTorch works them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from nbcompress.optimize.acquisition import (
    Acquisition,
    Sum,
    Term,
    confidence_bound,
    log_expected_improvement,
    log_probability_below,
)
from nbcompress.optimize.history import Array
from nbcompress.optimize.surrogates.closed_form import GaussianProcess

# How far behind the worst known the reference lies, as a share of the extent of the losses. A heuristic.
REFERENCE_MARGIN = 0.1
# Boxes thinner than this share of the plane's extent hold no hypervolume worth a logarithm.
THIN = 1e-12
# Rows are scored so many at once that they meet this many boxes in all; a bound on memory.
AT_ONCE = 2**18


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
class Sides:
    """The sides of B boxes along one loss. Many boxes share an end, and each end is worked out once.

    Attributes:
        ends: Shape `(E,)`; the distinct finite ends.
        low, high: Shape `(B,)`; which end each side has; `low` is -1 where a side has none.
    """

    ends: Array
    low: NDArray[np.intp]
    high: NDArray[np.intp]

    @classmethod
    def of(cls, low: Array, high: Array) -> Sides:
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


def strips(front: Array, reference: Array) -> tuple[Array, Array]:
    """Return the boxes that a front `(K, 2)` leaves below the reference: lower and upper corners, each `(B, 2)`."""
    front = front[np.argsort(front[:, 0], kind="stable")]
    edges = np.concatenate([[-np.inf], front[:, 0], reference[:1]])
    tops = np.concatenate([reference[1:], front[:, 1]])
    low = np.stack([edges[:-1], np.full_like(tops, -np.inf)], axis=1)
    return low, np.stack([edges[1:], tops], axis=1)


@dataclass(frozen=True, eq=False)
class LogHypervolumeImprovement:
    """Log EHVI of independent processes.

    Args:
        processes: One for each of the m losses, 2 to 4.
        front: Shape `(K, m)`, standardised; dominated rows and those beyond the reference are dropped.
        reference: Shape `(m,)`, standardised.
    """

    processes: Sequence[GaussianProcess]
    front: Array
    reference: Array

    def __post_init__(self) -> None:
        front = self.front[(self.front < self.reference).all(1)]
        front = front[is_efficient(front)]
        if len(self.reference) == 2:
            low, high = strips(front, self.reference)
        else:
            from nbcompress.optimize.surrogates.botorch import boxes

            low, high = boxes(front, self.reference)
        extent = np.maximum(1.0, np.abs(high).max(0))
        thick = (high - low > THIN * extent).all(1)
        object.__setattr__(self, "_sides", [Sides.of(*side) for side in zip(low[thick].T, high[thick].T, strict=True)])

    def _value(self, mean: Array, std: Array) -> tuple[Array, Array, Array]:
        """From means and deviations `(k, m)` to log EHVI `(k,)` and its derivatives, each `(k, m)`."""
        sides: list[Sides] = self._sides  # type: ignore[attr-defined]
        step = max(1, AT_ONCE // len(sides[0].high))
        starts = range(0, max(1, len(mean)), step)
        parts = [self._part(sides, mean[i : i + step], std[i : i + step]) for i in starts]
        value, by_mean, by_std = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return value, by_mean, by_std

    def _part(self, sides: Sequence[Sides], mean: Array, std: Array) -> tuple[Array, Array, Array]:
        factors = [side.log_gain(mean[:, [j]], std[:, [j]]) for j, side in enumerate(sides)]
        parts = sum(factor[0] for factor in factors)
        value = logsumexp(parts, axis=1)
        weight = np.exp(parts - value[:, None])
        by_mean, by_std = (np.stack([(weight * factor[i]).sum(1) for factor in factors], 1) for i in (1, 2))
        return value, by_mean, by_std

    def score(self, features: Array) -> Array:
        predictions = [process.predict(features) for process in self.processes]
        mean, std = (np.stack([prediction[i] for prediction in predictions], 1) for i in (0, 1))
        return self._value(mean, std)[0]

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        predictions = [process.predict_with_gradients(features) for process in self.processes]
        mean, std = (np.stack([prediction[i] for prediction in predictions], 1) for i in (0, 1))
        value, by_mean, by_std = self._value(mean, std)
        gradient = np.zeros_like(features)
        for j, (_, _, mean_gradient, std_gradient) in enumerate(predictions):
            gradient += by_mean[:, [j]] * mean_gradient + by_std[:, [j]] * std_gradient
        return value, gradient


# How much further than the known losses `pi` aims. With the .01 of one objective it hardly left its first points on
# ZDT1 (half of the hypervolume was missing after 40 trials, instead of a fifth); .03 and .3 were worse, too.
FURTHER = 0.1
# A minimum has a kink where two objectives reach equally far, which is where its largest value lies. It is rounded by
# so many standardised units, so that a climb can follow it.
ROUNDED = 0.02
# No direction runs along an axis, where one objective alone would count.
LEAST_SHARE = 0.02


def draw_direction(rng: np.random.Generator, m: int) -> Array:
    """Return a random direction of `m` positive shares, of length 1."""
    shares = np.abs(rng.standard_normal(m))
    shares = np.maximum(shares / np.linalg.norm(shares), LEAST_SHARE)
    return np.asarray(shares / np.linalg.norm(shares))


def reach(losses: Array, reference: Array, direction: Array) -> Array:
    """Return how far losses `(n, m)` reach: shape `(n,)`, negative beyond the reference."""
    return np.asarray(((reference - losses) / direction).min(1))


def improvement_along(
    name: str, processes: Sequence[GaussianProcess], losses: Array, reference: Array, direction: Array
) -> Acquisition:
    """Return the acquisition `ucb` or `pi` of `m` losses.

    Args:
        name: `ucb` or `pi`.
        processes: One for each loss.
        losses: Shape `(n, m)`, standardised; what is known.
        reference: Shape `(m,)`; r, standardised.
        direction: Shape `(m,)`; w.
    """
    if name == "ucb":
        return OptimisticReach(processes, reference, direction)
    beyond = float(reach(losses, reference, direction).max()) + FURTHER
    return Sum(
        [_below(process, float(t)) for process, t in zip(processes, reference - direction * beyond, strict=True)]
    )


def _below(process: GaussianProcess, target: float) -> Term:
    return Term(process, lambda mean, std: log_probability_below(mean, std, target))


@dataclass(frozen=True, eq=False)
class OptimisticReach:
    """How far the lower confidence bounds of all losses reach; the minimum is rounded."""

    processes: Sequence[GaussianProcess]
    reference: Array
    direction: Array

    def _terms(self) -> list[Term]:
        return [Term(process, confidence_bound) for process in self.processes]

    def score(self, features: Array) -> Array:
        bounds = np.stack([term.score(features) for term in self._terms()], axis=1)
        return _rounded_minimum((self.reference + bounds) / self.direction)[0]

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        found = [term.score_with_gradients(features) for term in self._terms()]
        bounds = np.stack([value for value, _ in found], axis=1)
        value, shares = _rounded_minimum((self.reference + bounds) / self.direction)
        weights = shares / self.direction
        return value, np.asarray(sum(weights[:, [j]] * gradient for j, (_, gradient) in enumerate(found)))


def _rounded_minimum(values: Array) -> tuple[Array, Array]:
    """Return a smooth lower bound of the minimum of each row, and its derivatives by the row's entries."""
    total = logsumexp(-values / ROUNDED, axis=1)
    return -ROUNDED * total, np.exp(-values / ROUNDED - total[:, None])
