"""The Pareto front of a study, and its hypervolume.

All functions work on losses: smaller is better in every column. A point `a` dominates a point `b` when it is nowhere
worse and somewhere better; the front holds the points that no other point dominates.

References:
    Zitzler & Thiele (1998), "Multiobjective Optimization Using Evolutionary Algorithms", for the hypervolume.
    While, Bradstreet & Barone (2012), "A Fast Way of Calculating Exact Hypervolumes", for the exclusive volumes
    used here from three objectives on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbcompress.errors import StudyError
from nbcompress.study.goal import Constraint, Goal, State, Trial

Losses = NDArray[np.float64]


def losses_of(trials: Iterable[Trial], goal: Goal) -> Losses:
    """Return the objectives of complete trials as losses, shape `(n_trials, n_objectives)`."""
    rows = [[objective.loss(trial.values[objective.metric]) for objective in goal.objectives] for trial in trials]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(goal.objectives))


def is_non_dominated(losses: ArrayLike) -> NDArray[np.bool_]:
    """Return for each row of losses whether no other row dominates it. Equal rows do not dominate each other.

    Args:
        losses: Shape `(n, m)`.

    Returns:
        Shape `(n,)`.
    """
    rows = np.asarray(losses, dtype=np.float64)
    if rows.ndim == 2 and rows.shape[1] == 1 and not np.isnan(rows).any():
        return np.asarray(rows[:, 0] == rows[:, 0].min(initial=np.inf))
    is_left = np.ones(len(rows), dtype=np.bool_)
    # Small sums first: they dominate most rows, so few rows are left to compare.
    with np.errstate(over="ignore"):  # only the order depends on the sums
        waiting = np.argsort(rows.sum(axis=1))
    while len(waiting) > 0:
        row, waiting = rows[waiting[0]], waiting[1:]
        is_left &= ~(np.all(rows >= row, axis=1) & np.any(rows > row, axis=1))
        waiting = waiting[is_left[waiting]]
    return is_left


def feasible(trials: Iterable[Trial], goal: Goal) -> list[Trial]:
    """Return the complete trials that meet every constraint, in their order."""
    return [trial for trial in trials if trial.state is State.COMPLETE and goal.is_feasible(trial.values)]


def front(trials: Iterable[Trial], goal: Goal) -> list[Trial]:
    """Return the Pareto front: the feasible trials that no other dominates, best in the first objective first.

    Trials with equal objectives are all on the front; the earlier number comes first.
    """
    candidates = feasible(trials, goal)
    losses = losses_of(candidates, goal)
    chosen = np.flatnonzero(is_non_dominated(losses))
    return [candidates[i] for i in sorted(chosen, key=lambda i: (*losses[i], candidates[i].number))]


def example_pick(on_front: Sequence[Trial], goal: Goal) -> str:
    """Return a call of `Study.pick` that a trial of this front answers, such as `pick("accuracy >= 0.93", "size")`.

    The bound is the value of the middle trial, rounded so that this trial meets it.
    """
    first, last = goal.objectives[0], goal.objectives[-1]
    value = on_front[len(on_front) // 2].values[first.metric]
    relation: Literal["<=", ">="] = ">=" if first.direction == "maximize" else "<="
    # All digits of 17 give the number itself.
    bounds = (Constraint(first.metric, relation, float(f"{value:.{digits}g}")) for digits in range(2, 18))
    return f'pick("{next(bound for bound in bounds if bound.holds(value))}", "{last.metric}")'


def hypervolume(losses: ArrayLike, reference: ArrayLike) -> float:
    """Return the exact volume of the region that the rows dominate, up to the reference point.

    Rows that are not better than `reference` in every column add nothing. The volume never falls when a row is added,
    and does not depend on the order of rows or columns.

    Args:
        losses: Shape `(n, m)`, with m from 1 to 4.
        reference: Shape `(m,)`.

    Raises:
        StudyError: m is not 1 to 4, or a number is NaN.

    Example:
        >>> hypervolume([[1.0, 3.0], [2.0, 2.0]], reference=[4.0, 4.0])
        5.0
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
    with np.errstate(over="ignore"):  # the volume is infinite then
        return _volume(rows, corner)


def _volume(rows: Losses, corner: Losses) -> float:
    if len(rows) == 0:
        return 0.0
    if corner.size == 1:
        return float(corner[0] - rows.min())
    rows = np.unique(rows[is_non_dominated(rows)], axis=0)  # sorted by the first column, without duplicates
    if corner.size == 2:
        # The second loss falls where the first rises, so each row adds one rectangle.
        above = np.concatenate([corner[1:], rows[:-1, 1]])
        return float(np.sum((corner[0] - rows[:, 0]) * (above - rows[:, 1])))
    return sum(_exclusive(rows[i], rows[i + 1 :], corner) for i in range(len(rows)))


def _exclusive(row: Losses, others: Losses, corner: Losses) -> float:
    """Return the volume that `row` dominates and no row of `others` does."""
    box = float(np.prod(corner - row))
    # Clipped to the box of `row`, the others dominate exactly the part that they share with it.
    return box - _volume(np.maximum(others, row), corner)
