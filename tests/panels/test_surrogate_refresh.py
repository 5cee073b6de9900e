"""The surrogate is asked while a search runs, but only as often as a strict share of the time allows."""

from __future__ import annotations

from dataclasses import fields
from types import ModuleType
from typing import Any

import pytest
from panel_studies import HandMadeStudy, digits_study, empty_study

from nbcompress.optimize import proposer
from nbcompress.optimize.models import Belief
from nbcompress.panels import surrogate_data as expectations
from nbcompress.panels import surrogate_refresh as foresight
from nbcompress.panels.surrogate_data import Expectations, always
from nbcompress.panels.surrogate_refresh import SHARE, Foresight
from nbcompress.run.history import HistoryCache


class Time:
    """A clock that work moves on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looks: list[float] = []
        self.glances: list[float] = []

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()

    def asked(*_: Any, **__: Any) -> Expectations:
        clock.looks.append(clock.now)
        clock.now += 0.4
        return Expectations([], {"x": 1.0})

    def glanced(*_: Any) -> None:
        clock.glances.append(clock.now)
        clock.now += 0.004

    monkeypatch.setattr(foresight, "expectations_of", asked)
    monkeypatch.setattr(foresight, "surrogate_data", glanced)
    return clock


def digits(n: int) -> HandMadeStudy:
    return digits_study(n)


def gp(study: HandMadeStudy) -> Any:
    return proposer("gp", study.space, n_objectives=2, n_constraints=1)


def told(found: Expectations) -> set[str]:
    """Return the names of what is not empty."""
    return {one.name for one in fields(found) if getattr(found, one.name)}


def test_takes_its_share_and_no_more(clock: Time) -> None:
    watching = Foresight(gp(digits(1)), clock)
    trials = 0
    while clock.now < 600:
        clock.now += 1.0
        trials += 1
        found = watching.look(digits(min(trials, 40)), always)
        assert found in (Expectations(), Expectations(importance={"x": 1.0}))
        trials = 0 if trials == 40 else trials
    assert len(clock.looks) >= 5
    assert 0.4 * len(clock.looks) <= 600 / SHARE + 0.4
    # What the page draws from by itself is cheap, and is told after nearly every trial.
    assert len(clock.glances) > 400
    gaps = [b - a for a, b in zip(clock.looks, clock.looks[1:], strict=False)]
    assert min(gaps) >= SHARE * 0.4


def test_looks_again_only_after_another_trial(clock: Time) -> None:
    watching = Foresight(gp(digits(1)), clock)
    clock.now = 1_000.0
    assert not watching.look(digits(10), always).is_empty
    clock.now = 2_000.0
    assert watching.look(digits(10), always).is_empty
    assert not watching.look(digits(11), always).is_empty


def test_many_trials_at_the_start_wait_for_their_turn(clock: Time) -> None:
    watching = Foresight(gp(digits(1)), clock)
    clock.now = 60.0
    assert watching.look(digits(300), always).is_empty


@pytest.mark.parametrize("where", [foresight, expectations], ids=["glance", "look"])
def test_a_failure_is_told_once_and_nobody_asks_again(where: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def broken(*_: Any, **__: Any) -> Any:
        looks.append(1)
        raise FloatingPointError("no")

    monkeypatch.setattr(where, "surrogate_data", broken)
    clock = Time()
    watching = Foresight(gp(digits(1)), clock)
    said = []
    for n in (10, 11):
        clock.now += 1_000.0
        said.append(watching.look(digits(n), always).remark)
    assert said == ["What the surrogate expects cannot be shown; asking it failed with FloatingPointError: no.", ""]
    assert len(looks) == 1


def test_nobody_is_asked_without_a_surrogate(clock: Time) -> None:
    clock.now = 1_000.0
    assert Foresight(None, clock).look(digits(10), always).is_empty
    assert clock.looks == []


def test_the_surrogate_is_asked_as_it_was_before_the_trial_began() -> None:
    clock = Time()
    study = digits(24)
    watching = Foresight(gp(study), clock)
    clock.now = 100.0
    found = watching.look(study, always, begun=23)
    assert found.surrogate is not None
    assert found.surrogate["processes"][-1]["trials"][-1] < 23
    assert found.surrogate["pending"] == []
    clock.now = 200.0
    assert watching.look(study, always, begun=23).is_empty


def test_what_the_proposal_has_fitted_is_not_fitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, study = Time(), digits(24)
    proposes = gp(study)
    histories = HistoryCache()
    watching = Foresight(proposes, clock, histories)
    proposes.propose(23, histories.history_of(study.all_trials[:23], study.goal))
    monkeypatch.setattr(Belief, "after", lambda *_: pytest.fail("one fit answers the panel as well"))
    clock.now = 100.0
    # The search has begun trial 23 since.
    found = watching.look(study, always, begun=23)
    assert found.surrogate is not None
    assert {"surrogate", "importance", "calibration"} == told(found)


def test_what_is_not_wanted_any_more_is_left_out() -> None:
    clock = Time()
    study = digits(24)
    watching = Foresight(gp(study), clock)
    clock.now = 100.0
    assert told(watching.look(study, lambda: False)) == {"importance", "surrogate"}
    empty = empty_study()
    assert Foresight(gp(study), clock).look(empty, always).is_empty
