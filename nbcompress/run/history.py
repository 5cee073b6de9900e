"""From the trials of a study to the `History` that a proposer reads: points and losses, without names.

A trial that was stopped early counts with the final value that complete trials with similar curves reached. With its
latest value instead, a slow start would count as a bad point.

Also: failures that are alike at the beginning of a search, which mean a mistake in the body.
"""

from __future__ import annotations

import math
import operator
import re
import threading
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbcompress.study.goal import Failure, Goal, Objective, State, Trial

if TYPE_CHECKING:
    from nbcompress.optimize.history import History, Status
    from nbcompress.space import Point


# A final value is extrapolated from this many complete trials. A heuristic.
_N_NEAREST = 3


@dataclass(frozen=True, eq=False)
class CompletedCurves:
    """Learning curves and final values of complete trials, in one metric.

    Attributes:
        curves: Shape `(c, longest)`; the value after 1, 2, ... reports; NaN after the last one.
        final_values: Shape `(c,)`.
    """

    curves: NDArray[np.float64]
    final_values: NDArray[np.float64]

    @classmethod
    def of(cls, complete: Sequence[Trial], metric: str) -> CompletedCurves:
        """Return those of the trials that have the metric."""
        known = [(curve_of(trial, metric), trial.values[metric]) for trial in complete if metric in trial.values]
        curves = np.full((len(known), max((len(curve) for curve, _ in known), default=0)), math.nan)
        for row, (curve, _) in zip(curves, known, strict=True):
            row[: len(curve)] = curve
        return cls(curves, np.array([value for _, value in known], dtype=np.float64))

    def extrapolate_final_value(self, curve: Sequence[float]) -> float:
        """Return the last value of a curve plus the mean change from there to the end in similar trials.

        Similar are the three trials whose values after as many reports are nearest. With fewer trials it is the last
        value; NaN if the curve is empty.
        """
        if not curve:
            return math.nan
        n, latest = len(curve), curve[-1]
        nearest = self._nearest(curve)
        if len(nearest) < _N_NEAREST:
            return latest
        return latest + float((self.final_values[nearest] - self.curves[nearest, n - 1]).mean())

    def radius(self, curve: Sequence[float]) -> float:
        """Return how far the most distant of the similar trials is; a more distant one changes nothing."""
        nearest = self._nearest(curve) if curve else np.empty(0, dtype=np.intp)
        if len(nearest) < _N_NEAREST:
            return math.inf
        return float(abs(self.curves[nearest[-1], len(curve) - 1] - curve[-1]))

    def _nearest(self, curve: Sequence[float]) -> NDArray[np.intp]:
        n = len(curve)
        values = self.curves[:, n - 1] if n <= self.curves.shape[1] else np.empty(0)
        reported = np.flatnonzero(np.isfinite(values))
        return reported[np.argsort(np.abs(values[reported] - curve[-1]), kind="stable")[:_N_NEAREST]]


def curve_of(trial: Trial, metric: str) -> list[float]:
    """Return the values that a trial reported of a metric, in the order of the steps."""
    steps = trial.reports.get(metric, {})
    return [steps[step] for step in sorted(steps)]


# This many failures that are alike end a search at its beginning.
N_ALIKE = 3
# The longest failure in a sentence; all of it stays with the trial.
_MAX_LENGTH = 200
# Parts of a message that depend on the point: addresses, numbers, booleans.
_VARYING = re.compile(r"0x[0-9a-fA-F]+|\d+(\.\d+)?(e[+-]?\d+)?|True|False")
# The same outside of quotes, since the numbers in a name say which layer it is.
_VARYING_UNQUOTED = re.compile(rf"('[^']*')|-?(?:{_VARYING.pattern})")
# The kind of the failure of a function that says itself that a point has failed; its message names the point.
SAID_FAILED = "StatusFail"
# How much memory a trial needs depends on the point, so the numbers in these messages count.
_BY_POINT = ("MemoryError", "OutOfMemoryError", SAID_FAILED)


def n_alike_initial_failures(trials: Sequence[Trial]) -> int:
    """Return how many of the first trials of a study failed alike; 0 if they are too few to have ended a search.

    Such failures come from a mistake in the body that was repaired since, not from a bad region of the space.
    """
    return _n_alike(sorted(trials, key=lambda trial: trial.number))


