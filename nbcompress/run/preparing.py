"""What every search needs before its first trial: options checked, study opened, facts noted. For functions and cells.

Nothing is opened before everything is checked, so that a mistake leaves no study behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

from nbcompress.run.data_record import data_facts
from nbcompress.run.finals import Finals
from nbcompress.run.fingerprints import fingerprints
from nbcompress.run.keeping import Modules, give_shelf
from nbcompress.run.limits import Until, seconds_of, until_of
from nbcompress.run.loop import run
from nbcompress.run.plan import Plan
from nbcompress.run.provenance import note, provenance
from nbcompress.run.pruner import Pruner
from nbcompress.run.taking import taken
from nbcompress.study.values import Values, changed_paths

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.run.controls import Controls
    from nbcompress.run.engines import Engine
    from nbcompress.run.observers import Ending, Observer
    from nbcompress.run.outcome import Evaluate
    from nbcompress.space import Point, Space
    from nbcompress.study import Study
    from nbcompress.study.goal import Goal


# What decides which points are proposed and which trials end early. Trials before a change were run with the old ones.
STEERING = ("sampler", "acquisition", "kernel", "mean", "pruner", "seed")


@dataclass(frozen=True)
class Options:
    """The options of a search, as they are typed; the names are the keywords of `nc.search`."""

    trials: int = 30
    timeout: str | float | None = None
    trial_timeout: str | float | None = None
    start: tuple[Point, ...] = ()
    sampler: str = "gp"
    acquisition: str = "logei"
    kernel: str = "matern52"
    mean: str = "constant"
    pruner: str = "none"
    until: str | Until | None = None
    jobs: int = 1
    repeats: int = 1
    keep: tuple[str, ...] = ()
    seed: int = 0
    finalists: int = 0

    def plan(self) -> Plan:
        """Return what the loop reads.

        Raises:
            SearchError: An option cannot be used.
        """
        return Plan(
            trials=self.trials,
            timeout=None if self.timeout is None else seconds_of(self.timeout),
            trial_timeout=None if self.trial_timeout is None else seconds_of(self.trial_timeout),
            jobs=self.jobs,
            until=until_of(self.until),
            repeats=self.repeats,
            seed=self.seed,
            sampler=self.sampler,
            start=self.start,
            pruner=Pruner(self.pruner),
            keep=self.keep,
            finalists=self.finalists,
        )

    def proposer(self, space: Space, goal: Goal) -> Proposer:
        """Return what proposes points.

        Raises:
            SearchError: No sampler has this name, or it cannot search this space.
            GoalError: It cannot steer by that many objectives, or there is no such part of the surrogate.
        """
        from nbcompress.optimize import proposer

        return proposer(
            self.sampler,
            space,
            n_objectives=len(goal.objectives),
            n_constraints=len(goal.constraints),
            seed=self.seed,
            acquisition=self.acquisition,
            kernel=self.kernel,
            mean=self.mean,
        )

    def facts(self, engine: Engine) -> dict[str, Any]:
        """Return what a study's record says about them, as JSON."""
        chosen = ("sampler", "acquisition", "kernel", "mean", "pruner", "jobs", "repeats", "seed", "finalists")
        until = None if self.until is None else str(self.until)
        budget = {"trials": self.trials, "timeout": self.timeout, "trial timeout": self.trial_timeout}
        search = {**{name: getattr(self, name) for name in chosen}, "until": until, "engine": engine.name}
        return {"search": search, "budget": budget}


@dataclass(frozen=True)
class Place:
    """Which study a search begins or continues.

    Attributes:
        name: Of the study.
        storage: A path, a URL, or None for memory.
        fresh: Begin its next generation.
        is_made: Nobody chose the name: a generation of it is continued only with the values that it was begun with.
        accept_changes: Go on in spite of another value.
        identity: What the study only warns about when it differs, such as a hash of the body.
        function: What is searched, if it is a function and no cell.
        modules: Returns the modules that kept ones are loaded into.
    """

    name: str
    storage: str | os.PathLike[str] | None
    fresh: bool = False
    is_made: bool = False
    accept_changes: bool = False
    function: Callable[..., Any] | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    modules: Modules = dict


