"""Asks the surrogate again while a search runs, within a strict share of the search's time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nbcompress.panels.surrogate_data import (
    TIME_LIMIT,
    StudyTrials,
    SurrogateInsight,
    failed_insight,
    insight_of,
    surrogate_data,
)
from nbcompress.run.history import HistoryCache
from nbcompress.study.goal import Goal, Trial

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer

# After work of t seconds, the next work of its kind waits for this many times t: 0.5 % of the time for each kind.
IDLE_RATIO = 200
# Slices that are computed while the search runs, for the most important parameters.
MAX_LIVE_SLICES = 6


@dataclass(frozen=True)
class TrialsSnapshot:
    """A study as the proposer saw it when it chose a point.

    The surrogate was fitted for that proposal already, so asking it costs little.
    """

    goal: Goal
    all_trials: Sequence[Trial]
    best: Trial | None


def trials_without(study: StudyTrials, number: int | None) -> tuple[Trial, ...]:
    """Return the trials of a study except the one with this number."""
    return tuple(trial for trial in study.all_trials if trial.number != number)


@dataclass
class _Throttle:
    """Decides when a kind of work may be done again."""

    now: Callable[[], float]
    idle_since: float = field(init=False)
    cost: float | None = None
    n_ended: int = 0

    def __post_init__(self) -> None:
        self.idle_since = self.now()

    def is_due(self, n_ended: int) -> bool:
        cost = _first_cost_estimate(n_ended) if self.cost is None else self.cost
        return n_ended != self.n_ended and self.now() - self.idle_since >= IDLE_RATIO * cost

    def record(self, start: float, n_ended: int) -> None:
        self.idle_since = self.now()
        self.cost, self.n_ended = self.idle_since - start, n_ended


class SurrogateRefresh:
    """Asks the surrogate when its share of the time allows. To be called on the thread that proposes.

    The fitted surrogate itself is cheap to send, so the page gets it after nearly every trial and predicts by itself.
    Importance and calibration are computed in Python and follow less often.

    Args:
        proposer: The proposer of the search, or None.
        now: A clock in seconds.
        histories: Those of the search, whose fitted models are used again; None makes its own.
    """

    def __init__(
        self,
        proposer: Proposer | None,
        now: Callable[[], float] = time.monotonic,
        histories: HistoryCache | None = None,
    ) -> None:
        self._proposer, self._now = proposer, now
        self._histories = histories or HistoryCache()
        self._surrogate_throttle, self._insight_throttle = _Throttle(now), _Throttle(now)
        # Whether the page can compute predictions and acquisition by itself, so that no slices are computed here.
        self._page_evaluates = True

    def refresh(
        self, study: StudyTrials, should_continue: Callable[[], bool], started: int | None = None
    ) -> SurrogateInsight:
        """Return what is new; empty if it is too early or there is nothing. A proposer that fails is not asked again.

        Args:
            study: Its trials; nobody may change it meanwhile.
            should_continue: Called between parts of the work; the work ends early if it returns False.
            started: Number of the trial that has just started. The surrogate is asked as it was before that trial.
        """
        if self._proposer is None:
            return SurrogateInsight()
        n_ended = sum(trial.state.counts for trial in study.all_trials)
        found = SurrogateInsight()
        if self._surrogate_throttle.is_due(n_ended):
            start = self._now()
            found = self._surrogate(trials_without(study, started), study.goal)
            self._surrogate_throttle.record(start, n_ended)
        if not found.warning and self._insight_throttle.is_due(n_ended):
            start = self._now()
            snapshot = TrialsSnapshot(study.goal, trials_without(study, started), study.best)
            insight = insight_of(
                self._proposer,
                snapshot,
                TIME_LIMIT,
                should_continue=should_continue,
                max_slices=0 if self._page_evaluates else MAX_LIVE_SLICES,
                histories=self._histories,
            )
            found = replace(insight, surrogate=insight.surrogate or found.surrogate)
            self._insight_throttle.record(start, n_ended)
        if found.warning:
            self._proposer = None
        return found

    def _surrogate(self, trials: Sequence[Trial], goal: Goal) -> SurrogateInsight:
        try:
            data = surrogate_data(self._proposer, trials, goal, self._histories)
            self._page_evaluates = data is not None and data["acquisition"] is not None
            return SurrogateInsight(surrogate=data)
        except Exception as error:
            # The search goes on; if the surrogate is at fault, the search reports that when it proposes.
            logging.getLogger(__name__).debug("the surrogate could not be asked", exc_info=True)
            return failed_insight(error)


def _first_cost_estimate(n: int) -> float:
    """Return an estimate in seconds for `n` trials; the cost of a fit grows with their cube."""
    return 0.01 + 0.1 * (n / 200) ** 3
