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
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbcompress.choices import PRUNERS
from nbcompress.errors import SearchError, did_you_mean
from nbcompress.study.front import is_non_dominated
from nbcompress.study.goal import Constraint, Goal, Objective, State, Trial

Reports = Mapping[str, Mapping[int, float]]
Curve = tuple[float, ...]
Extremes = Mapping[str, tuple[float, float]]
Numbers = NDArray[np.float64]


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


def count_better(values: Sequence[float], others: ArrayLike) -> int:
    """Return how many of the others are in a better layer: the Pareto front, the front without that one, and so on.

    With one number this is how many are smaller.
    """
    rows = np.vstack([np.array([values], dtype=np.float64), np.asarray(others).reshape(-1, len(values))])
    if len(values) == 1:
        return int((rows[:, 0] < values[0]).sum())
    remaining = np.arange(len(rows))
    while True:
        is_front = is_non_dominated(rows[remaining])
        if is_front[0]:
            return len(rows) - len(remaining)
        remaining = remaining[~is_front]


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
# Far more rungs than a trial can reach.
_MAX_RUNGS = 30
# The median rule waits for this many trials, which is the default of the reference implementations.
_ENOUGH_TRIALS = 5


@dataclass(frozen=True, eq=False)
class EarlierCurves:
    """The learning curves of earlier trials, in arrays: rules look at many of them at every report.

    Attributes:
        curves: For each aspect, shape `(t, c)`: the best value so far after so many reports as `n_reports` says; NaN
            where a trial has fewer.
        known: Shape `(t, a)`; for each aspect the final value, or NaN.
        n_reports: Shape `(c,)`; the number of reports of each column, rising.
        longest: The largest number of reports of one of these trials.
    """

    curves: tuple[Numbers, ...]
    known: Numbers
    n_reports: NDArray[np.intp]
    longest: int = 0

    @classmethod
    def of(cls, trials: Sequence[LearningCurves], n_aspects: int) -> EarlierCurves:
        """Return the curves of these trials, with a column for each number of reports."""
        table = _CurveTable(n_aspects)
        for number, trial in enumerate(trials):
            table.add(number, trial)
        return table.select(slice(len(trials)))

    def __len__(self) -> int:
        return len(self.known)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EarlierCurves) or len(self.curves) != len(other.curves):
            return NotImplemented
        pairs = zip(
            (*self.curves, self.known, self.n_reports), (*other.curves, other.known, other.n_reports), strict=True
        )
        return self.longest == other.longest and all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]

    def after(self, aspect: int, n: int) -> Numbers:
        """Return the values of an aspect after `n` reports; after none of them the final values. Shape `(t,)`."""
        if n == 0:
            return self.known[:, aspect]
        column = int(np.searchsorted(self.n_reports, n))
        if column < len(self.n_reports) and self.n_reports[column] == n:
            return self.curves[aspect][:, column]
        return np.full(len(self), math.nan)


class _CurveTable:
    """Collects learning curves; a row for each trial, with room for more rows and more reports."""

    def __init__(self, n_aspects: int) -> None:
        self.n = 0
        self._numbers = np.empty(0, dtype=np.intp)
        self._lengths = np.empty(0, dtype=np.intp)
        self._known = np.empty((0, n_aspects))
        self._curves = np.empty((n_aspects, 0, 0))

    def add(self, number: int, trial: LearningCurves) -> None:
        """Enter the curves of trial `number`."""
        n, n_reports = self._curves.shape[1:]
        if self.n == n or trial.n_reports > n_reports:
            n = max(2 * n, 8) if self.n == n else n
            n_reports = max(2 * n_reports, trial.n_reports) if trial.n_reports > n_reports else n_reports
            self._numbers, self._lengths = (_enlarged(array, (n,)) for array in (self._numbers, self._lengths))
            self._known = _enlarged(self._known, (n, self._known.shape[1]))
            self._curves = _enlarged(self._curves, (len(self._curves), n, n_reports))
        self._numbers[self.n], self._lengths[self.n] = number, trial.n_reports
        self._known[self.n] = [math.nan if value is None else value for value in trial.known]
        for curve, rows in zip(trial.curves, self._curves, strict=True):
            rows[self.n, : len(curve)] = curve
        self.n += 1

    def in_bracket(self, bracket: int, n_brackets: int) -> NDArray[np.bool_]:
        """Return for each row whether its trial belongs to a bracket of hyperband."""
        return np.asarray(self._numbers[: self.n] % n_brackets == bracket)

    def select(self, rows: slice | NDArray[np.bool_], n_reports: Sequence[int] | None = None) -> EarlierCurves:
        """Return some rows, with the columns after `n_reports` reports or with all."""
        lengths = self._lengths[: self.n][rows]
        longest = int(lengths.max(initial=0))
        chosen = np.array(range(1, longest + 1) if n_reports is None else n_reports, dtype=np.intp)
        chosen = chosen[chosen <= longest]
        columns = slice(longest) if n_reports is None else chosen - 1
        curves = tuple(aspect[: self.n][rows][:, columns] for aspect in self._curves)
        return EarlierCurves(curves, self._known[: self.n][rows], chosen, longest)