def _n_alike(ordered: Sequence[Trial]) -> int:
    n, first = 0, None
    for trial in ordered:
        if trial.state is not State.FAILED or trial.failure is None:
            break
        signature = _signature(trial.failure)
        if first is not None and signature != first:
            break
        n, first = n + 1, signature
    return n if n >= N_ALIKE else 0


def failed_in_another_body(trial: Trial, changed_body: str | None) -> bool:
    """Return whether a trial failed in a body that has been changed since; such a trial is run again.

    Args:
        trial: Of the study.
        changed_body: The hash of the present body; None for the body that the study was begun with.
    """
    return trial.state is State.FAILED and trial.note.get("body") != changed_body


def same_failure(trials: Sequence[Trial], n_ended: int) -> Failure | None:
    """Return the failure that ends the search, or None.

    A failure ends it if every trial of the study has failed, the latest three with the same error, and this run of the
    search has ended at most three trials. So a study that is continued after a repair goes on, and one that was not
    repaired stops after one more trial.

    Args:
        n_ended: How many trials this run of the search has ended.
    """
    if not 1 <= n_ended <= N_ALIKE:
        return None
    ended = sorted((trial for trial in trials if trial.state.counts), key=lambda trial: trial.number)
    if len(ended) < N_ALIKE:
        return None
    if any(trial.state is not State.FAILED for trial in ended):
        return None
    failures = [trial.failure for trial in ended[-N_ALIKE:] if trial.failure is not None]
    kinds = {_signature(failure) for failure in failures}
    return failures[-1] if len(failures) == N_ALIKE and len(kinds) == 1 else None


def _signature(failure: Failure) -> tuple[str, str]:
    """Return the class of a failure and its message without the parts that depend on the point."""
    message = failure.message
    return failure.kind, message if failure.kind in _BY_POINT else _VARYING.sub("#", message)


def without_numbers(text: str) -> str:
    """Return a text without the numbers that depend on the point; texts that are alike then are said once."""
    return _VARYING_UNQUOTED.sub(lambda found: found[1] or "#", text)


def all_failed(trials: Sequence[Trial]) -> str:
    """Return a sentence with the latest failure if nothing else has ended in a study, else an empty text."""
    ended = sorted((trial for trial in trials if trial.state.counts), key=lambda trial: trial.number)
    if not ended or any(trial.state is not State.FAILED for trial in ended) or ended[-1].failure is None:
        return ""
    return f" All failed, the last one with {one_line(ended[-1].failure)}"


def one_line(failure: Failure) -> str:
    """Return a failure as one line of bounded length."""
    line = " ".join(str(failure).split())
    return line if len(line) <= _MAX_LENGTH else f"{line[:_MAX_LENGTH].rstrip()} ..."


_STATUS: dict[State, Status] = {
    State.COMPLETE: "told",
    State.STOPPED: "told",
    State.INFEASIBLE: "told",
    State.FAILED: "failed",
    State.RUNNING: "pending",
    # It will be run again under its own number, so its result is still to come.
    State.INTERRUPTED: "pending",
}


class HistoryCache:
    """Keeps the latest history that was made, and makes the next one from it.

    A search and its panel share one: the panel asks about the trials that the loop has just asked about, and gets the
    same `History`, so that the models that were fitted to it are fitted once.

    Args:
        noise: By metric, the name of the metric that holds its standard deviation.
    """

    def __init__(self, noise: Mapping[str, str] | None = None) -> None:
        self._noise = dict(noise or {})
        self._lock = threading.Lock()
        self._latest: tuple[tuple[Trial, ...], Goal, History] | None = None
        self._rows: _Rows | None = None

    def history_of(self, trials: Sequence[Trial], goal: Goal) -> History:
        """Return `history_of(trials, goal)`; for the very same trials it is the same object as the last time.

        Args:
            trials: In the order of their numbers.
            goal: Objectives and constraints.
        """
        trials = tuple(trials)
        with self._lock:
            if self._latest is not None and self._latest[1] == goal and _are_same(self._latest[0], trials):
                return self._latest[2]
            if self._rows is None or self._rows.goal != goal or not self._rows.update(trials):
                self._rows = _Rows(goal)
                self._rows.update(trials)
            history = self._rows.history()
            if self._noise or self._rows.has_repeated:
                noise = _noise_of(trials[_n_alike(trials) :], goal, self._noise)
                history = replace(history, noise=noise) if noise.size else history
            self._latest = (trials, goal, history)
            return history


