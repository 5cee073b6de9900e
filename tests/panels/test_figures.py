"""Figures of a study: axes that fit the values, and a mark for every trial that measured something."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from panel_studies import choices, digits_study, single_study

from nbcompress.panels.drawing import png
from nbcompress.panels.figures import draw_history, draw_slice, draw_tradeoff, needs_log_scale
from nbcompress.panels.surrogate_data import slice_data
from nbcompress.panels.view import study_view


def test_a_heavy_baseline_does_not_squeeze_the_trials() -> None:
    ax = Figure().subplots()
    draw_tradeoff(ax, study_view(digits_study(), baseline={"accuracy": 0.98, "kilobytes": 500.0}))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    near = Figure().subplots()
    draw_tradeoff(near, study_view(digits_study(), baseline={"accuracy": 0.98, "kilobytes": 90.0}))
    assert near.get_xscale() == "linear"


def test_what_is_maximized_keeps_its_straight_axis() -> None:
    ax = Figure().subplots()
    draw_tradeoff(ax, study_view(digits_study(), baseline={"accuracy": 0.01, "kilobytes": 90.0}))
    assert ax.get_yscale() == "linear"


def test_a_loss_that_falls_by_powers_of_ten_is_seen_to_fall() -> None:
    ax = Figure().subplots()
    draw_history(ax, study_view(single_study()))
    assert ax.get_yscale() == "log"


def test_only_the_front_of_two_objectives_is_a_line() -> None:
    view = study_view(digits_study())
    objectives = [*view["goal"]["objectives"], {"metric": "milliseconds", "direction": "minimize"}]
    two, three = Figure().subplots(), Figure().subplots()
    draw_tradeoff(two, view)
    draw_tradeoff(three, {**view, "goal": {**view["goal"], "objectives": objectives}})
    assert len(two.lines) == len(three.lines) + 1


def test_trials_without_a_metric_stand_at_the_edge() -> None:
    figure = Figure()
    ax = figure.subplots()
    draw_tradeoff(ax, study_view(digits_study()))
    labels = ax.get_legend_handles_labels()[1]
    assert {"infeasible, no accuracy", "stopped, no accuracy"} <= set(labels)
    sizes = [trial.values["kilobytes"] for trial in digits_study().all_trials if "kilobytes" in trial.values]
    low, high = ax.get_xlim()
    assert low < min(sizes) < max(sizes) < high, "no mark lies outside the axes"
    assert png(figure)


def test_prediction_and_acquisition_of_a_choice_are_aligned() -> None:
    above, below = Figure().subplots(2, 1)
    draw_slice(above, below, slice_data("method", choices(), digits_study().goal), is_log=False)
    assert above.get_xlim() == below.get_xlim()


@pytest.mark.parametrize(
    ("values", "wide"), [([], False), ([0.0, 100.0], False), ([-1.0, 100.0], False), ([4.0, 81.0], True)]
)
def test_wide(values: list[float], wide: bool) -> None:
    assert needs_log_scale(values) is wide
