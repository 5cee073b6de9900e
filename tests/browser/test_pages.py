"""A study on a page of its own: wide tables, and pages that read from right to left."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]

from lab import AXE, FAULTS, browser  # noqa: E402
from many_trials import FILL, IMPORT, PLACE  # noqa: E402
from panel_studies import digits_study  # noqa: E402
from playwright.sync_api import Browser, Locator, Page, expect  # noqa: E402

from nbcompress.panels.bundle import study_bundle  # noqa: E402
from nbcompress.panels.page import asset  # noqa: E402
from nbcompress.panels.view import study_view  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

# What does not fit into its cell, in the first column.
CLIPPED = """() => [...document.querySelectorAll('.nbc-table tr > :first-child')]
    .filter(cell => !cell.colSpan || cell.colSpan === 1).filter(cell => cell.scrollWidth > cell.clientWidth)
    .map(cell => cell.innerText)"""


# What JupyterLab's dark theme sets.
DARK = """() => {
    const colors = { 'ui-font-color1': 'rgba(255,255,255,.87)', 'ui-font-color2': 'rgba(255,255,255,.7)',
        'layout-color1': '#111', 'layout-color2': '#424242', 'border-color2': '#616161', 'brand-color1': '#2196f3' };
    const { style } = document.documentElement;
    Object.entries(colors).forEach(([name, color]) => style.setProperty(`--jp-${name}`, color));
    document.body.dataset.jpThemeLight = 'false';
}"""


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with browser() as started:
        yield started


def shown(page: Page, n_metrics: int, start: int) -> None:
    """Draw a study of 30 trials with large numbers and many metrics."""
    study = digits_study(30)
    more = {f"metric_of_some_length_{i}": 0.123456 * i for i in range(n_metrics)}
    trials = tuple(
        replace(trial, number=trial.number + start, values={**trial.values, **more} if trial.values else {})
        for trial in study.all_trials
    )
    script = asset("panel.js")
    assert script is not None, "the front end is not built"
    page.evaluate(FILL, json.dumps(study_view(replace(study, all_trials=trials))))
    page.evaluate(IMPORT, script)


@pytest.mark.parametrize("start", [0, 170, 99_000])
@pytest.mark.parametrize("n_metrics", [0, 12, 40])
def test_numbers_of_trials_are_shown_whole(running: Browser, n_metrics: int, start: int) -> None:
    page = running.new_page(viewport={"width": 900, "height": 800})
    try:
        page.set_content(PLACE)
        shown(page, n_metrics, start)
        assert page.locator(".nbc-toggle").count() > 20
        assert page.evaluate(CLIPPED) == []
    finally:
        page.close()


def test_a_page_that_reads_from_right_to_left_leaves_our_texts_alone(running: Browser) -> None:
    page = running.new_page()
    try:
        html = study_bundle(digits_study())["text/html"]
        page.set_content(f"<html dir='rtl'><body>{PLACE}<div id='saved'>{html}</div></body></html>")
        shown(page, 3, 0)
        for place in (".nbc-counts", ".nbc-table td", "#saved table", "#saved summary"):
            assert page.locator(place).first.evaluate("element => getComputedStyle(element).direction") == "ltr", place
    finally:
        page.close()


def views_page(running: Browser, width: int = 1000) -> Page:
    page = running.new_page(viewport={"width": width, "height": 1400})
    page.set_content(f"<!doctype html><html lang='en'><title>Study</title><body><main>{PLACE}</main></body></html>")
    return page


def dragged(page: Page, chart: Locator, start: tuple[float, float], end: tuple[float, float]) -> None:
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + start[0] * box["width"], box["y"] + start[1] * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + end[0] * box["width"], box["y"] + end[1] * box["height"], steps=4)
    page.mouse.up()


def test_ranges_zoom_tooltips_and_csv_with_a_real_mouse(running: Browser) -> None:
    page = views_page(running)
    try:
        shown(page, 0, 0)
        dimmed, axis = page.locator("tr.nbc-dim"), page.locator(".nbc-hit").nth(5)
        dragged(page, axis, (0.5, 0.05), (0.5, 0.4))
        expect(page.locator(".nbc-parallel .nbc-chip")).to_contain_text("accuracy from")
        assert 0 < dimmed.count() < 30
        chart = page.locator("[aria-label='Trade-off'] .nbc-plot > svg")
        whole = page.locator("[aria-label='Trade-off'] .nbc-ticks").text_content()
        dragged(page, chart, (0.3, 0.2), (0.6, 0.5))
        expect(page.locator("[aria-label='Trade-off'] .nbc-unzoom")).to_be_visible()
        assert page.locator("[aria-label='Trade-off'] .nbc-ticks").text_content() != whole
        chart.dblclick(position={"x": 150, "y": 100})
        expect(page.locator("[aria-label='Trade-off'] .nbc-unzoom")).to_be_hidden()
        assert page.locator("[aria-label='Trade-off'] .nbc-ticks").text_content() == whole
        mark = page.locator("[aria-label='Trade-off'] [data-trial='8']")
        mark.hover()
        tip = page.locator("[aria-label='Trade-off'] [role=tooltip]")
        expect(tip).to_contain_text("Trial 8, complete")
        chart.focus()
        page.keyboard.press("ArrowRight")
        expect(tip).to_be_visible()
        assert chart.evaluate("chart => chart === document.activeElement")
        page.keyboard.press("+")
        assert chart.evaluate("chart => chart === document.activeElement"), "the focus stays after the chart is drawn"
        page.get_by_label("Search the trials").fill("complete")
        with page.expect_download() as saved:
            page.get_by_role("button", name="Download CSV").click()
        assert saved.value.suggested_filename == "digits.csv"
        lines = Path(saved.value.path()).read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("trial,state,accuracy,kilobytes,")
        assert len(lines) - 1 == page.locator(".nbc-table tbody tr").count()
    finally:
        page.close()


def test_a_pinned_column_stays_when_the_table_is_scrolled(running: Browser) -> None:
    page = views_page(running, 800)
    try:
        shown(page, 30, 0)
        page.get_by_text("Columns", exact=True).click()
        page.get_by_label("Pin method at the left").click()
        before = page.locator("thead .nbc-pinned").nth(1).bounding_box()
        page.locator(".nbc-scroll").evaluate("place => place.scrollLeft = 900")
        after = page.locator("tbody tr:first-child .nbc-pinned").nth(1).bounding_box()
        assert before is not None
        assert after is not None
        assert abs(before["x"] - after["x"]) < 1
    finally:
        page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_fault(running: Browser, theme: str) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: run `npm ci` in labextension.")
    page = views_page(running)
    try:
        if theme == "dark":
            page.evaluate(DARK)
        shown(page, 0, 0)
        page.evaluate(AXE.read_text(encoding="utf-8"))
        page.get_by_text("Columns", exact=True).click()
        page.get_by_role("button", name="Trial 8", exact=True).click()
        for names in (("History", "Parallel coordinates"), ("What if", "Slices"), ("Importance", "Timeline")):
            for name in names:
                page.get_by_role("tab", name=name).click()
            assert page.evaluate(FAULTS, ["html"]) == []
        page.set_content(
            f"<!doctype html><html lang='en'><title>Study</title>{study_bundle(digits_study())['text/html']}"
        )
        page.evaluate(AXE.read_text(encoding="utf-8"))
        assert page.evaluate(FAULTS, ["html"]) == []
    finally:
        page.close()
