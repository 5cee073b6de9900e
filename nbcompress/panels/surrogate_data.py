"""What the surrogate of a study predicts, as plain data for every view.

- Slices: the predictions along one parameter, in the units of the metrics.
- Importance and calibration: which parameters matter, and whether the surrogate can be trusted.
- The fitted Gaussian processes themselves, so that a page predicts at any point, also without a kernel. A process is
  described by its hyperparameters and by the trials that it was fitted to. Their points are in the view already, and a
  page factorizes the covariance of some hundred trials in milliseconds. The notation is that of
  `nbcompress/optimize/surrogates/closed_form.py`.
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
from nbcompress.panels.text import ViewLimits, finite, scalar
from nbcompress.study.goal import Goal, Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nbcompress.optimize import History, Proposer, SurrogateProposer
    from nbcompress.optimize.models import FittedModels
    from nbcompress.optimize.surrogates.protocol import Surrogate
    from nbcompress.run.history import HistoryCache


# Half the width of a 95 % interval of a normal distribution in standard deviations; the same as in `normal.ts`.
WIDTH_95 = 1.96
# The picture holds this many slices, one for each parameter; more could not be read.
MAX_SLICES = 12
# No slice is started after this many seconds, so that the closing output does not keep the user waiting.
TIME_LIMIT = 3.0


@dataclass(frozen=True)
class SurrogateInsight:
    """What a surrogate predicts about a study. What is not known, or not new, is empty.

    Attributes:
        slices: Through the best point, one for each parameter, as `slice_data` returns them.
        importance: The share of each parameter in the variance of the first objective.
        calibration: How well each trial is predicted from the others, as `calibration_data` returns it, for the first
            objective.
        objectives: With several objectives, importance and calibration of each, as `objective_data` returns them.
        surrogate: The fitted processes, as `surrogate_data` returns them.
        warning: A sentence if the surrogate could not be asked, else an empty string.
    """

    slices: Sequence[Mapping[str, Any]] = field(default_factory=list)
    importance: Mapping[str, float] | None = None
    calibration: Mapping[str, Any] | None = None
    surrogate: Mapping[str, Any] | None = None
    warning: str = ""
    objectives: Sequence[Mapping[str, Any]] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.slices or self.importance or self.calibration or self.surrogate or self.warning)


NO_INSIGHT = SurrogateInsight()


class StudyTrials(Protocol):
    """What the surrogate needs of a study."""

    @property
    def goal(self) -> Goal: ...
    @property
    def all_trials(self) -> Sequence[Trial]: ...
    @property
    def best(self) -> Trial | None: ...


def always() -> bool:
    return True


def insight_of(
    proposer: Proposer | None,
    study: StudyTrials,
    time_limit: float = TIME_LIMIT,
    *,
    should_continue: Callable[[], bool] = always,
    max_slices: int = MAX_SLICES,
    histories: HistoryCache | None = None,
) -> SurrogateInsight:
    """Ask the surrogate of a proposer about a study.

    The result is empty if there is no feasible trial yet or the proposer has no surrogate. If the surrogate fails, the
    result holds a warning instead of an exception, since the trials can be shown all the same. The slice of the most
    important parameter is always computed. The time limit may leave out the others, which come in the order of
    importance, and then what was learned of further objectives.

    Args:
        proposer: The proposer of the search.
        study: The study.
        time_limit: Seconds after which no further slice and no further objective is started.
        should_continue: Called before each part of the work; the other parts are left out if it returns False.
        max_slices: The most slices.
        histories: The histories of the search, whose fitted models are used again; None fits new ones.
    """
    if proposer is None or study.best is None:
        return SurrogateInsight()
    from nbcompress.run.history import HistoryCache

    try:
        return _ask(proposer, study, study.best, time_limit, should_continue, max_slices, histories or HistoryCache())
    except Exception as error:
        logging.getLogger(__name__).debug("the surrogate could not be asked", exc_info=True)
        return failed_insight(error)


def failed_insight(error: Exception) -> SurrogateInsight:
    """Return the insight with the warning for a surrogate that raised."""
    why = f"{type(error).__name__}: {error}".rstrip(": ")
    return SurrogateInsight(
        warning=f"The predictions of the surrogate cannot be shown; computing them failed with {why}."
    )


def _ask(
    proposer: Proposer,
    study: StudyTrials,
    best: Trial,
    time_limit: float,
    should_continue: Callable[[], bool],
    max_slices: int,
    histories: HistoryCache,
) -> SurrogateInsight:
    from nbcompress.optimize import importance, leave_one_out, slice_of

    end = time.monotonic() + time_limit
    history = histories.history_of(study.all_trials, study.goal)
    try:
        shares = importance(proposer, history)
    except SearchError:
        return SurrogateInsight()
    surrogate = surrogate_data(proposer, study.all_trials, study.goal, histories)
    metrics = [objective.metric for objective in study.goal.objectives]

    def calibration_of(index: int) -> dict[str, Any] | None:
        try:
            return calibration_data(leave_one_out(proposer, history, index).residuals, metrics[index])
        except NotImplementedError:  # a model of a person may have no leave-one-out
            return None

    calibration = calibration_of(0) if should_continue() else None
    slices: list[dict[str, Any]] = []
    for name in sorted(best.params, key=lambda name: -shares[name])[:max_slices]:
        # One in any case: without a closed form, a page has no other predictions.
        if (slices and time.monotonic() > end) or not should_continue():
            break
        predicted = slice_of(proposer, history, best.point, name)
        slices.append(slice_data(name, predicted, study.goal, at=best.params[name]))
    objectives = [objective_data(metrics[0], shares, calibration)]
    for index in range(1, len(metrics)):
        # Without every objective the views show the first one alone.
        if time.monotonic() > end or not should_continue():
            break
        objectives.append(objective_data(metrics[index], importance(proposer, history, index), calibration_of(index)))
    if not 1 < len(objectives) == len(metrics):
        objectives = []
    return SurrogateInsight(slices, shares, calibration, surrogate, objectives=objectives)


def objective_data(metric: str, shares: Mapping[str, float], calibration: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the surrogate has learned of one objective, as data against the schema.

    Args:
        metric: The objective.
        shares: The share of each parameter in its variance.
        calibration: As `calibration_data` returns it.
    """
    return {"metric": metric, "importance": dict(shares), "calibration": calibration}


