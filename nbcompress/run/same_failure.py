"""A search whose first trials all fail in the same way has a mistake in its body, not bad luck."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nbcompress.study.trial import Failure, State, Trial

FIRST = 3
# Characters of a failure that a sentence holds; all of it stays with the trial.
_SHORT = 200
# What of a message differs from point to point: addresses, numbers, truth.
_VARYING = re.compile(r"0x[0-9a-fA-F]+|\d+(\.\d+)?(e[+-]?\d+)?|True|False")
# Too little memory is a matter of the point, and the numbers say of which.
_MEMORY = ("MemoryError", "OutOfMemoryError")


def begun_in_vain(trials: Sequence[Trial]) -> int:
    """Return how many trials at the beginning of a study failed alike, if they are enough to have ended a search.

    They tell of a mistake in the body that was mended since, not of a region of the space to avoid.
    """
    n, first = 0, None
    for one in sorted(trials, key=lambda one: one.number):
        if one.state is not State.FAILED or one.failure is None:
            break
        alike = _alike(one.failure)
        if first is not None and alike != first:
            break
        n, first = n + 1, alike
    return n if n >= FIRST else 0


def same_failure(trials: Sequence[Trial], n_ended: int) -> Failure | None:
    """Return the failure that ends the search, or None.

    It does when every trial of the study that has ended failed, the latest three with the same error, and this run
    of the search has ended at most three: a study that is continued after a repair gets its chance, and one that
    was not repaired stops after one more trial.

    Args:
        n_ended: How many trials this run of the search has ended.
    """
    ended = sorted((one for one in trials if one.state.counts), key=lambda one: one.number)
    if not 1 <= n_ended <= FIRST or len(ended) < FIRST:
        return None
    if any(one.state is not State.FAILED for one in ended):
        return None
    failures = [one.failure for one in ended[-FIRST:] if one.failure is not None]
    kinds = {_alike(one) for one in failures}
    return failures[-1] if len(failures) == FIRST and len(kinds) == 1 else None


def _alike(failure: Failure) -> tuple[str, str]:
    """Return what equal mistakes have in common: the class, and the message without what varies with the point."""
    message = failure.message
    return failure.kind, message if failure.kind in _MEMORY else _VARYING.sub("#", message)


def all_failed(trials: Sequence[Trial]) -> str:
    """Return a sentence with the latest failure if nothing else has ended in a study, else an empty text."""
    ended = sorted((one for one in trials if one.state.counts), key=lambda one: one.number)
    if not ended or any(one.state is not State.FAILED for one in ended) or ended[-1].failure is None:
        return ""
    return f" All failed, the last one with {in_short(ended[-1].failure)}"


def in_short(failure: Failure) -> str:
    """Return a failure as one line of bounded length."""
    line = " ".join(str(failure).split())
    return line if len(line) <= _SHORT else f"{line[:_SHORT].rstrip()} ..."
