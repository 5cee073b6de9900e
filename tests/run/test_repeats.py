"""Several runs of one point."""

from __future__ import annotations

from nbcompress.run.outcome import Outcome
from nbcompress.run.repeats import folded
from nbcompress.study import Failure, State


def test_metrics_are_means() -> None:
    first = Outcome(State.COMPLETE, {"a": 1.0, "b": 5.0}, {"a": {0: 1.0}}, None, "one ", 2.0, {"k": 1}, ("careful",))
    second = Outcome(State.COMPLETE, {"a": 2.0}, {"a": {0: 9.0}}, None, "two", 3.0, {"k": 2}, ("careful",))
    assert folded([first, second]) == Outcome(
        State.COMPLETE, {"a": 1.5}, {"a": {0: 1.0}}, None, "one two", 5.0, {"k": 1}, ("careful",)
    )


def test_one_run_is_itself() -> None:
    outcome = Outcome(State.FAILED, {"a": 1.0}, failure=Failure("X", ""), seconds=1.0)
    assert folded([outcome]) == outcome


def test_a_run_that_does_not_complete_stands_alone() -> None:
    first = Outcome(State.COMPLETE, {"size": 10.0}, seconds=1.0, kept={"k": 1})
    second = Outcome(State.INFEASIBLE, {"size": 61.0}, seconds=1.0)
    assert folded([first, second]) == Outcome(State.INFEASIBLE, {"size": 61.0}, seconds=2.0)
