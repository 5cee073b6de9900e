"""Small searches that the tests of the run floor share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbcompress.optimize import History, Proposal
from nbcompress.run import Assignment, Ending, Evaluate, RunningTrial, SearchOptions, run_trial
from nbcompress.run.engines import InlineEngine
from nbcompress.run.loop import Search
from nbcompress.run.setup import check_search
from nbcompress.space import Float, Space
from nbcompress.study import Goal, State, Study, Trial, open_study

SPACE = Space({"x": Float(0.0, 1.0)})
ONE = Goal.of(minimize=["loss"])
BOUNDED = Goal.of(maximize=["accuracy"], minimize=["size"], subject_to=["size <= 0.9"])


class Walk:
    """Proposes the multiples of the golden ratio, and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, History]] = []

    def propose(self, number: int, history: History) -> Proposal:
        self.seen.append((number, history))
        return Proposal({"x": walk(number)}, {"step": number}, f"step {number}")


def walk(number: int) -> float:
    return (number + 1) * 0.6180339887498949 % 1.0


class Diary:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def trial_started(self, trial: Trial) -> None:
        self.lines.append(f"start {trial.number}")

    def trial_ended(self, trial: Trial) -> None:
        self.lines.append(f"end {trial.number} {trial.state.value}")

    def reported(self, number: int, step: int, values: Mapping[str, float]) -> None:
        self.lines.append(f"report {number} {step} {dict(values)}")

    def ended(self, ending: Ending) -> None:
        self.lines.append(f"ended {ending.kind}")


def evaluating(body: Any, goal: Goal = ONE) -> Evaluate:
    """Return an evaluator that gives `body` the trial's `x` and takes its metrics."""

    def evaluate(assignment: Assignment) -> Any:
        def run_body(trial: RunningTrial) -> Mapping[str, Any]:
            return body(assignment.point["x"])  # type: ignore[no-any-return]

        return run_trial(run_body, assignment, goal=goal)

    return evaluate


def fresh_study(goal: Goal = ONE, space: Space = SPACE) -> Study:
    return open_study("test", space, goal, storage=None)


def searched(body: Any, study: Study | None = None, **options: Any) -> tuple[Study, Ending]:
    """Run a search inline over `x`; by default five trials."""
    study = study or fresh_study()
    told = {name: options.pop(name) for name in ("observers", "controls") if name in options}
    proposer, engine = options.pop("proposer", Walk()), options.pop("engine", InlineEngine())
    checked = check_search(SearchOptions(**{"trials": 5, **options}), study.space, study.goal, proposer, engine)
    search = Search(study, proposer, evaluating(body, study.goal), engine, checked)
    return study, search.run(**told)


def states(study: Study) -> list[str]:
    return [trial.state.value for trial in study.all_trials]


def counted(study: Study) -> int:
    return sum(trial.state.counts for trial in study.all_trials)


__all__ = [
    "BOUNDED",
    "ONE",
    "SPACE",
    "Diary",
    "State",
    "Walk",
    "counted",
    "evaluating",
    "fresh_study",
    "searched",
    "states",
    "walk",
]
