"""Several runs of one point make one trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from nbcompress.run.outcome import Outcome
from nbcompress.study.trial import State


def folded(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the runs of a point, in order, as one outcome.

    Metrics are means over the runs. A run that does not complete ends the trial, and what it measured stands alone:
    the mean with earlier runs could keep a constraint that this run broke. Reports and kept values are the first
    run's, seconds are added up.
    """
    last = outcomes[-1]
    seconds = math.fsum(one.seconds for one in outcomes)
    printed = "".join(one.printed for one in outcomes)
    remarks = tuple(dict.fromkeys(remark for one in outcomes for remark in one.remarks))
    if last.state is not State.COMPLETE:
        return replace(last, seconds=seconds, printed=printed, remarks=remarks)
    shared = [name for name in outcomes[0].values if all(name in one.values for one in outcomes)]
    means = {name: math.fsum(one.values[name] for one in outcomes) / len(outcomes) for name in shared}
    return replace(outcomes[0], values=means, seconds=seconds, printed=printed, remarks=remarks)
