"""What the surrogate has learned: slices, parameter importance and calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from nbcompress.errors import PointError, SearchError, did_you_mean
from nbcompress.optimize.history import Array, History
from nbcompress.optimize.models import FittedModels
from nbcompress.optimize.protocol import Proposer, Stream, SurrogateProposer, random_generator
from nbcompress.space import Point, Value

# Points for the estimate of importance: a power of two, for the Sobol sequence.
N_IMPORTANCE = 512
# Half the width of the 95 % interval of a normal distribution, in standard deviations.
WIDTH_95 = 1.959964


@dataclass(frozen=True, eq=False)
class Slice:
    """The surrogate along one parameter, with all others fixed.

    Attributes:
        name: The parameter.
        values: Its values, `n` of them or fewer.
        mean: Shape `(m, n)`; predicted losses in their units, with the sign that makes smaller better.
        std: Shape `(m, n)`; standard deviations of the noise-free losses.
        acquisition: Shape `(n,)`; larger is better; a logarithm, except for `ucb`.
    """

    name: str
    values: tuple[Value, ...]
    mean: Array
    std: Array
    acquisition: Array


@dataclass(frozen=True, eq=False)
class Calibration:
    """How well the surrogate predicts each known loss from all others (leave-one-out).

    Attributes:
        residuals: `(known - predicted) / standard deviation`, one for each told point with a known loss.
        share_inside: The share of them in the 95 % interval; 0.95 is ideal.
    """

    residuals: Array
    share_inside: float


def _fitted(proposer: Proposer, history: History) -> tuple[SurrogateProposer, FittedModels]:
    if not isinstance(proposer, SurrogateProposer):
        raise SearchError("Only the sampler 'gp' has a surrogate. Make one for the same history: proposer('gp', ...).")
    models = proposer.fit_models(history)
    if not models.has_all_objectives:
        raise SearchError("The surrogate has nothing to learn from yet: no told point has every loss.")
    return proposer, models


def slice_of(proposer: Proposer, history: History, point: Point, name: str, n: int = 41) -> Slice:
    """Return the surrogate's prediction along the parameter `name` through `point`.

    Parameters that a choice activates take the middle of their range.

    Args:
        proposer: A proposer with a surrogate.
        history: What the surrogate learns from.
        point: The other parameters.
        name: The parameter that varies.
        n: The most values.

    Raises:
        SearchError: The proposer has no surrogate, or no loss is known yet.
        PointError: The point is not in the space, or the parameter is not active there.
    """
    surrogate, models = _fitted(proposer, history)
    encoder = models.embedding.encoder
    point = encoder.space.check(point)
    if name not in point:
        why = "is not active at this point" if name in encoder.names else "is not a parameter of the space"
        raise PointError(f"{name!r} {why}; a slice runs along one of {', '.join(point)}.{did_you_mean(name, point)}")
    i = encoder.names.index(name)
    levels = encoder.levels[i]
    units = np.linspace(0, 1, n) if levels is None else levels
    if len(units) > n:
        units = units[np.unique(np.linspace(0, len(units) - 1, n).round().astype(int))]
    rows = np.repeat(encoder.rows([point]), len(units), axis=0)
    rows[:, i] = units
    rows = encoder.snap(rows)
    features = models.embedding.features(rows)
    predictions = [model.untransform(*model.predict(features)) for _, model in sorted(models.objectives.items())]
    acquisition = surrogate.acquisition_function(history, len(history)).score(features)
    parameter = encoder.space[name]
    return Slice(
        name,
        tuple(parameter.from_unit(u) for u in rows[:, i].tolist()),
        np.stack([mean for mean, _ in predictions]),
        np.stack([std for _, std in predictions]),
        acquisition,
    )


def importance(proposer: Proposer, history: History, objective: int = 0) -> dict[str, float]:
    """Return how much each parameter contributes to the variance of the predictions; the shares add up to 1.

    The method is Jansen's estimate of the total effect, `E[(f(x) - f(x with another x_i))^2] / 2`, of the surrogate's
    mean on a Sobol sequence. An interaction counts for every parameter in it. A parameter that is rarely active
    contributes little. If nothing varies, all shares are 0.

    Args:
        proposer: A proposer with a surrogate.
        history: What the surrogate learns from.
        objective: The index of the loss.

    Raises:
        SearchError: The proposer has no surrogate, or no loss is known yet.

    References:
        Jansen (1999), "Analysis of variance designs for model output".
    """
    surrogate, models = _fitted(proposer, history)
    encoder, model = models.embedding.encoder, models.objectives[objective]
    # One sequence of twice the dimension: two scramblings of one sequence would not be independent.
    rng = random_generator(surrogate.seed, 0, Stream.IMPORTANCE)
    cube = qmc.Sobol(2 * encoder.d, scramble=True, seed=rng).random(N_IMPORTANCE)
    rows, others = encoder.from_cube(cube[:, : encoder.d]), encoder.from_cube(cube[:, encoder.d :])
    base = model.predict(models.embedding.features(rows))[0]
    effects = []
    for i in range(encoder.d):
        changed = rows.copy()
        changed[:, i] = others[:, i]
        moved = model.predict(models.embedding.features(changed))[0] - base
        effects.append(0.5 * float(moved @ moved) / len(rows))
    total = sum(effects)
    return {name: effect / total if total > 0 else 0.0 for name, effect in zip(encoder.names, effects, strict=True)}


def leave_one_out(proposer: Proposer, history: History, objective: int = 0) -> Calibration:
    """Return how each told loss compares with its prediction from all others, with fixed hyperparameters.

    Args:
        proposer: A proposer with a surrogate.
        history: What the surrogate learns from.
        objective: The index of the loss.

    Raises:
        SearchError: The proposer has no surrogate, or no loss is known yet.
    """
    model = _fitted(proposer, history)[1].unconditioned[objective]
    mean, std = model.leave_one_out()
    residuals = (model.y - mean) / std
    return Calibration(residuals, float((np.abs(residuals) <= WIDTH_95).mean()))
