"""The trials of a study as a proposer reads them: points and losses, without names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nbcompress.run.expected_end import Precedents, curve_of
from nbcompress.run.same_failure import begun_in_vain
from nbcompress.study.goal import Goal
from nbcompress.study.trial import State, Trial

if TYPE_CHECKING:
    from nbcompress.optimize.history import History, Status

_STATUS: dict[State, Status] = {
    State.COMPLETE: "told",
    State.STOPPED: "told",
    State.INFEASIBLE: "told",
    State.FAILED: "failed",
    State.RUNNING: "pending",
    # It will be run again under its own number, so its point is taken and its result is still to come.
    State.INTERRUPTED: "pending",
}


# What was asked last, and the answer.
_latest: tuple[tuple[Trial, ...], Goal, History] | None = None


def history_of(trials: Sequence[Trial], goal: Goal) -> History:
    """Return the trials in the order of their numbers; what a trial did not measure is NaN.

    An objective of a trial that was stopped early is what it can be expected to have come to; see `Precedents`.
    Whether it would have kept a constraint is not known.

    Trials of a search that began with failures alike are left out: their points may be proposed again.

    The very same trials give the very same history as the last time: a panel asks about what the loop has just asked
    about, and a surrogate that was fitted to it is recognised.
    """
    global _latest
    asked = tuple(trials)
    if _latest is not None and _latest[1] == goal and _are_same(_latest[0], asked):
        return _latest[2]
    history = _history_of(asked, goal)
    _latest = (asked, goal, history)
    return history


def _are_same(left: Sequence[Trial], right: Sequence[Trial]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def _history_of(trials: Sequence[Trial], goal: Goal) -> History:
    from nbcompress.optimize import History

    ordered = sorted(trials, key=lambda one: one.number)[begun_in_vain(trials) :]
    has_stopped = any(trial.state is State.STOPPED for trial in ordered)
    complete = [trial for trial in ordered if trial.state is State.COMPLETE] if has_stopped else []
    precedents = {one.metric: Precedents.of(complete, one.metric) for one in goal.objectives}
    losses = [[one.loss(_end(trial, one.metric, precedents)) for one in goal.objectives] for trial in ordered]
    slacks = [[one.slack(trial.values.get(one.metric, math.nan)) for one in goal.constraints] for trial in ordered]
    return History(
        tuple(trial.point for trial in ordered),
        np.array(losses, dtype=np.float64).reshape(len(ordered), len(goal.objectives)),
        np.array(slacks, dtype=np.float64).reshape(len(ordered), len(goal.constraints)),
        tuple(_STATUS[trial.state] for trial in ordered),
        tuple(trial.note for trial in ordered),
    )


def _end(trial: Trial, metric: str, precedents: Mapping[str, Precedents]) -> float:
    if metric not in trial.values and trial.state is State.STOPPED:
        return precedents[metric].expected_end(curve_of(trial, metric))
    return trial.values.get(metric, math.nan)
