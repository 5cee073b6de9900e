"""Panels that print lines of text, and what every panel of a search has in common: its protocol and its clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from nbcompress.panels.bundle import study_bundle
from nbcompress.panels.document import goal_text, summary_line, trial_line
from nbcompress.panels.surrogate_data import insight_of
from nbcompress.panels.text import LIVE_LIMITS
from nbcompress.panels.view import SearchStatus, ShortNames, StudyLike, goal_data, study_view, trial_data
from nbcompress.study.goal import State, Trial

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.run.callbacks import Ending


@dataclass
class SearchClock:
    """Counts the time and the trials of one run of a search.

    Attributes:
        trials: How many trials the study shall have in all.
        seconds: The time limit, or None.
        now: A clock in seconds.
        paused: Seconds that the search has been paused, which do not count.
    """

    trials: int | None
    seconds: float | None = None
    now: Callable[[], float] = time.monotonic
    paused: Callable[[], float] = float
    _start_time: float = field(init=False)
    _end_time: float | None = None
    _n_at_start: int = 0
    _n_ended: int = 0

    def __post_init__(self) -> None:
        self._start_time = self._time()

    def start(self, trials: Sequence[Trial]) -> None:
        """Start the clock.

        Args:
            trials: The trials that the study has already.
        """
        self._start_time = self._time()
        self._n_at_start = self._n_ended = sum(trial.state.counts for trial in trials)

    def stop(self) -> None:
        """Stop the clock: drawing the finished output is no time of the search."""
        if self._end_time is None:
            self._end_time = self._time()

    def _time(self) -> float:
        return self.now() - self.paused()

    def _elapsed(self) -> float:
        return (self._time() if self._end_time is None else self._end_time) - self._start_time

    def count(self, trial: Trial) -> None:
        """Count a trial that ended."""
        self._n_ended += trial.state.counts

    def running(self) -> SearchStatus:
        """Return the status of the search while it runs."""
        elapsed = self._elapsed()
        return SearchStatus(True, None, self.trials, self.seconds, elapsed, self._left(elapsed))

    def ended(self, ending: str | None) -> SearchStatus:
        """Return the status of the search after its end, without a time if no trial was run."""
        elapsed = self._elapsed() if self._n_ended > self._n_at_start else None
        return SearchStatus(False, ending, self.trials, self.seconds, elapsed)

    def _left(self, elapsed: float) -> float | None:
        n_new = self._n_ended - self._n_at_start
        if self.trials is None or not n_new:
            return None
        left = max(0, self.trials - self._n_ended) * elapsed / n_new
        return left if self.seconds is None else min(left, max(0.0, self.seconds - elapsed))


class OutputArea(Protocol):
    """One output of a notebook. The magics provide it, since panels do not import IPython."""

    def show(self, bundle: Mapping[str, Any]) -> None:
        """Show a mime bundle, or replace the one that was shown before."""

    def print(self, text: str) -> None:
        """Add a line of text."""


class Panel(Protocol):
    """Shows one search. Its methods as an observer are called on one thread at a time."""

    def show(self) -> None:
        """Show the study as it is before the first trial."""

    def trial_started(self, trial: Trial) -> None: ...

    def trial_ended(self, trial: Trial) -> None: ...

    def reported(self, number: int, step: int, values: Mapping[str, float]) -> None: ...

    def ended(self, ending: Ending) -> None: ...

    def finish(self, ending: Ending | None) -> None:
        """Show the finished output.

        Args:
            ending: How the search ended; None if an exception ended it.
        """


def ending_text(ending: Ending | None) -> str:
    return str(ending) if ending is not None else "The search ended with an exception."


class SilentPanel:
    """Prints one line when the search has ended."""

    def __init__(self, study: StudyLike, output: OutputArea, clock: SearchClock) -> None:
        self._study, self._output, self._clock = study, output, clock

    def show(self) -> None:
        self._clock.start(self._study.all_trials)

    def trial_started(self, trial: Trial) -> None: ...

    def trial_ended(self, trial: Trial) -> None:
        self._clock.count(trial)

    def reported(self, number: int, step: int, values: Mapping[str, float]) -> None: ...

    def ended(self, ending: Ending) -> None:  # noqa: ARG002 - drawing the finished output is no time of the search
        self._clock.stop()

    def finish(self, ending: Ending | None) -> None:
        self._clock.stop()
        status = self._clock.ended(ending_text(ending))
        for warning in warnings_of(self._study, ending):
            self._output.print(f"warning: {warning}")
        self._output.print(summary_line(study_view(self._study, status=status)))


class TextPanel(SilentPanel):
    """Prints a line for each trial that ends, and shows the bundle of the study at the end."""

    def __init__(
        self,
        study: StudyLike,
        output: OutputArea,
        clock: SearchClock,
        baseline: Mapping[str, float] | None = None,
        proposer: Proposer | None = None,
    ) -> None:
        super().__init__(study, output, clock)
        self._baseline, self._proposer = baseline, proposer
        self._names = ShortNames(LIVE_LIMITS.name)

    def show(self) -> None:
        super().show()
        n_trials = sum(trial.state.counts for trial in self._study.all_trials)
        so_far = f", {n_trials} trials so far" if n_trials else ""
        goal = goal_text(goal_data(self._study.goal, self._names))
        self._output.print(f"Study {self._names(self._study.name)}: {goal}{so_far}")

    def trial_ended(self, trial: Trial) -> None:
        super().trial_ended(trial)
        metrics = [self._names(metric) for metric in dict.fromkeys([*self._study.goal.metrics, *trial.values])]
        line = trial_line(trial_data(trial, self._names, LIVE_LIMITS), metrics)
        if trial.state is not State.RUNNING:
            self._output.print(line)

    def finish(self, ending: Ending | None) -> None:
        self._clock.stop()
        self._output.show(self.bundle(ending))

    def bundle(self, ending: Ending | None) -> dict[str, Any]:
        """Return the finished output."""
        return study_bundle(
            self._study,
            insight=insight_of(self._proposer, self._study),
            baseline=self._baseline,
            warnings=warnings_of(self._study, ending),
            status=self._clock.ended(ending_text(ending)),
        )


def warnings_of(study: StudyLike, ending: Ending | None) -> tuple[str, ...]:
    """Return the warnings of opening the study and of the search, each once."""
    found = (*getattr(study, "warnings", ()), *(ending.warnings if ending is not None else ()))
    return tuple(dict.fromkeys(found))