def _are_same(left: Sequence[Trial], right: Sequence[Trial]) -> bool:
    return len(left) == len(right) and all(map(operator.is_, left, right))


def history_of(trials: Sequence[Trial], goal: Goal, noise: Mapping[str, str] | None = None) -> History:
    """Return the trials in the order of their numbers; what a trial did not measure is NaN.

    An objective of a trial that was stopped early is extrapolated; see `CompletedCurves`. Whether the trial would have
    met a constraint is not known.

    If the first trials of the study all failed alike, they are left out: their points may be proposed again.

    Args:
        trials: Of a study.
        goal: Of the study.
        noise: By metric, the name of the metric that holds its standard deviation.
    """
    return HistoryCache(noise).history_of(sorted(trials, key=lambda trial: trial.number), goal)


# The standard deviation of a few runs is itself uncertain: it counts as much as so many runs more with the deviation
# that is common to all trials. A heuristic.
_PRIOR_RUNS = 4


def noise_stds(trials: Sequence[Trial], metric: str, name: str | None) -> NDArray[np.float64]:
    """Return the known standard deviations of a metric in trials, NaN where unknown.

    Args:
        trials: Any trials.
        metric: The metric.
        name: The metric that holds its standard deviation. None takes the spread of the runs of each point, drawn
            towards the mean of all trials.
    """
    if name is not None:
        stds = np.array([trial.values.get(name, math.nan) for trial in trials], dtype=np.float64)
        return np.where(stds >= 0, stds, math.nan)
    runs = np.array([trial.n_runs for trial in trials])
    spreads = np.array([trial.spreads.get(metric, math.nan) for trial in trials], dtype=np.float64)
    known = (runs > 1) & np.isfinite(spreads)
    common = float(np.mean(spreads[known] ** 2)) if known.any() else 0.0
    if common == 0.0:  # no runs differ: nothing is known of the noise
        return np.full(len(trials), math.nan)
    free = runs - 1
    variances = (_PRIOR_RUNS * common + free * spreads**2) / (_PRIOR_RUNS + free) / np.maximum(runs, 1)
    return np.where(known, np.sqrt(variances), math.nan)


def _noise_of(trials: Sequence[Trial], goal: Goal, noise: Mapping[str, str]) -> NDArray[np.float64]:
    """Return the known noise of losses and slacks, shape `(n, m + k)`; `(0, 0)` if nothing is known."""
    metrics = [objective.metric for objective in goal.objectives]
    metrics += [constraint.metric for constraint in goal.constraints]
    table = np.stack([noise_stds(trials, metric, noise.get(metric)) for metric in metrics], axis=1)
    return table if np.isfinite(table).any() else np.empty((0, 0))


class _Rows:
    """The rows of a history, which are updated for the trials that changed: a study may hold many thousands.

    Attributes:
        goal: Of the study.
        has_repeated: Whether a trial is the mean of several runs.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self.has_repeated = False
        self._trials: tuple[Trial, ...] = ()
        self._n_left_out = 0
        self._points: list[Point] = []
        self._status: list[Status] = []
        self._notes: list[Mapping[str, Any]] = []
        self._losses = np.empty((0, len(goal.objectives)))
        self._slacks = np.empty((0, len(goal.constraints)))
        self._extrapolated = [_ExtrapolatedLosses(objective) for objective in goal.objectives]

    def update(self, trials: tuple[Trial, ...]) -> bool:
        """Enter the trials, in the order of their numbers; return False if the rows must be made anew."""
        known, n_left_out = self._trials, _n_alike(trials)
        changed = list(compress(range(len(known)), map(operator.is_not, known, trials)))
        changed = [i for i in changed if known[i] != trials[i]]
        has_begun = bool(known)
        if has_begun and (
            len(trials) < len(known)
            or n_left_out != self._n_left_out
            or any(known[i].number != trials[i].number or known[i].state in _LEARNED for i in changed)
        ):
            return False
        self._trials, self._n_left_out = trials, n_left_out
        new = range(max(len(known), n_left_out), len(trials))
        self._losses, self._slacks = (_with_room(array, len(trials)) for array in (self._losses, self._slacks))
        for i in new:
            self._points.append(trials[i].point)
            self._status.append(_STATUS[trials[i].state])
            self._notes.append(trials[i].note)
        for i in (*changed, *new):
            if i >= n_left_out:
                self._enter(i - n_left_out, trials[i])
        return True

    def history(self) -> History:
        """Return the history of the trials."""
        from nbcompress.optimize import History

        n = len(self._points)
        losses = self._losses[:n].copy()
        for column, extrapolated in zip(losses.T, self._extrapolated, strict=True):
            extrapolated.write_(column)
        return History(tuple(self._points), losses, self._slacks[:n], tuple(self._status), tuple(self._notes))

    def _enter(self, row: int, trial: Trial) -> None:
        self._status[row], self._notes[row] = _STATUS[trial.state], trial.note
        self.has_repeated = self.has_repeated or trial.n_runs > 1
        values = trial.values
        self._losses[row] = [
            objective.loss(values.get(objective.metric, math.nan)) for objective in self.goal.objectives
        ]
        self._slacks[row] = [
            constraint.slack(values.get(constraint.metric, math.nan)) for constraint in self.goal.constraints
        ]
        for extrapolated in self._extrapolated:
            if trial.state is State.COMPLETE and extrapolated.objective.metric in values:
                extrapolated.add_complete(row, trial)
            elif trial.state is State.STOPPED and extrapolated.objective.metric not in values:
                extrapolated.add_stopped(row, trial)


# Trials in these states tell how others would have ended.
_LEARNED = (State.COMPLETE, State.STOPPED)


def _with_room(array: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return an array with at least `n` rows that begins with the rows of `array`."""
    if len(array) >= n:
        return array
    larger = np.full((max(n, 2 * len(array)), array.shape[1]), math.nan)
    larger[: len(array)] = array
    return larger


