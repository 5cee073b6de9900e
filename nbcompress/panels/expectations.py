"""What the surrogate expects around the best point, and which parameters it finds to matter."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbcompress.errors import SearchError
from nbcompress.panels.slices import slice_data
from nbcompress.panels.view import StudyLike

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer

# Each parameter costs one slice of the picture; beyond this many it would not be read.
MOST = 12
# The closing output shall not keep anybody waiting: no slice is begun after so many seconds.
PATIENCE = 3.0


@dataclass(frozen=True)
class Expectations:
    """Slices through the best point, and the parameters' shares in the first objective (None if unknown)."""

    slices: list[dict[str, Any]] = field(default_factory=list)
    importance: dict[str, float] | None = None


def expectations_of(proposer: Proposer | None, study: StudyLike, patience: float = PATIENCE) -> Expectations:
    """Ask the surrogate of a proposer about a study.

    Empty where there is nothing to tell: no feasible trial yet, or a sampler without a surrogate. The parameters
    that matter most come first, so that what the patience leaves out matters least.
    """
    best = study.best
    if proposer is None or best is None:
        return Expectations()
    from nbcompress.optimize import importance, slice_of
    from nbcompress.run.history import history_of

    end = time.monotonic() + patience
    history = history_of(study.all_trials, study.goal)
    try:
        shares = importance(proposer, history)
    except SearchError:
        return Expectations()
    slices: list[dict[str, Any]] = []
    for name in sorted(best.params, key=lambda one: -shares[one])[:MOST]:
        if time.monotonic() > end:
            break
        along = slice_of(proposer, history, best.point, name)
        slices.append(slice_data(name, along, study.goal, at=best.params[name]))
    return Expectations(slices, shares)
