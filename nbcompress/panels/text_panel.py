"""Panels made of lines of text, and what every panel is.

How long a search has taken, and how long it will still take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from nbcompress.panels.document import closing_line, goal_text, trial_line
from nbcompress.panels.text import LIVE
from nbcompress.panels.view import Course, Names, StudyLike, goal_data, study_view, trial_data
from nbcompress.study.goal import State, Trial

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.run.callbacks import Ending


@dataclass
class Clock:
    """The course of one run of a search.

    Attributes:
        trials: How many trials were asked for in all.
        seconds: The time limit, or None.
        now: A clock in seconds.
    """

    trials: int | None
    seconds: float | None = None
    now: Callable[[], float] = time.monotonic
    _begun: float = field(init=False)
    _at_start: int = 0
    _done: int = 0

    def __post_init__(self) -> None:
        self._begun = self.now()

    def start(self, trials: Sequence[Trial]) -> None:
        """Start the clock; these trials were there before."""
        self._begun = self.now()
        self._at_start = self._done = sum(trial.state.counts for trial in trials)

    def ended(self, trial: Trial) -> None:
        """Count a trial that ended."""
        self._done += trial.state.counts

    def running(self) -> Course:
        """Return the course of a search that goes on."""
        elapsed = self.now() - self._begun
        return Course(True, None, self.trials, self.seconds, elapsed, self._left(elapsed))

    def over(self, ending: str | None) -> Course:
        """Return the course of a search that has ended; one that ran nothing took no time worth telling."""
        elapsed = self.now() - self._begun if self._done > self._at_start else None
        return Course(False, ending, self.trials, self.seconds, elapsed)

    def _left(self, elapsed: float) -> float | None:
        new = self._done - self._at_start
        if self.trials is None or not new:
            return None
        left = max(0, self.trials - self._done) * elapsed / new
        return left if self.seconds is None else min(left, max(0.0, self.seconds - elapsed))


class Output(Protocol):
    """One output of a notebook, handed in by the magics: panels know no IPython."""

    def show(self, bundle: Mapping[str, Any]) -> None:
        """Show a mime bundle, or put it in the place of the one shown before."""

    def print(self, text: str) -> None:
        """Add a line of text."""


class Panel(Protocol):
    """Watches one search. The methods of an observer may be called from any one thread at a time."""

    def show(self) -> None:
        """Show what there is before the first trial."""

    def trial_started(self, trial: Trial) -> None: ...

    def trial_ended(self, trial: Trial) -> None: ...

    def reported(self, number: int, step: int, values: Mapping[str, float]) -> None: ...

    def ended(self, ending: Ending) -> None: ...

    def finish(self, ending: Ending | None) -> None:
        """Put the finished output in place; None says that the search broke off."""


def ending_text(ending: Ending | None) -> str:
    return str(ending) if ending is not None else "The search broke off."


class SilentPanel:
    """Says nothing until the end, and then one line."""

    def __init__(self, study: StudyLike, output: Output, clock: Clock) -> None:
        self._study, self._output, self._clock = study, output, clock

    def show(self) -> None:
        self._clock.start(self._study.all_trials)

    def trial_started(self, trial: Trial) -> None: ...

    def trial_ended(self, trial: Trial) -> None:
        self._clock.ended(trial)

    def reported(self, number: int, step: int, values: Mapping[str, float]) -> None: ...

    def ended(self, ending: Ending) -> None: ...

    def finish(self, ending: Ending | None) -> None:
        course = self._clock.over(ending_text(ending))
        for warning in study_warnings(self._study, ending):
            self._output.print(f"warning: {warning}")
        self._output.print(closing_line(study_view(self._study, course=course)))


class TextPanel(SilentPanel):
    """Adds a line for each trial that ends; then the bundle."""

    def __init__(
        self,
        study: StudyLike,
        output: Output,
        clock: Clock,
        baseline: Mapping[str, float] | None = None,
        proposer: Proposer | None = None,
    ) -> None:
        super().__init__(study, output, clock)
        self._baseline, self._proposer = baseline, proposer
        self._names = Names(LIVE.name)

    def show(self) -> None:
        super().show()
        known = sum(trial.state.counts for trial in self._study.all_trials)
        so_far = f", {known} trials so far" if known else ""
        goal = goal_text(goal_data(self._study.goal, self._names))
        self._output.print(f"Study {self._names(self._study.name)}: {goal}{so_far}")

    def trial_ended(self, trial: Trial) -> None:
        super().trial_ended(trial)
        metrics = [self._names(metric) for metric in dict.fromkeys([*self._study.goal.metrics, *trial.values])]
        line = trial_line(trial_data(trial, self._names, LIVE), metrics)
        if trial.state is not State.RUNNING:
            self._output.print(line)

    def finish(self, ending: Ending | None) -> None:
        self._output.show(self.bundle(ending))

    def bundle(self, ending: Ending | None) -> dict[str, Any]:
        """Return the finished output."""
        from nbcompress.panels.bundle import study_bundle
        from nbcompress.panels.surrogate_data import expectations_of

        return study_bundle(
            self._study,
            expected=expectations_of(self._proposer, self._study),
            baseline=self._baseline,
            warnings=study_warnings(self._study, ending),
            course=self._clock.over(ending_text(ending)),
        )


def study_warnings(study: StudyLike, ending: Ending | None) -> tuple[str, ...]:
    """Return what a reader should know: what differed when the study was opened, and what the search met."""
    return (*getattr(study, "warnings", ()), *(ending.warnings if ending is not None else ()))
