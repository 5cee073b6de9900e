"""`search` and `maximize`: the search for a plain Python function."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbcompress.errors import GoalError, SearchError, SearchFailed
from nbcompress.run.controls import Controls
from nbcompress.run.engines import engine_of
from nbcompress.run.fingerprints import code_digits
from nbcompress.run.limits import Until
from nbcompress.run.metrics import refused
from nbcompress.run.observers import Ending, Observer
from nbcompress.run.outcome import Assignment, Outcome
from nbcompress.run.preparing import Options, Place, Search, prepare
from nbcompress.run.reads import values_read
from nbcompress.run.trial_context import TrialContext
from nbcompress.run.trial_run import run_trial
from nbcompress.space import Parameter, Space
from nbcompress.study.goal import Goal
from nbcompress.study.storage import DEFAULT_STORAGE

if TYPE_CHECKING:
    from nbcompress.study import Study

_log = logging.getLogger("nbcompress")

# What the metric of `maximize` is called, whose function returns a number without a name: the first free one.
_VALUE_NAMES = ("value", "objective", "score", "f")


@dataclass(frozen=True)
class FunctionTrial:
    """Runs a function as a trial: `function(**point)` returns metrics by name."""

    function: Callable[..., Any]
    space: Space
    goal: Goal
    keep: tuple[str, ...] = ()

    def __call__(self, assignment: Assignment) -> Outcome:
        return run_trial(self._body, assignment, goal=self.goal, keep=self.keep or None)

    def reads(self) -> dict[str, Any]:
        """Return what the function reads from outside, by name, for the record."""
        return values_read(_function_of(self.function))

    def _body(self, context: TrialContext) -> Mapping[str, Any]:
        returned = self.function(**self.space.grouped(context.assignment.point))
        if not isinstance(returned, Mapping):
            example = f"{{{self.goal.metrics[0]!r}: 0.5}}"
            got = type(returned).__name__
            raise refused("NotADict", f"The function returns a dict of metrics such as {example}, but got {got}.")
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
    acquisition: str = "logei",
    kernel: str = "matern52",
    mean: str = "constant",
    pruner: str = "none",
    until: str | Until | None = None,
    engine: Any = "inline",
    jobs: int = 1,
    repeats: int = 1,
    keep: str | Iterable[str] = (),
    seed: int = 0,
    finalists: int = 0,
    observers: Sequence[Observer] = (),
    controls: Controls | None = None,
) -> Study:
    """Search the space for points at which `g` is best, and return the study.

    Args:
        g: Called as `g(**point)` with the active parameters; returns `{metric: number}`. Inside, `report(...)` and
            `keep(...)` act on the trial.
        space: Parameters by name.
        maximize, minimize: Metrics to steer by; at least one.
        subject_to: Constraints, such as `"kilobytes <= 60"`.
        trials: Trials in the study in all.
        timeout, trial_timeout: `"90s"`, `"10m"`, `"2h"` or seconds.
        study, storage: Nothing is stored unless one of them is given: a name, and a path or a URL. Plain values that
            `g` reads are noted with a stored study. One with a name is not continued with other values; without a
            name, the newest generation with the same values is, or a new one begins.
        fresh: Begin the next generation of a stored study.
        accept_changes: Go on in spite of another value; the trials keep a note of theirs.
        start: Points to run first.
        baseline: Metrics of the original model, noted with the study.
        sampler, acquisition, kernel, mean: What proposes points.
        pruner: Early stopping: none, median, asha or hyperband.
        until: `"no gain 15"` or `"gain < 0.001"`.
        engine: `"inline"`, `"process"`, or an executor.
        jobs: Trials at a time.
        repeats: Runs per point.
        keep: Names that trials may keep; all when empty.
        seed: Equal seeds, versions and threads give equal points.
        finalists: How many of the trials, at the end, run the best points again, with other seeds, as long as their
            values differ; at most half. Where `until` ends the search, they come then; the pruner lets them be.
            `nc.finalists(study)` has the choice, with intervals. For one objective.

    Raises:
        GoalError: No objective, or one that cannot be read.
        SearchError: An option cannot be used.
        StudyChanged: The stored study has other parameters, objectives or constraints, or was begun with other values.
        SearchFailed: The first three trials failed with the same error, or the engine broke; its `study` has the
            trials. Whatever else ends a search, such as an interrupt, returns the study.

    Example:
        >>> from nbcompress import Float
        >>> found = search(lambda x: {"loss": x**2}, {"x": Float(-1, 1)}, minimize=["loss"], trials=3, sampler="sobol")
        >>> len(found.trials)
        3
    """
    if not callable(g):
        raise SearchError(f"A search runs a function of the parameters, but got {g!r}.")
    goal = Goal.of(_names("maximize", maximize), _names("minimize", minimize), _names("subject_to", subject_to))
    parameters = space if isinstance(space, Space) else Space(space)
    taken = [metric for metric in goal.metrics if metric in parameters.names]
    if taken:
        raise GoalError(f"No name is both a parameter and a metric, but {taken[0]!r} is; rename one of them.")
    options = Options(
        trials=trials,
        timeout=timeout,
        trial_timeout=trial_timeout,
        start=_points(start),
        sampler=sampler,
        acquisition=acquisition,
        kernel=kernel,
        mean=mean,
        pruner=pruner,
        until=until,
        jobs=jobs,
        repeats=repeats,
        keep=_names("keep", keep),
        seed=seed,
        finalists=finalists,
    )
    prepared = prepare(
        options,
        FunctionTrial(g, parameters, goal, options.keep),
        parameters,
        goal,
        engine_of(engine),
        place_of(g, parameters, goal, study, storage, fresh, accept_changes),
        baseline=_baseline(baseline),
    )
    return ended_well(prepared, prepared.run(observers, controls))


def ended_well(search: Search, ending: Ending) -> Study:
    """Return the study of a search that has ended; what the person should know goes to the log.

    Raises:
        SearchFailed: It could not go on. The study is at hand in the error, and stored where it was to be.
    """
    for warning in (*search.study.warnings, *ending.warnings):
        _log.warning(warning)
    if ending.kind in ("same failure", "broken"):
        raise SearchFailed(ending.reason, search.study)
    return search.study


def maximize(f: Callable[..., Any], space: Space | Mapping[str, Parameter], trials: int = 30, **options: Any) -> Study:
    """Search the space for the point at which `f(**point)`, a number, is greatest, and return the study.

    Args:
        f: Called with the active parameters by name.
        space: Parameters by name.
        trials: Trials in the study in all.
        options: Every option of `search` but objectives.

    Raises:
        GoalError: An objective is given; `search` is the function for those.

    Example:
        >>> from nbcompress import Float
        >>> found = maximize(lambda x: -(x**2), {"x": Float(-1, 1)}, trials=3, sampler="sobol")
        >>> found.best.values["value"] <= 0
        True
    """
    for name in ("maximize", "minimize"):
        if name in options:
            raise GoalError(
                f"nc.maximize steers by what its function returns; use nc.search for {name}={options[name]!r}."
            )
    parameters = space if isinstance(space, Space) else Space(space)
    metric = next((name for name in _VALUE_NAMES if name not in parameters.names), _VALUE_NAMES[0])
    return search(_Named(f, metric), parameters, maximize=[metric], trials=trials, **options)


@dataclass(frozen=True)
class _Named:
    """Gives the number that a function returns a name."""

    function: Callable[..., Any]
    metric: str

    def __call__(self, **point: Any) -> dict[str, Any]:
        return {self.metric: self.function(**point)}


def place_of(
    g: Callable[..., Any],
    space: Space,
    goal: Goal,
    name: str | None,
    storage: str | os.PathLike[str] | None,
    fresh: bool,
    accept_changes: bool = False,
) -> Place:
    """Return which study is meant: in memory unless a name or a storage is given."""
    body = code_digits(_function_of(g))
    is_made = name is None
    if name is None:
        data = repr((str(space), goal, body)).encode()
        name = f"{_name_of(g)}-{hashlib.blake2b(data, digest_size=4).hexdigest()}"
    elif storage is None:
        storage = DEFAULT_STORAGE
    return Place(name, storage, fresh, is_made, accept_changes, _function_of(g), {"body": body})


def _names(name: str, given: Any) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    if not all(isinstance(one, str) for one in names):
        raise GoalError(f"{name} is a name or a list of names, but got {given!r}.")
    return names


def _points(start: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(start, (list, tuple)) or not all(isinstance(one, Mapping) for one in start):
        raise SearchError(f"start is a list of points such as [{{'x': 0.5}}], but got {start!r}.")
    return tuple(dict(point) for point in start)


def _baseline(given: Any) -> dict[str, float] | None:
    if given is None:
        return None
    try:
        return {str(name): float(value) for name, value in given.items()}
    except (AttributeError, TypeError, ValueError):
        raise SearchError(f"baseline is a dict with a number for each metric, but got {given!r}.") from None


def _function_of(g: Callable[..., Any]) -> Callable[..., Any]:
    return g.function if isinstance(g, _Named) else g


def _name_of(g: Callable[..., Any]) -> str:
    name = getattr(_function_of(g), "__name__", type(g).__name__)
    return name if name.isidentifier() else "search"
