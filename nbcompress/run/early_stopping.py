"""Early stopping: rules that decide from reported values whether a running trial should go on.

A rule compares the learning curves of a trial with those of earlier trials after the same number of reports, by the
best values so far. With several objectives, or with constraints, trials are ranked by non-dominated sorting: only
trials in a better layer count as better. A metric that is reported without a step before the training, such as a size,
takes part as a constant. A trial is not pruned while one of several objectives is missing.

What a rule needs of the earlier trials travels with the assignment. So every engine decides alike, and a trial that
runs in parallel with others is compared with the trials that had ended when it started.

References:
    Golovin et al. (2017), "Google Vizier", section 3.2.2, for the median rule.
    Li et al. (2020), "A System for Massively Parallel Hyperparameter Tuning", for asynchronous successive halving.
    Li et al. (2018), "Hyperband". Its brackets take turns here, by the number of the trial.
    Schmucker et al. (2021), "Multi-objective Asynchronous Successive Halving", for the layers.
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
"""An objective or a constraint: one number that trials are compared by."""


def aspects_of(goal: Goal) -> tuple[Aspect, ...]:
    """Return what trials with this goal are compared by, objectives first."""
    return (*goal.objectives, *goal.constraints)


@dataclass(frozen=True)
class LearningCurves:
    """The learning curves of a trial. Smaller is better.

    Attributes:
        curves: For each aspect the best value so far after 1, 2, ... reports; empty if its metric was not reported.
        known: For each aspect its final value if that is known, else None.
    """

    curves: tuple[Curve, ...]
    known: tuple[float | None, ...]

    @classmethod
    def of(cls, aspects: Sequence[Aspect], reports: Reports, values: Mapping[str, float]) -> LearningCurves:
        curves = tuple(_curve(aspect, reports.get(aspect.metric, {})) for aspect in aspects)
        known = tuple(_cost(aspect, values[aspect.metric]) if aspect.metric in values else None for aspect in aspects)
        return cls(curves, known)

    @property
    def n_reports(self) -> int:
        return max((len(curve) for curve in self.curves), default=0)

    def aligned_with(self, others: Sequence[LearningCurves]) -> tuple[list[float], list[list[float]]]:
        """Return the values of this trial and of the others after the same number of reports.

        Aspects that this trial has not reported are left out, and so are trials that lack one of the others.
        """
        reported = [i for i, curve in enumerate(self.curves) if curve or self.known[i] is not None]
        values, *rows = ([curves._value_at(self, i) for i in reported] for curves in (self, *others))
        return _numbers(values), [_numbers(row) for row in rows if None not in row]

    def _value_at(self, reference: LearningCurves, i: int) -> float | None:
        """Return the value of an aspect after as many reports as the reference has."""
        n = len(reference.curves[i])
        if n == 0:
            return self.known[i]
        return self.curves[i][n - 1] if len(self.curves[i]) >= n else None


def count_better(values: Sequence[float], others: Sequence[Sequence[float]]) -> int:
    """Return how many of the others are in a better layer: the Pareto front, the front without that one, and so on.

    With one number this is how many are smaller.
    """
    rows = np.array([values, *others], dtype=np.float64)
    remaining = np.arange(len(rows))
    while True:
        is_front = is_non_dominated(rows[remaining])
        if is_front[0]:
            return len(rows) - len(remaining)
        remaining = remaining[~is_front]


def _numbers(row: Sequence[float | None]) -> list[float]:
    return [cell for cell in row if cell is not None]


def _cost(aspect: Aspect, value: float) -> float:
    """Return a number of which smaller is better. A constraint counts by its violation, 0 where it is met."""
    return aspect.loss(value) if isinstance(aspect, Objective) else max(0.0, aspect.slack(value))


def _curve(aspect: Aspect, steps: Mapping[int, float]) -> Curve:
    best = math.inf
    curve = []
    for step in sorted(steps):
        best = min(best, _cost(aspect, steps[step]))
        curve.append(best)
    return tuple(curve)


# One trial in three is promoted from a rung to the next, as in the paper.
_REDUCTION = 3
# With several objectives the first decision is one report later, and one trial in two is promoted: a trial that begins
# badly in one objective may still reach the front. Heuristics, see `tests/benchmarks/early_stopping.py`.
_FIRST_RUNG, _FIRST_RUNG_OF_SEVERAL = 1, 2
_FIRST_REDUCTION_OF_SEVERAL = 2
# The median rule waits for this many trials, which is the default of the reference implementations.
_ENOUGH_TRIALS = 5


@dataclass(frozen=True)
class PruningRule:
    """The pruning rule for one trial.

    Attributes:
        rule: `median`, `asha` or `hyperband`.
        goal: Objectives and constraints that trials are compared by.
        earlier: Learning curves of earlier trials.
        first_rung: The number of reports before the first decision (asha, hyperband).
    """

    rule: str
    goal: Goal
    earlier: tuple[LearningCurves, ...] = ()
    first_rung: int = 1

    def missing_objectives(self, reports: Reports, values: Mapping[str, float]) -> tuple[str, ...]:
        """Return the objectives of several that are neither reported nor known. Nothing is pruned without them."""
        metrics = [objective.metric for objective in self.goal.objectives]
        return tuple(
            metric for metric in metrics if len(metrics) > 1 and metric not in reports and metric not in values
        )

    def verdict(self, reports: Reports, step: int, values: Mapping[str, float]) -> str:
        """Return why the trial should be pruned now, or an empty string.

        Args:
            reports: All that it has reported up to `step`.
            step: The latest step.
            values: Its final metrics so far.
        """
        aspects = aspects_of(self.goal)
        curves = LearningCurves.of(aspects, reports, values)
        n, longest = curves.n_reports, max((trial.n_reports for trial in self.earlier), default=0)
        # Do not prune a trial that has already reported as many steps as the longest one.
        if self.missing_objectives(reports, values) or not 0 < n < longest:
            return ""
        if not self._is_behind(n, *curves.aligned_with(self.earlier)):
            return ""
        metrics = dict.fromkeys(
            aspect.metric for aspect in aspects if aspect.metric in reports or aspect.metric in values
        )
        return f"Behind earlier trials at step {step} in {' and '.join(metrics)} ({self.rule})."

    def _is_behind(self, n: int, values: list[float], others: list[list[float]]) -> bool:
        if self.rule == "median":
            return len(others) >= _ENOUGH_TRIALS and count_better(values, others) > len(others) / 2
        is_lenient = n == self.first_rung and len(self.goal.objectives) > 1
        reduction = _FIRST_REDUCTION_OF_SEVERAL if is_lenient else _REDUCTION
        n_promoted = max(1, (len(others) + 1) // reduction)
        return _is_rung(n, self.first_rung) and count_better(values, others) >= n_promoted


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

    def pruning_rule(self, number: int, trials: Iterable[Trial], goal: Goal) -> PruningRule | None:
        """Return the rule for trial `number`, given the trials that have ended; None never prunes it."""
        if self.rule == "none":
            return None
        states = (State.COMPLETE,) if self.rule == "median" else (State.COMPLETE, State.STOPPED)
        ended = [trial for trial in trials if trial.state in states and trial.reports]
        first_rung = _FIRST_RUNG if len(goal.objectives) == 1 else _FIRST_RUNG_OF_SEVERAL
        if self.rule == "hyperband":
            lengths = [
                len(steps) for trial in ended if trial.state is State.COMPLETE for steps in trial.reports.values()
            ]
            if not lengths:
                return None  # the number of reports of a complete trial is not known yet
            n_brackets = int(math.log(max(lengths), _REDUCTION) + 1e-9) + 1
            first_rung = int(_REDUCTION ** (number % n_brackets))
            ended = [trial for trial in ended if trial.number % n_brackets == number % n_brackets]
        aspects = aspects_of(goal)
        return PruningRule(
            self.rule,
            goal,
            tuple(LearningCurves.of(aspects, trial.reports, trial.values) for trial in ended),
            first_rung,
        )


def unused_pruner_warning(rule: str, trials: Iterable[Trial], goal: Goal) -> str:
    """Return a warning if no trial reported an objective with a step, so that the rule could not decide; else empty."""
    metrics = [objective.metric for objective in goal.objectives]
    if rule == "none" or any(metric in trial.reports for trial in trials for metric in metrics):
        return ""
    return (
        f"The pruner {rule!r} could not decide: no trial reported {' or '.join(metrics)} with a step. "
        f"Write report({metrics[0]}=..., step=epoch) where it trains."
    )


def _is_rung(n: int, first: int) -> bool:
    rung = first
    while rung < n:
        rung *= _REDUCTION
    return rung == n
