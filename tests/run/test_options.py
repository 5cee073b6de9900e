"""Durations and stop rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcompress.errors import SearchError
from nbcompress.run.options import GainBelow, NoGain, described, last_gain, parse_until, seconds_of, until_of
from nbcompress.study import Goal, State, Trial

LOSS = Goal.of(minimize=["loss"])
TWO = Goal.of(maximize=["a"], minimize=["b"], subject_to=["b <= 10"])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("2h", 7200), ("1.5h", 5400), (" 3 s ", 3), ("0.5s", 0.5), (7, 7), (0.25, 0.25)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "wrong", ["90", "", "m", "-3s", "0s", "10 minutes", "1h30m", 0, -1, True, float("inf"), None, []]
)
def test_other_durations(wrong: Any) -> None:
    with pytest.raises(SearchError, match="A time limit is above 0 and reads like 90s, 10m or 2h"):
        seconds_of(wrong)


@pytest.mark.parametrize(("seconds", "text"), [(90, "90 s"), (600, "10 min"), (7200, "2 h"), (0.3, "0.3 s")])
def test_described(seconds: float, text: str) -> None:
    assert described(seconds) == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("no gain 15", NoGain(15)),
        ("  no  gain 1 ", NoGain(1)),
        ("gain < 0.001", GainBelow(0.001)),
        ("gain<1e-3", GainBelow(1e-3)),
    ],
)
def test_rules(text: str, rule: object) -> None:
    assert parse_until(text) == rule == until_of(text) == until_of(rule)
    assert until_of(None) is None


@given(st.integers(1, 10**6) | st.floats(1e-9, 1e9))
def test_printed_and_parsed_again(number: float) -> None:
    rule = NoGain(number) if isinstance(number, int) else GainBelow(float(f"{number:g}"))
    assert parse_until(str(rule)) == rule


@pytest.mark.parametrize("wrong", ["no gain", "gain > 1", "gain < much", "never", ""])
def test_no_rules(wrong: str) -> None:
    with pytest.raises(SearchError, match=r'A stop rule reads "no gain N" or "gain < X", but got .* Write for example'):
        parse_until(wrong)


@pytest.mark.parametrize("wrong", ["no gain 0", "gain < 0", "gain < nan", "gain < -1"])
def test_rules_that_never_or_always_hold(wrong: str) -> None:
    with pytest.raises(SearchError):
        parse_until(wrong)


def complete(number: int, **values: float) -> Trial:
    return Trial(number, State.COMPLETE, {}, values)


def test_no_gain_counts_from_the_last_better_best() -> None:
    trials = [complete(i, loss=value) for i, value in enumerate([3, 2, 2, 5, 4])]
    assert last_gain(trials, LOSS) == 1
    assert NoGain(4).verdict(trials, LOSS) == ""
    assert NoGain(3).verdict(trials, LOSS) == 'The last 3 trials brought no better best (stop rule "no gain 3").'


def test_no_gain_of_a_front() -> None:
    trials = [complete(0, a=1, b=5), complete(1, a=2, b=6), complete(2, a=2, b=7), complete(3, a=9, b=11)]
    assert last_gain(trials, TWO) == 1  # 2 is beaten, 3 breaks the constraint
    assert NoGain(2).verdict(trials, TWO) == 'The last 2 trials brought no gain of the front (stop rule "no gain 2").'


def test_what_counts_counts_and_what_does_not_does_not() -> None:
    ended = [State.FAILED, State.INTERRUPTED, State.RUNNING]
    trials = [complete(0, loss=1), *(Trial(number, state, {}) for number, state in enumerate(ended, start=1))]
    assert NoGain(1).verdict(trials, LOSS) != ""
    assert NoGain(2).verdict(trials, LOSS) == ""
    assert NoGain(1).verdict([], LOSS) == ""


def test_before_anything_is_feasible_nothing_can_be_gained() -> None:
    goal = Goal.of(minimize=["loss"], subject_to=["size <= 1"])
    broken = [Trial(number, State.INFEASIBLE, {"x": 0.5}, {"size": 2.0}) for number in range(5)]
    assert NoGain(2).verdict(broken, goal) == ""
    found = Trial(5, State.COMPLETE, {"x": 0.5}, {"size": 1.0, "loss": 1.0})
    later = [replace(one, number=one.number + 6) for one in broken]
    assert NoGain(5).verdict([*broken, found, *later], goal).startswith("The last 5 trials brought no better best")


def test_gain_below() -> None:
    assert GainBelow(0.1).verdict(None) == GainBelow(0.1).verdict(0.1) == ""
    assert GainBelow(0.1).verdict(0.05) == 'The expected gain of another trial is 0.05 (stop rule "gain < 0.1").'
