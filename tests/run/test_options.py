"""Options of a search, durations and stop rules."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbcompress as nc
from nbcompress.errors import GoalError, SearchError
from nbcompress.magics.search_options import search_parser
from nbcompress.run.options import (
    PROPOSER_OPTIONS,
    STEERING,
    GainBelow,
    NoGain,
    SearchOptions,
    described,
    last_gain,
    parse_until,
    seconds_of,
)
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
def test_rules(text: str, rule: NoGain | GainBelow) -> None:
    assert parse_until(text) == rule == SearchOptions(until=text).stop_rule == SearchOptions(until=rule).stop_rule
    assert SearchOptions().stop_rule is None


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
    later = [replace(trial, number=trial.number + 6) for trial in broken]
    assert NoGain(5).verdict([*broken, found, *later], goal).startswith("The last 5 trials brought no better best")


def test_gain_below() -> None:
    assert GainBelow(0.1).verdict(None) == GainBelow(0.1).verdict(0.1) == ""
    assert GainBelow(0.1).verdict(0.05) == 'The expected gain of another trial is 0.05 (stop rule "gain < 0.1").'


def test_the_options_are_listed_once() -> None:
    """The signature of `nc.search`, the parser of the cell and the dataclass have equal names and defaults."""
    signature = inspect.signature(nc.search)
    keywords = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for name in ("maximize", "minimize", "subject_to", "observers", "controls"):
        del keywords[name]
    assert keywords == {declared.name: declared.default for declared in fields(SearchOptions)}

    typed = vars(search_parser().read(""))
    for name in ("help", "objectives", "subject_to", "background", "panel", "dry_run", "out"):
        del typed[name]
    assert {name: () if value == [] else value for name, value in typed.items()} == keywords


def test_options_check_and_normalize_themselves() -> None:
    options = SearchOptions(trials=np.int64(4), start=[{"x": 1}], keep="small", baseline={"loss": 1})  # type: ignore[arg-type]
    assert (options.start, options.keep, options.baseline) == (({"x": 1},), ("small",), {"loss": 1.0})
    assert options.trials == 4
    assert type(options.trials) is int
    wrong = {"trials": 0, "jobs": True, "seed": 0.5, "finalists": 16, "timeout": "3 days", "start": 3}
    for name, value in wrong.items():
        with pytest.raises(SearchError):
            SearchOptions(**{name: value})  # type: ignore[arg-type]


def test_sensitivity() -> None:
    options = SearchOptions(sensitivity={"loss": {"l0": np.float32(0.5), "l1": 2}})
    assert options.sensitivity == {"loss": {"l0": 0.5, "l1": 2.0}}
    assert options.facts("inline")["search"]["sensitivity"] == {"loss": {"l0": 0.5, "l1": 2.0}}
    for wrong, text in (
        (3, r"sensitivity is a dict by metric of dicts by name of each=, such as .*, but got 3\."),
        ({"loss": 3}, r"but got {'loss': 3}. The result of nc.sensitivity is one of these as result.by_layer\(\)"),
        ({"loss": {"l0": -1.0}}, r"at least 0 for each name, but that of 'l0' for 'loss' is -1.0. Write the size"),
        ({"loss": {"l0": None}}, r"that of 'l0' for 'loss' is None"),
    ):
        with pytest.raises(GoalError, match=text):
            SearchOptions(sensitivity=wrong)  # type: ignore[arg-type]


def test_what_the_record_says_of_the_options() -> None:
    facts = SearchOptions(timeout="10m", until="no gain 3").facts("pool")
    assert facts["budget"] == {"trials": 30, "timeout": "10m", "trial timeout": None}
    assert (facts["search"]["engine"], facts["search"]["until"]) == ("pool", "no gain 3")
    left_out = {"surrogate", "sensitivity", "noise"}  # where they are not given
    assert set(SearchOptions().steering) == set(STEERING)
    assert set(STEERING) - left_out < set(facts["search"])
    assert not left_out & set(facts["search"])
    assert {*PROPOSER_OPTIONS, "pruner", "noise"} == set(STEERING)
