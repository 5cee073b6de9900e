"""Slices, importance and calibration of the surrogate, and the surrogate as data from which a page predicts."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema
import numpy as np
import pytest
from panel_studies import HandMadeStudy, digits_study, empty_study, hostile_study, single_study
from surrogate_cases import FOLDER, expected_at, points_of, proposer_of, rebuilt, studies

from nbcompress.optimize import History, proposer
from nbcompress.optimize.encoding import Embedding
from nbcompress.optimize.models import FittedModels
from nbcompress.optimize.proposers.gp import GaussianProcessProposer
from nbcompress.panels import surrogate_data as surrogate
from nbcompress.panels.bundle import study_bundle
from nbcompress.panels.surrogate_data import SurrogateInsight, calibration_data, insight_of, slice_data, surrogate_data
from nbcompress.panels.text import ViewLimits
from nbcompress.panels.view import MIME, schema, study_view
from nbcompress.run.history import history_of
from nbcompress.space import Float, Space
from nbcompress.study.goal import Goal, State, Trial


def sentence(residuals: list[float]) -> str:
    found = calibration_data(residuals, "accuracy")
    assert found is not None
    return str(found["sentence"])


def test_the_sentence_follows_from_the_numbers() -> None:
    normal = np.random.default_rng(0).normal(size=100).tolist()
    inside = sum(abs(residual) <= 1.959964 for residual in normal)
    start = f"{inside} of 100 trials lie in the 95 % interval predicted from the other trials"
    assert sentence(normal) == f"{start}: the intervals of the surrogate can be trusted."
    assert sentence([3 * residual for residual in normal]).startswith("Only ")
    assert "too narrow" in sentence([3 * residual for residual in normal])
    assert "wider than necessary" in sentence([residual / 10 for residual in normal])
    assert "too few" in sentence([0.1, 0.2])


def test_one_of_eight_outside_is_no_reason_to_doubt() -> None:
    # At most 7 of 8 inside happens in 1 - .95**8 = 34 of 100 studies; at most 6 in 6, at most 5 in .6 of 100.
    assert "can be trusted" in sentence([1.0] * 7 + [2.5])
    assert "can be trusted" in sentence([1.0] * 6 + [2.5] * 2)
    assert "too narrow" in sentence([1.0] * 5 + [2.5] * 3)


def test_what_is_not_a_number_is_left_out() -> None:
    found = calibration_data([math.nan, math.inf, 1.0], "accuracy")
    assert found is not None
    assert (found["residuals"], found["inside"]) == ([1.0], 1.0)
    assert calibration_data([math.nan], "accuracy") is None


@pytest.mark.parametrize("n", [12, 500])
def test_is_part_of_the_saved_output(n: int) -> None:
    trust = calibration_data(np.random.default_rng(1).normal(size=n), "accuracy")
    bundle = study_bundle(digits_study(), insight=SurrogateInsight(importance={"amount": 1.0}, calibration=trust))
    assert trust is not None
    assert trust["sentence"].replace("'", "&#x27;") in bundle["text/html"]
    assert bundle["text/html"].count("<img") == 2
    assert "in accuracy, predicted from the others, in standard deviations" in bundle["text/html"]


def test_a_parabola_is_recognised() -> None:
    study = single_study(12)
    found = insight_of(proposer("gp", study.space, n_objectives=1), study)
    assert found.importance == {"x": pytest.approx(1.0)}
    assert found.calibration is not None
    assert len(found.calibration["residuals"]) == 12
    (along,) = found.slices
    lowest = min(zip(along["metrics"][0]["mean"], along["values"], strict=True))[1]
    assert lowest == pytest.approx(0.3, abs=0.05)
    (saved,) = study_bundle(study, insight=found)[MIME]["slices"]
    assert saved["next"] in saved["values"]


def test_a_maximised_metric_has_its_own_sign() -> None:
    study = digits_study(24)
    found = insight_of(proposer("gp", study.space, n_objectives=2, n_constraints=1), study, time_limit=60)
    assert study.best is not None
    assert {slice_["parameter"] for slice_ in found.slices} == set(study.best.params)
    for along in found.slices:
        accuracy, kilobytes = along["metrics"]
        assert all(0 < value < 1.5 for value in accuracy["mean"])
        assert max(kilobytes["mean"]) > 1
        assert all(low <= high for low, high in zip(accuracy["low"], accuracy["high"], strict=True))
    assert study_view(study, insight=found)["importance"]


def test_importance_is_of_each_objective() -> None:
    """The first objective depends on `a` alone, the second on `b` alone."""
    points = [{"a": number * 5 % 16 / 15, "b": number * 3 % 16 / 15} for number in range(16)]
    trials = tuple(
        Trial(i, State.COMPLETE, at, {"error": (at["a"] - 0.3) ** 2, "cost": (at["b"] - 0.6) ** 2}, seconds=0.1)
        for i, at in enumerate(points)
    )
    goal = Goal.of(minimize=["error", "cost"])
    study = HandMadeStudy("two", goal, Space({"a": Float(0.0, 1.0), "b": Float(0.0, 1.0)}), trials)
    found = insight_of(proposer("gp", study.space, n_objectives=2), study, time_limit=60)
    shares = {insight["metric"]: insight["importance"] for insight in found.objectives}
    assert shares["error"] == pytest.approx({"a": 1, "b": 0}, abs=0.02)
    assert shares["cost"] == pytest.approx({"a": 0, "b": 1}, abs=0.02)
    assert found.importance == shares["error"]
    bundle = study_bundle(study, insight=found)
    assert [insight["metric"] for insight in bundle[MIME]["insights"]] == ["error", "cost"]
    assert [insight["calibration"]["metric"] for insight in bundle[MIME]["insights"]] == ["error", "cost"]
    page = bundle["text/html"]
    assert "Importance of the parameters for error, cost" in page
    assert page.index("<b>For error</b>") < page.index("<b>For cost</b>")
    alone = insight_of(proposer("gp", study.space, n_objectives=2), study, time_limit=-1.0)
    assert (alone.objectives, alone.importance) == ([], found.importance)


def test_nothing_to_tell() -> None:
    study = single_study()
    assert insight_of(None, study).slices == []
    assert insight_of(proposer("sobol", study.space, n_objectives=1), study).slices == []
    nothing = empty_study()
    assert insight_of(proposer("gp", nothing.space, n_objectives=1), nothing).importance is None


def test_a_surrogate_that_fails_costs_no_view() -> None:
    study = digits_study(24)

    class Broken(GaussianProcessProposer):
        def fit_models(self, history: History) -> FittedModels:
            raise ValueError("the matrix is <b>singular</b>")

    found = insight_of(Broken(study.space, 2, 1), study)
    bundle = study_bundle(study, insight=found, warnings=["The body changed."])
    sentence = (
        "The predictions of the surrogate cannot be shown; computing them failed with ValueError: "
        "the matrix is <b>singular</b>."
    )
    assert bundle[MIME]["warnings"] == ["The body changed.", sentence]
    assert f"warning: {sentence}" in bundle["text/plain"]
    assert "<b>" not in bundle["text/html"]
    assert len(bundle[MIME]["trials"]) == 24


def test_the_time_limit_ends_the_list() -> None:
    """One slice is there in any case: for a slow surrogate without a closed form, a page shows nothing else."""
    study = digits_study(24)
    found = insight_of(proposer("gp", study.space, n_objectives=2, n_constraints=1), study, time_limit=-1.0)
    assert found.importance
    assert [slice_["parameter"] for slice_ in found.slices] == [max(found.importance, key=found.importance.__getitem__)]


def test_slice_turns_losses_into_metrics() -> None:
    study = digits_study()

    class Line:
        values = (0.0, 1.0)
        mean = ((-0.9, -0.8), (10.0, 20.0))
        std = ((0.1, 0.2), (1.0, 1.0))
        acquisition = (-5.0, float("-inf"))

    data = slice_data("amount", Line(), study.goal, at=1.0)
    accuracy, kilobytes = data["metrics"]
    assert accuracy["mean"] == [0.9, 0.8]
    assert accuracy["low"] == pytest.approx([0.9 - 0.196, 0.8 - 0.392])
    assert kilobytes["high"] == pytest.approx([11.96, 21.96])
    assert data["acquisition"] == [-5.0, None]
    assert data["next"] == 0.0


CASES = sorted(studies())


@pytest.mark.parametrize("name", CASES)
def test_the_data_hold_all_that_the_surrogate_predicts_with(name: str) -> None:
    study, options = studies()[name]
    gp = proposer_of(study, options)
    data = surrogate_data(gp, study.all_trials, study.goal)
    assert data is not None
    models = gp.fit_models(history_of(study.all_trials, study.goal))
    again = rebuilt(json.loads(json.dumps(data)), study, gp)
    assert len(again.objectives) + len(again.constraints) == len(models.objectives) + len(models.constraints)
    for point in points_of(study.space):
        known, found = (expected_at(fitted, study, gp, point) for fitted in (models, again))
        for metric, numbers in known["metrics"].items():
            assert found["metrics"][metric] == pytest.approx(numbers, rel=1e-9)
        assert (found["chance"] is None) == (known["chance"] is None)
        assert found["chance"] is None or found["chance"] == pytest.approx(known["chance"], rel=1e-9)
        assert found["acquisition"] == pytest.approx(known["acquisition"], rel=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_samples_hold_pythons_numbers(name: str) -> None:
    sample = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.validate(sample["study"], dict(schema()))
    study, options = studies()[name]
    gp = proposer_of(study, options)
    models = rebuilt(sample["study"]["surrogate"], study, gp)
    for case in sample["cases"]:
        found = expected_at(models, study, gp, case["point"])
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
    with monkeypatch.context() as patched:
        patched.setattr(Embedding, "has_codes", True)
        assert surrogate_data(gp, study.all_trials, study.goal) is None
    monkeypatch.setattr(surrogate, "MAX_TRIALS", 23)
    assert surrogate_data(gp, study.all_trials, study.goal) is None


def test_three_objectives_keep_their_acquisition_in_python() -> None:
    study = digits_study(24)
    three = type(study.goal).of(["accuracy"], ["kilobytes", "amount"])
    assert surrogate._acquisition(proposer_of(type(study)("t", three, study.space, ()), {}), 3) is None


def test_a_function_called_as_an_acquisition_of_ours_stays_in_python() -> None:
    """A page would draw our `ucb` in the place of that of the person."""

    def ucb(model: Any, X_baseline: Any, X_pending: Any, best_f: Any) -> Any:
        from botorch.acquisition import UpperConfidenceBound

        return UpperConfidenceBound(model, 4.0)

    ucb.__qualname__ = "ucb"
    ours = proposer("gp", digits_study(3).space, n_objectives=1, acquisition="ucb")
    of_person = proposer("gp", digits_study(3).space, n_objectives=1, acquisition=ucb)
    assert surrogate._acquisition(ours, 1) == "ucb"  # type: ignore[arg-type]
    assert surrogate._acquisition(of_person, 1) is None  # type: ignore[arg-type]


def test_what_a_page_could_not_evaluate_is_left_out() -> None:
    study = digits_study(24)
    data = surrogate_data(proposer_of(study, {}), study.all_trials, study.goal)
    assert data is not None
    assert study_view(study, insight=SurrogateInsight(surrogate=data))["surrogate"] == data
    # A trial that it learned from is not shown.
    assert "surrogate" not in study_view(study, insight=SurrogateInsight(surrogate=data), limits=ViewLimits(trials=10))
    # Two options are cut to the same text.
    assert "surrogate" not in study_view(
        hostile_study(30), insight=SurrogateInsight(surrogate={"processes": []}), limits=ViewLimits(value=1)
    )


def test_a_parameter_tells_when_it_is_active() -> None:
    clusters = study_view(digits_study(3))["parameters"][-1]
    assert clusters["when"] == [{"method": ["cluster"]}]
    assert "when" not in study_view(digits_study(3))["parameters"][0]
