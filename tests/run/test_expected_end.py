"""What stopped trials count as, by hand."""

from __future__ import annotations

import math

import pytest

from nbcompress.run.expected_end import Precedents, curve_of
from nbcompress.run.history import history_of
from nbcompress.study import Goal, State, Trial

# After one report .2, .4, .5, .9; in the end .8, .8, .7, .95: gains of .6, .4, .2, .05.
CURVES = ([0.2, 0.6, 0.8], [0.4, 0.7, 0.8], [0.5, 0.6, 0.7], [0.9, 0.95])
COMPLETE = [
    Trial(i, State.COMPLETE, {"x": i}, {"accuracy": curve[-1]}, reports={"accuracy": dict(enumerate(curve))})
    for i, curve in enumerate(CURVES)
]


@pytest.mark.parametrize(
    ("curve", "end"),
    [
        ([], math.nan),
        ([0.3], 0.3 + 0.4),
        ([0.8], 0.8 + (0.05 + 0.2 + 0.4) / 3),
        # After two reports: gains of .2, .1, .1, 0.
        ([0.1, 0.5], 0.5 + (0.2 + 0.1 + 0.1) / 3),
        # Only three got as far as three reports, and were at their end.
        ([0.1, 0.1, 0.2], 0.2),
        # Nobody got that far.
        ([0.1] * 4, 0.1),
    ],
)
def test_the_three_nearest_tell_the_gain(curve: list[float], end: float) -> None:
    assert Precedents.of(COMPLETE, "accuracy").expected_end(curve) == pytest.approx(end, nan_ok=True)


def test_fewer_than_three_tell_nothing() -> None:
    assert Precedents.of(COMPLETE[:2], "accuracy").expected_end([0.3]) == 0.3
    assert Precedents.of([], "accuracy").expected_end([0.3]) == 0.3


def test_reports_are_read_in_the_order_of_their_steps() -> None:
    trial = Trial(0, State.STOPPED, {}, reports={"accuracy": {5: 0.7, 1: 0.2}})
    assert curve_of(trial, "accuracy") == [0.2, 0.7]
    assert curve_of(trial, "loss") == []


def test_the_surrogate_is_told_the_expected_end_of_a_stopped_trial_alone() -> None:
    reports = {"accuracy": {0: 0.3}}
    others = [
        Trial(4, State.STOPPED, {"x": 4}, {"size": 2.0}, reports=reports),
        # Its accuracy was known for good when it ended.
        Trial(5, State.STOPPED, {"x": 5}, {"accuracy": 0.6, "size": 3.0}, reports=reports),
        Trial(6, State.FAILED, {"x": 6}, reports=reports),
    ]
    losses = history_of([*COMPLETE, *others], Goal.of(maximize=["accuracy"], minimize=["size"])).losses
    assert losses[4:].tolist() == [
        [pytest.approx(-0.7), 2.0],
        [-0.6, 3.0],
        [pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True)],
    ]
