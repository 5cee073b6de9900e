"""What a body reports of its trial, and every way one run can end."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import random
import sys
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch

from nbcompress.errors import SearchError
from nbcompress.run import (
    Assignment,
    Outcome,
    RunningTrial,
    TrialEnded,
    current_trial,
    keep,
    report,
    run_trial,
    stop_trial,
)
from nbcompress.run.early_stopping import LearningCurves, PruningRule, aspects_of
from nbcompress.run.termination import Terminator
from nbcompress.study import Goal, State
from nbcompress.study.goal import Failure

GOAL = Goal.of(maximize=["accuracy"], minimize=["size"], subject_to=["size <= 60"])


def running_trial(**options: object) -> RunningTrial:
    return RunningTrial(Assignment(4, {"bits": 8}, 1, **options), GOAL)  # type: ignore[arg-type]


def test_outside_a_trial_nothing_happens() -> None:
    report(accuracy="no number")
    report(accuracy=1.0, step=-5)
    keep(small=object())
    assert current_trial() is None


def test_inside_they_act_on_the_current_trial() -> None:
    trial = running_trial()
    with trial.entered():
        report(accuracy=1)
        report(accuracy=0.5, loss=2, step=3)
        keep(small="model")
    assert (trial.values, trial.reports, trial.kept) == (
        {"accuracy": 1.0},
        {"accuracy": {3: 0.5}, "loss": {3: 2.0}},
        {"small": "model"},
    )
    assert current_trial() is None


def test_a_final_report_is_checked_at_once_and_all_its_metrics_stay() -> None:
    trial = running_trial()
    with pytest.raises(TrialEnded, match="size <= 60 must hold, but size is 61") as caught:
        trial.report(size=61, accuracy=0.5)
    assert caught.value.state is State.INFEASIBLE
    assert trial.values == {"size": 61.0, "accuracy": 0.5}


def test_an_intermediate_report_is_not_checked() -> None:
    trial = running_trial()
    trial.report(size=61, step=0)
    assert trial.values == {}


def test_check_gives_the_number_back() -> None:
    assert running_trial().check("size", 60) == 60.0


def test_ending_is_no_exception() -> None:
    with pytest.raises(TrialEnded), contextlib.suppress(Exception):
        running_trial().report(size=61)


def test_a_missing_metric_is_named_with_the_nearest_one() -> None:
    with pytest.raises(TrialEnded) as caught:
        running_trial().complete({"acuracy": 1, "size": 3})
    assert caught.value.failure is not None
    assert str(caught.value.failure) == (
        "NotAssigned: The trial ended without the metric 'accuracy'; it left these: acuracy, size. "
        "Did you mean 'acuracy'?"
    )


def test_a_parameter_is_no_metric() -> None:
    with pytest.raises(TrialEnded, match="No name is both a parameter and a metric, but 'bits' is reported as one"):
        running_trial().report(bits=3)


def test_only_wanted_names_are_kept() -> None:
    trial = RunningTrial(Assignment(0, {}, 0), GOAL, keep=["small"])
    trial.keep(small=1, large=2)
    assert trial.kept == {"small": 1}


def test_a_judge_stops_the_trial() -> None:
    rival = LearningCurves.of(aspects_of(GOAL), {"accuracy": {0: 0.9, 1: 0.9}}, {"size": 20.0})
    trial = running_trial(pruning_rule=PruningRule("asha", GOAL, (rival,)))
    trial.report(accuracy=0.5, step=0)  # how large it is, nobody knows yet
    trial.report(size=30.0)
    with pytest.raises(TrialEnded, match=r"Behind earlier trials at step 0 in accuracy and size \(asha\)\.") as caught:
        trial.report(accuracy=0.5, step=0)
    assert caught.value.state is State.STOPPED
    assert trial.remarks == []


def test_an_objective_that_the_judge_waited_for_in_vain_is_named_once() -> None:
    trial = running_trial(pruning_rule=PruningRule("asha", GOAL))
    for step in range(3):
        trial.report(accuracy=0.5, step=step)
    trial.check("size", 30.0)  # as a cell does when it comes to a constraint; too late for the judge
    trial.complete({"accuracy": 0.5, "size": 30.0})
    assert trial.remarks == [
        "No trial was stopped early while size was not known. Where it can be known before the training, write "
        "report(size=...) there; else report it with a step, too."
    ]
    both = running_trial(pruning_rule=PruningRule("asha", GOAL))
    both.report(accuracy=0.5, step=0)
    both.report(size=30.0, step=0)
    both.complete({"accuracy": 0.5, "size": 30.0})
    assert both.remarks == []


def test_a_listener_hears_intermediate_values() -> None:
    heard: list[object] = []
    trial = running_trial()
    trial.listener = lambda *what: heard.append(what)
    trial.report(accuracy=0.5, step=2)
    trial.report(accuracy=0.5)
    assert heard == [(4, 2, {"accuracy": 0.5})]


def test_run_trial_begins_the_trial_that_its_engine_entered() -> None:
    seen: list[object] = []

    def body(trial: RunningTrial) -> dict[str, float]:
        seen.append(trial)
        # An evaluator that runs a second trial inside: it is one of its own, and the engine's terminator holds there.
        inner = RunningTrial(Assignment(1, {}, 0))
        with inner.entered():
            assert (inner.terminator, inner.printed) == (trial.terminator, trial.printed)
            report(accuracy=3)  # it has not begun
        return {"accuracy": 0.5, "size": 1}

    trial = RunningTrial(Assignment(0, {}, 0), terminator=Terminator())
    with trial.entered():
        assert run_trial(body, Assignment(0, {}, 0), goal=GOAL).state is State.COMPLETE
        again = run_trial(body, Assignment(0, {}, 0), goal=GOAL)
    assert again.values == trial.values == {"accuracy": 0.5, "size": 1.0}
    assert seen[0] is trial
    assert seen[1] is not trial


def test_threads_have_trials_of_their_own() -> None:
    def body(value: float) -> dict[str, float]:
        trial = running_trial()
        with trial.entered():
            report(accuracy=value)
            assert current_trial() is trial
        return trial.values

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(body, range(40))) == [{"accuracy": float(value)} for value in range(40)]


GOAL_TRIAL_RUN = Goal.of(maximize=["accuracy"], subject_to=["size <= 60"])


def ran(body: Callable[[RunningTrial], Mapping[str, Any]], seed: int = 7) -> Outcome:
    return run_trial(body, Assignment(0, {"x": 1.0}, seed), goal=GOAL_TRIAL_RUN)


def raising(error: BaseException) -> Callable[[RunningTrial], Mapping[str, Any]]:
    def body(trial: RunningTrial) -> Mapping[str, Any]:
        report(size=3)
        raise error

    return body


def test_complete() -> None:
    outcome = ran(lambda _: {"accuracy": np.float32(0.5), "size": 60, "extra": torch.tensor(2)})
    assert outcome.state is State.COMPLETE
    assert outcome.values == {"accuracy": 0.5, "size": 60.0, "extra": 2.0}
    assert outcome.failure is None
    assert outcome.seconds > 0


def test_infeasible_keeps_all_metrics_and_nothing_else() -> None:
    def body(trial: RunningTrial) -> Mapping[str, Any]:
        trial.keep(small=1)
        return {"accuracy": 0.5, "size": 60.5}

    outcome = ran(body)
    assert outcome.state is State.INFEASIBLE
    assert outcome.values == {"accuracy": 0.5, "size": 60.5}
    assert outcome.kept == {}


def test_a_broken_constraint_comes_before_a_missing_objective() -> None:
    assert ran(lambda _: {"size": 61}).state is State.INFEASIBLE


@pytest.mark.parametrize("state", [State.STOPPED, State.INFEASIBLE, State.INTERRUPTED])
def test_ended_from_inside(state: State) -> None:
    outcome = ran(raising(TrialEnded(state)))
    assert outcome.state is state
    assert outcome.values == {"size": 3.0}


def test_interrupted() -> None:
    outcome = ran(raising(KeyboardInterrupt()))
    assert outcome.state is State.INTERRUPTED
    assert str(outcome.failure) == "KeyboardInterrupt"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bad value"), "ValueError: bad value"),
        (SystemExit(3), "SystemExit: 3"),
        (MemoryError(), "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory."), "OutOfMemoryError: CUDA out of memory."),
        (RecursionError("deep"), "RecursionError: deep"),
        (GeneratorExit(), "GeneratorExit"),
        (ExceptionGroup("both", [ValueError("a"), OSError("b")]), "ExceptionGroup: both (2 sub-exceptions)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_failed(error: BaseException, text: str) -> None:
    outcome = ran(raising(error))
    assert outcome.state is State.FAILED
    assert str(outcome.failure) == text
    assert outcome.values == {"size": 3.0}


@pytest.mark.parametrize(
    ("metrics", "kind"),
    [
        ({"size": 3}, "NotAssigned"),
        ({"accuracy": 1}, "NotAssigned"),
        ({"accuracy": float("nan"), "size": 3}, "NotFinite"),
    ],
)
def test_metrics_that_are_missing_or_not_finite(metrics: dict[str, float], kind: str) -> None:
    outcome = ran(lambda _: metrics)
    assert outcome.state is State.FAILED
    assert outcome.failure is not None
    assert outcome.failure.kind == kind


def test_the_traceback_begins_in_the_body() -> None:
    def inner() -> None:
        raise ValueError("deep inside")

    def body(trial: RunningTrial) -> Mapping[str, Any]:
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("outside") from error
        return {}

    failure = ran(body).failure
    assert failure is not None
    lines = failure.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "in body" in lines[1]
    assert "deep inside" in failure.traceback
    assert f"{os.sep}nbcompress{os.sep}run" not in failure.traceback


def test_a_long_traceback_is_cut() -> None:
    failure = ran(raising(ValueError("x" * 100_000))).failure
    assert failure is not None
    assert len(failure.traceback) < 10_000
    assert "characters left out" in failure.traceback


def test_a_failed_body_lets_its_tensors_go() -> None:
    found: list[weakref.ref[torch.Tensor]] = []

    def body(trial: RunningTrial) -> Mapping[str, Any]:
        big = torch.zeros(10)
        found.append(weakref.ref(big))
        raise ValueError("no")

    outcome = ran(body)
    gc.collect()
    assert outcome.state is State.FAILED
    assert found[0]() is None


def test_printed_text_goes_to_the_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    def body(trial: RunningTrial) -> Mapping[str, Any]:
        print("out")
        print("err", file=sys.stderr)
        return {"accuracy": 1, "size": 1}

    assert ran(body).printed == "out\nerr\n"
    assert capsys.readouterr() == ("", "")


def test_seeds_are_set_and_the_notebook_s_generators_put_back() -> None:
    def body(trial: RunningTrial) -> Mapping[str, Any]:
        return {"accuracy": random.random(), "a": np.random.rand(), "b": torch.rand(()), "size": 1}

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first, second, other = ran(body), ran(body), ran(body, seed=8)
    assert first.values == second.values
    assert all(first.values[name] != other.values[name] for name in ("accuracy", "a", "b"))
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


@pytest.mark.parametrize("dump", [pickle.dumps, cloudpickle.dumps])
def test_values_cross_a_border(dump: Callable[[object], bytes]) -> None:
    assignment = Assignment(3, {"x": 1.0, "method": None}, 5, 1)
    assert pickle.loads(dump(assignment)) == assignment
    outcome = ran(raising(ValueError("no")))
    assert pickle.loads(dump(outcome)) == outcome


def test_a_report_of_the_same_step_replaces_the_best_value_too() -> None:
    rivals = [LearningCurves.of(aspects_of(GOAL), {"accuracy": dict.fromkeys(range(4), 0.6)}, {"size": 5.0})] * 3
    trial = running_trial(pruning_rule=PruningRule("asha", GOAL, rivals, 3))
    trial.report(size=9.0)
    trial.report(accuracy=0.9, step=0)
    trial.report(accuracy=0.1, step=0)  # measured again: .9 was wrong
    trial.report(accuracy=0.2, step=1)
    with pytest.raises(TrialEnded, match="Behind earlier trials at step 2"):
        trial.report(accuracy=0.1, step=2)


def stops_itself(trial: RunningTrial) -> dict[str, float]:
    report(accuracy=0.5)
    with contextlib.suppress(Exception):  # a body's own handler must not swallow it
        stop_trial("it diverges")
    return {"size": 1.0}


def pruned_as_in_optuna(trial: RunningTrial) -> dict[str, float]:
    import optuna

    class Diverged(optuna.TrialPruned):
        pass

    report(accuracy=0.5)
    raise Diverged("it diverges")


@pytest.mark.parametrize(("body", "kind"), [(stops_itself, "Stopped"), (pruned_as_in_optuna, "TrialPruned")])
def test_a_trial_can_stop_itself_with_a_reason(body: Callable[[RunningTrial], dict[str, float]], kind: str) -> None:
    outcome = run_trial(body, Assignment(0, {"x": 1}, 0), goal=GOAL)
    assert (outcome.state, outcome.values) == (State.STOPPED, {"accuracy": 0.5})
    assert outcome.failure == Failure(kind, "it diverges")


def test_a_class_of_another_library_called_trial_pruned_is_a_failure() -> None:
    class TrialPruned(Exception):
        pass

    def body(trial: RunningTrial) -> dict[str, float]:
        raise TrialPruned

    assert run_trial(body, Assignment(0, {"x": 1}, 0), goal=GOAL).state is State.FAILED


def test_stop_trial_outside_of_a_trial_does_nothing_and_takes_a_text_only() -> None:
    stop_trial("nothing runs")
    with pytest.raises(SearchError, match="The reason to stop a trial is a text, but got 3"):
        stop_trial(3)  # type: ignore[arg-type]
