"""The options of a search: `SearchOptions` is the only list of them and of their defaults.

Also durations (`"10m"`) and stop rules (`"no gain 15"`), which are read from text here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

from nbcompress.choices import INTERRUPTS
from nbcompress.errors import GoalError, SearchError, check_integer, did_you_mean, option, shown
from nbcompress.run.early_stopping import Pruner
from nbcompress.run.memory import bytes_of
from nbcompress.space import Point
from nbcompress.study.goal import Goal, State, Trial

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_NO_GAIN = re.compile(r"no\s+gain\s+(\d+)")
_GAIN_BELOW = re.compile(r"gain\s*<\s*(\S+)")


def seconds_of(duration: str | float) -> float:
    """Return a duration in seconds.

    Args:
        duration: `"90s"`, `"10m"`, `"2h"`, or a number of seconds.

    Raises:
        SearchError: It is none of these, or not above 0.
    """
    seconds: float | None = None
    number: object = duration
    if isinstance(duration, str):
        match = _DURATION.fullmatch(duration.strip())
        seconds = float(match[1]) * _SECONDS[match[2]] if match else None
    elif not isinstance(number, bool) and isinstance(number, Real):
        seconds = float(number)
    if seconds is None or not math.isfinite(seconds) or seconds <= 0:
        raise SearchError(
            f"A time limit is above 0 and reads like 90s, 10m or 2h (a number is seconds), but got {duration!r}."
        )
    return seconds


def described(seconds: float) -> str:
    """Return `"90 s"`, `"10 min"` or `"2 h"`."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


@dataclass(frozen=True)
class NoGain:
    """Ends the search when the last `n` trials brought no better best, or moved the front nowhere.

    Before the first feasible trial there is nothing to be better than, and the search goes on.
    """

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise SearchError(f'"no gain N" needs at least 1 trial, but got {self.n}.')

    def verdict(self, trials: Sequence[Trial], goal: Goal) -> str:
        """Return why the search ends, or an empty string."""
        ended = sorted((trial for trial in trials if trial.state.counts), key=lambda trial: trial.number)
        last = last_gain(ended, goal)
        since = len(ended) - 1 - last
        if last < 0 or since < self.n:
            return ""
        what = "better best" if len(goal.objectives) == 1 else "gain of the front"
        return f'The last {since} trials brought no {what} (stop rule "{self}").'

    def __str__(self) -> str:
        return f"no gain {self.n}"


@dataclass(frozen=True)
class GainBelow:
    """Ends the search when the proposer expects less than `bound` of the next trial."""

    bound: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise SearchError(f'"gain < X" needs a finite number above 0, but got {self.bound!r}.')

    def verdict(self, gain: float | None) -> str:
        """Return why the search ends when the next trial's expected gain is `gain`; None is unknown."""
        if gain is None or not gain < self.bound:
            return ""
        return f'The expected gain of another trial is {gain:.3g} (stop rule "{self}").'

    def __str__(self) -> str:
        return f"gain < {self.bound:g}"


Until = NoGain | GainBelow


def parse_until(text: str) -> Until:
    """Read `"no gain 15"` or `"gain < 0.001"`.

    Raises:
        SearchError: The text is neither.
    """
    stripped = " ".join(str(text).split())
    if match := _NO_GAIN.fullmatch(stripped):
        return NoGain(int(match[1]))
    if match := _GAIN_BELOW.fullmatch(stripped):
        try:
            return GainBelow(float(match[1]))
        except ValueError:
            pass
    raise SearchError(f'A stop rule reads "no gain N" or "gain < X", but got {text!r}. Write for example "no gain 15".')


def last_gain(ended: Sequence[Trial], goal: Goal) -> int:
    """Return the index of the last trial that joined the front of those before it, or -1.

    A trial that equals one of the front brings nothing.
    """
    front: list[tuple[float, ...]] = []
    last = -1
    for index, trial in enumerate(ended):
        if trial.state is not State.COMPLETE or not goal.is_feasible(trial.values):
            continue
        losses = tuple(objective.loss(trial.values[objective.metric]) for objective in goal.objectives)
        if any(_is_no_worse(other, losses) for other in front):
            continue
        front = [other for other in front if not _is_no_worse(losses, other)] + [losses]
        last = index
    return last


def _is_no_worse(left: Sequence[float], right: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(left, right, strict=True))


# What the fields of `SearchOptions` say in their metadata: the part of a study's record that holds the option; whether
# it decides which points are proposed or which trials end early, so that a study warns when it is continued with
# another value; whether it is an argument of the proposer; whether the record leaves it out where it is None.
_BUDGET = {"record": "budget"}
_OPTIONAL = {**_BUDGET, "optional": True}
_SEARCH = {"record": "search"}
_STEERING = {**_SEARCH, "steers": True}
_PROPOSING = {**_STEERING, "proposes": True}


