"""Schedules of pruning: the share that is removed after each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from nbcompress.compressors.layers import check_choice, check_number
from nbcompress.errors import CompressionError, option

# The words, or the share after each step: as numbers, or as a function of the step, counted from 0.
Schedule = str | Sequence[float] | Callable[[int], float]

# A heuristic: the last quarter of the epochs trains at the final amount, so that what is kept can adapt.
PRUNING_SHARE = 0.75


def gradual_share(start: float, end: float, epoch: int, n_epochs: int) -> float | None:
    """Return the share that is removed before an epoch, counted from 1; None if it does not change any more.

    It is `end + (start - end) * (1 - t)^3` with t from 0 to 1 over the first three quarters of the epochs (Zhu and
    Gupta 2017, "To Prune, or Not to Prune", equation 1).
    """
    n_steps = max(1, round(PRUNING_SHARE * n_epochs))
    if epoch > n_steps:
        return None
    return end + (start - end) * (1 - min(epoch / n_steps, 1.0)) ** 3


def own_shares(schedule: Schedule, amount: float | None, n_epochs: int) -> tuple[float, ...] | None:
    """Return the shares of a schedule of the user's own; None for the words `one-shot` and `gradual`.

    Args:
        schedule: A word, numbers, or a function of the step.
        amount: The final share, if it was given.
        n_epochs: Epochs of fine-tuning: a step is carried out before each.

    Raises:
        CompressionError: The schedule has another form, falls, has more steps than there are epochs, or ends at another
            share than `amount`.
    """
    if isinstance(schedule, str):
        check_choice("schedule", schedule, ("one-shot", "gradual"))
        return None
    if callable(schedule):
        if not n_epochs:
            raise CompressionError(
                f"a function as {option('schedule=')} gives the share before each epoch: pass "
                f"{option('finetune=EPOCHS')} and {option('data=')}"
            )
        given: Sequence[object] = [schedule(step) for step in range(n_epochs)]
    else:
        try:
            given = list(schedule)
        except TypeError:
            given = []
        if not given:
            raise CompressionError(
                f"{option('schedule')} must be one-shot, gradual, a list of amounts such as [0.3, 0.6], or a "
                f"function of the step, got {schedule!r}"
            )
    shares = tuple(check_number(f"schedule[{step}]", share, 0, 1) for step, share in enumerate(given))
    for step, (before, after) in enumerate(pairwise(shares)):
        if after < before:
            raise CompressionError(
                f"{option('schedule')} must not fall, because what is removed does not come back: step {step + 1} says "
                f"{after:g} after {before:g}"
            )
    if n_epochs and len(shares) > n_epochs:
        raise CompressionError(
            f"{option('schedule')} has {len(shares)} steps, one before each epoch: pass {option('finetune')} of at "
            f"least {len(shares)}, got {n_epochs}"
        )
    if amount is not None and abs(shares[-1] - amount) > 1e-9:
        raise CompressionError(
            f"{option('schedule')} ends at {shares[-1]:g}, but {option('amount')} is {amount:g}: leave out the amount"
        )
    return shares


__all__ = ["Schedule", "gradual_share", "own_shares"]
