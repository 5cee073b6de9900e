"""What a trial that was stopped early would have come to, as the surrogate is told.

Without this the surrogate learns nothing where trials are stopped, and goes on proposing there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from nbcompress.study.trial import State, Trial


def expected_value(trial: Trial, metric: str, trials: Sequence[Trial]) -> float:
    """Return the value that a stopped trial is expected to have ended with; NaN if nothing tells.

    It is the last value that the trial reported, plus what whole trials gained from their reports of the same count
    on, in the middle; and never beyond what a whole trial ended with, for it is told as if it had been measured.
    A heuristic.
    """
    curve = trial.reports.get(metric, {})
    if trial.state is not State.STOPPED or not curve:
        return math.nan
    n = len(curve)
    whole = [
        (one.values[metric], _value_after(n, one, metric))
        for one in trials
        if one.state is State.COMPLETE and len(one.reports.get(metric, {})) >= n
    ]
    if not whole:
        return math.nan
    finals = [final for final, _ in whole]
    gain = statistics.median(final - value for final, value in whole)
    return min(max(_value_after(n, trial, metric) + gain, min(finals)), max(finals))


def _value_after(n: int, trial: Trial, metric: str) -> float:
    steps = trial.reports[metric]
    return steps[sorted(steps)[n - 1]]
