"""What proposers see of the trials."""

from __future__ import annotations

import numpy as np

from nbcompress.run.history import history_of
from nbcompress.study import Goal, State, Trial

GOAL = Goal.of(maximize=["accuracy"], minimize=["size"], subject_to=["size <= 60", "accuracy >= 0.5"])


def test_every_state_has_its_row() -> None:
    trials = [
        Trial(1, State.INFEASIBLE, {"x": 1}, {"size": 61.0}),
        Trial(0, State.COMPLETE, {"x": 0}, {"accuracy": 0.9, "size": 50.0}, note={"a": 1}),
        Trial(2, State.FAILED, {"x": 2}),
        Trial(3, State.STOPPED, {"x": 3}, {"size": 40.0}),
        Trial(4, State.RUNNING, {"x": 4}),
        Trial(5, State.INTERRUPTED, {"x": 5}),
    ]
    history = history_of(trials, GOAL)
    assert history.points == tuple({"x": number} for number in range(6))
    assert history.status == ("told", "told", "failed", "told", "pending", "pending")
    assert history.notes[0] == {"a": 1}
    nan = np.nan
    losses = [[-0.9, 50], [nan, 61], [nan, nan], [nan, 40], [nan, nan], [nan, nan]]
    slacks = [[-10, -0.4], [1, nan], [nan, nan], [-20, nan], [nan, nan], [nan, nan]]
    np.testing.assert_allclose(history.losses, losses)
    np.testing.assert_allclose(history.slacks, slacks)


def test_a_stopped_trial_tells_what_it_reached_while_few_are_complete() -> None:
    reports = {"accuracy": {2: 0.6, 0: 0.2, 1: 0.7}}
    stopped, failed = (
        Trial(number, state, {"x": 0}, {"size": 40.0}, reports=reports)
        for number, state in enumerate((State.STOPPED, State.FAILED))
    )
    history = history_of([stopped, failed], GOAL)
    np.testing.assert_allclose(history.losses, [[-0.6, 40], [np.nan, 40]])
    # Its accuracy was to rise: whether the trial would have kept the limit is not known.
    np.testing.assert_allclose(history.slacks, [[-20, np.nan], [-20, np.nan]])
    assert dict(stopped.values) == {"size": 40.0}


def test_empty() -> None:
    history = history_of([], GOAL)
    assert history.losses.shape == (0, 2)
    assert history.slacks.shape == (0, 2)
