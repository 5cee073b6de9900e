"""How a running trial stands among earlier ones: by every objective, and by how far it is from keeping constraints.

What a trial showed is a curve for each metric that it reported with steps, the best value so far after 1, 2, ...
reports, and a number for each metric that it knows for good, such as a size that was reported without a step before
the training begins. Two trials are compared after equally many reports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nbcompress.study.front import is_unbeaten
from nbcompress.study.goal import Constraint, Goal, Objective

Reports = Mapping[str, Mapping[int, float]]
Curve = tuple[float, ...]


Aspect = Objective | Constraint
"""One thing that trials are compared by."""


def aspects_of(goal: Goal) -> tuple[Aspect, ...]:
    """Return everything that trials with this goal are compared by, objectives first."""
    return (*goal.objectives, *goal.constraints)


@dataclass(frozen=True)
class Showing:
    """What a trial has shown.

    Attributes:
        curves: For each aspect the best so far after 1, 2, ... reports; empty if its metric was not reported.
        known: For each aspect its value if the metric is known for good, else None.
    """

    curves: tuple[Curve, ...]
    known: tuple[float | None, ...]

    @classmethod
    def of(cls, aspects: Sequence[Aspect], reports: Reports, values: Mapping[str, float]) -> Showing:
        curves = tuple(_curve(one, reports.get(one.metric, {})) for one in aspects)
        known = tuple(_cost(one, values[one.metric]) if one.metric in values else None for one in aspects)
        return cls(curves, known)

    @property
    def n_reports(self) -> int:
        return max((len(curve) for curve in self.curves), default=0)

    def beside(self, rivals: Sequence[Showing]) -> tuple[list[float], list[list[float]]]:
        """Return this trial's numbers, and those of the rivals that have all of the same, after as many reports.

        What this trial has not shown yet is left out.
        """
        shown = [i for i, curve in enumerate(self.curves) if curve or self.known[i] is not None]
        own, *others = ([one._after(self, i) for i in shown] for one in (self, *rivals))
        return _numbers(own), [_numbers(row) for row in others if None not in row]

    def _after(self, other: Showing, i: int) -> float | None:
        """Return the number of an aspect after as many reports as another trial made."""
        n = len(other.curves[i])
        if n == 0:
            return self.known[i]
        return self.curves[i][n - 1] if len(self.curves[i]) >= n else None


def n_ahead(own: Sequence[float], rivals: Sequence[Sequence[float]]) -> int:
    """Return how many rivals are in better layers: the front, what is the front without it, and so on.

    With one number this is how many are better.
    """
    rows = np.array([own, *rivals], dtype=np.float64)
    left = np.arange(len(rows))
    while True:
        unbeaten = is_unbeaten(rows[left])
        if unbeaten[0]:
            return len(rows) - len(left)
        left = left[~unbeaten]


def _numbers(row: Sequence[float | None]) -> list[float]:
    return [one for one in row if one is not None]


def _cost(aspect: Aspect, value: float) -> float:
    """Return a number of which less is better.

    A constraint counts by how much it is broken: among trials that keep it, it makes no difference.
    """
    return aspect.loss(value) if isinstance(aspect, Objective) else max(0.0, aspect.slack(value))


def _curve(aspect: Aspect, steps: Mapping[int, float]) -> Curve:
    best = math.inf
    curve = []
    for step in sorted(steps):
        best = min(best, _cost(aspect, steps[step]))
        curve.append(best)
    return tuple(curve)
