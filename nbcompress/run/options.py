"""How much is run and how: the options of a search that the loop reads, checked once.

How long a search goes on: durations and stop rules, read from text once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbcompress.errors import SearchError, option
from nbcompress.run.early_stopping import Pruner
from nbcompress.run.transport import pack
from nbcompress.study.goal import Goal, State, Trial

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.run.engines import Engine
    from nbcompress.run.outcome import Evaluate
    from nbcompress.space import Point, Space


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
    if isinstance(duration, str):
        match = _DURATION.fullmatch(duration.strip())
        seconds = float(match[1]) * _SECONDS[match[2]] if match else None
    elif isinstance(duration, (int, float)) and not isinstance(duration, bool):
        seconds = float(duration)
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
    stripped = " ".join(text.split())
    if match := _NO_GAIN.fullmatch(stripped):
        return NoGain(int(match[1]))
    if match := _GAIN_BELOW.fullmatch(stripped):
        try:
            return GainBelow(float(match[1]))
        except ValueError:
            pass
    raise SearchError(f'A stop rule reads "no gain N" or "gain < X", but got {text!r}. Write for example "no gain 15".')


def until_of(rule: Any) -> Until | None:
    """Return the rule of an option: None, a text, or a rule already."""
    return parse_until(rule) if isinstance(rule, str) else rule


def last_gain(ended: Sequence[Trial], goal: Goal) -> int:
    """Return the index of the last trial that joined the front of those before it, or -1.

    A trial that equals one of the front brings nothing.
    """
    front: list[tuple[float, ...]] = []
    found = -1
    for index, trial in enumerate(ended):
        if trial.state is not State.COMPLETE or not goal.is_feasible(trial.values):
            continue
        losses = tuple(objective.loss(trial.values[objective.metric]) for objective in goal.objectives)
        if any(all(theirs <= own for theirs, own in zip(other, losses, strict=True)) for other in front):
            continue
        front = [trial for trial in front if not all(own <= theirs for own, theirs in zip(losses, trial, strict=True))]
        front.append(losses)
        found = index
    return found


@dataclass(frozen=True)
class Plan:
    """How much is run and how. Checks itself.

    Attributes:
        trials: How many trials the study shall have in all.
        timeout: Seconds for the search, or None.
        trial_timeout: Seconds for one run of a trial, or None.
        jobs: Trials at a time.
        until: A stop rule, or None.
        repeats: Runs per point.
        seed: Of the search; every run's seed is made from it.
        sampler: What the proposer is called; noted with each trial.
        start: Points to run first.
        pruner: Early stopping.
        keep: Names of kept values to store; empty stores whatever trials keep.
        finalists: How many of the trials, at the end, run the best points again.

    Raises:
        SearchError: A number is below 1, a limit not above 0, or more than half of the trials are finalists.
    """

    trials: int = 30
    timeout: float | None = None
    trial_timeout: float | None = None
    jobs: int = 1
    until: Until | None = None
    repeats: int = 1
    seed: int = 0
    sampler: str = ""
    start: tuple[Point, ...] = ()
    pruner: Pruner = field(default_factory=Pruner)
    keep: tuple[str, ...] = ()
    finalists: int = 0

    def __post_init__(self) -> None:
        for name in ("trials", "jobs", "repeats"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SearchError(f"{option(name)} is an integer of at least 1, but got {value!r}.")
        if isinstance(self.finalists, bool) or not isinstance(self.finalists, int) or self.finalists < 0:
            raise SearchError(f"{option('finalists')} is an integer of at least 0, but got {self.finalists!r}.")
        if self.finalists > self.trials / 2:
            raise SearchError(
                f"{option('finalists')} is at most half of {option('trials')}, so {self.trials // 2} here, but got "
                f"{self.finalists}: the other trials find what is run again."
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise SearchError(f"{option('seed')} is an integer, but got {self.seed!r}.")
        for name in ("timeout", "trial_timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SearchError(f"{option(name)} is above 0 seconds, but got {value!r}.")

    def check(self, space: Space, proposer: Proposer, engine: Engine, evaluate: Evaluate | None = None) -> None:
        """Check the plan against what it will run with; `run` does, and who opens a study may do it before.

        Raises:
            PointError: A start point is not in the space.
            SearchError: The engine runs no several jobs, or the proposer cannot say what the stop rule needs.
            TransportError: `evaluate`, if given, must be sent to other processes and cannot.
        """
        for point in self.start:
            space.check(point)
        if engine.is_serial and self.jobs > 1:
            jobs = option("jobs", self.jobs)
            raise SearchError(f"{jobs} needs another engine: {engine.name} runs one trial at a time.")
        if evaluate is not None and engine.sends:
            pack(evaluate)
        if isinstance(self.until, GainBelow):
            _check_gain(proposer, self.until)


def _check_gain(proposer: Proposer, until: GainBelow) -> None:
    from nbcompress.optimize import SurrogateProposer

    if not isinstance(proposer, SurrogateProposer):
        raise SearchError(
            f"{option('until', str(until))} needs a sampler that expects a gain, which is gp. "
            f"With another one write for example {option('until', 'no gain 15')}."
        )
