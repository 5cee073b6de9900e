import json
import math

import numpy as np
import pytest

from nbcompress.errors import SearchError
from nbcompress.optimize import History, Proposal


def test_feasible_needs_every_loss_and_every_constraint() -> None:
    history = History(
        ({"x": 1}, {"x": 2}, {"x": 3}, {"x": 4}, {"x": 5}),
        np.array([[1.0], [2.0], [math.nan], [4.0], [math.nan]]),
        np.array([[0.0], [0.1], [-1.0], [math.nan], [math.nan]]),
        ("told", "told", "told", "told", "pending"),
    )
    assert history.is_feasible.tolist() == [True, False, False, False, False]


def test_json_round_trip() -> None:
    history = History.empty(2, 1).with_point({"x": 0.1}, "told", [1 / 3, math.nan], [-1.0], {"gain": 0.1})
    history = history.with_point({"x": 0.2}).with_point({"x": 0.3}, "failed")
    again = History.from_json(json.loads(json.dumps(history.to_json())))
    assert again.points == history.points
    assert again.status == history.status
    assert again.notes == history.notes
    np.testing.assert_array_equal(again.losses, history.losses)
    np.testing.assert_array_equal(again.slacks, history.slacks)


def test_an_empty_history_keeps_its_widths() -> None:
    again = History.from_json(History.empty(3, 2).to_json())
    assert again.losses.shape == (0, 3)
    assert again.slacks.shape == (0, 2)


def test_the_arrays_are_frozen_copies() -> None:
    losses = np.array([[1.0]])
    history = History(({"x": 1},), losses)
    losses[0, 0] = 2.0
    assert history.losses[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        history.losses[0, 0] = 3.0


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: History(({"x": 1},), np.zeros((2, 1))), "one row for each of the 1 points"),
        (lambda: History(({"x": 1},), np.array([[math.inf]])), "must be finite, or NaN for unknown"),
        (lambda: History(({"x": 1},), np.zeros((1, 1)), status=("done",)), "'told', 'failed' or 'pending'"),
        (lambda: History(({"x": 1},), np.zeros((1, 1)), notes=({}, {})), "needs 1 notes, but got 2"),
        (lambda: History.from_json({"version": 9}), "version 9"),
    ],
)
def test_what_cannot_be(build, text: str) -> None:
    with pytest.raises(SearchError, match=text):
        build()


def test_what_is_computed_from_a_history_is_kept_with_it() -> None:
    history, calls = History.empty(1), []
    assert [history.cached("key", lambda: calls.append(1) or len(calls)) for _ in range(2)] == [1, 1]
    assert history.cached("other", lambda: 5) == 5
    assert history.with_point({"x": 1}).cached("key", lambda: 7) == 7


def test_the_expected_gain_is_read_from_the_note() -> None:
    assert Proposal({"x": 1}, {"gain": 0.25}).expected_gain == 0.25
    assert Proposal({"x": 1}).expected_gain is None
