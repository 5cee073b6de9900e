"""How far a search has come after each of its trials: the best value, or the hypervolume of the front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbcompress.study.front import hypervolume
from nbcompress.study.goal import Goal
from nbcompress.study.trial import State, Trial

# The exact hypervolume is computed up to here; beyond it, the first objective stands for all.
MOST_OBJECTIVES = 4


@dataclass(frozen=True)
class Progress:
    """A number for each trial, in the order of the trials; None before the first feasible one."""

    label: str
    values: tuple[float | None, ...]


def progress_of(goal: Goal, trials: Sequence[Trial]) -> Progress:
    """Return the best value so far of the first objective, or the hypervolume so far for 2 to 4 objectives.

    The reference point of the hypervolume is, in every objective, the worst value of any complete trial,
    moved a tenth of the range outward, so that the ends of the front count.
    """
    if not 2 <= len(goal.objectives) <= MOST_OBJECTIVES:
        return _best_so_far(goal, trials)
    losses = [losses_of(goal, one) for one in trials]
    known = np.array([one for one in losses if one is not None])
    if not len(known):
        return Progress("hypervolume", tuple(None for _ in trials))
    spread = known.max(axis=0) - known.min(axis=0)
    reference = known.max(axis=0) + 0.1 * np.where(spread > 0, spread, 1.0)
    front = np.empty((0, len(goal.objectives)))
    volume: float | None = None
    values: list[float | None] = []
    for one in losses:
        if one is not None and not (front <= one).all(axis=1).any():
            front = np.vstack([front[~(front >= one).all(axis=1)], one])
            volume = float(hypervolume(front, reference))
        values.append(volume)
    return Progress("hypervolume", tuple(values))


def losses_of(goal: Goal, trial: Trial) -> NDArray[np.float64] | None:
    """Return the objectives of a complete, feasible trial with smaller better, else None."""
    if trial.state is not State.COMPLETE or not goal.is_feasible(trial.values):
        return None
    values = [trial.values.get(one.metric) for one in goal.objectives]
    if any(value is None or not np.isfinite(value) for value in values):
        return None
    return np.array([one.loss(value) for one, value in zip(goal.objectives, values, strict=True) if value is not None])


def _best_so_far(goal: Goal, trials: Sequence[Trial]) -> Progress:
    objective = goal.objectives[0]
    best: float | None = None
    values: list[float | None] = []
    for trial in trials:
        losses = losses_of(goal, trial)
        if losses is not None and (best is None or losses[0] < best):
            best = float(losses[0])
        values.append(None if best is None else objective.loss(best))
    return Progress(f"best {objective.metric}", tuple(values))
