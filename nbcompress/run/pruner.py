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
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nbcompress.errors import SearchError, did_you_mean, option
from nbcompress.run.standing import Reports, Showing, aspects_of, n_ahead
from nbcompress.study.goal import Goal
from nbcompress.study.trial import State, Trial

PRUNERS = ("none", "median", "asha", "hyperband")

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
        metrics = [one.metric for one in self.goal.objectives]
        return tuple(one for one in metrics if len(metrics) > 1 and one not in reports and one not in values)

    def verdict(self, reports: Reports, step: int, values: Mapping[str, float]) -> str:
        """Return why the trial should end now, or an empty string.

        Args:
            reports: All it has reported up to `step`.
            values: The metrics that it knows for good.
        """
        aspects = aspects_of(self.goal)
        showing = Showing.of(aspects, reports, values)
        n, longest = showing.n_reports, max((one.n_reports for one in self.rivals), default=0)
        # One that has come as far as any other ends by itself.
        if self.unseen(reports, values) or not 0 < n < longest or not self._is_behind(n, *showing.beside(self.rivals)):
            return ""
        metrics = dict.fromkeys(one.metric for one in aspects if one.metric in reports or one.metric in values)
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
        ended = [one for one in trials if one.state in fair and one.reports]
        first_rung = _FIRST_RUNG if len(goal.objectives) == 1 else _FIRST_RUNG_OF_SEVERAL
        if self.rule == "hyperband":
            lengths = [len(steps) for one in ended if one.state is State.COMPLETE for steps in one.reports.values()]
            if not lengths:
                return None  # how long a whole trial is, only a whole trial tells
            n_brackets = int(math.log(max(lengths), _REDUCTION) + 1e-9) + 1
            first_rung = int(_REDUCTION ** (number % n_brackets))
            ended = [one for one in ended if one.number % n_brackets == number % n_brackets]
        aspects = aspects_of(goal)
        return Judge(self.rule, goal, tuple(Showing.of(aspects, one.reports, one.values) for one in ended), first_rung)


def not_judged(rule: str, trials: Iterable[Trial], goal: Goal) -> str:
    """Return what to do for a rule that judged no trial, since none reported any objective; or an empty string."""
    metrics = [one.metric for one in goal.objectives]
    if rule == "none" or any(metric in one.reports for one in trials for metric in metrics):
        return ""
    return (
        f"No trial was judged by {option('pruner', rule)}: none reported {' or '.join(metrics)} with a step. "
        f"Write report({metrics[0]}=..., step=epoch) where it trains."
    )


def _is_rung(n: int, first: int) -> bool:
    rung = first
    while rung < n:
        rung *= _REDUCTION
    return rung == n
