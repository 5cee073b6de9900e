"""`study.trials`: every trial a row, every parameter and every metric a column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nbcompress.study.goal import Goal
from nbcompress.study.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

    from nbcompress.space import Space


def metric_names(trials: Iterable[Trial], goal: Goal) -> tuple[str, ...]:
    """Return the goal's metrics, then every other one in the order in which trials brought it."""
    others = (name for trial in trials for name in trial.values)
    return tuple(dict.fromkeys((*goal.metrics, *others)))


def trials_table(trials: Sequence[Trial], space: Space, goal: Goal) -> pd.DataFrame:
    """Return the trials as a DataFrame.

    Columns: `number`, `state`, one per parameter, one per metric, `seconds`. What is missing (a parameter that was not
    active, a metric that was not reached) is NaN in a column of numbers and None in any other.
    """
    import pandas as pd

    columns: dict[str, Any] = {
        "number": pd.Series([trial.number for trial in trials], dtype="int64"),
        "state": pd.Series([trial.state.value for trial in trials], dtype="object"),
    }
    for name in space.names:
        columns[name] = _column([trial.params.get(name) for trial in trials])
    for name in metric_names(trials, goal):
        columns[name] = pd.Series([trial.values.get(name) for trial in trials], dtype="float64")
    columns["seconds"] = pd.Series([trial.seconds for trial in trials], dtype="float64")
    return pd.DataFrame(columns)


def _column(values: Sequence[Any]) -> pd.Series[Any]:
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool} and None not in values:
        return pd.Series(values, dtype="bool")
    if not kinds or kinds - {int, float}:
        return pd.Series(values, dtype="object")
    if kinds == {int} and None not in values and all(abs(value) < 2**63 for value in values):
        return pd.Series(values, dtype="int64")
    return pd.Series(values, dtype="float64")
