"""What would a trial that was stopped early have come to?

The surrogate learns from ends of trials. Told what a stopped trial had reached after two of thirty epochs, it would
take a slow start for a bad point, and everything around it, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbcompress.study.trial import Trial

# So many complete trials tell the gain from here to the end. A heuristic.
_NEAREST = 3


@dataclass(frozen=True, eq=False)
class Precedents:
    """How complete trials went on in one metric.

    Attributes:
        curves: Shape `(c, longest)`; what each reported after 1, 2, .. reports, NaN after its last.
        ends: Shape `(c,)`; what each came to.
    """

    curves: NDArray[np.float64]
    ends: NDArray[np.float64]

    @classmethod
    def of(cls, complete: Sequence[Trial], metric: str) -> Precedents:
        known = [(curve_of(one, metric), one.values[metric]) for one in complete if metric in one.values]
        curves = np.full((len(known), max((len(curve) for curve, _ in known), default=0)), math.nan)
        for row, (curve, _) in zip(curves, known, strict=True):
            row[: len(curve)] = curve
        return cls(curves, np.array([end for _, end in known], dtype=np.float64))

    def expected_end(self, curve: Sequence[float]) -> float:
        """Return the last value of a curve, and the mean gain that trials made from as many reports to their end.

        Those three count that stood nearest to it then. With fewer it is the last value; NaN if there is none.
        """
        if not curve:
            return math.nan
        n, reached = len(curve), curve[-1]
        then = self.curves[:, n - 1] if n <= self.curves.shape[1] else np.empty(0)
        came = np.flatnonzero(np.isfinite(then))
        nearest = came[np.argsort(np.abs(then[came] - reached), kind="stable")[:_NEAREST]]
        if len(nearest) < _NEAREST:
            return reached
        return reached + float((self.ends[nearest] - then[nearest]).mean())


def curve_of(trial: Trial, metric: str) -> list[float]:
    """Return what a trial reported of a metric, in the order of the steps."""
    steps = trial.reports.get(metric, {})
    return [steps[step] for step in sorted(steps)]
