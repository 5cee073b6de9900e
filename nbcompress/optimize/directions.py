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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from nbcompress.optimize.acquisition import Acquisition, Sum, Term, confidence_bound, log_probability_below
from nbcompress.optimize.history import Array
from nbcompress.optimize.surrogate import GaussianProcess

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
    return Sum([_below(one, float(t)) for one, t in zip(processes, reference - direction * beyond, strict=True)])


def _below(process: GaussianProcess, target: float) -> Term:
    return Term(process, lambda mean, std: log_probability_below(mean, std, target))


@dataclass(frozen=True, eq=False)
class OptimisticReach:
    """How far the lower confidence bounds of all losses reach; the minimum is rounded."""

    processes: Sequence[GaussianProcess]
    reference: Array
    direction: Array

    def _terms(self) -> list[Term]:
        return [Term(one, confidence_bound) for one in self.processes]

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
