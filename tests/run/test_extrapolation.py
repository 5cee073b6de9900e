"""What stopped trials would have come to, by hand-made curves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbcompress.run.extrapolation import expected_value
from nbcompress.run.history import history_of
from nbcompress.study import Goal, State, Trial

GOAL = Goal.of(maximize=["accuracy"], minimize=["kilobytes"])


def trial(number: int, curve: list[float], state: State = State.COMPLETE) -> Trial:
    values = {"kilobytes": 10.0} | ({"accuracy": curve[-1]} if state is State.COMPLETE else {})
    return Trial(number, state, {"x": number / 10}, values, reports={"accuracy": dict(enumerate(curve))})


WHOLE = [trial(0, [0.4, 0.6, 0.9]), trial(1, [0.3, 0.7, 0.8]), trial(2, [0.6, 0.7, 0.8])]


def test_the_middle_gain_of_whole_trials_is_added() -> None:
    # From the first report on they gained 0.5, 0.5 and 0.2; from the second on 0.3, 0.1 and 0.1.
    assert expected_value(trial(3, [0.35], State.STOPPED), "accuracy", WHOLE) == pytest.approx(0.85)
    assert expected_value(trial(3, [0.2, 0.72], State.STOPPED), "accuracy", WHOLE) == pytest.approx(0.82)


def test_it_is_never_beyond_what_was_measured() -> None:
    assert expected_value(trial(3, [0.9], State.STOPPED), "accuracy", WHOLE) == 0.9
    assert expected_value(trial(3, [0.0], State.STOPPED), "accuracy", WHOLE) == 0.8


def test_nothing_is_expected_where_nothing_tells() -> None:
    stopped = trial(3, [0.5], State.STOPPED)
    assert math.isnan(expected_value(stopped, "accuracy", [stopped]))
    assert math.isnan(expected_value(stopped, "loss", WHOLE))
    assert math.isnan(expected_value(trial(3, [0.5], State.FAILED), "accuracy", WHOLE))


def test_the_history_tells_it_and_keeps_what_was_measured() -> None:
    stopped = trial(3, [0.35], State.STOPPED)
    history = history_of([*WHOLE, stopped], GOAL)
    np.testing.assert_allclose(history.losses[3], [-0.85, 10.0])
    assert history.status[3] == "told"
    assert dict(stopped.values) == {"kilobytes": 10.0}
