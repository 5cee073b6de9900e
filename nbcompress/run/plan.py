"""How much is run and how: the options of a search that the loop reads, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbcompress.errors import SearchError, option
from nbcompress.run.limits import GainBelow, Until
from nbcompress.run.pruner import Pruner
from nbcompress.run.transport import pack

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.run.engines import Engine
    from nbcompress.run.outcome import Evaluate
    from nbcompress.space import Point, Space


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
    from nbcompress.optimize.proposers.gp import GaussianProcessProposer

    if not isinstance(proposer, GaussianProcessProposer):
        raise SearchError(
            f"{option('until', str(until))} needs a sampler that expects a gain, which is gp. "
            f"With another one write for example {option('until', 'no gain 15')}."
        )
