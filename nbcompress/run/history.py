"""The trials of a study as a proposer reads them: points and losses, without names.

What would a trial that was stopped early have come to?

The surrogate learns from ends of trials. Told what a stopped trial had reached after two of thirty epochs, it would
take a slow start for a bad point, and everything around it, too.

A search whose first trials all fail in the same way has a mistake in its body, not bad luck.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nbcompress.study.goal import Failure, Goal, State, Trial

if TYPE_CHECKING:
    from nbcompress.optimize.history import History, Status


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
        known = [(curve_of(trial, metric), trial.values[metric]) for trial in complete if metric in trial.values]
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
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.state is not State.FAILED or trial.failure is None:
            break
        alike = _alike(trial.failure)
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
    ended = sorted((trial for trial in trials if trial.state.counts), key=lambda trial: trial.number)
    if not 1 <= n_ended <= FIRST or len(ended) < FIRST:
        return None
    if any(trial.state is not State.FAILED for trial in ended):
        return None
    failures = [trial.failure for trial in ended[-FIRST:] if trial.failure is not None]
    kinds = {_alike(failure) for failure in failures}
    return failures[-1] if len(failures) == FIRST and len(kinds) == 1 else None


def _alike(failure: Failure) -> tuple[str, str]:
    """Return what equal mistakes have in common: the class, and the message without what varies with the point."""
    message = failure.message
    return failure.kind, message if failure.kind in _MEMORY else _VARYING.sub("#", message)


def all_failed(trials: Sequence[Trial]) -> str:
    """Return a sentence with the latest failure if nothing else has ended in a study, else an empty text."""
    ended = sorted((trial for trial in trials if trial.state.counts), key=lambda trial: trial.number)
    if not ended or any(trial.state is not State.FAILED for trial in ended) or ended[-1].failure is None:
        return ""
    return f" All failed, the last one with {in_short(ended[-1].failure)}"


def in_short(failure: Failure) -> str:
    """Return a failure as one line of bounded length."""
    line = " ".join(str(failure).split())
    return line if len(line) <= _SHORT else f"{line[:_SHORT].rstrip()} ..."


_STATUS: dict[State, Status] = {
    State.COMPLETE: "told",
    State.STOPPED: "told",
    State.INFEASIBLE: "told",
    State.FAILED: "failed",
    State.RUNNING: "pending",
    # It will be run again under its own number, so its point is taken and its result is still to come.
    State.INTERRUPTED: "pending",
}


class HistoryCache:
    """Keeps the latest history that was made.

    A search and its panel share one: the panel asks about the trials that the loop has just asked about, and gets the
    same `History`, so that the models that were fitted to it are fitted once.
    """

    def __init__(self) -> None:
        self._latest: tuple[tuple[Trial, ...], Goal, History] | None = None

    def history_of(self, trials: Sequence[Trial], goal: Goal) -> History:
        """Return `history_of(trials, goal)`; for the very same trials it is the same object as the last time."""
        trials = tuple(trials)
        if self._latest is not None and self._latest[1] == goal and _are_same(self._latest[0], trials):
            return self._latest[2]
        history = history_of(trials, goal)
        self._latest = (trials, goal, history)
        return history


def _are_same(left: Sequence[Trial], right: Sequence[Trial]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def history_of(trials: Sequence[Trial], goal: Goal) -> History:
    """Return the trials in the order of their numbers; what a trial did not measure is NaN.

    An objective of a trial that was stopped early is extrapolated; see `Precedents`. Whether the trial would have met
    a constraint is not known.

    If the first trials of the study all failed alike, they are left out: their points may be proposed again.
    """
    from nbcompress.optimize import History

    ordered = sorted(trials, key=lambda trial: trial.number)[begun_in_vain(trials) :]
    has_stopped = any(trial.state is State.STOPPED for trial in ordered)
    complete = [trial for trial in ordered if trial.state is State.COMPLETE] if has_stopped else []
    precedents = {objective.metric: Precedents.of(complete, objective.metric) for objective in goal.objectives}
    losses = [
        [objective.loss(_end(trial, objective.metric, precedents)) for objective in goal.objectives]
        for trial in ordered
    ]
    slacks = [
        [constraint.slack(trial.values.get(constraint.metric, math.nan)) for constraint in goal.constraints]
        for trial in ordered
    ]
    return History(
        tuple(trial.point for trial in ordered),
        np.array(losses, dtype=np.float64).reshape(len(ordered), len(goal.objectives)),
        np.array(slacks, dtype=np.float64).reshape(len(ordered), len(goal.constraints)),
        tuple(_STATUS[trial.state] for trial in ordered),
        tuple(trial.note for trial in ordered),
    )


def _end(trial: Trial, metric: str, precedents: Mapping[str, Precedents]) -> float:
    if metric not in trial.values and trial.state is State.STOPPED:
        return precedents[metric].expected_end(curve_of(trial, metric))
    return trial.values.get(metric, math.nan)
