"""What the surrogate shows in a real JupyterLab: what-if, a point that is run next, slices and maps, by real clicks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]

from lab import SHOTS, Lab, browser, lab, server  # noqa: E402
from small_notebooks import write  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

SEARCH = """%%bo_search --trials 400 --maximize score --minimize cost --subject-to "cost <= 1.5" --study asked
from math import log10
x = Float(0, 1)
lr = Float(1e-4, 1e-1, log=True)
bits = Choice(2, 4, 8)
kind = Choice("plain", "deep")
if kind == "deep":
    depth = Int(1, 8)
time.sleep(.3)
cost = x + bits / 8 + (depth / 20 if kind == "deep" else 0)
score = 1 - (x - .3) ** 2 - .1 * (log10(lr) + 2.5) ** 2 - .2 / bits"""
QUEUED = "print('by hand:', [trial.params for trial in study.all_trials if trial.reason == 'Queued by hand.'])"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A dark JupyterLab in which a search runs."""
    folder = tmp_path_factory.mktemp("asked")
    write(folder / "asked.ipynb", SEARCH, QUEUED)
    with browser() as running, server(folder, theme="JupyterLab Dark") as address, lab(running, address) as page:
        page.open("asked.ipynb")
        page.run_all()
        page.page.get_by_role("button", name="Skip", exact=True).wait_for(timeout=120_000)
        page.page.locator(".nbc-header").first.scroll_into_view_if_needed()
        yield page


def tab(page: Lab, name: str) -> None:
    page.page.get_by_role("tab", name=name).click()


def says(page: Lab, place: str, words: str, seconds: float = 30) -> None:
    page.page.wait_for_function(
        "([place, words]) => document.querySelector(place)?.innerText.includes(words)",
        arg=[place, words],
        timeout=seconds * 1000,
    )


def test_sliders_ask_the_surrogate_and_the_point_is_run_next(page: Lab) -> None:
    tab(page, "What if")
    page.page.locator(".nbc-predicted").wait_for(timeout=60_000)
    slider = page.page.get_by_role("slider", name="x")
    look = slider.evaluate("slider => [getComputedStyle(slider).colorScheme, getComputedStyle(slider).accentColor]")
    assert look == ["dark", "rgb(86, 180, 233)"]
    before = page.page.locator(".nbc-predicted td").first.inner_text()
    slider.focus()
    slider.press("End")
    assert slider.get_attribute("aria-valuetext") == "1"
    assert page.page.locator(".nbc-predicted td").first.inner_text() != before, "it answers at once"
    page.page.get_by_role("combobox", name="kind").select_option(label="plain")
    assert not page.page.get_by_role("slider", name="depth").is_visible()
    page.page.get_by_role("combobox", name="kind").select_option(label="deep")
    page.page.get_by_role("slider", name="depth").fill("4")
    page.page.get_by_role("combobox", name="bits").select_option(label="2")
    page.shot(SHOTS / "what-if-dark.png")

    page.page.get_by_role("button", name="Run this next").click()
    says(page, ".nbc-answer", "Queued: it runs after")
    page.page.get_by_role("button", name="Run this next").click()
    says(page, ".nbc-answer", "is queued already or was run")
    page.page.wait_for_function(
        "row => new RegExp(row).test(document.querySelector('.nbc-table tbody').innerText)",
        arg=r"\t1\t[^\t]+\t2\tdeep\t5",
        timeout=30_000,
    )


def test_the_search_is_narrowed_and_widened_while_it_runs(page: Lab) -> None:
    tab(page, "What if")
    slider = page.page.get_by_role("slider", name="x")
    slider.fill("600")
    page.page.get_by_role("button", name="Search with x at least 0.6").click()
    says(page, ".nbc-answer", "from the next proposal on")
    page.page.get_by_role("combobox", name="kind").select_option(label="plain")
    page.page.get_by_role("button", name="Search with kind only plain").click()
    says(page, ".nbc-notes", "narrowed to x from 0.6 to 1, kind plain")
    table = "[...document.querySelectorAll('.nbc-table tbody tr:not(.nbc-fold)')]"
    rows = f"() => {table}.map(row => row.innerText.split('\\t'))"
    seen = len(page.page.evaluate(rows))
    page.page.wait_for_function(f"seen => ({rows})().length > seen + 3", arg=seen, timeout=30_000)
    page.shot(SHOTS / "narrowed-dark.png")
    # The trial after those that were chosen before.
    later = page.page.evaluate(rows)[seen + 1 :]
    assert later
    assert all(float(row[4]) >= 0.6 and row[7] == "plain" for row in later), later
    page.page.get_by_role("button", name="Search all of kind again").click()
    page.page.get_by_role("button", name="Search all of x again").click()
    page.page.wait_for_function(
        "() => !/is narrowed to/.test(document.querySelector('.nbc-notes').innerText)", timeout=10_000
    )


def test_slices_and_maps_show_where_the_next_point_lies(page: Lab) -> None:
    tab(page, "Acquisition")
    says(page, ".nbc-caption", "the acquisition is largest at")
    says(page, ".nbc-caption", "Why trial")
    page.shot(SHOTS / "acquisition-dark.png")
    page.page.get_by_role("combobox", name="Along").select_option(label="x")
    page.page.get_by_role("combobox", name="and").select_option(label="lr")
    says(page, ".nbc-caption", "The diamond marks the largest acquisition: x =")
    assert page.page.locator(".nbc-mark-most").count() == 3, "in all maps; the third is the probability of success"
    assert page.page.locator(".nbc-chart rect[fill]").count() > 2 * 400
    page.shot(SHOTS / "map-dark.png")
    # A selected trial is what slices and maps go through, and what-if starts from.
    page.page.get_by_role("button", name="Trial 2", exact=True).click()
    says(page, ".nbc-caption", "the ring is trial 2")
    tab(page, "What if")
    row = page.page.locator(".nbc-table tbody tr[aria-current]").inner_text().split("\t")
    assert page.page.locator(".nbc-slider output").first.inner_text() == row[4]
    tab(page, "Importance")
    page.page.locator(".nbc-bars").wait_for(timeout=60_000)
    page.shot(SHOTS / "importance-dark.png")


def test_tabs_are_walked_with_the_keyboard(page: Lab) -> None:
    tab(page, "History")
    for name in ("Acquisition", "What if", "Importance", "History"):
        page.page.keyboard.press("ArrowRight")
        focused = page.page.locator("[role=tab]:focus")
        assert focused.inner_text() == name
        assert focused.get_attribute("aria-selected") == "true"


def test_the_saved_view_answers_without_a_kernel_and_offers_no_run(page: Lab) -> None:
    page.page.get_by_role("button", name="Stop", exact=True).click()
    says(page, ".nbc-header", "Stopped at")
    page.wait_for_end(60)
    assert "by hand: [{'x': 1.0" in page.page.locator(".jp-Notebook").inner_text()
    page.page.wait_for_selector(".jp-RenderedMimeType .nbc, .jp-OutputArea-output .nbc")
    page.page.wait_for_function("() => !document.querySelector('.nbc-buttons button')")
    tab(page, "What if")
    slider = page.page.get_by_role("slider", name="x")
    slider.focus()
    before = page.page.locator(".nbc-predicted td").first.inner_text()
    slider.press("Home")
    slider.press("ArrowRight")
    assert page.page.locator(".nbc-predicted td").first.inner_text() != before
    assert not page.page.get_by_role("button", name="Run this next").is_visible()
    page.shot(SHOTS / "what-if-saved-dark.png")
