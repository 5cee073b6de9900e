"""What the surrogate expects around the best point: slices for the acquisition view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbcompress.panels.slices import slice_data
from nbcompress.panels.view import StudyLike

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer

# Each parameter costs one slice of the picture; beyond this many it would not be read.
MOST = 12


def slices_of(proposer: Proposer | None, study: StudyLike) -> list[dict[str, Any]]:
    """Return slices through the best point along each of its parameters.

    Empty where there is nothing to show: no feasible trial yet, or a sampler without a surrogate.
    """
    best = study.best
    if proposer is None or best is None or not hasattr(proposer, "believe"):
        return []
    from nbcompress import optimize
    from nbcompress.run.history import history_of

    slice_of = getattr(optimize, "slice_of", None)
    if slice_of is None:
        return []
    history = history_of(study.all_trials, study.goal)
    return [
        slice_data(name, slice_of(proposer, history, best.point, name), study.goal, at=value)
        for name, value in list(best.params.items())[:MOST]
    ]
