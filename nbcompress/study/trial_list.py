"""The trials of a study in memory: in order, by state, their front, and as a table.

A study with many trials changes by one or two of them at a time. So what is read after every trial is updated, and not
computed again from all trials.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nbcompress.space import Choice, Float, Int, Space
from nbcompress.study.front import front
from nbcompress.study.goal import Goal, State, Trial

if TYPE_CHECKING:
    import pandas as pd


# A parameter that is not active in a trial; None may be an option.
_INACTIVE = object()


class TrialList:
    """Trials by number, without gaps.

    Args:
        goal: Objectives and constraints, for the front.
    """

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._trials: list[Trial] = []
        self._by_state: dict[State, set[int]] = {state: set() for state in State}
        self._tuple: tuple[Trial, ...] | None = ()
        self._front: list[Trial] = []
        self._completed: list[Trial] = []  # since the front was computed
        self._is_front_lost = False

    def __len__(self) -> int:
        return len(self._trials)

    def __getitem__(self, number: int) -> Trial:
        """Return one trial. `trials` copies them all after each change."""
        return self._trials[number]

    def put(self, trial: Trial) -> None:
        """Add the next trial, or replace the one of that number."""
        if trial.number == len(self._trials):
            self._trials.append(trial)
        else:
            earlier = self._trials[trial.number]
            self._by_state[earlier.state].discard(trial.number)
            # A complete trial changes only if it could not be stored and another process runs it again.
            self._is_front_lost = self._is_front_lost or earlier.state is State.COMPLETE
            self._trials[trial.number] = trial
        self._by_state[trial.state].add(trial.number)
        self._tuple = None
        if trial.state is State.COMPLETE:
            self._completed.append(trial)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials in the order of their numbers."""
        if self._tuple is None:
            self._tuple = tuple(self._trials)
        return self._tuple

    @property
    def n_counted(self) -> int:
        """How many trials have ended and count as one of the `--trials`."""
        return sum(len(numbers) for state, numbers in self._by_state.items() if state.counts)

    def numbers(self, state: State) -> tuple[int, ...]:
        """Return the numbers of the trials in a state, in order."""
        return tuple(sorted(self._by_state[state]))

    @property
    def front(self) -> list[Trial]:
        """The Pareto front; see `nbcompress.study.front.front`."""
        if self._is_front_lost:
            self._front, self._completed, self._is_front_lost = [], [*self._trials], False
        if self._completed:
            # What an earlier trial dominates stays dominated.
            self._front, self._completed = front([*self._front, *self._completed], self._goal), []
        return list(self._front)


def metric_names(goal: Goal, trials: Iterable[Trial]) -> tuple[str, ...]:
    """Return the goal's metrics, then all others in the order in which trials first have them."""
    others = (name for trial in trials for name in trial.values)
    return tuple(dict.fromkeys((*goal.metrics, *others)))


def trials_table(trials: Sequence[Trial], space: Space, goal: Goal) -> pd.DataFrame:
    """Return the trials as a DataFrame, one row per trial.

    Columns: `number`, `state`, one per parameter, one per metric, `seconds`. An inactive parameter and a missing metric
    are NaN in a column of numbers and None in any other; NaN as well where None is an option of the parameter.
    """
    import pandas as pd

    columns: dict[str, Any] = {
        "number": pd.Series([trial.number for trial in trials], dtype="int64"),
        "state": pd.Series([trial.state.value for trial in trials], dtype="object"),
    }
    for name in space.names:
        columns[name] = _parameter_column(space[name], [trial.params.get(name, _INACTIVE) for trial in trials])
    for name in metric_names(goal, trials):
        columns[name] = pd.Series([trial.values.get(name) for trial in trials], dtype="float64")
    columns["seconds"] = pd.Series([trial.seconds for trial in trials], dtype="float64")
    return pd.DataFrame(columns)


def _parameter_column(parameter: Float | Int | Choice, values: Sequence[Any]) -> pd.Series[Any]:
    """Return the values, `_INACTIVE` where the parameter is inactive, with the dtype that the parameter implies."""
    import pandas as pd

    kinds: set[type] = {int} if isinstance(parameter, Int) else {float}
    if isinstance(parameter, Choice):
        kinds = {type(option) for option in parameter.options}
    is_always_active = _INACTIVE not in values
    missing = math.nan if type(None) in kinds else None
    shown = [missing if value is _INACTIVE else value for value in values]
    if kinds == {bool} and is_always_active:
        return pd.Series(shown, dtype="bool")
    if kinds - {int, float}:
        return pd.Series(shown, dtype="object")
    return pd.Series(shown, dtype="int64" if kinds == {int} and is_always_active else "float64")
