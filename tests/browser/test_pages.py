"""A study on a page of its own: wide tables, and pages that read from right to left."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]

from lab import browser  # noqa: E402
from many_trials import FILL, IMPORT, PLACE  # noqa: E402
from panel_studies import digits_study  # noqa: E402
from playwright.sync_api import Browser, Page  # noqa: E402

from nbcompress.panels.bundle import study_bundle  # noqa: E402
from nbcompress.panels.page import asset  # noqa: E402
from nbcompress.panels.view import study_view  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

# What does not fit into its cell, in the first column.
CLIPPED = """() => [...document.querySelectorAll('.nbc-table tr > :first-child')]
    .filter(cell => !cell.colSpan || cell.colSpan === 1).filter(cell => cell.scrollWidth > cell.clientWidth)
    .map(cell => cell.innerText)"""


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
