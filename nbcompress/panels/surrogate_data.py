"""What the surrogate expects around the best point, which parameters it finds to matter, and whether to trust it.

Slices of the surrogate in the units of the metrics: what the acquisition view draws.

Whether the surrogate can be trusted: every trial compared with what the others foretell of it.

What a surrogate tells about a study: the values that go from who asks it to every view, and their form there.

The fitted surrogate as plain data: what a page needs to predict at any point at once, also with no kernel.

A process is told by its hyperparameters and by the trials that it learned from. Their points are in the view already,
and a page factorizes a covariance of some hundred trials in milliseconds, so that is all there is to send. Notation
as in `nbcompress/optimize/surrogate.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nbcompress.errors import SearchError
from nbcompress.panels.text import Limits, finite, scalar
from nbcompress.study.goal import Goal, Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nbcompress.optimize import Proposer
    from nbcompress.optimize.models import Belief
    from nbcompress.optimize.proposers.gp import GaussianProcessProposer
    from nbcompress.optimize.surrogates.closed_form import GaussianProcess
    from nbcompress.run.history import HistoryCache


class SliceLike(Protocol):
    """What `nbcompress.optimize.slice_of` returns, all objectives minimised.

    Attributes:
        values: The n values of the parameter.
        mean: Posterior mean of the m objectives as losses, shape (m, n).
        std: Posterior standard deviation, shape (m, n).
        acquisition: The acquisition, shape (n,).
    """

    @property
    def values(self) -> Any: ...
    @property
    def mean(self) -> Any: ...
    @property
    def std(self) -> Any: ...
    @property
    def acquisition(self) -> Any: ...


def slice_data(parameter: str, one: SliceLike, goal: Goal, at: Any = None) -> dict[str, Any]:
    """Return a slice as data against the schema: maximised metrics get their own sign back.

    Args:
        parameter: The (flat) name of the parameter along which the slice runs.
        one: The slice.
        goal: Whose objectives, in order, the rows of `one.mean` are.
        at: The parameter's value in the point through which the slice passes.
    """
    mean, std = np.atleast_2d(one.mean), np.atleast_2d(one.std)
    acquisition = np.asarray(one.acquisition, dtype=float)
    values = list(one.values)
    metrics = []
    for objective, loss, spread in zip(goal.objectives, mean, std, strict=False):
        center = np.array([objective.loss(value) for value in loss])
        metrics.append(
            {
                "metric": objective.metric,
                "mean": [finite(value) for value in center],
                # 95 in 100 of a normal distribution lie within 1.96 standard deviations.
                "low": [finite(value) for value in center - 1.96 * spread],
                "high": [finite(value) for value in center + 1.96 * spread],
            }
        )
    known = np.isfinite(acquisition).any()
    return {
        "parameter": parameter,
        "values": [value.item() if isinstance(value, np.generic) else value for value in values],
        "metrics": metrics,
        "acquisition": [finite(value) for value in acquisition],
        "at": at,
        "next": values[int(np.nanargmax(acquisition))] if known else None,
    }


# Half the width, in standard deviations, of the interval that holds 95 % of a normal distribution.
WIDTH_95 = 1.959964
# Fewer trials say nothing, and a picture needs no more.
FEWEST, MAX_CALIBRATION_TRIALS = 8, 200
# A surrogate that keeps its promise falls this far behind it in one of twenty studies.
DOUBT = 0.05
# Residuals should spread like a standard normal distribution; with less than this, the bands are far too wide.
CAUTIOUS = 0.4


def calibration_data(residuals: Iterable[float], metric: str) -> dict[str, Any] | None:
    """Return the comparison as data against the schema; None if no trial could be compared.

    Args:
        residuals: `(known - foretold) / standard deviation` of each trial, left out of what the surrogate learns from.
        metric: Which metric they are about.
    """
    known = np.array([residual for residual in map(float, residuals) if np.isfinite(residual)])
    if not len(known):
        return None
    inside = int((np.abs(known) <= WIDTH_95).sum())
    return {
        "metric": metric,
        "residuals": [finite(f"{trial:.3g}") for trial in known[-MAX_CALIBRATION_TRIALS:]],
        "inside": inside / len(known),
        "sentence": _sentence(inside, known),
    }


def _sentence(inside: int, residuals: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    n = len(residuals)
    fact = f"{inside} of {n} trials lie in the 95 % interval that the other trials foretell"
    if n < FEWEST:
        return f"{fact}: too few to say whether the surrogate can be trusted."
    if _at_most(inside, n) < DOUBT:
        return f"Only {fact}: the surrogate is too sure of itself, and its bands are too narrow."
    if float(np.sqrt(np.mean(residuals**2))) < CAUTIOUS:
        return f"{fact}, most of them near its middle: the surrogate's bands are wider than they need be."
    return f"{fact}: the surrogate's bands can be trusted."


def _at_most(inside: int, n: int) -> float:
    """Return how likely at most so many of `n` lie inside if each does with probability .95."""
    return sum(comb(n, k) * 0.95**k * 0.05 ** (n - k) for k in range(inside + 1))


@dataclass(frozen=True)
class Expectations:
    """What a surrogate tells about a study. What is not known, or not new, is left empty.

    Attributes:
        slices: Through the best point, one for each parameter, as `slice_data` returns them.
        importance: The parameters' shares in the first objective.
        calibration: How well each trial is foretold from the others, as `calibration_data` returns it.
        surrogate: The fitted processes, as `surrogate_data` returns them.
        remark: A sentence for the reader where the surrogate could not be asked, or an empty string.
    """

    slices: Sequence[Mapping[str, Any]] = field(default_factory=list)
    importance: Mapping[str, float] | None = None
    calibration: Mapping[str, Any] | None = None
    surrogate: Mapping[str, Any] | None = None
    remark: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.slices or self.importance or self.calibration or self.surrogate or self.remark)


NOTHING = Expectations()


def expected_data(expected: Expectations, name: Callable[[str], str], limits: Limits) -> dict[str, Any]:
    """Return the fields of a view that tell it; a calibration or surrogate not known is left out.

    Args:
        expected: What is told.
        name: Gives the short names.
        limits: How much of the texts.
    """
    importance, calibration, surrogate = expected.importance, expected.calibration, expected.surrogate
    data: dict[str, Any] = {
        "slices": [_slice_cut(slice, name, limits) for slice in expected.slices],
        "importance": {name(key): finite(value) for key, value in importance.items()} if importance else None,
    }
    if calibration:
        data["calibration"] = {**calibration, "metric": name(calibration["metric"])}
    if surrogate:
        processes = [
            {**process, "metric": process["metric"] and name(process["metric"])} for process in surrogate["processes"]
        ]
        data["surrogate"] = {**surrogate, "processes": processes}
    return data


def _slice_cut(data: Mapping[str, Any], name: Callable[[str], str], limits: Limits) -> dict[str, Any]:
    return {
        **data,
        "parameter": name(data["parameter"]),
        "values": [scalar(value, limits.value) for value in data["values"]],
        "metrics": [{**metric, "metric": name(metric["metric"])} for metric in data["metrics"]],
        "at": scalar(data["at"], limits.value),
        "next": scalar(data["next"], limits.value),
    }


# A page factorizes one matrix of this size for each process; beyond, its reader would wait.
MOST_TRIALS = 600


def surrogate_data(
    proposer: Proposer | None, trials: Sequence[Trial], goal: Goal, histories: HistoryCache | None = None
) -> dict[str, Any] | None:
    """Return the surrogate as data against the schema; None where there is none, or none that a page could evaluate.

    Args:
        proposer: Whose surrogate it is.
        trials: What it learns from.
        goal: What the losses and slacks of its processes mean.
        histories: Those of the search, whose fitted models are used again.
    """
    from nbcompress.optimize.proposers.gp import GaussianProcessProposer
    from nbcompress.run.history import HistoryCache, n_alike_initial_failures

    if not isinstance(proposer, GaussianProcessProposer):
        return None
    # The trials of the history, in its order.
    numbers = np.array(sorted(trial.number for trial in trials)[n_alike_initial_failures(trials) :], dtype=int)
    if len(numbers) > MOST_TRIALS:
        return None
    belief = proposer.believe((histories or HistoryCache()).history_of(trials, goal))
    if len(belief.losses) < proposer.n_objectives:
        return None
    return {
        "kernel": proposer.form.kernel,
        "acquisition": _acquisition(proposer),
        "feasible": numbers[belief.history.is_feasible].tolist(),
        "pending": numbers[belief.history.having("pending")].tolist(),
        "processes": list(_processes(belief, numbers, goal)),
    }


def _acquisition(proposer: GaussianProcessProposer) -> str | None:
    """Return which formula a page may use; boxes of three objectives and more, and random directions, stay in Python.

    For `qlogei`, which samples what pending trials may find and where a front lies, the page believes the means.
    """
    name = proposer.acquisition.removeprefix("q")
    if proposer.n_objectives == 1:
        return name
    return "hypervolume" if proposer.n_objectives == 2 and name == "logei" else None


def _processes(belief: Belief, numbers: NDArray[np.int_], goal: Goal) -> Iterator[dict[str, Any]]:
    history = belief.history
    told, failed, pending = (history.having(status) for status in ("told", "failed", "pending"))
    for j, objective in enumerate(goal.objectives):
        known = told & np.isfinite(history.losses[:, j])
        sign = -1 if objective.direction == "maximize" else 1
        means = {"role": "objective", "metric": objective.metric, "sign": sign, "offset": 0.0}
        yield means | _process(belief.losses[j], numbers, known, pending)
    for j, constraint in enumerate(goal.constraints):
        if f"slack {j}" in belief.limits:
            known = np.isfinite(history.slacks[:, j])
            sign = 1 if constraint.operator == "<=" else -1
            means = {"role": "constraint", "metric": constraint.metric, "sign": sign, "offset": float(constraint.bound)}
            yield means | _process(belief.limits[f"slack {j}"], numbers, known, pending)
    if "failure" in belief.limits:
        means = {"role": "failure", "metric": None, "sign": 1, "offset": 0.0}
        yield means | _process(belief.limits["failure"], numbers, told | failed, pending)


def _process(
    process: GaussianProcess, numbers: NDArray[np.int_], known: NDArray[np.bool_], pending: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return one process; what runs comes last, at the values that the process believes there."""
    units = process.units
    return {
        "trials": [*numbers[known].tolist(), *numbers[pending].tolist()],
        "y": process.y.tolist(),
        "b": process.b.tolist(),
        "lengthscales": process.hyper.lengthscales.tolist(),
        "signal": process.hyper.signal,
        "noise": process.hyper.noise,
        "trend": process.hyper.trend,
        "units": {
            "shift": units.shift,
            "scale": units.scale,
            "knee": units.knee,
            "unit": units.unit,
            "damped": units.is_damped,
        },
    }


