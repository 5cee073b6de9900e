"""What the surrogate tells about a study, in the units of its metrics."""

from __future__ import annotations

import pytest
from panel_studies import digits_study, empty_study, single_study

from nbcompress.optimize import History, proposer
from nbcompress.optimize.belief import Belief
from nbcompress.optimize.proposers.gp import GaussianProcessProposer
from nbcompress.panels.bundle import study_bundle
from nbcompress.panels.expectations import expectations_of
from nbcompress.panels.slices import slice_data
from nbcompress.panels.view import MIME, study_view


def test_a_parabola_is_recognised() -> None:
    study = single_study(12)
    found = expectations_of(proposer("gp", study.space, n_objectives=1), study)
    assert found.importance == {"x": pytest.approx(1.0)}
    assert found.calibration is not None
    assert len(found.calibration["residuals"]) == 12
    (along,) = found.slices
    lowest = min(zip(along["metrics"][0]["mean"], along["values"], strict=True))[1]
    assert lowest == pytest.approx(0.3, abs=0.05)
    (saved,) = study_bundle(study, expected=found)[MIME]["slices"]
    assert saved["next"] in saved["values"]


def test_a_maximised_metric_has_its_own_sign() -> None:
    study = digits_study(24)
    found = expectations_of(proposer("gp", study.space, n_objectives=2, n_constraints=1), study, patience=60)
    assert study.best is not None
    assert {one["parameter"] for one in found.slices} == set(study.best.params)
    for along in found.slices:
        accuracy, kilobytes = along["metrics"]
        assert all(0 < value < 1.5 for value in accuracy["mean"])
        assert max(kilobytes["mean"]) > 1
        assert all(low <= high for low, high in zip(accuracy["low"], accuracy["high"], strict=True))
    assert study_view(study, expected=found)["importance"]


def test_nothing_to_tell() -> None:
    study = single_study()
    assert expectations_of(None, study).slices == []
    assert expectations_of(proposer("sobol", study.space, n_objectives=1), study).slices == []
    nothing = empty_study()
    assert expectations_of(proposer("gp", nothing.space, n_objectives=1), nothing).importance is None


def test_a_surrogate_that_fails_costs_no_view() -> None:
    study = digits_study(24)

    class Broken(GaussianProcessProposer):
        def believe(self, history: History) -> Belief:
            raise ValueError("the matrix is <b>singular</b>")

    found = expectations_of(Broken(study.space, 2, 1), study)
    bundle = study_bundle(study, expected=found, warnings=["The body changed."])
    sentence = (
        "What the surrogate expects cannot be shown; asking it failed with ValueError: the matrix is <b>singular</b>."
    )
    assert bundle[MIME]["warnings"] == ["The body changed.", sentence]
    assert f"warning: {sentence}" in bundle["text/plain"]
    assert "<b>" not in bundle["text/html"]
    assert len(bundle[MIME]["trials"]) == 24


def test_patience_ends_the_list() -> None:
    study = digits_study(24)
    found = expectations_of(proposer("gp", study.space, n_objectives=2, n_constraints=1), study, patience=-1.0)
    assert found.slices == []
    assert found.importance


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