def insight_data(insight: SurrogateInsight, name: Callable[[str], str], limits: ViewLimits) -> dict[str, Any]:
    """Return the fields of a view that an insight fills; an unknown calibration or surrogate is left out.

    Args:
        insight: The insight.
        name: Returns the short name of a parameter or metric.
        limits: The most characters of each text.
    """
    importance, calibration, surrogate = insight.importance, insight.calibration, insight.surrogate
    data: dict[str, Any] = {
        "slices": [_shortened_slice(slice_, name, limits) for slice_ in insight.slices],
        "importance": {name(key): finite(value) for key, value in importance.items()} if importance else None,
    }
    if calibration:
        data["calibration"] = {**calibration, "metric": name(calibration["metric"])}
    if insight.objectives:
        data["insights"] = [_shortened_objective(objective, name) for objective in insight.objectives]
    if surrogate:
        processes = [
            {**process, "metric": process["metric"] and name(process["metric"])} for process in surrogate["processes"]
        ]
        data["surrogate"] = {**surrogate, "processes": processes}
    return data


def _shortened_objective(data: Mapping[str, Any], name: Callable[[str], str]) -> dict[str, Any]:
    calibration = data["calibration"]
    return {
        "metric": name(data["metric"]),
        "importance": {name(key): finite(value) for key, value in data["importance"].items()},
        "calibration": calibration and {**calibration, "metric": name(calibration["metric"])},
    }


def _shortened_slice(data: Mapping[str, Any], name: Callable[[str], str], limits: ViewLimits) -> dict[str, Any]:
    return {
        **data,
        "parameter": name(data["parameter"]),
        "values": [scalar(value, limits.value) for value in data["values"]],
        "metrics": [{**metric, "metric": name(metric["metric"])} for metric in data["metrics"]],
        "at": scalar(data["at"], limits.value),
        "next": scalar(data["next"], limits.value),
    }


# --- Slices ---


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