@dataclass(frozen=True)
class SearchOptions:
    """All options of a search, named as the keywords of `nc.search`. Checks and normalizes itself.

    A new option is added here, to the signature of `nc.search` and to the parser of `%%bo_search`.

    Attributes:
        trials: How many trials the study shall have in all.
        timeout: The limit for the search: `"10m"`, seconds, or None.
        trial_timeout: The limit for one run of a trial.
        study: The name of the study, or None for a name that is made from what is searched.
        storage: A path, a URL, or None for the default of the caller.
        fresh: Begin the next generation of a stored study.
        accept_changes: Continue a study although values that it reads have changed.
        start: Points to run first.
        baseline: Metrics of the original model, or None.
        sampler, acquisition, kernel, mean, surrogate: What proposes points; see `nbcompress.choices` and `nc.search`.
        sensitivity: By metric, a number of at least 0 for each name of `each=`; see `nc.search`.
        noise: Pairs of a metric and of the metric that holds its standard deviation; no metric means the objective.
        pruner: The rule of early stopping.
        jobs: Trials at a time.
        repeats: Runs per point.
        seed: Of the search; the seed of every run is made from it.
        finalists: How many of the trials, at the end, run the best points again.
        until: A stop rule as text or object, or None.
        engine: `inline`, `process`, `ray`, `dask`, the address of a cluster, a Dask client, or an executor.
        resources: What a trial takes of a cluster: `"cpus=2, gpus=1"`, a dict, or None.
        retries: How often a trial whose worker was lost is run again.
        trial_memory: The memory that one trial may use: `"4GB"`, bytes, or None.
        keep: Names of kept values to store; empty stores all that trials keep.
        original: The model before, for `test`, or None.
        test: Measures the original and the kept models of the front at the end, on data that no trial saw; or None.
        on_interrupt: What the search does after the first interrupt, when its trials are recorded: `return`, or
            `raise` a `KeyboardInterrupt`.

    Raises:
        SearchError, GoalError: An option has a value that it cannot have.
    """

    trials: int = field(default=30, metadata=_BUDGET)
    timeout: str | float | None = field(default=None, metadata=_BUDGET)
    trial_timeout: str | float | None = field(default=None, metadata=_BUDGET)
    study: str | None = None
    storage: str | os.PathLike[str] | None = None
    fresh: bool = False
    accept_changes: bool = False
    start: tuple[Point, ...] = ()
    baseline: Mapping[str, float] | None = None
    sampler: str = field(default="gp", metadata=_PROPOSING)
    acquisition: Any = field(default="logei", metadata=_PROPOSING)
    kernel: Any = field(default="matern52", metadata=_PROPOSING)
    mean: Any = field(default="constant", metadata=_PROPOSING)
    surrogate: Any = field(default=None, metadata=_PROPOSING)
    sensitivity: Mapping[str, Mapping[str, float]] | None = field(default=None, metadata=_PROPOSING)
    noise: tuple[tuple[str, str], ...] = field(default=(), metadata=_STEERING)
    pruner: str = field(default="none", metadata=_STEERING)
    jobs: int = field(default=1, metadata=_SEARCH)
    repeats: int = field(default=1, metadata=_SEARCH)
    seed: int = field(default=0, metadata=_PROPOSING)
    finalists: int = field(default=0, metadata=_SEARCH)
    until: str | Until | None = field(default=None, metadata=_SEARCH)
    engine: Any = field(default="inline", metadata=_SEARCH)
    resources: str | Mapping[str, float] | None = field(default=None, metadata=_OPTIONAL)
    retries: int = 1
    trial_memory: str | int | None = field(default=None, metadata=_OPTIONAL)
    keep: tuple[str, ...] = ()
    original: Any = None
    test: Any = None
    on_interrupt: str = "return"

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {name: check_integer(name, getattr(self, name), 1) for name in _AT_LEAST_ONE}
        checked["seed"] = check_integer("seed", self.seed)
        checked["finalists"] = check_integer("finalists", self.finalists, 0)
        checked["retries"] = check_integer("retries", self.retries, 0)
        checked["study"] = _study_name(self.study)
        for name in ("timeout", "trial_timeout"):
            value = getattr(self, name)
            if not isinstance(value, (str, bool, int, float)) and isinstance(value, Real):
                checked[name] = float(value)  # a number of NumPy, which JSON does not have
        checked["keep"] = names_of("keep", self.keep)
        checked["noise"] = _noise(self.noise)
        checked["sensitivity"] = _sensitivity(self.sensitivity)
        checked["start"] = _points(self.start)
        checked["baseline"] = _metrics(self.baseline)
        if self.on_interrupt not in INTERRUPTS:
            raise SearchError(
                f"{option('on_interrupt')} is {' or '.join(INTERRUPTS)}, but got {shown(self.on_interrupt)}."
            )
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.finalists > self.trials / 2:
            raise SearchError(
                f"{option('finalists')} is at most half of {option('trials')}, so {self.trials // 2} here, but got "
                f"{self.finalists}: the other trials find what is run again."
            )
        # These raise for a text that they cannot read.
        _ = self.timeout_seconds, self.trial_timeout_seconds, self.stop_rule, self.pruning
        _ = self.engine_arguments

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> SearchOptions:
        """Return the options among the arguments of a call or of a parsed line; the others are ignored."""
        return cls(**{name: value for name, value in arguments.items() if name in OPTION_NAMES})

    @property
    def timeout_seconds(self) -> float | None:
        return None if self.timeout is None else seconds_of(self.timeout)

    @property
    def trial_timeout_seconds(self) -> float | None:
        return None if self.trial_timeout is None else seconds_of(self.trial_timeout)

    @property
    def stop_rule(self) -> Until | None:
        if self.until is None or isinstance(self.until, (NoGain, GainBelow)):
            return self.until
        return parse_until(self.until)

    @property
    def pruning(self) -> Pruner:
        return Pruner(self.pruner)

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """What `engine_of` takes besides the engine."""
        memory = None if self.trial_memory is None else bytes_of(self.trial_memory)
        resources = None if self.resources is None else resources_of(self.resources)
        return {"resources": resources, "retries": self.retries, "memory": memory}

    @property
    def proposer_arguments(self) -> dict[str, Any]:
        """The options that `nbcompress.optimize.proposer` takes."""
        return self._having("proposes")

    @property
    def steering(self) -> dict[str, Any]:
        """The options that decide which points are proposed and which trials end early, as JSON."""
        return {name: _as_json(value) for name, value in self._having("steers").items()}

    def facts(self, engine: str) -> dict[str, Any]:
        """Return what a study's record says about the options, as JSON.

        Args:
            engine: The name of the engine.
        """
        found: dict[str, dict[str, Any]] = {"search": {}, "budget": {}}
        for declared in fields(self):
            part = declared.metadata.get("record")
            if part is not None and not (declared.metadata.get("optional") and getattr(self, declared.name) is None):
                found[part][declared.name.replace("_", " ")] = _as_json(getattr(self, declared.name))
        for name in ("surrogate", "sensitivity", "noise"):
            if not found["search"][name]:
                del found["search"][name]
        found["search"]["until"] = None if self.until is None else str(self.until)
        found["search"]["engine"] = engine
        return found

    def _having(self, trait: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _names_having(trait)}


