"""A study as plain data, which the live panel, the saved output and the page of a report draw.

The data is JSON without NaN, bounded in size, and described by `schema/study.v1.schema.json`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nbcompress.panels.surrogate_data import NO_INSIGHT, SurrogateInsight, insight_data
from nbcompress.panels.text import LIVE_LIMITS, ViewLimits, finite, format_value, scalar, shorten, shorten_middle
from nbcompress.run.held_out import held_out_rows
from nbcompress.study.front import hypervolume
from nbcompress.study.goal import Goal, State, Trial
from nbcompress.study.trial_list import metric_names

# With more objectives the hypervolume takes too long, and the progress of the first objective is shown.
MAX_HYPERVOLUME_OBJECTIVES = 4
# For the hypervolume, losses beyond this one count as this one: a product of four must stay within a float.
MAX_HYPERVOLUME_LOSS = 1e70


@dataclass(frozen=True)
class ProgressCurve:
    """How far a search has come after each trial.

    Attributes:
        label: What the values are, such as `best accuracy`.
        values: A value for each trial; None before the first feasible one.
        reference: The point from which a hypervolume is measured, in the units of the objectives.
    """

    label: str
    values: tuple[float | None, ...]
    reference: Mapping[str, float] | None = None

    def head(self, name: ShortNames, limits: ViewLimits) -> dict[str, JSON]:
        """Return the curve as data, without its values."""
        label = {"label": shorten(self.label, limits.name + 20)}
        if self.reference is None:
            return label
        return {**label, "reference": {name(key): finite(value) for key, value in self.reference.items()}}


def progress_of(goal: Goal, trials: Sequence[Trial]) -> ProgressCurve:
    """Return the best value so far of the first objective, or the hypervolume so far for 2 to 4 objectives.

    The reference point of the hypervolume is the worst value of any complete trial in every objective, moved outward
    by a tenth of the range, so that the ends of the front count.
    """
    if not 2 <= len(goal.objectives) <= MAX_HYPERVOLUME_OBJECTIVES:
        return _best_so_far(goal, trials)
    measured = [losses_of(goal, trial) for trial in trials]
    limit = MAX_HYPERVOLUME_LOSS
    known = np.array([loss for loss in measured if loss is not None]).clip(-limit, limit)
    if not len(known):
        return ProgressCurve("hypervolume", tuple(None for _ in trials))
    spread = known.max(axis=0) - known.min(axis=0)
    reference = known.max(axis=0) + 0.1 * np.where(spread > 0, spread, 1.0)
    front = np.empty((0, len(goal.objectives)))
    volume: float | None = None
    values: list[float | None] = []
    rows = iter(known)
    for loss in measured:
        if loss is not None:
            row = next(rows)
            if not (front <= row).all(axis=1).any():
                front = np.vstack([front[~(front >= row).all(axis=1)], row])
                volume = float(hypervolume(front, reference))
        values.append(volume)
    point = {
        objective.metric: objective.loss(float(loss))
        for objective, loss in zip(goal.objectives, reference, strict=True)
    }
    return ProgressCurve("hypervolume", tuple(values), point)


def losses_of(goal: Goal, trial: Trial) -> NDArray[np.float64] | None:
    """Return the objectives of a complete, feasible trial as losses, else None."""
    if trial.state is not State.COMPLETE or not goal.is_feasible(trial.values):
        return None
    values = [trial.values.get(objective.metric) for objective in goal.objectives]
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    return np.array(
        [objective.loss(value) for objective, value in zip(goal.objectives, values, strict=True) if value is not None]
    )


def _best_so_far(goal: Goal, trials: Sequence[Trial]) -> ProgressCurve:
    objective = goal.objectives[0]
    best: float | None = None
    values: list[float | None] = []
    for trial in trials:
        losses = losses_of(goal, trial)
        if losses is not None and (best is None or losses[0] < best):
            best = float(losses[0])
        values.append(None if best is None else objective.loss(best))
    return ProgressCurve(f"best {objective.metric}", tuple(values))


VERSION = 1
MIME = "application/vnd.nbcompress.study.v1+json"
# The key of the record that holds the source of the cell, which may be longer than other texts.
CELL_KEY = "cell"
# In the order in which the counts are shown.
STATES = (State.COMPLETE, State.STOPPED, State.INFEASIBLE, State.FAILED, State.INTERRUPTED, State.RUNNING)
# A condition with more cases than this is not in the data, so a page does not know when its parameter is active.
MAX_CASES = 100

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
class SearchStatus:
    """The status of a search, beside its trials.

    Attributes:
        running: Whether the search runs.
        ending: One sentence on how it ended.
        trials: How many trials were asked for.
        seconds: Its time limit.
        elapsed: Seconds since it started.
        left: Estimate of the seconds until it ends.
    """

    running: bool = False
    ending: str | None = None
    trials: int | None = None
    seconds: float | None = None
    elapsed: float | None = None
    left: float | None = None


@cache
def schema() -> Mapping[str, Any]:
    """Return the JSON schema of views."""
    text = files("nbcompress.panels").joinpath("schema/study.v1.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@dataclass
class ShortNames:
    """Shortens names. Different names stay different: a number is added where two have the same short form."""

    limit: int
    _short: dict[str, str] = field(default_factory=dict)

    def __call__(self, name: str) -> str:
        if name not in self._short:
            short, n = shorten(name, self.limit), 2
            while short in self._short.values():
                short, n = f"{shorten(name, self.limit)}~{n}", n + 1
            self._short[name] = short
        return self._short[name]


def study_view(
    study: StudyLike,
    *,
    insight: SurrogateInsight = NO_INSIGHT,
    baseline: Mapping[str, float] | None = None,
    warnings: Iterable[str] = (),
    status: SearchStatus | None = None,
    limits: ViewLimits = LIVE_LIMITS,
    names: ShortNames | None = None,
) -> dict[str, JSON]:
    """Return the study as data against the schema.

    Args:
        study: The study. Its trials are read once, so a trial that ends meanwhile is not in the data.
        insight: What its surrogate predicts. The surrogate itself is left out if the page could not evaluate it,
            because trials or options that it needs are not in the data.
        baseline: Metrics of the original model, by name.
        warnings: One line each.
        status: Status of the search; by default what the study has stored.
        limits: The most characters of each text, and the most trials.
        names: Shortens the names; give it to have the same short names as elsewhere.
    """
    everything = tuple(study.all_trials)
    lines = [*warnings]
    status = status or stored_status(study.record, everything)
    if not status.running and status.elapsed is None:
        # This run of the search began no trial, so an earlier one is shown.
        status = replace(status, elapsed=stored_seconds(study.record, everything))
        lines += stored_warnings(study.record)
    lines = list(dict.fromkeys([*lines, *([insight.warning] if insight.warning else [])]))
    front, best = [trial.number for trial in study.front], study.best
    trials = choose_trials(everything, front, limits.trials)
    name = names or ShortNames(limits.name)
    parameters = parameters_data(study.space, name, limits)
    metrics = metric_names(study.goal, trials)
    shown = {trial.number for trial in trials}
    progress = progress_of(study.goal, everything)
    values = [value for trial, value in zip(everything, progress.values, strict=True) if trial.number in shown]
    if insight.surrogate is not None and not is_evaluable(insight.surrogate, study.space, parameters, shown):
        insight = replace(insight, surrogate=None)
    return {
        "version": VERSION,
        "name": name(study.name),
        "state": "running" if status.running else "ended",
        "ending": shorten(status.ending, limits.message) if status.ending else None,
        "goal": goal_data(study.goal, name),
        "parameters": parameters,
        "metrics": [name(metric) for metric in metrics],
        "budget": {"trials": status.trials, "seconds": finite(status.seconds)},
        "elapsed": finite(status.elapsed),
        "left": finite(status.left),
        "counts": count_trials(everything),
        "trials": [trial_data(trial, name, limits) for trial in trials],
        "kept": kept_data(trials, limits),
        "front": [number for number in front if number in shown],
        "best": best.number if best is not None else None,
        "progress": {**progress.head(name, limits), "values": [finite(value) for value in values]},
        "baseline": {name(key): finite(value) for key, value in baseline.items()} if baseline else None,
        **held_out_data(study, limits),
        "record": bounded_json({key: fact for key, fact in study.record.items() if key != "test"}, limits),
        "warnings": [shorten(line, limits.message) for line in lines],
        "cut": cut_sentence(len(trials), len(everything)),
        **insight_data(insight, name, limits),
    }


def stored_status(record: Mapping[str, Any], trials: Sequence[Trial]) -> SearchStatus:
    """Return the status of a search that this process does not run, from what the study has stored."""
    running = sum(trial.state is State.RUNNING for trial in trials)
    if running:
        budget = record.get("budget")
        wanted = budget.get("trials") if isinstance(budget, Mapping) else None
        text = "Another process runs this search. This is how far it had come; show the study again to see more."
        return SearchStatus(True, text, wanted if isinstance(wanted, int) else None)
    ending = record.get("ending")
    parts = [ending.get(key) for key in ("reason", "kept")] if isinstance(ending, Mapping) else []
    test = record.get("test")
    parts[1:1] = [test.get("sentence")] if isinstance(test, Mapping) else []
    return SearchStatus(ending=" ".join(part for part in parts if isinstance(part, str)) or None)


def stored_seconds(record: Mapping[str, Any], trials: Sequence[Trial]) -> float | None:
    """Return how long the latest search of a study took, or None while one runs or if it is not known."""
    ending = record.get("ending")
    if not isinstance(ending, Mapping) or any(trial.state is State.RUNNING for trial in trials):
        return None
    return finite(ending.get("seconds"))


def stored_warnings(record: Mapping[str, Any]) -> list[str]:
    """Return what the latest search of a study warned of."""
    ending = record.get("ending")
    warnings = ending.get("warnings") if isinstance(ending, Mapping) else None
    return [text for text in warnings if isinstance(text, str)] if isinstance(warnings, list | tuple) else []


def choose_trials(trials: Sequence[Trial], front: Sequence[int], limit: int) -> tuple[Trial, ...]:
    """Return at most about `limit` trials in the order of their numbers: the whole front and the latest others."""
    if len(trials) <= limit:
        return tuple(trials)
    on_front = set(front[:limit])
    others = [trial for trial in trials if trial.number not in on_front]
    latest = {other.number for other in others[len(others) - (limit - len(on_front)) :]}
    return tuple(trial for trial in trials if trial.number in on_front or trial.number in latest)


def count_trials(trials: Iterable[Trial]) -> dict[str, int]:
    """Return the number of trials in each state that occurs."""
    counts = Counter(State(trial.state) for trial in trials)
    return {state.value: counts[state] for state in STATES if counts[state]}


def cut_sentence(shown: int, total: int) -> str | None:
    """Return the sentence for data that lack trials of the study, else None."""
    if shown == total:
        return None
    return f"Shows {shown} of {total} trials: the front and the latest. The study holds all of them."


def held_out_data(study: StudyLike, limits: ViewLimits) -> dict[str, JSON]:
    """Return the table of what was measured on data that no trial saw, or nothing."""
    rows = held_out_rows(study.front, study.record)
    if not rows:
        return {}
    metrics = list(dict.fromkeys(name for row in rows for name in row["values"]))
    columns = ["model", *(f"{name} {where}" for name in metrics for where in ("on unseen data", "in the search")), ""]
    texts = [
        [row["label"], *(text for name in metrics for text in _held_out_texts(row, name)), row["note"]] for row in rows
    ]
    return {
        "test": {
            "columns": [shorten(column, limits.name + 20) for column in columns],
            "rows": [[shorten(text, limits.message) for text in row] for row in texts],
        }
    }


def _held_out_texts(row: Mapping[str, Any], name: str) -> tuple[str, str]:
    value, own = row["values"].get(name), row["search"].get(name)
    shown = "" if value is None else format_value(value[0])
    if value is not None and value[1] is not None:
        shown += f" ({format_value(value[1])} to {format_value(value[2])})"
    return shown, "" if own is None else format_value(own)


def goal_data(goal: Goal, name: ShortNames) -> dict[str, JSON]:
    return {
        "objectives": [
            {"metric": name(objective.metric), "direction": objective.direction} for objective in goal.objectives
        ],
        "constraints": [
            {"metric": name(constraint.metric), "operator": constraint.operator, "bound": constraint.bound}
            for constraint in goal.constraints
        ],
    }


def parameters_data(space: Any, name: ShortNames, limits: ViewLimits) -> list[dict[str, JSON]]:
    """Return the parameters of a space; one that is not always active has the cases in which it is."""
    parameters = []
    for key in space.names:
        data = parameter_data(key, space[key], name, limits)
        cases = space.conditions[key].to_json() if key in space.conditions else []
        if 0 < len(cases) <= MAX_CASES:
            data["when"] = [
                {name(parent): [scalar(value, limits.value) for value in values] for parent, values in case.items()}
                for case in cases
            ]
        parameters.append(data)
    return parameters


def is_evaluable(
    surrogate: Mapping[str, JSON], space: Any, parameters: Sequence[Mapping[str, JSON]], shown: Collection[int]
) -> bool:
    """Return whether a page can compute the features of the surrogate from these data."""
    if not all(number in shown for process in surrogate["processes"] for number in process["trials"]):
        return False
    for key, data in zip(space.names, parameters, strict=True):
        options = data.get("options")
        if options is not None and len(set(map(repr, options))) < len(space[key].options):
            return False
        if key in space.conditions and "when" not in data:
            return False
    return True


def parameter_data(key: str, parameter: Any, name: ShortNames, limits: ViewLimits) -> dict[str, JSON]:
    """Return one parameter of the space: its kind, and its range or options."""
    options = getattr(parameter, "options", None)
    if options is not None:
        shown = [scalar(option, limits.value) for option in tuple(options)[:200]]
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


def trial_data(trial: Trial, name: ShortNames, limits: ViewLimits) -> dict[str, JSON]:
    """Return one trial, without texts that are empty."""
    data: dict[str, JSON] = {
        "number": trial.number,
        "state": State(trial.state).value,
        "params": {name(key): scalar(value, limits.value) for key, value in trial.params.items()},
        "metrics": {name(key): finite(value) for key, value in trial.values.items()},
        "seconds": finite(trial.seconds),
    }
    for key, moment in (("started", trial.started), ("ended", trial.ended)):
        if moment is not None and finite(moment) is not None:
            data[key] = round(moment, 3)  # `finite` would drop the seconds of a number since 1970
    if trial.worker:
        data["worker"] = shorten(trial.worker, limits.name)
    if trial.failure is not None:
        data["failure"] = {
            "kind": shorten(trial.failure.kind, limits.name),
            "message": shorten(trial.failure.message, limits.message),
            "traceback": shorten_middle(trial.failure.traceback, limits.traceback),
        }
    if trial.printed:
        data["printed"] = shorten_middle(trial.printed, limits.printed)
    if trial.reason:
        data["reason"] = shorten(trial.reason, limits.message)
    if limits.reports and trial.reports:
        data["reports"] = {
            name(metric): [[finite(step), finite(value)] for step, value in sorted(steps.items())[:200]]
            for metric, steps in trial.reports.items()
        }
    return data


def kept_data(trials: Iterable[Trial], limits: ViewLimits) -> dict[str, JSON]:
    """Return the names of what trials keep, by number; only complete trials keep anything."""
    # Of an iterator, since a list of the mapping itself looks at the folder of the trial twice.
    kept = {str(trial.number): list(iter(trial.kept)) for trial in trials if trial.state is State.COMPLETE}
    return {number: [shorten(key, limits.name) for key in keys[:20]] for number, keys in kept.items() if keys}


def bounded_json(value: Any, limits: ViewLimits, depth: int = 5) -> JSON:
    """Return any value as JSON of bounded size; what JSON does not have becomes its text."""
    if isinstance(value, Mapping) and depth:
        pairs = list(value.items())[:200]
        return {
            shorten(key, limits.name): shorten_middle(item, limits.source)
            if key == CELL_KEY and isinstance(item, str)
            else bounded_json(item, limits, depth - 1)
            for key, item in pairs
        }
    if isinstance(value, list | tuple) and depth:
        return [bounded_json(item, limits, depth - 1) for item in value[:200]]
    if value is None or isinstance(value, bool | int | float):
        return scalar(value, limits.value)
    return shorten(value, limits.value)