def slice_data(parameter: str, predicted: SliceLike, goal: Goal, at: Any = None) -> dict[str, Any]:
    """Return a slice as data against the schema. Metrics to maximize get their own sign back.

    Args:
        parameter: The (flat) name of the parameter that varies.
        predicted: The predictions along it.
        goal: Its objectives, in order, are the rows of `predicted.mean`.
        at: The value of the parameter in the point through which the slice passes.
    """
    mean, std = np.atleast_2d(predicted.mean), np.atleast_2d(predicted.std)
    acquisition = np.asarray(predicted.acquisition, dtype=float)
    values = list(predicted.values)
    metrics = []
    for objective, losses, spread in zip(goal.objectives, mean, std, strict=False):
        center = np.array([objective.loss(value) for value in losses])
        metrics.append(
            {
                "metric": objective.metric,
                "mean": [finite(value) for value in center],
                "low": [finite(value) for value in center - WIDTH_95 * spread],
                "high": [finite(value) for value in center + WIDTH_95 * spread],
            }
        )
    is_known = np.isfinite(acquisition).any()
    return {
        "parameter": parameter,
        "values": [value.item() if isinstance(value, np.generic) else value for value in values],
        "metrics": metrics,
        "acquisition": [finite(value) for value in acquisition],
        "at": at,
        "next": values[int(np.nanargmax(acquisition))] if is_known else None,
    }


# --- Calibration ---

# Fewer residuals do not tell whether the surrogate can be trusted; a picture needs no more than the second number.
MIN_CALIBRATION_TRIALS, MAX_CALIBRATION_TRIALS = 8, 200
# The surrogate is called too certain if a calibrated one would have so few residuals inside with less probability.
SIGNIFICANCE = 0.05
# Residuals of a calibrated surrogate have a root mean square of 1. Below this one the intervals are far too wide.
MIN_RESIDUAL_RMS = 0.4


def calibration_data(residuals: Iterable[float], metric: str) -> dict[str, Any] | None:
    """Return how the trials compare with their predictions, as data against the schema.

    Args:
        residuals: For each trial, `(measured - predicted) / standard deviation`, predicted from all other trials.
        metric: The metric that was predicted.

    Returns:
        The data, or None if no residual is finite.
    """
    known = np.array([residual for residual in map(float, residuals) if np.isfinite(residual)])
    if not len(known):
        return None
    inside = int((np.abs(known) <= WIDTH_95).sum())
    return {
        "metric": metric,
        "residuals": [finite(f"{residual:.3g}") for residual in known[-MAX_CALIBRATION_TRIALS:]],
        "inside": inside / len(known),
        "sentence": _calibration_sentence(inside, known),
    }


