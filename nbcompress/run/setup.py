"""Set up a search: check every option, open the study, record how it is run. For cells, functions and `compat`.

Nothing is opened before everything is checked, so that a mistake leaves no study behind.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nbcompress.errors import GoalError, SearchError, option
from nbcompress.run.data_read import measured_in_training
from nbcompress.run.engines import engine_of
from nbcompress.run.held_out import held_out_test
from nbcompress.run.history import HistoryCache
from nbcompress.run.kept import Modules, attach_artifact_store
from nbcompress.run.loop import Search
from nbcompress.run.options import STEERING, GainBelow, SearchOptions, noise_names
from nbcompress.run.predictor import SearchPredictor
from nbcompress.run.record import code_and_models, code_digits, data_facts, fingerprints, note, provenance
from nbcompress.run.reevaluation import Reevaluation
from nbcompress.run.rerun import Rerunner
from nbcompress.run.snapshot import snapshot_values
from nbcompress.study.snapshot import Snapshot
from nbcompress.study.storage import DEFAULT_STORAGE

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.run.engines import Engine
    from nbcompress.run.outcome import Evaluator
    from nbcompress.space import Space
    from nbcompress.study import Study
    from nbcompress.study.goal import Goal


@dataclass(frozen=True)
class StudyLocation:
    """The name and the storage of the study that a search begins or continues.

    Attributes:
        name: Of the study.
        storage: A path, a URL, or None for memory.
        is_made: The user did not choose the name. A generation is then continued only with the same values.
    """

    name: str
    storage: str | os.PathLike[str] | None
    is_made: bool = False

    @classmethod
    def of_cell(cls, options: SearchOptions, made_name: str) -> StudyLocation:
        """Return where the study of a cell is: stored, in the default journal unless a storage is given."""
        return cls(options.study or made_name, options.storage or DEFAULT_STORAGE, not options.study)

    @classmethod
    def of_function(
        cls, options: SearchOptions, function: Callable[..., Any], space: Space, goal: Goal
    ) -> StudyLocation:
        """Return where the study of a function is: in memory unless a name or a storage is given."""
        data = repr((str(space), goal, code_digits(function))).encode()
        name = getattr(function, "__name__", type(function).__name__)
        name = name if name.isidentifier() else "search"
        return cls.of_call(options, f"{name}-{hashlib.blake2b(data, digest_size=4).hexdigest()}")

    @classmethod
    def of_call(cls, options: SearchOptions, made_name: str) -> StudyLocation:
        """Return where the study of a call is: in memory unless a name or a storage is given."""
        if options.study is not None:
            return cls(options.study, DEFAULT_STORAGE if options.storage is None else options.storage)
        return cls(made_name, options.storage, is_made=True)


def proposer_of(options: SearchOptions, space: Space, goal: Goal) -> Proposer:
    """Return what proposes points.

    Raises:
        SearchError: No sampler has this name, or it cannot search this space.
        GoalError: It cannot steer by that many objectives, or the surrogate has no such part.
    """
    from nbcompress.optimize import proposer
    from nbcompress.run.predictor import by_role

    arguments = {**options.proposer_arguments, "surrogate": by_role(options.surrogate, goal)}
    sensitivity = by_role(options.sensitivity, goal, "sensitivity") or {}
    arguments["sensitivity"] = {role: numbers for role, numbers in sensitivity.items() if numbers is not None}
    labels = {f"loss {j}": part.metric for j, part in enumerate(goal.objectives)} | {
        f"slack {j}": part.metric for j, part in enumerate(goal.constraints)
    }
    n_objectives, n_constraints = len(goal.objectives), len(goal.constraints)
    return proposer(space=space, n_objectives=n_objectives, n_constraints=n_constraints, labels=labels, **arguments)


def check_search(options: SearchOptions, space: Space, goal: Goal, proposer: Proposer, engine: Engine) -> SearchOptions:
    """Check the options against what the search runs with, and return them with checked start points.

    Raises:
        PointError: A start point is not in the space.
        SearchError: The engine runs one job at a time, the proposer cannot tell what the stop rule needs, or there are
            finalists of several objectives.
    """
    if options.finalists:
        Reevaluation(space, goal, _predictor_of(options, goal))
    start = tuple(space.check(point) for point in options.start)
    if engine.is_serial and options.jobs > 1:
        jobs = option("jobs", options.jobs)
        raise SearchError(f"{jobs} needs another engine: {engine.name} runs one trial at a time.")
    if isinstance(options.stop_rule, GainBelow):
        _check_gain(proposer, options.stop_rule)
    return replace(options, start=start)


def _predictor_of(options: SearchOptions, goal: Goal) -> SearchPredictor:
    return SearchPredictor(options.surrogate, options.kernel, options.mean, noise_names(options.noise, goal))


def _check_gain(proposer: Proposer, rule: GainBelow) -> None:
    from nbcompress.optimize import SurrogateProposer

    if not isinstance(proposer, SurrogateProposer):
        raise SearchError(
            f"{option('until', str(rule))} needs a sampler that expects a gain, which is gp. "
            f"With another one write for example {option('until', 'no gain 15')}."
        )


def prepare_search(
    options: SearchOptions,
    evaluator: Evaluator,
    space: Space,
    goal: Goal,
    location: StudyLocation,
    *,
    digest: str,
    function: Callable[..., Any] | None = None,
    modules: Modules = dict,
    engine_name: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Search:
    """Check every option, open the study, record how it is run, and return a search that can start.

    Args:
        options: Of the search.
        evaluator: Runs a trial, and tells what it reads.
        space: The parameters.
        goal: Objectives and constraints.
        location: The study.
        digest: Of the code that a trial runs. A study only warns when it differs.
        function: The function that is searched, if it is no cell.
        modules: Returns the modules that kept ones are loaded into.
        engine_name: What the user calls an executor.
        facts: What else the record of the study holds, such as the text of a cell.

    Raises:
        SearchError, GoalError, PointError, TransportError: An option cannot be used; nothing was opened.
        StudyChanged: The stored study has other parameters, objectives or constraints, or was begun with other values.
        StudyError: It cannot be opened, or is being searched in this process.
    """
    from nbcompress.study import open_study
    from nbcompress.study.registration import register_study

    def take_snapshot() -> Snapshot:
        return snapshot_values(evaluator.reads(), function, evaluator.written())

    engine = engine_of(options.engine, engine_name, **options.engine_arguments)
    noise = noise_names(options.noise, goal)
    for name in noise.values():
        if name in space.names:
            raise GoalError(f"No name is both a parameter and a metric, but {option('noise')} names {name!r}.")
    proposer = proposer_of(options, space, goal)
    options = check_search(options, space, goal, proposer, engine)
    code = evaluator.code()
    test = held_out_test(options, code, evaluator.reads())
    engine.prepare(evaluator, options.jobs)
    try:
        reads = evaluator.reads()
        data = data_facts(reads)
        is_stored = location.storage is not None
        study = open_study(
            location.name,
            space,
            goal,
            storage=location.storage,
            fresh=options.fresh,
            identity={"body": digest, **data.identity, **fingerprints(reads), **options.steering},
            snapshot=take_snapshot() if is_stored else None,
            is_generated_name=location.is_made,
            accept_changes=options.accept_changes,
        )
        study.check_not_searched()
        register_study(study.storage, study.name, is_searched=True)
        attach_artifact_store(study, modules)
        told = "" if code is None else measured_in_training(code, goal.metrics)
        study.warnings += (told,) if told else ()
        if sum(trial.state.counts for trial in study.all_trials) < options.trials or "search" not in study.record:
            how = _with_earlier(study, options.facts(engine.name))
            note(study, **(facts or {}), **how, **data.to_json(), **code_and_models(reads), **provenance())
        if options.baseline is not None:
            note(study, baseline=dict(options.baseline))
        study.rerunner = Rerunner(
            evaluator.reusable(),
            lambda: engine_of(options.engine, engine_name, **options.engine_arguments),
            options.trial_timeout_seconds,
            options.keep,
            options.repeats,
        )
        study.predictor = _predictor_of(options, goal)
        take, histories = take_snapshot if is_stored else None, HistoryCache(noise)
        return Search(study, proposer, evaluator, engine, options, take, test, histories=histories)
    except BaseException:
        engine.close()
        raise


def prepare_function_search(
    options: SearchOptions, evaluator: Evaluator, function: Callable[..., Any], space: Space, goal: Goal
) -> Search:
    """Return a search of a function that can start; see `prepare_search`."""
    location = StudyLocation.of_function(options, function, space, goal)
    return prepare_search(options, evaluator, space, goal, location, digest=code_digits(function), function=function)


def _with_earlier(study: Study, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts about this search, with the steering options of earlier trials where they were different."""
    earlier, now = study.record.get("search", {}), facts["search"]
    before = [earlier["before"]] if "before" in earlier else []
    changed = [f"{name} {earlier[name]}" for name in STEERING if name in earlier and earlier[name] != now.get(name)]
    if changed and study.all_trials:
        before.append(f"up to trial {len(study.all_trials) - 1}: {', '.join(changed)}")
    return {**facts, "search": {**now, **({"before": "; ".join(before)} if before else {})}}
