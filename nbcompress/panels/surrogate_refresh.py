"""What the surrogate expects, worked out again and again while a search runs, within a strict share of its time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nbcompress.panels.surrogate_data import PATIENCE, Expectations, Tried, expectations_of, surrogate_data, unasked
from nbcompress.run.history import HistoryCache
from nbcompress.study.goal import Goal, Trial

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer

# One part in so many of the search's time at most, for each of the two kinds of work.
SHARE = 200
# One slice after the other costs; while it runs, the parameters that matter most are enough.
MOST = 6


@dataclass(frozen=True)
class Before:
    """A study as it was before one of its trials began: what the proposer knew when it chose that point.

    Its surrogate was fitted for that proposal, so that asking about it costs little.
    """

    goal: Goal
    all_trials: Sequence[Trial]
    best: Trial | None


def before(study: Tried, number: int | None) -> tuple[Trial, ...]:
    """Return the trials of a study without one of them."""
    return tuple(trial for trial in study.all_trials if trial.number != number)


@dataclass
class _Pace:
    """Knows when a kind of work is affordable again."""

    now: Callable[[], float]
    rested_since: float = field(init=False)
    cost: float | None = None
    n_ended: int = 0

    def __post_init__(self) -> None:
        self.rested_since = self.now()

    def is_due(self, n_ended: int) -> bool:
        cost = _guess(n_ended) if self.cost is None else self.cost
        return n_ended != self.n_ended and self.now() - self.rested_since >= SHARE * cost

    def done(self, start: float, n_ended: int) -> None:
        self.rested_since = self.now()
        self.cost, self.n_ended = self.rested_since - start, n_ended


class Foresight:
    """Asks the surrogate when that is affordable. For the thread that also proposes.

    The surrogate itself is cheap to tell, so that the page can draw from it after nearly every trial; what has to be
    worked out in Python (importance, calibration) follows less often.

    Args:
        proposer: Whose surrogate is asked, or None.
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
        self._glances, self._looks = _Pace(now), _Pace(now)

    def look(self, study: Tried, is_wanted: Callable[[], bool], begun: int | None = None) -> Expectations:
        """Return what is new; empty if it is too early, or if there is nothing. A surrogate that fails is left alone.

        Args:
            study: What was tried, not altered meanwhile.
            is_wanted: Asked between parts of the work, which ends early if not.
            begun: The trial that has just begun. The surrogate is asked as it was when it chose that trial.
        """
        if self._proposer is None:
            return Expectations()
        n_ended = sum(trial.state.counts for trial in study.all_trials)
        found = Expectations()
        if self._glances.is_due(n_ended):
            start = self._now()
            found = self._glance(before(study, begun), study.goal)
            self._glances.done(start, n_ended)
        if not found.remark and self._looks.is_due(n_ended):
            start = self._now()
            then = Before(study.goal, before(study, begun), study.best)
            seen = expectations_of(
                self._proposer, then, PATIENCE, is_wanted=is_wanted, most=_most(study), histories=self._histories
            )
            found = replace(seen, surrogate=seen.surrogate or found.surrogate)
            self._looks.done(start, n_ended)
        if found.remark:
            self._proposer = None
        return found

    def _glance(self, trials: Sequence[Trial], goal: Goal) -> Expectations:
        try:
            return Expectations(surrogate=surrogate_data(self._proposer, trials, goal, self._histories))
        except Exception as error:
            # Whatever is wrong with the surrogate, the search goes on and says so itself when it proposes.
            logging.getLogger(__name__).debug("the surrogate could not be asked", exc_info=True)
            return unasked(error)


def _most(study: Tried) -> int:
    """Return how many slices are worked out here: none where the page has the acquisition's formula."""
    return MOST if len(study.goal.objectives) > 2 else 0


def _guess(n: int) -> float:
    """Return how many seconds the first look may take: fitting costs the cube of the number of trials."""
    return 0.01 + 0.1 * (n / 200) ** 3
