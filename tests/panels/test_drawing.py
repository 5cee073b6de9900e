"""Pictures: the same whatever style the notebook uses, and given up rather than what they belong to."""

from __future__ import annotations

import logging
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from panel_studies import digits_study

from nbcompress.panels import Card, study_page
from nbcompress.panels.bundle import pictures, study_bundle
from nbcompress.panels.cards import Drawing
from nbcompress.panels.cards.figures import bars_figure
from nbcompress.panels.drawing import drawn, fixed_style
from nbcompress.panels.view import MIME, study_view

DARK = dict(mpl.style.library["dark_background"])
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
    plain = (drawn(bars), pictures(view))
    assert plain[0] is not None
    assert plain[0].png
    with mpl.rc_context(style):
        before = dict(mpl.rcParams)
        assert (drawn(bars), pictures(view)) == plain
        assert dict(mpl.rcParams) == before


def test_what_is_set_while_a_picture_is_drawn_stays() -> None:
    with mpl.rc_context({"axes.grid": True, "font.size": 30.0}):
        with fixed_style():
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


@pytest.mark.parametrize("name", ["overview_figure", "slices_figure", "calibration_figure"])
def test_a_study_without_a_picture_is_saved_and_reported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"nbcompress.panels.bundle.{name}", broken)
    bundle = study_bundle(digits_study())
    assert {MIME, "text/html", "text/plain"} <= set(bundle)
    assert ("image/png" in bundle) is (name != "overview_figure")
    page = study_page(digits_study())
    if name != "calibration_figure":  # which this study has no place for
        assert "RuntimeError: no pen" in bundle["text/html"]
        assert "RuntimeError: no pen" in page


def test_fonts_are_asked_for_only_once_they_are_ours(caplog: pytest.LogCaptureFixture) -> None:
    with mpl.rc_context({"font.family": "No Such Font"}), caplog.at_level(logging.WARNING, "matplotlib"):
        drawn(bars)
    assert not caplog.records
