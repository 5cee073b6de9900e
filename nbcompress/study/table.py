"""The trials of a study as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nbcompress.space import Choice, Float, Int, Space
from nbcompress.study.goal import Goal, Trial

if TYPE_CHECKING:
    import pandas as pd


def metric_names(goal: Goal, trials: Iterable[Trial]) -> tuple[str, ...]:
    """Return the goal's metrics, then all others in the order in which trials first have them."""
    others = (name for trial in trials for name in trial.values)
    return tuple(dict.fromkeys((*goal.metrics, *others)))


def trials_table(trials: Sequence[Trial], space: Space, goal: Goal) -> pd.DataFrame:
    """Return the trials as a DataFrame, one row per trial.

    Columns: `number`, `state`, one per parameter, one per metric, `seconds`. An inactive parameter and a missing metric
    are NaN in a column of numbers and None in any other.
    """
    import pandas as pd

    columns: dict[str, Any] = {
        "number": pd.Series([trial.number for trial in trials], dtype="int64"),
        "state": pd.Series([trial.state.value for trial in trials], dtype="object"),
    }
    for name in space.names:
        columns[name] = _parameter_column(space[name], [trial.params.get(name) for trial in trials])
    for name in metric_names(goal, trials):
        columns[name] = pd.Series([trial.values.get(name) for trial in trials], dtype="float64")
    columns["seconds"] = pd.Series([trial.seconds for trial in trials], dtype="float64")
    return pd.DataFrame(columns)


def _parameter_column(parameter: Float | Int | Choice, values: Sequence[Any]) -> pd.Series[Any]:
    """Return the values, None where the parameter is inactive, with the dtype that the parameter implies."""
    import pandas as pd

    kinds: set[type] = {int} if isinstance(parameter, Int) else {float}
    if isinstance(parameter, Choice):
        kinds = {type(option) for option in parameter.options}
    is_always_active = None not in values
    if kinds == {bool} and is_always_active:
        return pd.Series(values, dtype="bool")
    if kinds - {int, float}:
        return pd.Series(values, dtype="object")
    return pd.Series(values, dtype="int64" if kinds == {int} and is_always_active else "float64")
