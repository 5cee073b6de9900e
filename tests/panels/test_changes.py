"""What the page is told while a search runs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
from panel_studies import digits_study, single_study

from nbcompress.panels.changes import Changes
from nbcompress.panels.clock import Clock
from nbcompress.panels.expected import Expectations
from nbcompress.panels.view import Course, schema, study_view
from nbcompress.study.trial import State, Trial

RUNNING = Course(running=True, trials=40, elapsed=1.0)


def page_after(study: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    """What the page does with a delta (see messages.ts)."""
    trials = {one["number"]: one for one in study["trials"]} | {one["number"]: one for one in delta["trials"]}
    after = {**study, **delta["set"], "trials": [trials[number] for number in sorted(trials)]}
    if delta["progress"]:
        head = study["progress"]["values"][: delta["progress"]["from"]]
        after["progress"] = {"label": delta["progress"]["label"], "values": head + delta["progress"]["values"]}
    return after


def begun(trial: Trial) -> Trial:
    return Trial(trial.number, State.RUNNING, trial.params, seed=trial.seed)


def test_deltas_lead_to_the_same_data_as_a_fresh_view() -> None:
    for whole in (digits_study(40), single_study(20)):
        study = replace(whole, all_trials=whole.all_trials[:5])
        changes = Changes(study, "r", None, RUNNING)
        page = changes.state["study"]
        for trial in whole.all_trials[5:]:
            for event in (begun(trial), trial):
                changes.note(event)
                delta = json.loads(json.dumps(changes.delta(RUNNING), allow_nan=False))
                page = page_after(page, delta)
                jsonschema.Draft202012Validator(schema()).validate(page)
                assert page == json.loads(json.dumps(changes.state["study"]))
        fresh = study_view(whole, course=RUNNING)
        assert page == json.loads(json.dumps(fresh))


def test_several_events_make_one_delta_with_only_what_changed() -> None:
    whole = digits_study(40)
    changes = Changes(replace(whole, all_trials=whole.all_trials[:38]), "r", None, RUNNING)
    for trial in whole.all_trials[38:]:
        changes.note(begun(trial))
        changes.note(trial)
    delta = changes.delta(RUNNING)
    assert [one["number"] for one in delta["trials"]] == [38, 39]
    assert len(json.dumps(delta)) < 2_000
    quiet = changes.delta(RUNNING)
    assert quiet == {"kind": "delta", "seq": 2, "trials": [], "progress": None, "set": {}}


def test_what_is_empty_stays_and_a_remark_is_a_warning() -> None:
    changes = Changes(digits_study(10), "r", None, RUNNING)
    changes.expect(Expectations(importance={"amount": 0.75}))
    assert changes.delta(RUNNING)["set"] == {"importance": {"amount": 0.75}}
    changes.expect(Expectations(remark="It failed."))
    assert changes.delta(RUNNING)["set"] == {"warnings": ["It failed."]}
    assert changes.state["study"]["importance"] == {"amount": 0.75}


def test_state_is_replaced_and_never_altered() -> None:
    whole = digits_study(10)
    changes = Changes(replace(whole, all_trials=whole.all_trials[:9]), "r", None, RUNNING)
    before, copy = changes.state, json.dumps(changes.state)
    changes.note(whole.all_trials[9])
    changes.delta(RUNNING)
    assert json.dumps(before) == copy
    assert changes.state["seq"] == 1


def test_clock_estimates_from_what_this_run_did() -> None:
    now = [100.0]
    clock = Clock(10, None, lambda: now[0])
    study = single_study(6)
    clock.start(study.all_trials[:4])
    now[0] = 104.0
    assert clock.running().left is None
    for trial in study.all_trials[4:]:
        clock.ended(trial)
    assert clock.running().left == 4 * 4.0 / 2
    assert clock.over("Done.").elapsed == 4.0


def test_clock_of_a_run_that_ran_nothing() -> None:
    clock = Clock(4, 60.0)
    clock.start(single_study(4).all_trials)
    assert clock.over("Done.").elapsed is None
    assert clock.running().left is None