def _names_having(trait: str) -> tuple[str, ...]:
    return tuple(declared.name for declared in fields(SearchOptions) if declared.metadata.get(trait))


_AT_LEAST_ONE = ("trials", "jobs", "repeats")
OPTION_NAMES = tuple(declared.name for declared in fields(SearchOptions))
STEERING = _names_having("steers")
PROPOSER_OPTIONS = _names_having("proposes")


def names_of(keyword: str, given: Any) -> tuple[str, ...]:
    """Return an option that is a name or a list of names as a tuple.

    Raises:
        GoalError: It is something else.
    """
    names = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    if not all(isinstance(name, str) for name in names):
        raise GoalError(f"{option(keyword)} is a name or a list of names, but got {shown(given)}.")
    return names


def _as_json(value: Any) -> Any:
    """Return an option for a record; an object of GPyTorch or a factory by its name."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, tuple):
        return [list(pair) if isinstance(pair, tuple) else pair for pair in value]
    if isinstance(value, Mapping) and all(isinstance(numbers, Mapping) for numbers in value.values()):
        return {metric: dict(numbers) for metric, numbers in value.items()}
    from nbcompress.optimize.surrogates.protocol import record_of

    return record_of(value)


def _noise(given: Any) -> tuple[tuple[str, str], ...]:
    """Return the option `noise` as pairs of a metric (or an empty text) and a name.

    Raises:
        GoalError: It is no name, no `METRIC=NAME`, no list of these and no dict.
    """
    if isinstance(given, Mapping):
        pairs = [(metric, name) for metric, name in given.items()]
    else:
        texts = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
        pairs = []
        for text in texts:
            if isinstance(text, tuple) and len(text) == 2:
                pairs.append(text)
            elif isinstance(text, str):
                metric, equals, name = text.partition("=")
                pairs.append((metric.strip(), name.strip()) if equals else ("", text.strip()))
            else:
                pairs.append(("", text))
    for metric, name in pairs:
        is_name = isinstance(name, str) and name.isidentifier()
        if not is_name or not isinstance(metric, str) or not (metric == "" or metric.isidentifier()):
            example = option("noise", "accuracy=accuracy_std")
            raise GoalError(
                f"{option('noise')} names the metric that holds a standard deviation, such as {example}, but got "
                f"{shown(given)}."
            )
    metrics = [metric for metric, _ in pairs]
    if len(set(metrics)) < len(metrics):
        raise GoalError(f"{option('noise')} names each metric once, but got {shown(given)}.")
    return tuple(pairs)


def _sensitivity(given: Any) -> dict[str, dict[str, float]] | None:
    """Return the option `sensitivity` as plain numbers: by metric, then by name of `each=`.

    Raises:
        GoalError: It is no such dict, or a number is negative or not finite.
    """
    if given is None:
        return None
    example = option("sensitivity", {"accuracy": {"conv1": 0.2, "conv2": 0.01}})
    if not isinstance(given, Mapping) or not all(isinstance(numbers, Mapping) for numbers in given.values()):
        raise GoalError(
            f"{option('sensitivity')} is a dict by metric of dicts by name of each=, such as {example}, but got "
            f"{shown(given)}. The result of nc.sensitivity is one of these as result.by_layer()."
        )
    found: dict[str, dict[str, float]] = {}
    for metric, numbers in given.items():
        for member, value in numbers.items():
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if not is_number or not 0 <= value < math.inf:
                raise GoalError(
                    f"{option('sensitivity')} has a number of at least 0 for each name, but that of {member!r} for "
                    f"{metric!r} is {shown(value)}. Write the size of the change, without its sign."
                )
        found[metric] = {name: float(value) for name, value in numbers.items()}
    return found


def noise_names(noise: Iterable[Sequence[str]], goal: Goal) -> dict[str, str]:
    """Return by metric of the goal the name of the metric that holds its standard deviation.

    Raises:
        GoalError: There is no such metric, or a bare name with several objectives.
    """
    found: dict[str, str] = {}
    for metric, name in noise:
        if not metric and len(goal.objectives) > 1:
            names = [objective.metric for objective in goal.objectives]
            raise GoalError(
                f"{option('noise', name)} is for one objective, but there are {len(names)}. Write for example "
                f"{option('noise', f'{names[0]}={name}')}."
            )
        metric = metric or goal.objectives[0].metric
        if metric not in goal.metrics:
            raise GoalError(
                f"{option('noise')} is of a metric of the search ({', '.join(goal.metrics)}), but got {metric!r}."
                f"{did_you_mean(metric, goal.metrics)}"
            )
        if name in goal.metrics:
            raise GoalError(f"The noise of {metric!r} is a metric of its own, but {name!r} is searched itself.")
        found[metric] = name
    return found


def resources_of(given: Any) -> dict[str, float]:
    """Return what a trial takes of a cluster, by name.

    Args:
        given: `"cpus=2, gpus=1"`, or a dict from names to numbers.

    Raises:
        SearchError: It is neither, or an amount is not above 0.
    """
    found: dict[str, float] = {}
    try:
        items = given.items() if isinstance(given, Mapping) else (part.split("=") for part in given.split(","))
        for name, amount in items:
            if not str(name).strip() or isinstance(amount, bool) or not 0 < float(amount) < math.inf:
                raise ValueError
            found[str(name).strip()] = float(amount)
    except (AttributeError, TypeError, ValueError):
        example = "cpus=2, gpus=1"
        raise SearchError(
            f"{option('resources')} gives a number above 0 for each name, as in {example!r}, but got {shown(given)}."
        ) from None
    return found


def _study_name(name: Any) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or not name.strip():
        raise SearchError(f"{option('study')} is a name, which is a str and not empty, but got {shown(name)}.")
    if set(name) & set("${}"):
        raise SearchError(f"{option('study')} is a name without the characters $, {{ and }}, but got {shown(name)}.")
    return name


def _points(start: Any) -> tuple[Point, ...]:
    if not isinstance(start, (list, tuple)) or not all(isinstance(point, Mapping) for point in start):
        raise SearchError(f"{option('start')} is a list of dicts such as [{{'x': 0.5}}], but got {shown(start)}.")
    return tuple(dict(point) for point in start)


def _metrics(baseline: Any) -> dict[str, float] | None:
    if baseline is None:
        return None
    try:
        if any(isinstance(value, (bool, str)) for value in baseline.values()):
            raise TypeError
        return {str(name): float(value) for name, value in baseline.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise SearchError(
            f"{option('baseline')} is a dict with a number for each metric, but got {shown(baseline)}."
        ) from None