class _ExtrapolatedLosses:
    """The losses of stopped trials in one objective, with final values as `CompletedCurves` extrapolates them.

    When a trial completes, only the values of stopped trials to which it is among the nearest are computed again.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        # Of complete trials, in the order of their rows.
        self._complete_rows: list[int] = []
        self._curves, self._final_values = np.empty((0, 0)), np.empty((0, 1))
        # Of stopped trials: their curves; and row in the history, number of reports, latest value, distance of the
        # most distant one among the nearest complete trials, loss.
        self._stopped: list[list[float]] = []
        self._table = np.empty((0, 5))
        self._outdated: set[int] = set()

    def add_complete(self, row: int, trial: Trial) -> None:
        """Enter a complete trial that has the metric."""
        metric = self.objective.metric
        curve = np.array(curve_of(trial, metric), dtype=np.float64)
        if len(curve) == 0:
            return
        place = bisect(self._complete_rows, row)
        n_known, n_reports = len(self._complete_rows), max(len(curve), self._curves.shape[1])
        if n_reports > self._curves.shape[1]:
            room = np.full((len(self._curves), n_reports - self._curves.shape[1]), math.nan)
            self._curves = np.hstack([self._curves, room])
        self._curves, self._final_values = (
            _with_room(array, n_known + 1) for array in (self._curves, self._final_values)
        )
        for array in (self._curves, self._final_values):
            array[place + 1 : n_known + 1] = array[place:n_known].copy()
        self._complete_rows.insert(place, row)
        self._curves[place] = math.nan
        self._curves[place, : len(curve)] = curve
        self._final_values[place] = trial.values[metric]
        _, n, latest, radius, _ = self._table[: len(self._stopped)].T
        index = np.clip(n.astype(np.intp), 1, len(curve)) - 1
        is_near = (n >= 1) & (n <= len(curve)) & (np.abs(curve[index] - latest) <= radius)
        self._outdated |= set(np.flatnonzero(is_near).tolist())

    def add_stopped(self, row: int, trial: Trial) -> None:
        """Enter a stopped trial that does not have the metric."""
        curve, i = curve_of(trial, self.objective.metric), len(self._stopped)
        self._table = _with_room(self._table, i + 1)
        self._table[i] = row, len(curve), curve[-1] if curve else math.nan, math.inf, math.nan
        self._stopped.append(curve)
        self._outdated.add(i)

    def write_(self, losses: NDArray[np.float64]) -> None:
        """Write the losses of the stopped trials into a column of the history, in place."""
        n = len(self._complete_rows)
        completed = CompletedCurves(self._curves[:n], self._final_values[:n, 0])
        for i in self._outdated:
            curve = self._stopped[i]
            self._table[i, 3:] = completed.radius(curve), self.objective.loss(completed.extrapolate_final_value(curve))
        self._outdated.clear()
        table = self._table[: len(self._stopped)]
        losses[table[:, 0].astype(np.intp)] = table[:, 4]
