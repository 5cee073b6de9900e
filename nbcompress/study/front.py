"""The front: the trials that no other trial beats in every objective, and the volume they cover.

A point `a` beats a point `b` when it is nowhere worse and somewhere better. Losses are meant throughout:
smaller is better in every column.

References:
    Zitzler & Thiele (1998), "Multiobjective Optimization Using Evolutionary Algorithms", for the hypervolume.
    While, Bradstreet & Barone (2012), "A Fast Way of Calculating Exact Hypervolumes", for the exclusive volumes
    used here from three objectives on.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbcompress.errors import StudyError
from nbcompress.study.goal import Goal, State, Trial

Losses = NDArray[np.float64]


def losses_of(trials: Iterable[Trial], goal: Goal) -> Losses:
    """Return the objectives of complete trials as losses, shape `(n_trials, n_objectives)`."""
    rows = [[objective.loss(trial.values[objective.metric]) for objective in goal.objectives] for trial in trials]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(goal.objectives))


def is_unbeaten(losses: ArrayLike) -> NDArray[np.bool_]:
    """Say for each row of `(n, m)` losses whether no other row beats it. Equal rows do not beat each other."""
    rows = np.asarray(losses, dtype=np.float64)
    unbeaten = np.ones(len(rows), dtype=np.bool_)
    # Small sums first: they beat most, so few rows are left to look at.
    for index in np.argsort(rows.sum(axis=1)):
        if unbeaten[index]:
            row = rows[index]
            unbeaten &= ~(np.all(rows >= row, axis=1) & np.any(rows > row, axis=1))
    return unbeaten


def feasible(trials: Iterable[Trial], goal: Goal) -> list[Trial]:
    """Return the complete trials that keep every constraint, in their order."""
    return [trial for trial in trials if trial.state is State.COMPLETE and goal.is_feasible(trial.values)]


def front(trials: Iterable[Trial], goal: Goal) -> list[Trial]:
    """Return the feasible complete trials that nothing beats, best in the first objective first.

    Trials with equal objectives are all on the front; the earlier number comes first.
    """
    candidates = feasible(trials, goal)
    losses = losses_of(candidates, goal)
    chosen = np.flatnonzero(is_unbeaten(losses))
    return [candidates[i] for i in sorted(chosen, key=lambda i: (*losses[i], candidates[i].number))]


def hypervolume(losses: ArrayLike, reference: ArrayLike) -> float:
    """Return the volume between the rows and the reference point: what the rows beat, bounded by `reference`.

    Exact. Rows that are not better than `reference` in every column add nothing. It never falls when a row is added,
    and does not depend on the order of rows or columns.

    Args:
        losses: Shape `(n, m)`, with m from 1 to 4.
        reference: Shape `(m,)`.

    Raises:
        StudyError: m is not 1 to 4, or a number is NaN.
    """
    corner = np.asarray(reference, dtype=np.float64)
    rows = np.asarray(losses, dtype=np.float64).reshape(-1, corner.size)
    if corner.ndim != 1 or not 1 <= corner.size <= 4:
        raise StudyError(
            f"A hypervolume is computed for 1 to 4 objectives, but got a reference of shape {corner.shape}."
        )
    if np.isnan(corner).any() or np.isnan(rows).any():
        raise StudyError("A hypervolume needs numbers, but got NaN.")
    rows = rows[np.all(rows < corner, axis=1)]
    return _volume(rows, corner)


def _volume(rows: Losses, corner: Losses) -> float:
    if len(rows) == 0:
        return 0.0
    if corner.size == 1:
        return float(corner[0] - rows.min())
    rows = np.unique(rows[is_unbeaten(rows)], axis=0)  # sorted by the first column, each row once
    if corner.size == 2:
        # A staircase: the second loss falls where the first rises, so each row adds one rectangle.
        above = np.concatenate([corner[1:], rows[:-1, 1]])
        return float(np.sum((corner[0] - rows[:, 0]) * (above - rows[:, 1])))
    return sum(_exclusive(rows[i], rows[i + 1 :], corner) for i in range(len(rows)))


def _exclusive(row: Losses, others: Losses, corner: Losses) -> float:
    """Return the volume that `row` covers and no row of `others` does."""
    own = float(np.prod(corner - row))
    # What the others share with the row is what they cover after being pushed into the row's box.
    return own - _volume(np.maximum(others, row), corner)
