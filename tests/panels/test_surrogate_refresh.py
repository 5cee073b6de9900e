"""The surrogate is asked while a search runs, but only as often as a strict share of the time allows."""

from __future__ import annotations

from dataclasses import fields
from types import ModuleType
from typing import Any

import pytest
from panel_studies import HandMadeStudy, digits_study, empty_study

from nbcompress.optimize import proposer
from nbcompress.optimize.models import FittedModels
from nbcompress.panels import surrogate_data as data_module
from nbcompress.panels import surrogate_refresh
from nbcompress.panels.surrogate_data import SurrogateInsight, always
from nbcompress.panels.surrogate_refresh import IDLE_RATIO, SurrogateRefresh
from nbcompress.run.history import HistoryCache


class Time:
    """A clock that work moves on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.insights: list[float] = []
        self.surrogates: list[float] = []

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()

    def fake_insight(*_: Any, **__: Any) -> SurrogateInsight:
        clock.insights.append(clock.now)
        clock.now += 0.4
        return SurrogateInsight([], {"x": 1.0})

    def fake_surrogate(*_: Any) -> None:
        clock.surrogates.append(clock.now)
        clock.now += 0.004

    monkeypatch.setattr(surrogate_refresh, "insight_of", fake_insight)
    monkeypatch.setattr(surrogate_refresh, "surrogate_data", fake_surrogate)
    return clock


def digits(n: int) -> HandMadeStudy:
    return digits_study(n)


def gp(study: HandMadeStudy) -> Any:
    return proposer("gp", study.space, n_objectives=2, n_constraints=1)


def filled(found: SurrogateInsight) -> set[str]:
    """Return the names of what is not empty."""
    return {field.name for field in fields(found) if getattr(found, field.name)}


def test_takes_its_share_and_no_more(clock: Time) -> None:
    watching = SurrogateRefresh(gp(digits(1)), clock)
    trials = 0
    while clock.now < 600:
        clock.now += 1.0
        trials += 1
        found = watching.refresh(digits(min(trials, 40)), always)
        assert found in (SurrogateInsight(), SurrogateInsight(importance={"x": 1.0}))
        trials = 0 if trials == 40 else trials
    assert len(clock.insights) >= 5
    assert 0.4 * len(clock.insights) <= 600 / IDLE_RATIO + 0.4
    # What the page draws from by itself is cheap, and is told after nearly every trial.
    assert len(clock.surrogates) > 400
    gaps = [b - a for a, b in zip(clock.insights, clock.insights[1:], strict=False)]
    assert min(gaps) >= IDLE_RATIO * 0.4


def test_refreshes_again_only_after_another_trial(clock: Time) -> None:
    watching = SurrogateRefresh(gp(digits(1)), clock)
    clock.now = 1_000.0
    assert not watching.refresh(digits(10), always).is_empty
    clock.now = 2_000.0
    assert watching.refresh(digits(10), always).is_empty
    assert not watching.refresh(digits(11), always).is_empty


def test_many_trials_at_the_start_wait_for_their_turn(clock: Time) -> None:
    watching = SurrogateRefresh(gp(digits(1)), clock)
    clock.now = 60.0
    assert watching.refresh(digits(300), always).is_empty


@pytest.mark.parametrize("where", [surrogate_refresh, data_module], ids=["surrogate", "insight"])
def test_a_failure_is_told_once_and_nobody_asks_again(where: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def broken(*_: Any, **__: Any) -> Any:
        calls.append(1)
        raise FloatingPointError("no")

    monkeypatch.setattr(where, "surrogate_data", broken)
    clock = Time()
    watching = SurrogateRefresh(gp(digits(1)), clock)
    said = []
    for n in (10, 11):
        clock.now += 1_000.0
        said.append(watching.refresh(digits(n), always).warning)
    assert said == [
        "The predictions of the surrogate cannot be shown; computing them failed with FloatingPointError: no.",
        "",
    ]
    assert len(calls) == 1


def test_nobody_is_asked_without_a_surrogate(clock: Time) -> None:
    clock.now = 1_000.0
    assert SurrogateRefresh(None, clock).refresh(digits(10), always).is_empty
    assert clock.insights == []


def test_the_surrogate_is_asked_as_it_was_before_the_trial_began() -> None:
    clock = Time()
    study = digits(24)
    watching = SurrogateRefresh(gp(study), clock)
    clock.now = 100.0
    found = watching.refresh(study, always, started=23)
    assert found.surrogate is not None
    assert found.surrogate["processes"][-1]["trials"][-1] < 23
    assert found.surrogate["pending"] == []
    clock.now = 200.0
    assert watching.refresh(study, always, started=23).is_empty


def test_what_the_proposal_has_fitted_is_not_fitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, study = Time(), digits(24)
    proposes = gp(study)
    histories = HistoryCache()
    watching = SurrogateRefresh(proposes, clock, histories)
    proposes.propose(23, histories.history_of(study.all_trials[:23], study.goal))
    monkeypatch.setattr(FittedModels, "fit", lambda *_: pytest.fail("one fit answers the panel as well"))
    clock.now = 100.0
    # The search has begun trial 23 since.
    found = watching.refresh(study, always, started=23)
    assert found.surrogate is not None
    assert {"surrogate", "importance", "calibration", "objectives"} == filled(found)


def test_what_is_not_wanted_any_more_is_left_out() -> None:
    clock = Time()
    study = digits(24)
    watching = SurrogateRefresh(gp(study), clock)
    clock.now = 100.0
    assert filled(watching.refresh(study, lambda: False)) == {"importance", "surrogate"}
    empty = empty_study()
    assert SurrogateRefresh(gp(study), clock).refresh(empty, always).is_empty
