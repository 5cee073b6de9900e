"""The samplers by name: `proposer("gp", space, n_objectives=1)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbcompress.choices import ACQUISITIONS, KERNELS, MEANS, SAMPLERS
from nbcompress.errors import GoalError, SearchError, did_you_mean, option
from nbcompress.optimize.proposers.baselines import GridProposer, RandomProposer, SobolProposer
from nbcompress.optimize.proposers.optuna import OptunaProposer
from nbcompress.optimize.protocol import Proposer
from nbcompress.space import Space

# Options that only `gp` has, with their defaults.
GP_DEFAULTS = {
    "acquisition": ACQUISITIONS[0],
    "kernel": KERNELS[0],
    "mean": MEANS[0],
    "surrogate": None,
    "sensitivity": None,
}


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
    acquisition: Any = GP_DEFAULTS["acquisition"],
    kernel: Any = GP_DEFAULTS["kernel"],
    mean: Any = GP_DEFAULTS["mean"],
    surrogate: Any = GP_DEFAULTS["surrogate"],
    sensitivity: Mapping[str, Mapping[str, float]] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Proposer:
    """Return a new proposer.

    Args:
        sampler: One of `samplers()`.
        space: The space to search.
        n_objectives: At least 1; `gp` takes at most 4.
        n_constraints: The number of constraints.
        seed: Equal seeds and histories give equal points.
        acquisition, kernel, mean, surrogate: For `gp`; see `nc.search`. A dict of surrogates is by `loss j` and
            `slack j`.
        sensitivity: For `gp`; see `nc.search`. By `loss j` and `slack j`.
        labels: What `loss j` and `slack j` are called in a warning.

    Raises:
        SearchError: Unknown sampler, or it cannot search this space, or an option of `gp` is given to another one.
        GoalError: The sampler or the acquisition does not support that many objectives.
    """
    if n_objectives < 1:
        raise GoalError(f"A search needs at least one objective, but got {n_objectives}.")
    if sampler == "gp":
        # Imported here, because the surrogate is slower to import than the other samplers.
        from nbcompress.optimize.proposers.gp import GaussianProcessProposer

        return GaussianProcessProposer(
            space, n_objectives, n_constraints, seed, acquisition, kernel, mean, surrogate, labels,
            sensitivity=sensitivity,
        )  # fmt: skip
    if sampler in SAMPLERS:
        parts = {"acquisition": acquisition, "kernel": kernel, "mean": mean, "surrogate": surrogate}
        _refuse_gp_options(sampler, **parts, sensitivity=sensitivity or None)
    if sampler == "sobol":
        return SobolProposer(space, seed)
    if sampler == "random":
        return RandomProposer(space, seed)
    if sampler == "grid":
        return GridProposer(space, seed)
    if sampler in SAMPLERS:
        return OptunaProposer(sampler, space, n_objectives, n_constraints, seed)
    known = ", ".join(SAMPLERS)
    raise SearchError(f"A sampler is one of {known}, but got {sampler!r}.{did_you_mean(sampler, SAMPLERS)}")


def _refuse_gp_options(sampler: str, **options: Any) -> None:
    given = {
        name: value for name, value in options.items() if value is not GP_DEFAULTS[name] and value != GP_DEFAULTS[name]
    }
    if given:
        raise SearchError(
            f"Only {option('sampler', 'gp')} takes {' and '.join(option(*item) for item in given.items())}, "
            f"but got {option('sampler', sampler)}. Leave out {' and '.join(map(option, given))}."
        )