def _enlarged(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    larger = np.full(shape, math.nan if array.dtype.kind == "f" else 0, dtype=array.dtype)
    larger[tuple(map(slice, array.shape))] = array
    return larger


@dataclass(frozen=True)
class PruningRule:
    """The pruning rule for one trial.

    Attributes:
        rule: `median`, `asha` or `hyperband`.
        goal: Objectives and constraints that trials are compared by.
        earlier: Learning curves of earlier trials; it may be constructed with a sequence of them.
        first_rung: The number of reports before the first decision (asha, hyperband).
    """

    rule: str
    goal: Goal
    earlier: EarlierCurves | Sequence[LearningCurves] = ()
    first_rung: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.earlier, EarlierCurves):
            earlier = EarlierCurves.of(self.earlier, len(aspects_of(self.goal)))
            object.__setattr__(self, "earlier", earlier)

    def missing_objectives(self, reports: Reports, values: Mapping[str, float]) -> tuple[str, ...]:
        """Return the objectives of several that are neither reported nor known. Nothing is pruned without them."""
        metrics = [objective.metric for objective in self.goal.objectives]
        return tuple(
            metric for metric in metrics if len(metrics) > 1 and metric not in reports and metric not in values
        )

    def verdict(
        self, reports: Reports, step: int, values: Mapping[str, float], extremes: Extremes | None = None
    ) -> str:
        """Return why the trial should be pruned now, or an empty string.

        Args:
            reports: All that it has reported up to `step`.
            step: The latest step.
            values: Its final metrics so far.
            extremes: The smallest and the largest value that it has reported of each metric; by default they are
                looked up in `reports`, which takes longer the more there are.
        """
        assert isinstance(self.earlier, EarlierCurves)
        aspects = aspects_of(self.goal)
        n_reports = [len(reports.get(aspect.metric, ())) for aspect in aspects]
        n = max(n_reports, default=0)
        # Do not prune a trial that has already reported as many steps as the longest one.
        if self.missing_objectives(reports, values) or not 0 < n < self.earlier.longest:
            return ""
        if self.rule != "median" and not _is_rung(n, self.first_rung):
            return ""
        own, others = [], []
        for i, aspect in enumerate(aspects):
            if n_reports[i] > 0:
                steps = reports[aspect.metric].values()
                ends = (min(steps), max(steps)) if extremes is None else extremes[aspect.metric]
                own.append(min(_cost(aspect, end) for end in ends))
            elif aspect.metric in values:
                own.append(_cost(aspect, values[aspect.metric]))
            else:
                continue
            others.append(self.earlier.after(i, n_reports[i]))
        rows = np.stack(others, axis=1)
        if not self._is_behind(n, own, rows[~np.isnan(rows).any(1)]):
            return ""
        metrics = dict.fromkeys(
            aspect.metric for aspect in aspects if aspect.metric in reports or aspect.metric in values
        )
        return f"Behind earlier trials at step {step} in {' and '.join(metrics)} ({self.rule})."

    def _is_behind(self, n: int, values: Sequence[float], others: Numbers) -> bool:
        if self.rule == "median":
            return len(others) >= _ENOUGH_TRIALS and count_better(values, others) > len(others) / 2
        is_lenient = n == self.first_rung and len(self.goal.objectives) > 1
        reduction = _FIRST_REDUCTION_OF_SEVERAL if is_lenient else _REDUCTION
        n_promoted = max(1, (len(others) + 1) // reduction)
        return count_better(values, others) >= n_promoted


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
        return PruningRules(self, goal).pruning_rule(number, tuple(trials))


class PruningRules:
    """Makes the rules of a search, one for each trial, and keeps what it has read of the earlier ones."""

    def __init__(self, pruner: Pruner, goal: Goal) -> None:
        self._rule, self._goal, self._aspects = pruner.rule, goal, aspects_of(goal)
        self._states = (State.COMPLETE,) if self._rule == "median" else (State.COMPLETE, State.STOPPED)
        self._restart()

    def _restart(self) -> None:
        self._trials: tuple[Trial, ...] = ()
        self._table = _CurveTable(len(self._aspects))
        self._n_reports_of_complete = 0

    def pruning_rule(self, number: int, trials: tuple[Trial, ...]) -> PruningRule | None:
        """Return the rule for trial `number`; None never prunes it.

        Args:
            number: Of the trial.
            trials: Of the study, in the order of their numbers.
        """
        if self._rule == "none":
            return None
        self._read(trials)
        first_rung = _FIRST_RUNG if len(self._goal.objectives) == 1 else _FIRST_RUNG_OF_SEVERAL
        rows: slice | NDArray[np.bool_] = slice(self._table.n)
        if self._rule == "hyperband":
            if self._n_reports_of_complete == 0:
                return None  # the number of reports of a complete trial is not known yet
            n_brackets = int(math.log(self._n_reports_of_complete, _REDUCTION) + 1e-9) + 1
            first_rung = int(_REDUCTION ** (number % n_brackets))
            rows = self._table.in_bracket(number % n_brackets, n_brackets)
        # With one aspect a decision reads the values at a rung only, so no others are sent to the trial.
        is_at_rungs = self._rule != "median" and len(self._aspects) == 1
        n_reports = [first_rung * _REDUCTION**i for i in range(_MAX_RUNGS)] if is_at_rungs else None
        return PruningRule(self._rule, self._goal, self._table.select(rows, n_reports), first_rung)

    def _read(self, trials: tuple[Trial, ...]) -> None:
        """Enter the trials that have ended since the last call."""
        known = self._trials
        changed = [i for i in compress(range(len(known)), map(operator.is_not, known, trials)) if known[i] != trials[i]]
        if len(trials) < len(known) or any(known[i].state in self._states for i in changed):
            self._restart()  # a trial that had ended was run again elsewhere
            changed, known = [], ()
        self._trials = trials
        for i in (*changed, *range(len(known), len(trials))):
            trial = trials[i]
            if trial.state in self._states and trial.reports:
                self._table.add(trial.number, LearningCurves.of(self._aspects, trial.reports, trial.values))
            if trial.state is State.COMPLETE:
                lengths = (len(steps) for steps in trial.reports.values())
                self._n_reports_of_complete = max(self._n_reports_of_complete, *lengths, 0)


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
