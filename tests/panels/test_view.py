"""The data that every view draws."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from panel_studies import SAMPLES, digits_study, empty_study, hostile_study, samples, single_study

from nbcompress.panels.text import SAVED_LIMITS, ViewLimits, format_value
from nbcompress.panels.view import ShortNames, bounded_json, choose_trials, schema, study_view
from nbcompress.study.goal import Goal, State, Trial


def check(view: Any) -> Any:
    """Go through JSON as a notebook does, and hold the result against the schema."""
    data = json.loads(json.dumps(view, allow_nan=False).encode("utf-8"))
    jsonschema.Draft202012Validator(schema()).validate(data)
    return data


@pytest.mark.parametrize(
    "study", [digits_study(), single_study(), empty_study(), hostile_study()], ids=lambda s: s.name[:8]
)
@pytest.mark.parametrize("limits", [ViewLimits(), *SAVED_LIMITS], ids=str)
def test_view_keeps_the_schema(study: Any, limits: ViewLimits) -> None:
    check(study_view(study, limits=limits))


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("name", ["digits", "running", "single", "empty", "hostile"])
def test_samples_are_what_a_view_gives(name: str) -> None:
    stored = json.loads((SAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    assert stored == check(samples()[name]), "run `python tests/panel_studies.py` if the change is meant"


def test_what_is_not_a_number_is_null() -> None:
    trial = Trial(0, State.FAILED, {"x": 0.5}, {"score": math.nan, "other": math.inf}, seconds=math.nan)
    study = empty_study()
    study.all_trials = (trial,)
    data = check(study_view(study))["trials"][0]
    assert data["metrics"] == {"score": None, "other": None}
    assert data["seconds"] is None


def test_a_trial_says_when_and_where_it_ran() -> None:
    study = empty_study()
    ran = Trial(
        0,
        State.FAILED,
        {"x": 0.5},
        started=1_790_000_001.5,
        ended=1_790_000_002.2504,
        worker="node7:4711",
    )
    study.all_trials = (ran, Trial(1, State.RUNNING, {"x": 0.25}, started=math.nan))
    first, second = check(study_view(study))["trials"]
    assert (first["started"], first["ended"], first["worker"]) == (1_790_000_001.5, 1_790_000_002.25, "node7:4711")
    assert not {"started", "ended", "worker"} & second.keys()


def test_a_study_that_another_process_runs_is_shown_as_running() -> None:
    study = single_study()
    study.all_trials = (*study.all_trials, Trial(12, State.RUNNING, {"x": 0.5}))
    study.record = {"budget": {"trials": 30}, "ending": {"reason": "Stopped at 5 of 30 trials."}}
    data = check(study_view(study))
    assert (data["state"], data["budget"]["trials"]) == ("running", 30)
    assert data["ending"].startswith("Another process runs this search.")


def test_an_inactive_parameter_is_absent() -> None:
    data = study_view(digits_study())
    for trial in data["trials"]:
        assert ("clusters" in trial["params"]) == (trial["params"]["method"] == "cluster")


def test_progress_never_falls_and_ends_at_the_front() -> None:
    values = [value for value in study_view(digits_study(60))["progress"]["values"] if value is not None]
    assert values == sorted(values)
    single = study_view(single_study())
    assert single["progress"]["label"] == "best loss"
    best = next(trial for trial in single["trials"] if trial["number"] == single["best"])
    assert single["progress"]["values"][-1] == best["metrics"]["loss"]


def test_hypervolume_by_hand() -> None:
    # Losses (-1, 2), (-2, 4), (-1.5, 1). Ranges 1 and 3, so the reference is (-1 + 0.1, 4 + 0.3).
    study = empty_study()
    study.goal = Goal.of(["a"], ["b"])
    values = [{"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 4.0}, {"a": 1.5, "b": 1.0}]
    study.all_trials = tuple(Trial(i, State.COMPLETE, {"x": i / 3}, metrics) for i, metrics in enumerate(values))
    progress = study_view(study)["progress"]
    first, second, third = progress["values"]
    assert first == pytest.approx(0.1 * 2.3)
    assert second == pytest.approx(0.1 * 2.3 + 1.0 * 0.3)
    assert third == pytest.approx(0.6 * 3.3 + 0.5 * 0.3)
    assert progress["reference"] == pytest.approx({"a": 0.9, "b": 4.3}), "in the units of the objectives"
    assert "reference" not in study_view(single_study())["progress"]


@pytest.mark.parametrize("metrics", [("a", "b"), ("a", "b", "c", "d")])
def test_the_largest_numbers_leave_a_hypervolume(metrics: tuple[str, ...]) -> None:
    study = empty_study()
    study.goal = Goal.of(minimize=metrics)
    values = [dict.fromkeys(metrics, value) for value in (1.7e308, 3.0, -1.7e308)]
    study.all_trials = tuple(Trial(i, State.COMPLETE, {"x": i / 3}, metrics) for i, metrics in enumerate(values))
    first, second, third = check(study_view(study))["progress"]["values"]
    assert 0 < first < second < third


def test_names_stay_different_when_cut() -> None:
    name = ShortNames(10)
    assert name("a" * 20) != name("a" * 21)
    assert name("a" * 20) == name("a" * 20)


def test_the_front_survives_a_cut() -> None:
    study = digits_study(80)
    front = [trial.number for trial in study.front]
    kept = [trial.number for trial in choose_trials(study.all_trials, front, 30)]
    assert set(front) <= set(kept)
    assert kept == sorted(kept)
    assert len(kept) == 30
    cut = study_view(study, limits=ViewLimits(trials=30))
    assert cut["cut"] == "Shows 30 of 80 trials: the front and the latest. The study holds all of them."
    assert len(cut["progress"]["values"]) == 30


def test_plain_bounds_what_it_does_not_know() -> None:
    deep: Any = "x"
    for _ in range(50):
        deep = {"k": [deep]}
    assert (
        len(json.dumps(bounded_json({"deep": deep, "odd": object(), "set": {1}, "nan": math.nan}, ViewLimits())))
        < 3_000
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (8, "8"),
        ("plain", "plain"),
        ("a b", "a b"),
        ("v8", "v8"),
        ("", '""'),
        ("None", '"None"'),
        ("True", '"True"'),
        ("8", '"8"'),
        ("-1.5e3", '"-1.5e3"'),
        (" a", '" a"'),
    ],
)
def test_a_string_that_looks_like_another_value_is_in_quotes(value: Any, text: str) -> None:
    """`labextension/tests/format.test.ts` has the same values."""
    assert format_value(value) == text


def test_names_of_kept_values_are_in_the_view() -> None:
    """Of complete trials; the values themselves are not loaded."""

    class Names(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise AssertionError(f"{name} was loaded")

    study = single_study(4)
    kept = Names(small=1, table=2)
    trials = [replace(trial, kept=kept if trial.number == 2 else {}) for trial in study.all_trials]
    trials[3] = replace(trials[3], state=State.FAILED, kept=kept)
    view = check(study_view(replace(study, all_trials=tuple(trials))))
    assert view["kept"] == {"2": ["small", "table"]}
