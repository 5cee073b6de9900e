"""Early stopping: is a trial that reports as it goes worth going on?

A rule compares the running trial with earlier ones after the same number of reports, by the best value so far. With
several objectives a trial is stopped only if it is behind in every objective it reports: one that leads in a single
one may still end on the front. What a rule needs of the earlier trials travels with the assignment, so it is the same
under every engine, and a trial that runs beside others is judged by what was known when it started.

References:
    Golovin et al. (2017), "Google Vizier", section 3.2.2, for the median rule.
    Li et al. (2020), "A System for Massively Parallel Hyperparameter Tuning", for asynchronous successive halving.
    Li et al. (2018), "Hyperband". Its brackets take turns here, by the trial's number.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nbcompress.errors import SearchError, did_you_mean
from nbcompress.study.goal import Goal
from nbcompress.study.trial import State, Trial

Reports = Mapping[str, Mapping[int, float]]
Curve = tuple[float, ...]  # best loss so far after 1, 2, ... reports

PRUNERS = ("none", "median", "asha", "hyperband")

# One trial in three goes on from a rung to the next, as in the paper.
_REDUCTION = 3
# The median of fewer trials says little (the default of the reference implementations).
_ENOUGH_TRIALS = 5


@dataclass(frozen=True)
class Judge:
    """What one trial is judged by.

    Attributes:
        rule: `median`, `asha` or `hyperband`.
        signs: -1 for a maximized objective and 1 for a minimized one, by metric.
        rivals: The curves of earlier trials, by metric.
        first_rung: After how many reports the first decision falls (asha, hyperband).
    """

    rule: str
    signs: Mapping[str, float]
    rivals: Mapping[str, tuple[Curve, ...]] = field(default_factory=dict)
    first_rung: int = 1

    def verdict(self, reports: Reports, step: int) -> str:
        """Return why the trial should end now, or an empty string. `reports` is all it has reported up to `step`."""
        own = {metric: curve for metric in self.signs if (curve := _curve(reports.get(metric, {}), self.signs[metric]))}
        if not own or not all(self._is_behind(metric, curve) for metric, curve in own.items()):
            return ""
        return f"Behind earlier trials at step {step} in {' and '.join(own)} ({self.rule})."

    def _is_behind(self, metric: str, curve: Curve) -> bool:
        n = len(curve)
        rivals = [other[n - 1] for other in self.rivals.get(metric, ()) if len(other) >= n]
        if self.rule == "median":
            return len(rivals) >= _ENOUGH_TRIALS and curve[-1] > statistics.median(rivals)
        if not _is_rung(n, self.first_rung):
            return False
        going_on = max(1, (len(rivals) + 1) // _REDUCTION)
        return sum(other < curve[-1] for other in rivals) >= going_on


@dataclass(frozen=True)
class Pruner:
    """A rule of early stopping, by name.

    Raises:
        SearchError: There is no such rule.
    """

    rule: str = "none"

    def __post_init__(self) -> None:
        if self.rule not in PRUNERS:
            known = ", ".join(PRUNERS)
            raise SearchError(f"A pruner is one of {known}, but got {self.rule!r}.{did_you_mean(self.rule, PRUNERS)}")

    def judge(self, number: int, trials: Iterable[Trial], goal: Goal) -> Judge | None:
        """Return what trial `number` is judged by, given those that have ended; None never stops it."""
        if self.rule == "none":
            return None
        signs = {one.metric: one.loss(1.0) for one in goal.objectives}
        fair = (State.COMPLETE,) if self.rule == "median" else (State.COMPLETE, State.STOPPED)
        ended = [one for one in trials if one.state in fair and one.reports]
        first_rung = 1
        if self.rule == "hyperband":
            lengths = [len(steps) for one in ended if one.state is State.COMPLETE for steps in one.reports.values()]
            if not lengths:
                return None  # how long a whole trial is, only a whole trial tells
            n_brackets = int(math.log(max(lengths), _REDUCTION) + 1e-9) + 1
            first_rung = int(_REDUCTION ** (number % n_brackets))
            ended = [one for one in ended if one.number % n_brackets == number % n_brackets]
        rivals = {
            metric: tuple(curve for one in ended if (curve := _curve(one.reports.get(metric, {}), sign)))
            for metric, sign in signs.items()
        }
        return Judge(self.rule, signs, rivals, first_rung)


def _curve(steps: Mapping[int, float], sign: float) -> Curve:
    best = math.inf
    curve = []
    for step in sorted(steps):
        best = min(best, sign * steps[step])
        curve.append(best)
    return tuple(curve)


def _is_rung(n: int, first: int) -> bool:
    rung = first
    while rung < n:
        rung *= _REDUCTION
    return rung == n
