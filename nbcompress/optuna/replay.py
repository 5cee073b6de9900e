"""An Optuna study as a proposer reads it: trials become a history."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nbcompress.optimize import History
from nbcompress.study.trial_store import read_attribute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial

    from nbcompress.optimize.history import Array, Status
    from nbcompress.optuna.spaces import SearchSpace
    from nbcompress.space import Point

# Under this key a trial holds what was proposed for it: its parameters are not known to others before it asks for them.
PROPOSAL = "nbcompress:proposal"

# A pruned trial tells that its point was run; what it would have reached is not known.
_STATUS: Mapping[TrialState, Status] = {
    TrialState.COMPLETE: "told",
    TrialState.PRUNED: "told",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "pending",
}


def history_of(
    trials: Iterable[FrozenTrial],
    search_space: SearchSpace,
    directions: Sequence[StudyDirection],
) -> History:
    """Return the trials that lie in the space, in the order of their numbers.

    Trials that were run with other ranges, or whose parameters are not known yet, are left out. Failed trials are
    points to keep away from; of pruned ones the constraints count.
    """
    chosen = [
        (trial, point)
        for trial in sorted(trials, key=lambda trial: trial.number)
        if trial.state in _STATUS and (point := _point(trial, search_space)) is not None
    ]
    signs = np.array([-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions])
    unknown = [math.nan] * len(signs)
    losses = [
        signs * np.array(trial.values if trial.state == TrialState.COMPLETE else unknown, dtype=np.float64)
        for trial, _ in chosen
    ]
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    constraints = [trial.constraints if trial.state in ended else {} for trial, _ in chosen]
    names = sorted({name for constraint in constraints for name in constraint})
    slacks = [[constraint.get(name, math.nan) for name in names] for constraint in constraints]
    n = len(chosen)
    return History(
        tuple(point for _, point in chosen),
        _finite(np.array(losses, dtype=np.float64).reshape(n, len(signs))),
        _finite(np.array(slacks, dtype=np.float64).reshape(n, len(names))),
        tuple(_STATUS[trial.state] for trial, _ in chosen),
        tuple((read_attribute(trial.system_attrs, PROPOSAL) or {}).get("note", {}) for trial, _ in chosen),
    )


def _point(trial: FrozenTrial, search_space: SearchSpace) -> Point | None:
    # A complete trial has what it was asked for; another one may have ended, or not yet come, before it was.
    proposed = {} if trial.state == TrialState.COMPLETE else read_attribute(trial.system_attrs, PROPOSAL) or {}
    # A trial that was enqueued takes its fixed parameters, whatever was proposed.
    values: dict[str, Any] = {
        **proposed.get("point", {}),
        **trial.system_attrs.get("fixed_params", {}),
        **trial.params,
    }
    for name, distribution in search_space.distributions.items():
        if trial.distributions.get(name, distribution) != distribution:
            return None
    return search_space.point(values)


def _finite(table: Array) -> Array:
    """Put the worst and the best finite number of its column in the place of an infinite one."""
    for column in table.T:
        finite = column[np.isfinite(column)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        column[column == math.inf] = high
        column[column == -math.inf] = low
    return table
