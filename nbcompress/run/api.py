"""`search` and `maximize`: the search for a Python function."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbcompress.errors import GoalError, SearchError, SearchFailed, shown
from nbcompress.run.callbacks import Controls, Ending, Observer
from nbcompress.run.evaluation import run_trial
from nbcompress.run.loop import Search
from nbcompress.run.options import SearchOptions, Until, names_of
from nbcompress.run.outcome import Assignment, Outcome, trial_failure
from nbcompress.run.reads import values_read
from nbcompress.run.setup import prepare_function_search
from nbcompress.run.trial import RunningTrial
from nbcompress.space import Parameter, Space
from nbcompress.study.goal import Goal

if TYPE_CHECKING:
    from nbcompress.run.data_read import Code
    from nbcompress.study import Study

_log = logging.getLogger("nbcompress")

# The metric of `maximize`, whose function returns a number without a name: the first of these that is no parameter.
_VALUE_NAMES = ("value", "objective", "score", "f")


@dataclass(frozen=True)
class FunctionEvaluator:
    """Runs a function as a trial: `function(**point)` returns metrics by name."""

    function: Callable[..., Any]
    space: Space
    goal: Goal
    keep: tuple[str, ...] = ()

    def __call__(self, assignment: Assignment) -> Outcome:
        return run_trial(self._body, assignment, goal=self.goal, keep=self.keep or None)

    def reads(self) -> dict[str, Any]:
        """Return the values that the function reads from outside, by name."""
        return values_read(_function_of(self.function))

    def code(self) -> Code | None:
        """Return the code of the function, or None if its source is not known."""
        from nbcompress.run.data_read import Code

        return Code.of(_function_of(self.function))

    def written(self) -> frozenset[tuple[str, ...]]:
        """Return nothing: writes of a function are found by comparing the values before and after the search."""
        return frozenset()

    def reusable(self) -> Callable[[], FunctionEvaluator]:
        return lambda: self

    def _body(self, trial: RunningTrial) -> Mapping[str, Any]:
        returned = self.function(**self.space.grouped(trial.assignment.point))
        if not isinstance(returned, Mapping):
            example = f"{{{self.goal.metrics[0]!r}: 0.5}}"
            got = type(returned).__name__
            raise trial_failure("NotADict", f"The function returns a dict of metrics such as {example}, but got {got}.")
        return returned


def search(
    g: Callable[..., Mapping[str, Any]],
    space: Space | Mapping[str, Parameter],
    *,
    maximize: str | Iterable[str] = (),
    minimize: str | Iterable[str] = (),
    subject_to: str | Iterable[str] = (),
    trials: int = 30,
    timeout: str | float | None = None,
    trial_timeout: str | float | None = None,
    study: str | None = None,
    fresh: bool = False,
    accept_changes: bool = False,
    storage: str | os.PathLike[str] | None = None,
    start: Sequence[Mapping[str, Any]] = (),
    baseline: Mapping[str, float] | None = None,
    sampler: str = "gp",
    acquisition: str | Callable[..., Any] = "logei",
    kernel: Any = "matern52",
    mean: Any = "constant",
    surrogate: Any = None,
    sensitivity: Mapping[str, Mapping[str, float]] | None = None,
    noise: str | Iterable[str] | Mapping[str, str] = (),
    pruner: str = "none",
    until: str | Until | None = None,
    engine: Any = "inline",
    resources: str | Mapping[str, float] | None = None,
    retries: int = 1,
    trial_memory: str | int | None = None,
    jobs: int = 1,
    repeats: int = 1,
    keep: str | Iterable[str] = (),
    seed: int = 0,
    finalists: int = 0,
    original: Any = None,
    test: Callable[[Any], Any] | None = None,
    on_interrupt: str = "return",
    observers: Sequence[Observer] = (),
    controls: Controls | None = None,
) -> Study:
    """Search a space for the points at which a function is best, and return the study.

    Args:
        g: Called as `g(**point)` with the active parameters; returns a dict of metrics, `{name: number}`. Inside,
            `report(...)` and `keep(...)` act on the trial.
        space: A `Space`, or a dict from names to `Float`, `Int` and `Choice`.
        maximize: The name of a metric to maximize, or a list of names.
        minimize: The same for metrics to minimize. There is at least one objective in all.
        subject_to: Constraints, such as `"kilobytes <= 60"` or, relative to the baseline,
            `"accuracy >= baseline - 0.01"`.
        trials: The number of trials in the study, including those that a continued study has already.
        timeout: The limit for the search: `"90s"`, `"10m"`, `"2h"`, or seconds.
        trial_timeout: The limit for one run of a trial, in the same form.
        study: The name of the study. Without a name and a storage nothing is stored. A study with a name is not
            continued if plain values that `g` reads have changed. Without a name, the latest generation with the same
            values is continued, or a new one begins.
        fresh: Begin the next generation of a stored study.
        accept_changes: Continue a study although values have changed; its trials note the new ones.
        storage: The path of a journal, or the URL of any storage of Optuna; with a name, `nbcompress.journal` by
            default.
        start: Points to run first: dicts of the active parameters.
        baseline: Metrics of the original model, `{name: number}`; stored with the study and shown.
        sampler: What proposes points: `gp`, `sobol`, `random`, `grid`, `tpe`, `nsga2` or `optuna-gp`.
        acquisition: For `gp`: `logei`, `qlogei`, `ucb`, `pi`, `ei`, `thompson`, `noisy-ei`; with one objective also
            `kg`, `mes`, or a function `(model, X_baseline, X_pending, best_f)` that returns an `AcquisitionFunction` of
            BoTorch for one point (`q=1`). The model predicts standardized values, larger is better; `X_pending` is None
            if nothing is pending.
        kernel: For `gp`: `matern52`, `rbf`, `matern32` or `matern12`; a GPyTorch kernel over the encoded parameters; or
            a function of the number of dimensions that returns one.
        mean: For `gp`: `constant`, `linear` or `zero`, a GPyTorch mean, or a function that returns one.
        surrogate: For `gp`, in the place of kernel and mean: `matern52`, `matern32`, `matern12`, `rbf`, `linear`,
            `additive` (many parameters that do not interact), `mixed` (numbers and unordered choices), `warped` (an
            effect that changes fast at one end of a range), `saas` (many parameters of which few matter); a kernel or a
            function of the number of dimensions; an `nc.SurrogateSpec`; a function `(X, Y)` that returns a BoTorch
            model of X `(n, D)` in the unit cube and Y `(n, 1)`, standardized, larger is better; or a dict of these by
            metric. A model in training mode is fitted.
        sensitivity: For `gp`, in a search with a constraint and a parameter for each layer (`each=`): by metric, what
            was measured of each layer before, such as the loss of accuracy if only this one is compressed, or its
            number of weights. Any unit, at least 0. See `nc.sensitivity(...).by_layer()`.
        noise: The metric that holds the standard deviation of the objective, or `"METRIC=NAME"`, or a list or dict of
            these. With `repeats` the spread of the runs is used where nothing is named.
        pruner: The rule of early stopping: `none`, `median`, `asha` or `hyperband`.
        until: A stop rule: `"no gain 15"` or `"gain < 0.001"`.
        engine: `inline`; `process` (each trial in a process of its own); `ray` or `dask` (on the cluster of the
            notebook or a local one), `ray://HOST:PORT` or `dask:tcp://HOST:PORT`; a `distributed.Client`; or a
            `concurrent.futures.Executor`.
        resources: What a trial takes of a cluster: `"cpus=2, gpus=1"` or a dict; one CPU if None.
        retries: How often a trial whose worker was lost is run again under its number, on clusters and executors.
        trial_memory: Hard limit for one trial, such as `"4GB"` or a number of bytes; under `process` and on clusters.
        jobs: The number of trials that run at the same time.
        repeats: Runs per point, with different seeds; metrics are means over the runs.
        keep: Names of the values that trials may keep; all if empty.
        seed: Equal seeds, versions and numbers of threads give equal points.
        finalists: This many trials at the end, at most half of `trials`, run the best points again with other seeds, as
            long as their values differ; then see `nc.finalists(study)`. For one objective.
        original: The model before, for `test`.
        test: A function from a kept model to a number, to a dict of numbers, or to what `nc.accuracy` returns. When all
            trials are done it measures the original and each model of the front once. It reads data that no trial
            reads. The first name of `keep` says which value is the model. See `study.record["test"]`.
        on_interrupt: `return` ends the search at the first interrupt and returns the study; `raise` raises the
            `KeyboardInterrupt` when all finished trials are recorded. The second interrupt always raises.
        observers: Objects that are told what happens.
        controls: Stops or pauses the search from another thread.

    Returns:
        The study with all its trials. An interrupt, a limit or a stop rule ends the search and returns it, too.

    Raises:
        GoalError: There is no objective, one cannot be read, or a name is both a parameter and a metric.
        SearchError: An option has a value that it cannot have.
        PointError: A start point is not in the space.
        StudyChanged: The stored study has other parameters, objectives or constraints, or was begun with other values.
        SearchFailed: The first three trials failed with the same error, the engine broke, or the storage failed. Its
            `study` has the trials.
        KeyboardInterrupt: See `on_interrupt`.

    Example:
        >>> import nbcompress as nc
        >>> space = {"x": nc.Float(-1, 1)}
        >>> study = nc.search(lambda x: {"loss": (x - 0.3) ** 2}, space, minimize="loss", trials=12)
        >>> abs(study.best.params["x"] - 0.3) < 0.05
        True
    """
    options = SearchOptions.from_arguments(locals())
    _check_callable(g)
    bounds = names_of("subject_to", subject_to)
    goal = Goal.of(names_of("maximize", maximize), names_of("minimize", minimize), bounds, options.baseline)
    parameters = space if isinstance(space, Space) else Space(space)
    evaluator = FunctionEvaluator(g, parameters, goal, options.keep)
    prepared = prepare_function_search(options, evaluator, _function_of(g), parameters, goal)
    return finished_study(prepared, prepared.run(observers, controls))


def search_failed(ending: Ending, study: Study) -> SearchFailed:
    """Return the error of a search that could not go on; below it Python shows the traceback of the body."""
    error = SearchFailed(ending.reason, study)
    if ending.traceback:
        error.add_note(f"\n{ending.traceback.rstrip()}")
    return error


def _check_callable(function: object) -> None:
    if not callable(function):
        raise SearchError(f"A search runs a function of the parameters, but got {shown(function)}.")


# A search that ends in one of these ways has fewer trials than were asked for.
_EARLY_ENDINGS = ("exhausted", "timeout", "elsewhere", "interrupted")


def finished_study(search: Search, ending: Ending) -> Study:
    """Return the study of a search that has ended.

    Its warnings are logged, and why it ended if it ended early or ran nothing.

    Raises:
        SearchFailed: The search could not go on. The error has the study.
        KeyboardInterrupt: The search was interrupted, and its options say `on_interrupt="raise"`.
    """
    if ending.kind in _EARLY_ENDINGS or (ending.kind in ("done", "until") and not ending.n_ended):
        _log.warning(ending.reason)
    for warning in dict.fromkeys((*search.study.warnings, *ending.warnings)):
        _log.warning(warning)
    if ending.kind in ("same failure", "broken"):
        raise search_failed(ending, search.study)
    if ending.kind == "interrupted" and search.options.on_interrupt == "raise":
        raise KeyboardInterrupt
    return search.study


def maximize(f: Callable[..., Any], space: Space | Mapping[str, Parameter], trials: int = 30, **options: Any) -> Study:
    """Search a space for the point at which a function that returns a number is greatest, and return the study.

    Args:
        f: Called as `f(**point)` with the active parameters; returns a number.
        space: A `Space`, or a dict from names to `Float`, `Int` and `Choice`.
        trials: The number of trials in the study.
        options: All options of `nc.search` except objectives. The metric is called `value`.

    Returns:
        The study; see `nc.search`.

    Raises:
        GoalError: An objective is given; use `nc.search` for that.
        SearchError: An option has a value that it cannot have.
        SearchFailed: The first three trials failed with the same error.

    Example:
        >>> import nbcompress as nc
        >>> study = nc.maximize(lambda x: -((x - 0.3) ** 2), {"x": nc.Float(-1, 1)}, trials=12)
        >>> study.best.values["value"] > -0.01
        True
    """
    for name in ("maximize", "minimize"):
        if name in options:
            raise GoalError(
                f"nc.maximize steers by what its function returns; use nc.search for {name}={options[name]!r}."
            )
    _check_callable(f)
    parameters = space if isinstance(space, Space) else Space(space)
    metric = next((name for name in _VALUE_NAMES if name not in parameters.names), _VALUE_NAMES[0])
    return search(SingleMetric(f, metric), parameters, maximize=[metric], trials=trials, **options)


@dataclass(frozen=True)
class SingleMetric:
    """Returns the number of a function as a metric."""

    function: Callable[..., Any]
    metric: str
    source: Callable[..., Any] | None = None  # what the user wrote, if `function` only calls it

    def __call__(self, /, **point: Any) -> dict[str, Any]:
        return {self.metric: self.function(**point)}


def _function_of(g: Callable[..., Any]) -> Callable[..., Any]:
    return (g.source or g.function) if isinstance(g, SingleMetric) else g
