"""What the surrogate expects around the best point, which parameters it finds to matter, and whether to trust it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from nbcompress.errors import SearchError
from nbcompress.panels.calibration import calibration_data
from nbcompress.panels.expected import Expectations
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

    Empty where there is nothing to tell: no feasible trial yet, or a sampler without a surrogate. Where the surrogate
    fails, the reader is told; the trials are there all the same. The parameters that matter most come first, so that
    what the patience leaves out matters least.

    Args:
        proposer: Whose surrogate is asked.
        study: About what.
        patience: No slice is begun after so many seconds.
        is_wanted: Asked before each part of the work; what is not wanted any more is left out.
        most: The most slices.
    """
    if proposer is None or study.best is None:
        return Expectations()
    try:
        return _asked(proposer, study, study.best, patience, is_wanted, most)
    except Exception as error:
        # What there is to see of the trials must not be lost to it.
        logging.getLogger(__name__).debug("the surrogate could not be asked", exc_info=True)
        return unasked(error)


def unasked(error: Exception) -> Expectations:
    """Return what is told where the surrogate fails."""
    why = f"{type(error).__name__}: {error}".rstrip(": ")
    return Expectations(remark=f"What the surrogate expects cannot be shown; asking it failed with {why}.")


def _asked(
    proposer: Proposer, study: Tried, best: Trial, patience: float, is_wanted: Callable[[], bool], most: int
) -> Expectations:
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
