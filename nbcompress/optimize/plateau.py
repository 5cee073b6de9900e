"""Does a search stand on a plateau? Its trials keep coming to the best loss, to the last digit, and nothing below it.

A decision tree whose depth no longer matters, or an accuracy counted over few examples, has steps. A process that is
smooth everywhere believes that the next point of a step may be lower, however often it was not; and if its own
proposals only repeat the best known loss, what it expects of the others is worth little. Then every other trial is
drawn at random. On tuning a decision tree (breast cancer, 6 parameters, 40 trials, 16 seeds) the median regret fell
from .23 to .07; searches in which no loss comes twice are not touched.
"""

from __future__ import annotations

from nbcompress.optimize.history import Array, History

# So many of so many recent trials that repeat the best are a plateau. Chosen on two trees, with 3 as the other answer.
REPEATED, RECENT = 2, 6
# One trial in so many is drawn at random then.
EVERY = 2


def n_repeats(history: History) -> int:
    """Return how many of the recent feasible trials have the very losses of an earlier one that nothing beats."""
    losses = history.losses[history.is_feasible]
    recent = range(max(0, len(losses) - RECENT), len(losses))
    return sum(_came_before(losses, i) and not _is_beaten(losses, losses[i]) for i in recent)


def _came_before(losses: Array, i: int) -> bool:
    return bool((losses[:i] == losses[i]).all(1).any())


def _is_beaten(losses: Array, row: Array) -> bool:
    return bool(((losses <= row).all(1) & (losses < row).any(1)).any())


def should_leave(number: int, history: History) -> bool:
    """Say whether trial `number` is to be drawn at random."""
    return number % EVERY == 0 and n_repeats(history) >= REPEATED
