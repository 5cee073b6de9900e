"""What the surrogate expects around the best point, which parameters it finds to matter, and whether to trust it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from nbcompress.errors import SearchError
from nbcompress.panels.calibration import calibration_data
from nbcompress.panels.slices import slice_data
from nbcompress.panels.surrogate import surrogate_data
from nbcompress.study.goal import Goal
from nbcompress.study.trial import Trial

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer

# Each parameter costs one slice of the picture; beyond this many it would not be read.
MOST = 12
# The closing output shall not keep anybody waiting: no slice is begun after so many seconds.
PATIENCE = 3.0


class Tried(Protocol):
    """What a surrogate is asked about."""

    @property
    def goal(self) -> Goal: ...
    @property
    def all_trials(self) -> Sequence[Trial]: ...
    @property
    def best(self) -> Trial | None: ...


@dataclass(frozen=True)
class Expectations:
    """What a surrogate tells about a study.

    Attributes:
        slices: Through the best point, one for each parameter, as `slice_data` returns them.
        importance: The parameters' shares in the first objective, or None.
        calibration: How well each trial is foretold from the others, as `calibration_data` returns it, or None.
        surrogate: The fitted processes, as `surrogate_data` returns them, or None.
    """

    slices: list[dict[str, Any]] = field(default_factory=list)
    importance: dict[str, float] | None = None
    calibration: dict[str, Any] | None = None
    surrogate: dict[str, Any] | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """Return the arguments of a view that shows them."""
        return {
            "slices": self.slices,
            "importance": self.importance,
            "calibration": self.calibration,
            "surrogate": self.surrogate,
        }


def always() -> bool:
    return True


def expectations_of(
    proposer: Proposer | None,
    study: Tried,
    patience: float = PATIENCE,
    *,
    is_wanted: Callable[[], bool] = always,
    most: int = MOST,
) -> Expectations:
    """Ask the surrogate of a proposer about a study.

    Empty where there is nothing to tell: no feasible trial yet, or a sampler without a surrogate. The parameters
    that matter most come first, so that what the patience leaves out matters least.

    Args:
        proposer: Whose surrogate is asked.
        study: About what.
        patience: No slice is begun after so many seconds.
        is_wanted: Asked before each part of the work; what is not wanted any more is left out.
        most: The most slices.
    """
    best = study.best
    if proposer is None or best is None:
        return Expectations()
    from nbcompress.optimize import importance, leave_one_out, slice_of
    from nbcompress.run.history import history_of

    end = time.monotonic() + patience
    history = history_of(study.all_trials, study.goal)
    try:
        shares = importance(proposer, history)
    except SearchError:
        return Expectations()
    surrogate = surrogate_data(proposer, study.all_trials, study.goal)
    calibration = None
    if is_wanted():
        calibration = calibration_data(leave_one_out(proposer, history).residuals, study.goal.objectives[0].metric)
    slices: list[dict[str, Any]] = []
    for name in sorted(best.params, key=lambda one: -shares[one])[:most]:
        if time.monotonic() > end or not is_wanted():
            break
        along = slice_of(proposer, history, best.point, name)
        slices.append(slice_data(name, along, study.goal, at=best.params[name]))
    return Expectations(slices, shares, calibration, surrogate)
