"""The surrogate as data: from it alone, Python and the page predict the same numbers."""

from __future__ import annotations

import json

import jsonschema
import pytest
from panel_studies import digits_study, hostile_study
from surrogate_cases import FOLDER, expected_at, points_of, proposer_of, rebuilt, studies

from nbcompress.optimize import proposer
from nbcompress.panels import surrogate
from nbcompress.panels.expected import Expectations
from nbcompress.panels.limits import Limits
from nbcompress.panels.surrogate import surrogate_data
from nbcompress.panels.view import schema, study_view
from nbcompress.run.history import history_of

CASES = sorted(studies())


@pytest.mark.parametrize("name", CASES)
def test_the_data_tell_all_that_the_surrogate_believes(name: str) -> None:
    study, options = studies()[name]
    gp = proposer_of(study, options)
    data = surrogate_data(gp, study.all_trials, study.goal)
    assert data is not None
    belief = gp.believe(history_of(study.all_trials, study.goal))
    again = rebuilt(json.loads(json.dumps(data)), study, gp)
    assert len(again.losses) + len(again.limits) == len(belief.losses) + len(belief.limits)
    for point in points_of(study.space):
        known, told = (expected_at(one, study, gp, point) for one in (belief, again))
        for metric, numbers in known["metrics"].items():
            assert told["metrics"][metric] == pytest.approx(numbers, rel=1e-9)
        assert (told["chance"] is None) == (known["chance"] is None)
        assert told["chance"] is None or told["chance"] == pytest.approx(known["chance"], rel=1e-9)
        assert told["acquisition"] == pytest.approx(known["acquisition"], rel=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_samples_hold_pythons_numbers(name: str) -> None:
    sample = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.validate(sample["study"], dict(schema()))
    study, options = studies()[name]
    gp = proposer_of(study, options)
    belief = rebuilt(sample["study"]["surrogate"], study, gp)
    for case in sample["cases"]:
        found = expected_at(belief, study, gp, case["point"])
        assert found["acquisition"] == pytest.approx(case["acquisition"], rel=1e-8)
        for metric, numbers in case["metrics"].items():
            assert found["metrics"][metric] == pytest.approx(numbers, rel=1e-8)


def test_a_sampler_without_a_surrogate_has_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    study = digits_study(24)
    random = proposer("random", study.space, n_objectives=2, n_constraints=1)
    assert surrogate_data(random, study.all_trials, study.goal) is None
    assert surrogate_data(None, study.all_trials, study.goal) is None
    gp = proposer_of(study, {})
    assert surrogate_data(gp, (), study.goal) is None
    monkeypatch.setattr(surrogate, "MOST_TRIALS", 23)
    assert surrogate_data(gp, study.all_trials, study.goal) is None


def test_three_objectives_keep_their_acquisition_in_python() -> None:
    study = digits_study(24)
    three = type(study.goal).of(["accuracy"], ["kilobytes", "amount"])
    assert surrogate._acquisition(proposer_of(type(study)("t", three, study.space, ()), {})) is None


def test_what_a_page_could_not_evaluate_is_left_out() -> None:
    study = digits_study(24)
    data = surrogate_data(proposer_of(study, {}), study.all_trials, study.goal)
    assert data is not None
    assert study_view(study, expected=Expectations(surrogate=data))["surrogate"] == data
    # A trial that it learned from is not shown.
    assert "surrogate" not in study_view(study, expected=Expectations(surrogate=data), limits=Limits(trials=10))
    # Two options are cut to the same text.
    assert "surrogate" not in study_view(
        hostile_study(30), expected=Expectations(surrogate={"processes": []}), limits=Limits(value=1)
    )


def test_a_parameter_tells_when_it_is_active() -> None:
    clusters = study_view(digits_study(3))["parameters"][-1]
    assert clusters["when"] == [{"method": ["cluster"]}]
    assert "when" not in study_view(digits_study(3))["parameters"][0]