# Each parameter costs one slice of the picture; beyond this many it would not be read.
MAX_EXPECTATION_TRIALS = 12
# The closing output shall not keep anybody waiting: no slice is begun after so many seconds.
PATIENCE = 3.0


class Tried(Protocol):
    """What a surrogate is asked about."""

    @property
    def goal(self) -> Goal: ...
    @property
    def all_trials(self) -> Sequence[Trial]: ...
    @property
    def best(self) -> Trial | None: ...


def always() -> bool:
    return True


def expectations_of(
    proposer: Proposer | None,
    study: Tried,
    patience: float = PATIENCE,
    *,
    is_wanted: Callable[[], bool] = always,
    most: int = MAX_EXPECTATION_TRIALS,
    histories: HistoryCache | None = None,
) -> Expectations:
    """Ask the surrogate of a proposer about a study.

    Empty where there is nothing to tell: no feasible trial yet, or a sampler without a surrogate. Where the surrogate
    fails, the reader is told; the trials are there all the same. The parameters that matter most come first, so that
    what the patience leaves out matters least.

    Args:
        proposer: Whose surrogate is asked.
        study: About what.
        patience: No slice is begun after so many seconds.
        is_wanted: Asked before each part of the work; what is not wanted any more is left out.
        most: The most slices.
        histories: Those of the search, whose fitted models are used again.
    """
    if proposer is None or study.best is None:
        return Expectations()
    try:
        return _asked(proposer, study, study.best, patience, is_wanted, most, histories)
    except Exception as error:
        # What there is to see of the trials must not be lost to it.
        logging.getLogger(__name__).debug("the surrogate could not be asked", exc_info=True)
        return unasked(error)


