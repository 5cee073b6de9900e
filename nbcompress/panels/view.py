"""A study as plain data: what the live panel, the saved output and the page draw.

The data is JSON without NaN, bounded in size, and described by `schema/study.v1.schema.json`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

from nbcompress.panels.expected import NOTHING, Expectations, expected_data
from nbcompress.panels.limits import LIVE, Limits
from nbcompress.panels.progress import progress_of
from nbcompress.panels.text import cut, cut_middle, finite, scalar
from nbcompress.study.goal import Goal
from nbcompress.study.trial import State, Trial

VERSION = 1
MIME = "application/vnd.nbcompress.study.v1+json"
# The key of the record that holds the cell's source, which may be longer than other texts.
CELL = "cell"
# In the order in which they are counted.
STATES = (State.COMPLETE, State.STOPPED, State.INFEASIBLE, State.FAILED, State.INTERRUPTED, State.RUNNING)
# A condition of more cases than this is not told; its parameter cannot be tried out on a page.
MOST_CASES = 100

JSON = Any


class StudyLike(Protocol):
    """What a view reads of a study."""

    @property
    def name(self) -> str: ...
    @property
    def goal(self) -> Goal: ...
    @property
    def space(self) -> Any: ...
    @property
    def all_trials(self) -> Sequence[Trial]: ...
    @property
    def front(self) -> Sequence[Trial]: ...
    @property
    def best(self) -> Trial | None: ...
    @property
    def record(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Course:
    """How a search goes: what the trials themselves do not say.

    Attributes:
        running: Whether it is still going.
        ending: One sentence on how it ended.
        trials: How many trials were asked for.
        seconds: Its time limit.
        elapsed: Seconds since it started.
        left: Seconds that it will still take, estimated.
    """

    running: bool = False
    ending: str | None = None
    trials: int | None = None
    seconds: float | None = None
    elapsed: float | None = None
    left: float | None = None


@cache
def schema() -> Mapping[str, Any]:
    """Return the JSON schema that every view keeps."""
    text = files("nbcompress.panels").joinpath("schema/study.v1.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@dataclass
class Names:
    """Short names that stay different: what is cut to the same text gets a number."""

    limit: int
    _short: dict[str, str] = field(default_factory=dict)

    def __call__(self, name: str) -> str:
        if name not in self._short:
            short, n = cut(name, self.limit), 2
            while short in self._short.values():
                short, n = f"{cut(name, self.limit)}~{n}", n + 1
            self._short[name] = short
        return self._short[name]


def study_view(
    study: StudyLike,
    *,
    expected: Expectations = NOTHING,
    baseline: Mapping[str, float] | None = None,
    warnings: Iterable[str] = (),
    course: Course | None = None,
    limits: Limits = LIVE,
    names: Names | None = None,
) -> dict[str, JSON]:
    """Return the study as data against the schema.

    Args:
        study: The study, read once: a trial that ends meanwhile is not in the data.
        expected: What its surrogate tells. The surrogate itself is left out where the page could not evaluate it,
            because trials or options that it needs are not shown.
        baseline: Metrics of the original model, by name.
        warnings: One line each.
        course: How the search goes; by default it has ended as its record says.
        limits: How much of the texts, and how many trials.
        names: Gives the short names, where others must be cut alike.
    """
    everything = tuple(study.all_trials)
    course = course or stored_course(study.record, everything)
    front, best = [one.number for one in study.front], study.best
    trials = choose_trials(everything, front, limits.trials)
    name = names or Names(limits.name)
    parameters = parameters_data(study.space, name, limits)
    metrics = metric_names(study.goal, trials)
    shown = {one.number for one in trials}
    progress = progress_of(study.goal, everything)
    values = [value for one, value in zip(everything, progress.values, strict=True) if one.number in shown]
    if expected.surrogate is not None and not is_evaluable(expected.surrogate, study.space, parameters, shown):
        expected = replace(expected, surrogate=None)
    lines = [*warnings, *([expected.remark] if expected.remark else [])]
    return {
        "version": VERSION,
        "name": name(study.name),
        "state": "running" if course.running else "ended",
        "ending": cut(course.ending, limits.message) if course.ending else None,
        "goal": goal_data(study.goal, name),
        "parameters": parameters,
        "metrics": [name(one) for one in metrics],
        "budget": {"trials": course.trials, "seconds": finite(course.seconds)},
        "elapsed": finite(course.elapsed),
        "left": finite(course.left),
        "counts": count_trials(everything),
        "trials": [trial_data(one, name, limits) for one in trials],
        "front": [number for number in front if number in shown],
        "best": best.number if best is not None else None,
        "progress": {"label": cut(progress.label, limits.name + 20), "values": [finite(one) for one in values]},
        "baseline": {name(key): finite(value) for key, value in baseline.items()} if baseline else None,
        "record": plain(study.record, limits),
        "warnings": [cut(one, limits.message) for one in lines],
        "cut": cut_sentence(len(trials), len(everything)),
        **expected_data(expected, name, limits),
    }


def stored_course(record: Mapping[str, Any], trials: Sequence[Trial]) -> Course:
    """Return the course of a search that this process does not run, as far as the study tells it."""
    running = sum(one.state is State.RUNNING for one in trials)
    if running:
        budget = record.get("budget")
        wanted = budget.get("trials") if isinstance(budget, Mapping) else None
        text = "Another process is searching. This is how far it was; show the study again to see more."
        return Course(True, text, wanted if isinstance(wanted, int) else None)
    ending = record.get("ending")
    reason = ending.get("reason") if isinstance(ending, Mapping) else None
    return Course(ending=reason if isinstance(reason, str) else None)


def choose_trials(trials: Sequence[Trial], front: Sequence[int], limit: int) -> tuple[Trial, ...]:
    """Return at most about `limit` trials by number: the front always, then the latest."""
    if len(trials) <= limit:
        return tuple(trials)
    on_front = set(front[:limit])
    others = [one for one in trials if one.number not in on_front]
    latest = {one.number for one in others[len(others) - (limit - len(on_front)) :]}
    return tuple(one for one in trials if one.number in on_front or one.number in latest)


def count_trials(trials: Iterable[Trial]) -> dict[str, int]:
    """Return how many trials are in each state that occurs: of the study, however many of them are shown."""
    counts = Counter(State(one.state) for one in trials)
    return {state.value: counts[state] for state in STATES if counts[state]}


def cut_sentence(shown: int, total: int) -> str | None:
    if shown == total:
        return None
    return f"Shows {shown} of {total} trials: the front and the latest. The study holds them all."


def metric_names(goal: Goal, trials: Sequence[Trial]) -> list[str]:
    """Return the goal's metrics, then every other one that a trial left behind, in order of appearance."""
    return list(dict.fromkeys([*goal.metrics, *(key for one in trials for key in one.values)]))


