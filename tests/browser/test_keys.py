"""Keys that are pressed in the panel act on the panel, never on the notebook around it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]

from lab import Lab, browser, lab, server  # noqa: E402
from playwright.sync_api import Locator  # noqa: E402
from small_notebooks import search, write  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

SPACE = 'x = Float(0, 1)\nkind = Choice("a", "b", "xx")'
KEYS = ["x", "d", "d", "c", "v", "a", "b", "m", "y", "r", "z", "Shift+M", "Shift+ArrowDown", "Alt+Enter"]
ARROWS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End", "PageUp", "PageDown", "Space", "Enter"]
# What the notebook is: its cells in order with their kinds and texts, which of them are shown, and which is active.
NOTEBOOK = """() => [...document.querySelectorAll('.jp-Notebook .jp-Cell')].map(cell => [
    cell.className.match(/jp-(Code|Markdown|Raw)Cell/)?.[0], cell.querySelector('.jp-InputArea')?.innerText,
    cell.offsetHeight > 0, cell.classList.contains('jp-mod-active'), cell.classList.contains('jp-mod-selected')])"""


@pytest.fixture(scope="module", params=["lab", "notebook"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A finished search between two headings, its panel on screen."""
    folder = tmp_path_factory.mktemp("keys")
    write(folder / "keys.ipynb", search(14, 0).replace("x = Float(0, 1)", SPACE), "after = 1", headings=True)
    with (
        browser() as running,
        server(folder, application=request.param) as address,
        lab(running, address) as page,
    ):
        if request.param == "lab":
            page.open("keys.ipynb")
        else:
            page.page.goto(f"{address}notebooks/keys.ipynb?token=test")
            page.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        page.run_all()
        page.wait_for_end(120)
        page.page.get_by_role("tab", name="What if").click()
        page.page.locator(".nbc-predicted").wait_for(timeout=60_000)
        yield page


def places(page: Lab) -> dict[str, Locator]:
    """Return one of every kind of element in the panel that takes the focus."""
    found = page.page
    return {
        "select": found.get_by_role("combobox", name="Up"),
        "what-if select": found.get_by_role("combobox", name="kind"),
        "slider": found.get_by_role("slider", name="x"),
        "tab": found.get_by_role("tab", name="What if"),
        "chart": found.locator(".nbc-place svg").first,
        "table": found.get_by_role("region", name="Table of trials"),
        "heading of a column": found.locator(".nbc-sort").first,
        "number of a trial": found.get_by_role("button", name="Trial 3", exact=True),
        "button": found.get_by_role("button", name="Best", exact=True),
        "record": found.locator(".nbc-record summary"),
    }


@pytest.mark.parametrize("keys", [KEYS, ARROWS], ids=["letters", "arrows"])
def test_the_notebook_stays_as_it_is(page: Lab, keys: list[str]) -> None:
    for name, place in places(page).items():
        place.scroll_into_view_if_needed()
        place.focus()
        before = page.page.evaluate(NOTEBOOK)
        for key in keys:
            place.focus()
            page.page.keyboard.press(key)
            page.page.keyboard.press("Escape")
        assert page.page.evaluate(NOTEBOOK) == before, name
        page.page.get_by_role("tab", name="What if").click()


def test_a_slider_that_was_clicked_moves_by_its_keys(page: Lab) -> None:
    slider = page.page.get_by_role("slider", name="x")
    slider.click()
    before = page.page.evaluate(NOTEBOOK)
    slider.press("End")
    assert slider.get_attribute("aria-valuetext") == "1"
    slider.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "0.999"
    for key in ("d", "d", "x"):
        page.page.keyboard.press(key)
    assert page.page.evaluate(NOTEBOOK) == before


def test_a_select_is_chosen_from_by_letters(page: Lab) -> None:
    select = page.page.get_by_role("combobox", name="kind")
    select.focus()
    select.press("x")
    assert select.evaluate("select => select.selectedOptions[0].innerText") == "xx"


def test_shortcuts_of_the_front_end_go_on_working(page: Lab) -> None:
    page.page.get_by_role("slider", name="x").focus()
    page.page.keyboard.press("d")
    with page.page.expect_request(lambda request: request.method == "PUT" and "api/contents/keys.ipynb" in request.url):
        page.page.keyboard.press("Control+s")