@dataclass(frozen=True)
class Search:
    """A search that can start.

    Attributes:
        study: Opened: begun anew or continued.
        proposer: What proposes points.
        evaluate: Runs a trial.
        engine: Where trials run.
        plan: How much is run and how.
        baseline: Metrics of the original model.
    """

    study: Study
    proposer: Proposer
    evaluate: Evaluate
    engine: Engine
    plan: Plan
    baseline: Mapping[str, float] | None = None
    take: Callable[[], Values] | None = None

    def run(self, observers: Sequence[Observer] = (), controls: Controls | None = None) -> Ending:
        """Run it to its end; see `loop.run`. Note what of the values that it reads its trials wrote into."""
        before = self.take() if self.take is not None else None
        try:
            return run(
                self.study,
                self.proposer,
                self.evaluate,
                self.plan,
                self.engine,
                observers=observers,
                controls=controls,
            )
        finally:
            # In the background other cells run meanwhile, and what they write is not the body's.
            if before is not None and self.take is not None and current_thread() is main_thread():
                changed = changed_paths(before, self.take())
                if changed:
                    self.study.annotate_written(changed)


def _searches(study: Study, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts about this search, and what steered the trials before it where that was something else."""
    earlier, now = study.record.get("search", {}), facts["search"]
    before = [earlier["before"]] if "before" in earlier else []
    changed = [f"{name} {earlier[name]}" for name in STEERING if name in earlier and earlier[name] != now[name]]
    if changed and study.all_trials:
        before.append(f"up to trial {len(study.all_trials) - 1}: {', '.join(changed)}")
    return {**facts, "search": {**now, **({"before": "; ".join(before)} if before else {})}}


def prepare(
    options: Options,
    evaluate: Evaluate,
    space: Space,
    goal: Goal,
    engine: Engine,
    place: Place,
    *,
    baseline: Mapping[str, float] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Search:
    """Check every option, open the study, note the facts, and return what can start.

    Args:
        facts: What else the record of the study holds, such as the text of a cell.

    Raises:
        SearchError, GoalError, PointError, TransportError: An option cannot be used; nothing was opened.
        StudyChanged: The stored study has other parameters, objectives or constraints, or was begun with other values.
        StudyError: It cannot be opened, or is being searched in this process.
    """
    from nbcompress.study import open_study

    def take() -> Values:
        return taken(getattr(evaluate, "reads", dict)(), place.function, getattr(evaluate, "written", frozenset)())

    plan, proposes = options.plan(), options.proposer(space, goal)
    if plan.finalists:
        Finals(space, goal)
    plan.check(space, proposes, engine, evaluate)
    reads: dict[str, Any] = getattr(evaluate, "reads", dict)()
    data = data_facts(reads)
    steering = {name: getattr(options, name) for name in STEERING}
    identity = {**place.identity, **data.identity, **fingerprints(reads), **steering}
    is_stored = place.storage is not None
    study = open_study(
        place.name,
        space,
        goal,
        storage=place.storage,
        fresh=place.fresh,
        identity=identity,
        values=take() if is_stored else None,
        is_made=place.is_made,
        accept_changes=place.accept_changes,
    )
    study.check_free()
    give_shelf(study, place.modules)
    if sum(one.state.counts for one in study.all_trials) < plan.trials or "search" not in study.record:
        note(study, **(facts or {}), **_searches(study, options.facts(engine)), **data.to_json(), **provenance())
    if baseline is not None:
        note(study, baseline=dict(baseline))
    return Search(study, proposes, evaluate, engine, plan, baseline, take if is_stored else None)
