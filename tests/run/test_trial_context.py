"""What a body says about its trial."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from nbcompress.run import Assignment, TrialContext, TrialEnded, current_trial, keep, report
from nbcompress.run.pruner import Judge
from nbcompress.run.standing import Showing, aspects_of
from nbcompress.run.trial_context import listening
from nbcompress.study import Goal, State

GOAL = Goal.of(maximize=["accuracy"], minimize=["size"], subject_to=["size <= 60"])


def context(**options: object) -> TrialContext:
    return TrialContext(GOAL, Assignment(4, {"bits": 8}, 1, **options))  # type: ignore[arg-type]


def test_outside_a_trial_nothing_happens() -> None:
    report(accuracy="no number")
    report(accuracy=1.0, step=-5)
    keep(small=object())
    assert current_trial() is None


def test_inside_they_act_on_the_current_trial() -> None:
    trial = context()
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
    trial = context()
    with pytest.raises(TrialEnded, match="size <= 60 must hold, but size is 61") as caught:
        trial.report(size=61, accuracy=0.5)
    assert caught.value.state is State.INFEASIBLE
    assert trial.values == {"size": 61.0, "accuracy": 0.5}


def test_an_intermediate_report_is_not_checked() -> None:
    trial = context()
    trial.report(size=61, step=0)
    assert trial.values == {}


def test_check_gives_the_number_back() -> None:
    assert context().check("size", 60) == 60.0


def test_ending_is_no_exception() -> None:
    with pytest.raises(TrialEnded), contextlib.suppress(Exception):
        context().report(size=61)


def test_a_missing_metric_is_named_with_the_nearest_one() -> None:
    with pytest.raises(TrialEnded) as caught:
        context().complete({"acuracy": 1, "size": 3})
    assert caught.value.failure is not None
    assert str(caught.value.failure) == (
        "NotAssigned: The trial ended without the metric 'accuracy'; it left these: acuracy, size. "
        "Did you mean 'acuracy'?"
    )


def test_a_parameter_is_no_metric() -> None:
    with pytest.raises(TrialEnded, match="No name is both a parameter and a metric, but 'bits' is reported as one"):
        context().report(bits=3)


def test_only_wanted_names_are_kept() -> None:
    trial = TrialContext(GOAL, Assignment(0, {}, 0), keep=["small"])
    trial.keep(small=1, large=2)
    assert trial.kept == {"small": 1}


def test_a_judge_stops_the_trial() -> None:
    rival = Showing.of(aspects_of(GOAL), {"accuracy": {0: 0.9, 1: 0.9}}, {"size": 20.0})
    trial = context(judge=Judge("asha", GOAL, (rival,)))
    trial.report(accuracy=0.5, step=0)  # how large it is, nobody knows yet
    trial.report(size=30.0)
    with pytest.raises(TrialEnded, match=r"Behind earlier trials at step 0 in accuracy and size \(asha\)\.") as caught:
        trial.report(accuracy=0.5, step=0)
    assert caught.value.state is State.STOPPED
    assert trial.remarks == []


def test_an_objective_that_the_judge_waited_for_in_vain_is_named_once() -> None:
    trial = context(judge=Judge("asha", GOAL))
    for step in range(3):
        trial.report(accuracy=0.5, step=step)
    trial.check("size", 30.0)  # as a cell does when it comes to a constraint; too late for the judge
    trial.complete({"accuracy": 0.5, "size": 30.0})
    assert trial.remarks == [
        "No trial was stopped early while size was not known. Where it can be known before the training, write "
        "report(size=...) there; else report it with a step, too."
    ]
    both = context(judge=Judge("asha", GOAL))
    both.report(accuracy=0.5, step=0)
    both.report(size=30.0, step=0)
    both.complete({"accuracy": 0.5, "size": 30.0})
    assert both.remarks == []


def test_a_listener_hears_intermediate_values() -> None:
    heard: list[object] = []
    with listening(lambda *what: heard.append(what)):
        context().report(accuracy=0.5, step=2)
        context().report(accuracy=0.5)
    assert heard == [(4, 2, {"accuracy": 0.5})]


def test_threads_have_trials_of_their_own() -> None:
    def body(value: float) -> dict[str, float]:
        trial = context()
        with trial.entered():
            report(accuracy=value)
            assert current_trial() is trial
        return trial.values

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(body, range(40))) == [{"accuracy": float(value)} for value in range(40)]
