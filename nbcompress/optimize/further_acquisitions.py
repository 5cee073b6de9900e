"""Acquisitions beside `logei`, `ucb`, `pi` and `qlogei`: by name, and by a factory of a person.

- `noisy-ei`: expected improvement over the known points, whose noise-free losses are sampled; for noisy objectives.
- `kg`: the knowledge gradient: how much better the best mean is expected to be after the trial; for noisy objectives,
  where the best point need not be one that was tried.
- `mes`: max-value entropy search: what the trial tells about the smallest loss; for exploration.
- `thompson`: minimizes a sampled function; for many trials at a time, which then differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nbcompress.optimize.acquisition import (
    N_SAMPLED_POINTS,
    AcquisitionFunction,
    AnalyticAcquisition,
    entropy_search,
    negated_mean,
    sampled_function,
)
from nbcompress.optimize.history import Array
from nbcompress.optimize.multi_objective import ScalarizedConfidenceBound, draw_weights, reference_point
from nbcompress.optimize.proposers.baselines import sobol_rows
from nbcompress.optimize.protocol import Stream, random_generator

if TYPE_CHECKING:
    from nbcompress.optimize.models import FittedModels

# A knowledge gradient looks at this many quasi-random points beside so many of the best known ones.
N_KG_POINTS, N_KG_BEST = 32, 32


def further_acquisition(
    acquisition: str | Callable[..., Any],
    models: FittedModels,
    feasible: Array,
    losses: Array,
    *,
    seed: int,
    number: int,
    has_constraints: bool,
) -> AcquisitionFunction:
    """Return an acquisition function without constraints.

    Args:
        acquisition: `noisy-ei`, `kg`, `mes`, `thompson`, or a factory.
        models: With a model of every objective.
        feasible: Shape `(n, D)`; features of the feasible known points, at least one.
        losses: Shape `(n + p, m)`; predicted losses of them and of the pending points.
        seed, number: Of the search and of the trial.
        has_constraints: Whether log probabilities are added.

    Raises:
        Exception: Whatever a factory of a person raises.
    """
    m = losses.shape[1]
    rng = random_generator(seed, number, Stream.SAMPLED_FRONT)
    encoder = models.embedding.encoder
    best = float(losses[:, 0].min())
    if acquisition in ("mes", "thompson"):
        known = feasible[np.argsort(losses[: len(feasible), 0], kind="stable")[:N_KG_BEST]]
        spread = models.embedding.features(sobol_rows(encoder, rng, N_SAMPLED_POINTS))
        points = np.unique(np.vstack([known, spread]), axis=0)
        if acquisition == "mes":
            return entropy_search(models.objectives[0], points, best, rng)
        samples = [sampled_function(models.objectives[j], points, rng) for j in range(m)]
        if m == 1:
            return AnalyticAcquisition(samples[0], negated_mean)
        weights = draw_weights(random_generator(seed, number, Stream.SCALARIZATION_WEIGHTS), m)
        return ScalarizedConfidenceBound(samples, reference_point(losses), weights, negated_mean)
    from nbcompress.optimize.surrogates.botorch import as_model
    from nbcompress.optimize.surrogates.botorch_acquisition import (
        DiscreteKnowledgeGradient,
        TorchAcquisition,
        acquisition_by_factory,
        noisy_expected_improvement,
    )

    if acquisition == "noisy-ei":
        model = as_model(models.unconditioned[0])
        return noisy_expected_improvement(model, feasible, models.X_pending, int(rng.integers(2**31)))
    spread = models.embedding.features(sobol_rows(encoder, rng, N_KG_POINTS))
    if acquisition == "kg":
        known = feasible[np.argsort(losses[: len(feasible), 0], kind="stable")[:N_KG_BEST]]
        points = np.unique(np.vstack([known, spread]), axis=0)
        gradient = DiscreteKnowledgeGradient(as_model(models.objectives[0]), points)
        return TorchAcquisition(gradient, is_log=False, reference=0.0)
    assert callable(acquisition)
    model = as_model(models.unconditioned[0])
    made = acquisition_by_factory(acquisition, model, feasible, models.X_pending, -best)
    return made.counted_from_lowest(np.vstack([feasible, spread])) if has_constraints else made
