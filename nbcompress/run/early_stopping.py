"""Early stopping: is a trial that reports as it goes worth going on?

A rule compares the running trial with earlier ones after the same number of reports, by the best values so far: in
every objective, and in how far it is from keeping the constraints. With several of these, the front of the earlier
trials is what counts: only those that are in a better layer of fronts are ahead. Metrics that are reported without a
step before the training, such as a size, take part. A trial one of whose objectives is neither known nor reported is
not judged: by accuracy alone every small model is behind.
What a rule needs of the earlier trials travels with the assignment, so it is the same under every engine, and a trial
that runs beside others is judged by what was known when it started.

References:
    Golovin et al. (2017), "Google Vizier", section 3.2.2, for the median rule.
    Li et al. (2020), "A System for Massively Parallel Hyperparameter Tuning", for asynchronous successive halving.
    Li et al. (2018), "Hyperband". Its brackets take turns here, by the trial's number.
    Schmucker et al. (2021), "Multi-objective Asynchronous Successive Halving", for the layers.

How a running trial stands among earlier ones: by every objective, and by how far it is from keeping constraints.

What a trial showed is a curve for each metric that it reported with steps, the best value so far after 1, 2, ...
reports, and a number for each metric that it knows for good, such as a size that was reported without a step before
the training begins. Two trials are compared after equally many reports.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nbcompress.choices import PRUNERS
from nbcompress.errors import SearchError, did_you_mean
from nbcompress.study.front import is_non_dominated
from nbcompress.study.goal import Constraint, Goal, Objective, State, Trial

Reports = Mapping[str, Mapping[int, float]]
Curve = tuple[float, ...]


Aspect = Objective | Constraint
"""One thing that trials are compared by."""


def aspects_of(goal: Goal) -> tuple[Aspect, ...]:
    """Return everything that trials with this goal are compared by, objectives first."""
    return (*goal.objectives, *goal.constraints)


@dataclass(frozen=True)
class Showing:
    """What a trial has shown.

    Attributes:
        curves: For each aspect the best so far after 1, 2, ... reports; empty if its metric was not reported.
        known: For each aspect its value if the metric is known for good, else None.
    """

    curves: tuple[Curve, ...]
    known: tuple[float | None, ...]

    @classmethod
    def of(cls, aspects: Sequence[Aspect], reports: Reports, values: Mapping[str, float]) -> Showing:
        curves = tuple(_curve(aspect, reports.get(aspect.metric, {})) for aspect in aspects)
        known = tuple(_cost(aspect, values[aspect.metric]) if aspect.metric in values else None for aspect in aspects)
        return cls(curves, known)

    @property
    def n_reports(self) -> int:
        return max((len(curve) for curve in self.curves), default=0)

    def beside(self, rivals: Sequence[Showing]) -> tuple[list[float], list[list[float]]]:
        """Return this trial's numbers, and those of the rivals that have all of the same, after as many reports.

        What this trial has not shown yet is left out.
        """
        shown = [i for i, curve in enumerate(self.curves) if curve or self.known[i] is not None]
        own, *others = ([rival._after(self, i) for i in shown] for rival in (self, *rivals))
        return _numbers(own), [_numbers(row) for row in others if None not in row]

    def _after(self, other: Showing, i: int) -> float | None:
        """Return the number of an aspect after as many reports as another trial made."""
        n = len(other.curves[i])
        if n == 0:
            return self.known[i]
        return self.curves[i][n - 1] if len(self.curves[i]) >= n else None


def n_ahead(own: Sequence[float], rivals: Sequence[Sequence[float]]) -> int:
    """Return how many rivals are in better layers: the front, what is the front without it, and so on.

    With one number this is how many are better.
    """
    rows = np.array([own, *rivals], dtype=np.float64)
    left = np.arange(len(rows))
    while True:
        unbeaten = is_non_dominated(rows[left])
        if unbeaten[0]:
            return len(rows) - len(left)
        left = left[~unbeaten]


def _numbers(row: Sequence[float | None]) -> list[float]:
    return [cell for cell in row if cell is not None]


def _cost(aspect: Aspect, value: float) -> float:
    """Return a number of which less is better.

    A constraint counts by how much it is broken: among trials that keep it, it makes no difference.
    """
    return aspect.loss(value) if isinstance(aspect, Objective) else max(0.0, aspect.slack(value))


def _curve(aspect: Aspect, steps: Mapping[int, float]) -> Curve:
    best = math.inf
    curve = []
    for step in sorted(steps):
        best = min(best, _cost(aspect, steps[step]))
        curve.append(best)
    return tuple(curve)


# One trial in three goes on from a rung to the next, as in the paper.
_REDUCTION = 3
# A front has room for trials that begin badly in one objective, and the first reports tell least. So with several
# objectives the first decision falls a report later, and one trial in two goes on from there. Heuristics; see
# `tests/benchmarks/early_stopping.py`.
_FIRST_RUNG, _FIRST_RUNG_OF_SEVERAL = 1, 2
_FIRST_REDUCTION_OF_SEVERAL = 2
# The median of fewer trials says little (the default of the reference implementations).
_ENOUGH_TRIALS = 5


@dataclass(frozen=True)
class Judge:
    """What one trial is judged by.

    Attributes:
        rule: `median`, `asha` or `hyperband`.
        goal: What trials are compared by.
        rivals: What earlier trials showed.
        first_rung: After how many reports the first decision falls (asha, hyperband).
    """

    rule: str
    goal: Goal
    rivals: tuple[Showing, ...] = ()
    first_rung: int = 1

    def unseen(self, reports: Reports, values: Mapping[str, float]) -> tuple[str, ...]:
        """Return the objectives of several that are neither reported nor known, without which no trial is judged."""
        metrics = [objective.metric for objective in self.goal.objectives]
        return tuple(
            metric for metric in metrics if len(metrics) > 1 and metric not in reports and metric not in values
        )

    def verdict(self, reports: Reports, step: int, values: Mapping[str, float]) -> str:
        """Return why the trial should end now, or an empty string.

        Args:
            reports: All it has reported up to `step`.
            values: The metrics that it knows for good.
        """
        aspects = aspects_of(self.goal)
        showing = Showing.of(aspects, reports, values)
        n, longest = showing.n_reports, max((rival.n_reports for rival in self.rivals), default=0)
        # One that has come as far as any other ends by itself.
        if self.unseen(reports, values) or not 0 < n < longest or not self._is_behind(n, *showing.beside(self.rivals)):
            return ""
        metrics = dict.fromkeys(
            aspect.metric for aspect in aspects if aspect.metric in reports or aspect.metric in values
        )
        return f"Behind earlier trials at step {step} in {' and '.join(metrics)} ({self.rule})."

    def _is_behind(self, n: int, own: list[float], rivals: list[list[float]]) -> bool:
        if self.rule == "median":
            return len(rivals) >= _ENOUGH_TRIALS and n_ahead(own, rivals) > len(rivals) / 2
        is_lenient = n == self.first_rung and len(self.goal.objectives) > 1
        reduction = _FIRST_REDUCTION_OF_SEVERAL if is_lenient else _REDUCTION
        going_on = max(1, (len(rivals) + 1) // reduction)
        return _is_rung(n, self.first_rung) and n_ahead(own, rivals) >= going_on


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
        fair = (State.COMPLETE,) if self.rule == "median" else (State.COMPLETE, State.STOPPED)
        ended = [trial for trial in trials if trial.state in fair and trial.reports]
        first_rung = _FIRST_RUNG if len(goal.objectives) == 1 else _FIRST_RUNG_OF_SEVERAL
        if self.rule == "hyperband":
            lengths = [
                len(steps) for trial in ended if trial.state is State.COMPLETE for steps in trial.reports.values()
            ]
            if not lengths:
                return None  # how long a whole trial is, only a whole trial tells
            n_brackets = int(math.log(max(lengths), _REDUCTION) + 1e-9) + 1
            first_rung = int(_REDUCTION ** (number % n_brackets))
            ended = [trial for trial in ended if trial.number % n_brackets == number % n_brackets]
        aspects = aspects_of(goal)
        return Judge(
            self.rule, goal, tuple(Showing.of(aspects, trial.reports, trial.values) for trial in ended), first_rung
        )


def not_judged(rule: str, trials: Iterable[Trial], goal: Goal) -> str:
    """Return what to do for a rule that judged no trial, since none reported any objective; or an empty string."""
    metrics = [objective.metric for objective in goal.objectives]
    if rule == "none" or any(metric in trial.reports for trial in trials for metric in metrics):
        return ""
    return (
        f"No trial was judged by the pruner {rule!r}: none reported {' or '.join(metrics)} with a step. "
        f"Write report({metrics[0]}=..., step=epoch) where it trains."
    )


def _is_rung(n: int, first: int) -> bool:
    rung = first
    while rung < n:
        rung *= _REDUCTION
    return rung == n
