"""What both call shapes share: a study that is opened once, known values told to it, and runs that show themselves."""

from __future__ import annotations

import math
import os
import secrets
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nbcompress.errors import NbcompressWarning, SearchError, SearchFailed, SpaceExhausted
from nbcompress.optimize import History, proposer
from nbcompress.optimize.proposers.gp import GaussianProcessProposer, n_initial_points
from nbcompress.run.controls import Controls
from nbcompress.run.engines import engine_of
from nbcompress.run.functions import place_of
from nbcompress.run.history import history_of
from nbcompress.run.outcome import Assignment, Outcome
from nbcompress.run.preparing import Options, prepare
from nbcompress.run.reads import values_read
from nbcompress.run.same_failure import in_short
from nbcompress.run.trial_context import TrialContext
from nbcompress.run.trial_run import run_trial
from nbcompress.space import Choice, Float, Int, Value
from nbcompress.study import State, Trial

if TYPE_CHECKING:
    from nbcompress.run.observers import Ending, Observer
    from nbcompress.run.preparing import Search
    from nbcompress.space import Point, Space
    from nbcompress.study import Goal, Study


@dataclass(frozen=True)
class Call:
    """Runs a function as a trial: it gets a point and returns the one number that counts."""

    function: Callable[[Point], Any]
    goal: Goal
    source: Callable[..., Any] | None = None  # what the person wrote

    def reads(self) -> dict[str, Any]:
        """Return what the function reads from outside, by name, for the record."""
        return values_read(self.source)

    def __call__(self, assignment: Assignment) -> Outcome:
        return run_trial(self._body, assignment, goal=self.goal)

    def _body(self, context: TrialContext) -> Mapping[str, Any]:
        return {self.goal.objectives[0].metric: self.function(dict(context.assignment.point))}


