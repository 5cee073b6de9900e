"""A search whose first trials all fail in the same way has a mistake in its body, not bad luck."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nbcompress.study.trial import Failure, State, Trial

FIRST = 3
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


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
    kinds = {(one.kind, _ADDRESS.sub("0x", one.message)) for one in failures}
    return failures[-1] if len(failures) == FIRST and len(kinds) == 1 else None