def unasked(error: Exception) -> Expectations:
    """Return what is told where the surrogate fails."""
    why = f"{type(error).__name__}: {error}".rstrip(": ")
    return Expectations(remark=f"What the surrogate expects cannot be shown; asking it failed with {why}.")


def _asked(
    proposer: Proposer,
    study: Tried,
    best: Trial,
    patience: float,
    is_wanted: Callable[[], bool],
    most: int,
    histories: HistoryCache | None,
) -> Expectations:
    from nbcompress.optimize import importance, leave_one_out, slice_of
    from nbcompress.run.history import HistoryCache

    end = time.monotonic() + patience
    histories = histories or HistoryCache()
    history = histories.history_of(study.all_trials, study.goal)
    try:
        shares = importance(proposer, history)
    except SearchError:
        return Expectations()
    surrogate = surrogate_data(proposer, study.all_trials, study.goal, histories)
    calibration = None
    if is_wanted():
        calibration = calibration_data(leave_one_out(proposer, history).residuals, study.goal.objectives[0].metric)
    slices: list[dict[str, Any]] = []
    for name in sorted(best.params, key=lambda param: -shares[param])[:most]:
        if time.monotonic() > end or not is_wanted():
            break
        along = slice_of(proposer, history, best.point, name)
        slices.append(slice_data(name, along, study.goal, at=best.params[name]))
    return Expectations(slices, shares, calibration, surrogate)
