"""Trials: plain values with states that count or do not."""

from __future__ import annotations

import pytest

from nbcompress.study import Failure, State, Trial


def test_states_are_the_words_of_the_design() -> None:
    words = ["running", "complete", "stopped", "infeasible", "failed", "interrupted"]
    assert [state.value for state in State] == words
    assert [str(state) for state in State] == words
    assert [state.value for state in State if state.counts] == ["complete", "stopped", "infeasible", "failed"]


def test_a_trial_is_frozen_and_compared_without_what_it_keeps() -> None:
    trial = Trial(0, State.COMPLETE, {"x": 1}, {"y": 2.0})
    assert trial == Trial(0, State.COMPLETE, {"x": 1}, {"y": 2.0}, kept={"small": object()})
    assert trial != Trial(0, State.COMPLETE, {"x": 1}, {"y": 3.0})
    assert "kept" not in repr(trial)
    with pytest.raises(AttributeError):
        trial.number = 1


def test_the_point_is_a_copy() -> None:
    trial = Trial(0, State.RUNNING, {"x": 1})
    trial.point["x"] = 2
    assert trial.params == {"x": 1}


def test_a_failure_reads_as_kind_and_message() -> None:
    assert str(Failure("ValueError", "no")) == "ValueError: no"
    assert str(Failure("Crash", "")) == "Crash"
