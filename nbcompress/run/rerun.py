"""Run a trial of a study again, to get back what it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nbcompress.errors import StudyError, check_integer, warn
from nbcompress.run.engines.base import Engine
from nbcompress.run.kept import wanted_values
from nbcompress.run.outcome import Assignment, Evaluate, Outcome
from nbcompress.study.goal import State, Trial

if TYPE_CHECKING:
    from nbcompress.study import Study

_POLL_SECONDS = 0.1
# Equal seeds give equal values but for the order of additions on several threads.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Rerunner:
    """Runs trials of a search again; fills the slot `Study.rerunner`.

    It has no reference to the study, so that the study is deleted as soon as nobody uses it.

    Attributes:
        make_evaluate: Returns what runs a trial.
        make_engine: Returns a new engine, as the search may still use its own.
        limit: The limit for one run in seconds, or None.
        keep: Names of the values to keep; all if empty.
        repeats: Runs per point in the search; only the first one is run again.
    """

    make_evaluate: Callable[[], Evaluate]
    make_engine: Callable[[], Engine]
    limit: float | None = None
    keep: tuple[str, ...] = ()
    repeats: int = 1

    def __call__(self, study: Study, number: int) -> Trial:
        """Run trial `number` again and store what it keeps; see `Study.rerun`."""
        trial = _trial_of(study, number)
        outcome = self._outcome(trial)
        if outcome.state is State.INTERRUPTED:
            raise KeyboardInterrupt
        store = study.artifact_store
        if outcome.state is State.COMPLETE and store is not None:
            for name, value in wanted_values(outcome.kept, self.keep).items():
                store.put(number, name, value)
            store.pin(number)
        changed = _changed_metrics(trial, outcome) if self.repeats == 1 else ""
        if changed:
            warn(f"Trial {number} gave other values when it was run again: {changed}. What it reads has changed since.")
        return replace(outcome.recorded(trial), started=None)

    def _outcome(self, trial: Trial) -> Outcome:
        engine = self.make_engine()
        evaluate = self.make_evaluate()
        try:
            engine.prepare(evaluate, 1)
            engine.start(evaluate, jobs=1, listener=None)
            engine.submit(Assignment(trial.number, trial.point, trial.seed), self.limit)
            ended = None
            while ended is None:
                ended = engine.next(_POLL_SECONDS)
        finally:
            engine.close()
        return ended[1]


def _trial_of(study: Study, number: int) -> Trial:
    # True and 1.0 are equal to 1, and are no numbers of trials.
    number = check_integer("number", number, error=StudyError)
    trial = next((trial for trial in study.all_trials if trial.number == number), None)
    if trial is None:
        raise StudyError(f"The study {study.name!r} has no trial {number!r}; it has {len(study.all_trials)} trials.")
    if trial.state is State.RUNNING:
        raise StudyError(f"Trial {number} of study {study.name!r} runs now; a trial that has ended can be run again.")
    return trial


def _changed_metrics(trial: Trial, outcome: Outcome) -> str:
    """Return the metrics that a complete trial now has with another value, as text."""
    if trial.state is not State.COMPLETE or outcome.state is not State.COMPLETE:
        return ""
    return ", ".join(
        f"{name} {outcome.values[name]:.6g} (before {value:.6g})"
        for name, value in trial.values.items()
        if name in outcome.values and not math.isclose(outcome.values[name], value, rel_tol=_TOLERANCE)
    )
