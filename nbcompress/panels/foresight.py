"""What the surrogate expects, worked out again and again while a search runs, within a strict share of its time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbcompress.panels.expectations import PATIENCE, Tried, expectations_of

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer

# One part in so many of the search's time, at most.
SHARE = 100
# One slice after the other costs; while it runs, the parameters that matter most are enough.
MOST = 6


class Foresight:
    """Knows when the next look at the surrogate is affordable. For the thread that also proposes.

    Args:
        proposer: Whose surrogate is asked, or None.
        now: A clock in seconds.
    """

    def __init__(self, proposer: Proposer | None, now: Callable[[], float] = time.monotonic) -> None:
        self._proposer, self._now = proposer, now
        self._rested_since = now()
        self._cost: float | None = None
        self._n_ended = 0

    def look(self, study: Tried, is_wanted: Callable[[], bool]) -> dict[str, Any]:
        """Return the fields of a view that have changed; empty if it is too early, or if there is nothing new.

        Args:
            study: What was tried, not altered meanwhile.
            is_wanted: Asked between parts of the work, which ends early if not.
        """
        n_ended = sum(one.state.counts for one in study.all_trials)
        cost = _guess(n_ended) if self._cost is None else self._cost
        is_early = self._now() - self._rested_since < SHARE * cost
        if self._proposer is None or is_early or n_ended == self._n_ended:
            return {}
        start = self._now()
        try:
            found = expectations_of(self._proposer, study, PATIENCE, is_wanted=is_wanted, most=MOST)
        except Exception:
            # Whatever is wrong with the surrogate, the search goes on and says so itself when it proposes.
            logging.getLogger(__name__).debug("the panel could not ask the surrogate", exc_info=True)
            self._proposer = None
            return {}
        self._rested_since = self._now()
        self._cost, self._n_ended = self._rested_since - start, n_ended
        return {key: one for key, one in found.fields.items() if one}


def _guess(n: int) -> float:
    """Return how many seconds the first look may take: fitting costs the cube of the number of trials."""
    return 0.05 + 1.5 * (n / 200) ** 3
