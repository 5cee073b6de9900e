"""What the surrogate has learned, for panels: slices, importance, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from nbcompress.errors import PointError, SearchError, did_you_mean
from nbcompress.optimize.acquisition import Sum
from nbcompress.optimize.history import Array, History
from nbcompress.optimize.models import Belief
from nbcompress.optimize.proposers.gp import GaussianProcessProposer
from nbcompress.optimize.protocol import Proposer, generator
from nbcompress.space import Point, Value

# Points of the estimate of importance: a power of two for the Sobol sequence.
N_IMPORTANCE = 512
# Half the width, in standard deviations, of the interval that holds 95 % of a normal distribution.
WIDTH_95 = 1.959964


@dataclass(frozen=True, eq=False)
class Slice:
    """The surrogate along one parameter, all others held.

    Attributes:
        name: The parameter.
        values: Its values, `n` of them or fewer.
        mean: Shape `(m, n)`; predicted losses in their own units, with the sign that makes smaller better.
        std: Shape `(m, n)`; standard deviations of the noise-free losses.
        acquisition: Shape `(n,)`; larger is better; a logarithm, but for `ucb`.
    """

    name: str
    values: tuple[Value, ...]
    mean: Array
    std: Array
    acquisition: Array


@dataclass(frozen=True, eq=False)
class Calibration:
    """How well the surrogate foretells each known loss from all the others.

    Attributes:
        residuals: `(known - predicted) / standard deviation`, one for each told point with that loss.
        share_inside: The share of them within the 95 % interval; .95 is ideal.
    """

    residuals: Array
    share_inside: float


def _learned(proposer: Proposer, history: History) -> tuple[GaussianProcessProposer, Belief]:
    if not isinstance(proposer, GaussianProcessProposer):
        raise SearchError(
            "Only the sampler 'gp' has a surrogate to look into. Make one for the same history: proposer('gp', ...)."
        )
    belief = proposer.believe(history)
    if len(belief.losses) < proposer.n_objectives:
        raise SearchError("The surrogate has nothing to learn from yet: no told point has every loss.")
    return proposer, belief


def slice_of(proposer: Proposer, history: History, point: Point, name: str, n: int = 41) -> Slice:
    """Return the surrogate's prediction where only the parameter `name` leaves `point`.

    Where a choice activates other parameters, these take the middle of their axes.

    Raises:
        SearchError: The proposer has no surrogate, or no loss is known yet.
        PointError: The point is not in the space, or the parameter is not active there.
    """
    gp, belief = _learned(proposer, history)
    axes = gp.axes
    point = axes.space.check(point)
    if name not in point:
        why = "is not active at this point" if name in axes.names else "is no parameter of the space"
        raise PointError(f"{name!r} {why}; a slice runs along one of {', '.join(point)}.{did_you_mean(name, point)}")
    i = axes.names.index(name)
    levels = axes.levels[i]
    units = np.linspace(0, 1, n) if levels is None else levels
    if len(units) > n:
        units = units[np.unique(np.linspace(0, len(units) - 1, n).round().astype(int))]
    rows = np.repeat(axes.rows([point]), len(units), axis=0)
    rows[:, i] = units
    rows = axes.snap(rows)
    features = gp.embedding.features(rows)
    predictions = [process.in_units(*process.predict(features)) for _, process in sorted(belief.losses.items())]
    gain, limits = gp.terms(belief, len(history))
    acquisition = Sum([*([gain] if gain else []), *limits]).score(features)
    parameter = axes.space[name]
    return Slice(
        name,
        tuple(parameter.from_unit(u) for u in rows[:, i].tolist()),
        np.stack([mean for mean, _ in predictions]),
        np.stack([std for _, std in predictions]),
        acquisition,
    )


def importance(proposer: Proposer, history: History, objective: int = 0) -> dict[str, float]:
    """Return how much of what the surrogate predicts each parameter decides; the shares add up to 1.

    The method is Jansen's estimate of the total effect, `E[(f(x) - f(x with another x_i))^2] / 2`, over the
    surrogate's mean on a Sobol sequence; its interactions count for every parameter in them. A parameter that is
    rarely active decides little. If nothing varies, all shares are 0.

    Raises:
        SearchError: The proposer has no surrogate, or no loss is known yet.

    References:
        Jansen (1999), "Analysis of variance designs for model output".
    """
    gp, belief = _learned(proposer, history)
    axes, process = gp.axes, belief.losses[objective]
    # One sequence of twice the dimension: two scramblings of the same sequence agree digit for digit, or never.
    cube = qmc.Sobol(2 * axes.d, scramble=True, seed=generator(gp.seed, 0, purpose=4)).random(N_IMPORTANCE)
    rows, others = axes.spread(cube[:, : axes.d]), axes.spread(cube[:, axes.d :])
    base = process.predict(gp.embedding.features(rows))[0]
    effects = []
    for i in range(axes.d):
        changed = rows.copy()
        changed[:, i] = others[:, i]
        moved = process.predict(gp.embedding.features(changed))[0] - base
        effects.append(0.5 * float(moved @ moved) / len(rows))
    total = sum(effects)
    return {name: effect / total if total > 0 else 0.0 for name, effect in zip(axes.names, effects, strict=True)}


def leave_one_out(proposer: Proposer, history: History, objective: int = 0) -> Calibration:
    """Return how each told loss compares with its prediction from the others, hyperparameters held.

    Raises:
        SearchError: The proposer has no surrogate, or no loss is known yet.
    """
    process = _learned(proposer, history)[1].fitted[objective]
    mean, std = process.leave_one_out()
    residuals = (process.y - mean) / std
    return Calibration(residuals, float((np.abs(residuals) <= WIDTH_95).mean()))
