"""Figures fit their axes to the values and mark every trial; pictures do not depend on the style of the notebook."""

from __future__ import annotations

import io
import logging
import math
from base64 import b64decode
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.style import library as styles
from panel_studies import choices, digits_study, single_study
from PIL import Image

from nbcompress.panels.bundle import study_bundle
from nbcompress.panels.card_figures import bars_figure
from nbcompress.panels.cards import Card, Drawing
from nbcompress.panels.figures import (
    INK,
    MAX_DRAWN,
    clipped,
    default_style,
    draw_history,
    draw_pictures,
    draw_slice,
    draw_tradeoff,
    needs_log_scale,
    png,
    render,
)
from nbcompress.panels.page import study_page
from nbcompress.panels.surrogate_data import slice_data
from nbcompress.panels.view import MIME, study_view


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


DARK = dict(styles["dark_background"])
STYLES: dict[str, dict[str, Any]] = {
    "dark": DARK,
    "TeX": {"text.usetex": True, "text.latex.preamble": r"\nothing"},
    "missing font": {"font.family": "No Such Font", "mathtext.fontset": "custom", "mathtext.rm": "No Such Font"},
    "grid and sizes": {"axes.grid": True, "font.size": 30.0, "figure.autolayout": True, "lines.linewidth": 9.0},
    "sketch": {"path.sketch": (1, 100, 2), "axes.unicode_minus": False},
}


def bars() -> Figure:
    return bars_figure(["a", "b"], [("before", (1.0, 2.0)), ("after", (0.5, None))], "kB")


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_a_style_of_the_notebook_changes_nothing(style: dict[str, Any]) -> None:
    view = study_view(digits_study())
    plain = (render(bars), draw_pictures(view))
    assert plain[0] is not None
    assert plain[0].png
    with mpl.rc_context(style):
        before = dict(mpl.rcParams)
        assert (render(bars), draw_pictures(view)) == plain
        assert dict(mpl.rcParams) == before


def test_what_is_set_while_a_picture_is_drawn_stays() -> None:
    with mpl.rc_context({"axes.grid": True, "font.size": 30.0}):
        with default_style():
            assert mpl.rcParams["font.size"] == 10.0
            mpl.rcParams["font.size"] = 20.0
            mpl.rcParams["lines.linewidth"] = 7.0
        assert [mpl.rcParams[key] for key in ("axes.grid", "font.size", "lines.linewidth")] == [True, 20.0, 7.0]


def broken(*given: object) -> Figure:
    raise RuntimeError("no pen <b>\nno paper")


def test_a_card_without_its_picture_is_a_card() -> None:
    bundle = Card("title", ("", "n"), (("a", "1"),), drawing=Drawing(broken, "bars")).bundle()
    assert set(bundle) == {"text/plain", "text/html"}
    assert "The picture could not be drawn: RuntimeError: no pen &lt;b&gt;." in bundle["text/html"]
    assert "no paper" not in bundle["text/html"]


@pytest.mark.parametrize("name", ["overview_figure", "summary_figure", "slices_figure", "calibration_figure"])
def test_a_study_without_a_picture_is_saved_and_reported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"nbcompress.panels.figures.{name}", broken)
    bundle = study_bundle(digits_study())
    assert {MIME, "text/html", "text/plain"} <= set(bundle)
    assert ("image/png" in bundle) is (name != "summary_figure")
    page = study_page(digits_study())
    if name in ("overview_figure", "slices_figure"):  # this study has no calibration, and the summary is not in HTML
        assert "RuntimeError: no pen" in bundle["text/html"]
        assert "RuntimeError: no pen" in page


def test_fonts_are_asked_for_only_once_they_are_ours(caplog: pytest.LogCaptureFixture) -> None:
    with mpl.rc_context({"font.family": "No Such Font"}), caplog.at_level(logging.WARNING, "matplotlib"):
        render(bars)
    assert not caplog.records


@pytest.mark.parametrize("value", [1.7e308, -1.7e308])
def test_the_largest_numbers_do_not_empty_the_pictures(value: float) -> None:
    study = single_study(8)
    (metric,) = study.goal.metrics
    extreme = [
        replace(trial, values={metric: sign * value}) for trial, sign in zip(study.all_trials, (1, -1), strict=False)
    ]
    view = study_view(replace(study, all_trials=(*extreme, *study.all_trials[2:])))
    pictures = draw_pictures(view)
    assert pictures.overview is not None
    assert pictures.overview.png
    assert pictures.summary is not None
    assert pictures.summary.png
    assert clipped(view)["trials"][0]["metrics"][metric] == math.copysign(MAX_DRAWN, value)
    assert clipped(study_view(study)) == study_view(study)


def test_the_page_shows_through_and_the_text_can_be_read_on_white_and_on_black() -> None:
    picture = render(bars)
    assert picture is not None
    assert picture.png is not None
    image = np.asarray(Image.open(io.BytesIO(b64decode(picture.png))).convert("RGBA"))
    assert (image[..., 3] == 0).mean() > 0.3
    assert "background" not in picture.html("bars", 100), "the page behind it is seen in HTML, too"
    red, green, blue = (int(INK[i : i + 2], 16) / 255 for i in (1, 3, 5))
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    assert 1.05 / (luminance + 0.05) > 4.4  # the contrast of WCAG 2, to white and to black
    assert (luminance + 0.05) / 0.05 > 4.4