def goal_data(goal: Goal, name: Names) -> dict[str, JSON]:
    return {
        "objectives": [{"metric": name(one.metric), "direction": one.direction} for one in goal.objectives],
        "constraints": [
            {"metric": name(one.metric), "operator": one.operator, "bound": one.bound} for one in goal.constraints
        ],
    }


def parameters_data(space: Any, name: Names, limits: Limits) -> list[dict[str, JSON]]:
    """Return the axes of a space, each with the cases in which it is active unless it always is."""
    found = []
    for key in space.names:
        data = parameter_data(key, space[key], name, limits)
        cases = space.conditions[key].to_json() if key in space.conditions else []
        if 0 < len(cases) <= MOST_CASES:
            data["when"] = [
                {name(parent): [scalar(one, limits.value) for one in values] for parent, values in case.items()}
                for case in cases
            ]
        found.append(data)
    return found


def is_evaluable(
    surrogate: Mapping[str, JSON], space: Any, parameters: Sequence[Mapping[str, JSON]], shown: Collection[int]
) -> bool:
    """Say whether these data tell a page all that the surrogate's features are made of."""
    if not all(number in shown for one in surrogate["processes"] for number in one["trials"]):
        return False
    for key, data in zip(space.names, parameters, strict=True):
        options = data.get("options")
        if options is not None and len(set(map(repr, options))) < len(space[key].options):
            return False
        if key in space.conditions and "when" not in data:
            return False
    return True


def parameter_data(key: str, parameter: Any, name: Names, limits: Limits) -> dict[str, JSON]:
    """Return one axis of the space: its kind, and its range or options."""
    options = getattr(parameter, "options", None)
    if options is not None:
        shown = [scalar(one, limits.value) for one in tuple(options)[:200]]
        return {"name": name(key), "kind": "choice", "options": shown, "ordered": bool(parameter.is_ordered)}
    kind = "int" if type(parameter).__name__ == "Int" else "float"
    return {
        "name": name(key),
        "kind": kind,
        "low": finite(parameter.low),
        "high": finite(parameter.high),
        "log": bool(parameter.log),
        "step": finite(parameter.step),
    }


def trial_data(trial: Trial, name: Names, limits: Limits) -> dict[str, JSON]:
    """Return one trial; texts that are empty are left out."""
    data: dict[str, JSON] = {
        "number": trial.number,
        "state": State(trial.state).value,
        "params": {name(key): scalar(value, limits.value) for key, value in trial.params.items()},
        "metrics": {name(key): finite(value) for key, value in trial.values.items()},
        "seconds": finite(trial.seconds),
    }
    if trial.failure is not None:
        data["failure"] = {
            "kind": cut(trial.failure.kind, limits.name),
            "message": cut(trial.failure.message, limits.message),
            "traceback": cut_middle(trial.failure.traceback, limits.traceback),
        }
    if trial.printed:
        data["printed"] = cut_middle(trial.printed, limits.printed)
    if trial.reason:
        data["reason"] = cut(trial.reason, limits.message)
    if limits.reports and trial.reports:
        data["reports"] = {
            name(metric): [[finite(step), finite(value)] for step, value in sorted(steps.items())[:200]]
            for metric, steps in trial.reports.items()
        }
    return data


def plain(value: Any, limits: Limits, depth: int = 5) -> JSON:
    """Return anything as bounded JSON: what JSON does not know becomes its text."""
    if isinstance(value, Mapping) and depth:
        pairs = list(value.items())[:200]
        return {
            cut(key, limits.name): cut_middle(one, limits.source)
            if key == CELL and isinstance(one, str)
            else plain(one, limits, depth - 1)
            for key, one in pairs
        }
    if isinstance(value, list | tuple) and depth:
        return [plain(one, limits, depth - 1) for one in value[:200]]
    if value is None or isinstance(value, bool | int | float):
        return scalar(value, limits.value)
    return cut(value, limits.value)
