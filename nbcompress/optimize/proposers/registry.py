"""Every sampler by its name."""

from __future__ import annotations

from nbcompress.choices import SAMPLERS
from nbcompress.errors import GoalError, SearchError, did_you_mean, option
from nbcompress.optimize.proposers.baselines import GridProposer, RandomProposer, SobolProposer
from nbcompress.optimize.proposers.optuna import OptunaProposer
from nbcompress.optimize.protocol import Proposer
from nbcompress.space import Space

_OPTUNA = ("tpe", "nsga2", "optuna-gp")
# What the surrogate of `gp` is made of, if nothing is said.
_PARTS = {"acquisition": "logei", "kernel": "matern52", "mean": "constant"}


def samplers() -> tuple[str, ...]:
    """Return the names that `proposer` takes, the default first."""
    return SAMPLERS


def proposer(
    sampler: str,
    space: Space,
    *,
    n_objectives: int,
    n_constraints: int = 0,
    seed: int = 0,
    acquisition: str = _PARTS["acquisition"],
    kernel: str = _PARTS["kernel"],
    mean: str = _PARTS["mean"],
) -> Proposer:
    """Return what proposes points by the sampler's name; only `gp` reads the last three.

    Raises:
        SearchError: No sampler has this name, it cannot search this space, or a part of `gp` is given to another one.
        GoalError: The sampler, or the acquisition, cannot steer by that many objectives.
    """
    if n_objectives < 1:
        raise GoalError(f"A search needs at least one objective, but got {n_objectives}.")
    if sampler == "gp":
        from nbcompress.optimize.proposers.gp import GaussianProcessProposer

        return GaussianProcessProposer(space, n_objectives, n_constraints, seed, acquisition, kernel, mean)
    if sampler in SAMPLERS:
        _refuse_parts(sampler, acquisition=acquisition, kernel=kernel, mean=mean)
    if sampler == "sobol":
        return SobolProposer(space, seed)
    if sampler == "random":
        return RandomProposer(space, seed)
    if sampler == "grid":
        return GridProposer(space, seed)
    if sampler in _OPTUNA:
        return OptunaProposer(sampler, space, n_objectives, n_constraints, seed)
    raise SearchError(
        f"A sampler is one of {', '.join(SAMPLERS)}, but got {sampler!r}.{did_you_mean(sampler, SAMPLERS)}"
    )


def _refuse_parts(sampler: str, **parts: str) -> None:
    given = {name: value for name, value in parts.items() if value != _PARTS[name]}
    if given:
        raise SearchError(
            f"Only {option('sampler', 'gp')} takes {' and '.join(option(*item) for item in given.items())}, "
            f"but got {option('sampler', sampler)}. Leave out {' and '.join(map(option, given))}."
        )