class Searching:
    """A search that goes on in parts.

    Args:
        function: What the person wrote; tells which study is meant where it has no name.
        call: It, as a function of a point.
        space: The parameters.
        goal: One objective.
        random_state: None, an integer, or NumPy's `RandomState`, of which an integer is drawn.
        acquisition: As in `nc.search`.
        study, storage: As in `nc.search`: nothing is stored unless one of them is given.
        panel: Whether a notebook shows the panel.
        fresh, accept_changes: As in `nc.search`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        call: Callable[[Point], Any],
        space: Space,
        goal: Goal,
        *,
        random_state: Any,
        acquisition: str,
        study: str | None,
        storage: str | os.PathLike[str] | None,
        panel: bool,
        fresh: bool = False,
        accept_changes: bool = False,
    ) -> None:
        self._options = Options(seed=seed_of(random_state), acquisition=acquisition)
        place = place_of(function, space, goal, study, storage, fresh, accept_changes)
        self._search = prepare(self._options, Call(call, goal, function), space, goal, engine_of("inline"), place)
        is_drawn = not isinstance(random_state, (int, np.integer))
        for warning in self._search.study.warnings:
            if is_drawn and "another seed" in warning:
                continue  # nobody chose it
            warnings.warn(warning, NbcompressWarning, stacklevel=3)
        self._metric = goal.objectives[0].metric
        self._panel = panel
        self._bounds = space

    @property
    def study(self) -> Study:
        return self._search.study

    @property
    def is_shown(self) -> bool:
        """Whether a notebook shows what happens."""
        return self._panel and notebook_shell() is not None

    @property
    def complete(self) -> list[Trial]:
        """The trials that have a value, by number."""
        return [one for one in self.study.all_trials if one.state is State.COMPLETE]

    def value(self, trial: Trial) -> float:
        return trial.values[self._metric]

    def tell_once(self, point: Mapping[str, Any], value: Any, *, times: int = 1) -> None:
        """Record a known value, unless the study, continued by the same script, has it so many times.

        Raises:
            PointError: The point is not in the space.
            SearchError: The value is no finite number.
        """
        checked = self.study.space.check(point)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise SearchError(f"A value that is told is a finite number, but got {value!r}.")
        if sum(one.point == checked and self.value(one) == number for one in self.complete) < times:
            trial = self.study.begin(checked, reason="Told by hand.")
            self.study.finish(replace(trial, state=State.COMPLETE, values={self._metric: number}, seconds=0.0))

    def drawn(self, n: int, *, first: int, sampler: str = "random") -> list[Point]:
        """Return `n` initial points for the trials from number `first` on; all points of a space that has fewer."""
        draws = proposer(sampler, self._bounds, n_objectives=1, seed=self._search.plan.seed)
        history = History.empty(1)
        with suppress(SpaceExhausted):
            for number in range(first, first + n):
                history = history.adding(draws.propose(number, history).point)
        return list(history.points)

    def steer_by(self, acquisition: str) -> None:
        """Propose by another acquisition from now on."""
        self._options = replace(self._options, acquisition=acquisition)
        proposes = self._options.proposer(self.study.space, self.study.goal)
        self._search = replace(self._search, proposer=proposes)
        self.stay_within(self._bounds)

    def stay_within(self, bounds: Space) -> None:
        """Propose and draw within a part of the space from now on, with as many parameters."""
        self._bounds = bounds
        steers = self._search.proposer
        if isinstance(steers, GaussianProcessProposer) and (bounds != self.study.space or steers.narrowing.asked):
            steers.narrowing.ask({name: limits_of(bounds[name]) for name in bounds.names})

    def proposed(self) -> Point:
        """Return the point that would be run next."""
        trials = self.study.all_trials
        return dict(self._search.proposer.propose(len(trials), history_of(trials, self.study.goal)).point)

    def run(self, trials: int, start: Sequence[Mapping[str, Any]], after: Callable[[Trial], object]) -> None:
        """Run until the study has so many trials, the start points first.

        Args:
            after: Called with every trial that has a value; a true answer ends the search, and what it raises rises.

        Raises:
            SearchFailed: The first three calls failed alike.
            PointError: A start point is not in the space.
        """
        points = tuple(self.study.space.check(point) for point in start)
        search = replace(self._search, plan=replace(self._search.plan, trials=trials, start=points))
        controls = Controls()
        listener = _Listener(after, controls)
        ending = self._run(search, listener, controls)
        if listener.error is not None:
            raise listener.error
        if ending.kind == "same failure":
            raise SearchFailed(ending.reason, self.study)
        if ending.kind == "exhausted":
            warnings.warn(ending.reason, NbcompressWarning, stacklevel=4)

    def _run(self, search: Search, listener: _Listener, controls: Controls) -> Ending:
        observers = [cast("Observer", listener)]  # what it lacks is not called
        shell = notebook_shell() if self._panel else None
        if shell is None:
            return search.run(observers, controls)
        from nbcompress.magics.output import Output
        from nbcompress.magics.watched import panel_of, run_watched

        return run_watched(search, panel_of("auto", search, controls, Output(shell)), controls, observers)

    def warn_of_design(self, n: int, option: str) -> None:
        """Say that the surrogate takes over later than asked for."""
        ours = n_initial_points(len(self.study.space))
        if n < ours:
            what = f"{option}={n}: here the surrogate takes over after {ours} points"
            warnings.warn(f"{what}, the missing ones spread evenly.", NbcompressWarning, stacklevel=3)

    def failed(self, what: str) -> SearchFailed:
        """Return an error that says what the last failed call ran into."""
        failure = next((one.failure for one in reversed(self.study.all_trials) if one.failure is not None), None)
        return SearchFailed(f"{what}{f': {in_short(failure)}' if failure else ''}.", self.study)


class _Listener:
    """Calls a function after each trial that has a value, and stops the search when it says so or raises."""

    def __init__(self, after: Callable[[Trial], object], controls: Controls) -> None:
        self._after, self._controls = after, controls
        self.error: Exception | None = None

    def trial_ended(self, trial: Trial) -> None:
        if trial.state is not State.COMPLETE:
            return
        try:
            is_over = bool(self._after(trial))
        except Exception as error:  # noqa: BLE001 - the person's own; it rises once the search has ended
            self.error, is_over = error, True
        if is_over:
            self._controls.stop()


def seed_of(random_state: Any) -> int:
    """Return a seed: an integer itself, one drawn from NumPy's generator, or any.

    Raises:
        SearchError: It is nothing of these.
    """
    if random_state is None:
        return secrets.randbits(31)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31))
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        return int(random_state)
    raise SearchError(f"random_state is None, an integer or NumPy's RandomState, but got {random_state!r}.")


def limits_of(parameter: Float | Int | Choice) -> tuple[Value, ...]:
    """Return lowest and highest value of a number, or the options of a choice."""
    return parameter.options if isinstance(parameter, Choice) else (parameter.low, parameter.high)


def notebook_shell() -> Any:
    """Return the shell of the notebook that runs this, or None outside of one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if hasattr(shell, "kernel") else None