def _calibration_sentence(inside: int, residuals: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    n = len(residuals)
    fact = f"{inside} of {n} trials lie in the 95 % interval predicted from the other trials"
    if n < MIN_CALIBRATION_TRIALS:
        return f"{fact}: too few trials to say whether the surrogate can be trusted."
    if _binomial_cdf(inside, n) < SIGNIFICANCE:
        return f"Only {fact}: the surrogate is overconfident, and its intervals are too narrow."
    if float(np.sqrt(np.mean(residuals**2))) < MIN_RESIDUAL_RMS:
        return f"{fact}, most of them near its middle: the intervals of the surrogate are wider than necessary."
    return f"{fact}: the intervals of the surrogate can be trusted."


def _binomial_cdf(inside: int, n: int) -> float:
    """Return the probability that at most `inside` of `n` residuals lie in the interval if each does with .95."""
    return sum(comb(n, k) * 0.95**k * 0.05 ** (n - k) for k in range(inside + 1))


# --- The fitted processes ---

# The acquisitions of one objective that a page evaluates.
PAGE_ACQUISITIONS = ("logei", "ucb", "pi")
# A page factorizes a matrix of this size for each process; a larger one would keep its reader waiting.
MAX_TRIALS = 600


def surrogate_data(
    proposer: Proposer | None, trials: Sequence[Trial], goal: Goal, histories: HistoryCache | None = None
) -> dict[str, Any] | None:
    """Return the fitted surrogate as data against the schema.

    Args:
        proposer: The proposer of the search.
        trials: The trials that the surrogate is fitted to.
        goal: The meaning of the losses and slacks of its processes.
        histories: The histories of the search, whose fitted models are used again.

    Returns:
        The data, or None if there is no surrogate or a page could not evaluate it.
    """
    from nbcompress.optimize import SurrogateProposer
    from nbcompress.run.history import HistoryCache, n_alike_initial_failures

    if not isinstance(proposer, SurrogateProposer):
        return None
    # The numbers of the trials in the history, in its order.
    numbers = np.array(sorted(trial.number for trial in trials)[n_alike_initial_failures(trials) :], dtype=int)
    if len(numbers) > MAX_TRIALS:
        return None
    history = (histories or HistoryCache()).history_of(trials, goal)
    models = proposer.fit_models(history)
    # A page computes distances of options itself; it does not know the codes of very many options.
    if not models.has_all_objectives or models.embedding.has_codes or not _has_closed_form(models):
        return None
    return {
        "kernel": models.spec.kernel,
        "acquisition": _acquisition(proposer, models.n_objectives),
        "feasible": numbers[history.is_feasible].tolist(),
        "pending": numbers[history.has_status("pending")].tolist(),
        "processes": list(_processes(models, history, numbers, goal)),
    }


def _acquisition(proposer: SurrogateProposer, n_objectives: int) -> str | None:
    """Return the name of the formula that the page may use.

    For `qlogei`, which samples the outcomes of pending trials, the page uses their predicted means. Hypervolumes of
    three objectives and more, random scalarizations, and what a function of a person makes are computed in Python only.
    """
    name = proposer.acquisition
    if not isinstance(name, str):
        return None
    name = {"qlogei": "logei", "ei": "logei"}.get(name, name)
    if n_objectives == 1:
        return name if name in PAGE_ACQUISITIONS else None
    return "hypervolume" if n_objectives == 2 and name == "logei" else None


def _has_closed_form(models: FittedModels) -> bool:
    """Return whether a page can evaluate all models: closed forms with one kernel, without known noise or priors."""
    from nbcompress.optimize.surrogates.closed_form import GaussianProcess

    every = [*models.objectives.values(), *models.constraints.values()]
    return all(
        isinstance(model, GaussianProcess) and model.known_noise is None and model.spec.kernel == models.spec.kernel
        for model in every
    )


def _processes(
    models: FittedModels, history: History, numbers: NDArray[np.int_], goal: Goal
) -> Iterator[dict[str, Any]]:
    told, failed, pending = (history.has_status(status) for status in ("told", "failed", "pending"))
    for j, objective in enumerate(goal.objectives):
        known = told & np.isfinite(history.losses[:, j])
        sign = -1 if objective.direction == "maximize" else 1
        means = {"role": "objective", "metric": objective.metric, "sign": sign, "offset": 0.0}
        yield means | _process(models.objectives[j], numbers, known, pending)
    for j, constraint in enumerate(goal.constraints):
        if f"slack {j}" in models.constraints:
            known = np.isfinite(history.slacks[:, j])
            sign = 1 if constraint.operator == "<=" else -1
            means = {"role": "constraint", "metric": constraint.metric, "sign": sign, "offset": float(constraint.bound)}
            yield means | _process(models.constraints[f"slack {j}"], numbers, known, pending)
    if "failure" in models.constraints:
        means = {"role": "failure", "metric": None, "sign": 1, "offset": 0.0}
        yield means | _process(models.constraints["failure"], numbers, told | failed, pending)


def _process(
    process: Surrogate, numbers: NDArray[np.int_], known: NDArray[np.bool_], pending: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return one process. Pending trials come last, with the values that the process was conditioned on."""
    from nbcompress.optimize.surrogates.closed_form import GaussianProcess

    assert isinstance(process, GaussianProcess)
    transform = process.outcome_transform
    return {
        "trials": [*numbers[known].tolist(), *numbers[pending].tolist()],
        "y": process.y.tolist(),
        "b": process.b.tolist(),
        "lengthscales": process.hyper.lengthscales.tolist(),
        "signal": process.hyper.signal,
        "noise": process.hyper.noise,
        "trend": process.hyper.trend,
        "units": {
            "shift": transform.shift,
            "scale": transform.scale,
            "knee": transform.knee,
            "unit": transform.unit,
            "damped": transform.has_log_tail,
        },
    }
