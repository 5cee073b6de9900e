"""Convert the trials of an Optuna study to the history that a proposer reads."""

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

# The system attribute that holds the proposal of a trial. Other trials need it, because Optuna stores a parameter only
# when the trial asks for it.
PROPOSAL = "nbcompress:proposal"

# The point of a pruned trial counts as tried, but its final value is unknown.
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

    Trials with other ranges, and trials whose parameters are not known yet, are left out. A failed trial counts as
    failed, so points near it are avoided. Of a pruned trial only the constraints count.

    Args:
        trials: Of the study.
        search_space: Their space.
        directions: Of the study.
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
        _replace_infinite_(np.array(losses, dtype=np.float64).reshape(n, len(signs))),
        _replace_infinite_(np.array(slacks, dtype=np.float64).reshape(n, len(names))),
        tuple(_STATUS[trial.state] for trial, _ in chosen),
        tuple((read_attribute(trial.system_attrs, PROPOSAL) or {}).get("note", {}) for trial, _ in chosen),
    )


def _point(trial: FrozenTrial, search_space: SearchSpace) -> Point | None:
    # A complete trial has all its parameters. Any other may not have asked for all of them (yet).
    proposed = {} if trial.state == TrialState.COMPLETE else read_attribute(trial.system_attrs, PROPOSAL) or {}
    # An enqueued trial takes its fixed parameters instead of the proposed ones.
    values: dict[str, Any] = {
        **proposed.get("point", {}),
        **trial.system_attrs.get("fixed_params", {}),
        **trial.params,
    }
    for name, distribution in search_space.distributions.items():
        if trial.distributions.get(name, distribution) != distribution:
            return None
    return search_space.point(values)


def _replace_infinite_(table: Array) -> Array:
    """Replace infinite values by the largest or the smallest finite value of their column, in place."""
    for column in table.T:
        finite = column[np.isfinite(column)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        column[column == math.inf] = high
        column[column == -math.inf] = low
    return table
