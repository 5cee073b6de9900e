"""The buttons of a running search, pressed in a real JupyterLab while the cell runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]

from lab import SHOTS, Lab, browser, lab, server  # noqa: E402
from playwright.sync_api import Browser  # noqa: E402
from small_notebooks import search, write  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

# Presses a button and counts the milliseconds until the page shows Python's answer.
PRESS = """async ([name, shows]) => {
    const button = [...document.querySelectorAll('.nbc-buttons button')].find(one => one.textContent === name);
    const holds = new Function('return ' + shows);
    const start = performance.now();
    button.click();
    while (!holds()) {
        if (performance.now() - start > 20000) throw new Error(`${name} was not answered`);
        await new Promise(done => setTimeout(done, 5));
    }
    return performance.now() - start;
}"""
PAUSED = "document.querySelector('.nbc-buttons [aria-pressed=true]')"
STOPPING = "/Stopp/.test(document.querySelector('.nbc-notes').innerText)"
# No answer is ever heard, as in a front end without a second way into a busy kernel.
DEAF = "from nbcompress.panels import live\nlive.LivePanel._pressed = lambda *given: None"
AFTER = "time.sleep(1)\nprint('after:', len(study.trials))"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, str, Path]]:
    folder = tmp_path_factory.mktemp("controls")
    with browser() as running, server(folder) as address:
        yield running, address, folder


@pytest.fixture
def page(place: tuple[Browser, str, Path]) -> Iterator[Lab]:
    with lab(place[0], place[1]) as one:
        yield one


def begin(page: Lab, notebook: Path, *cells: str) -> None:
    """Run a notebook until its panel has heard from Python."""
    write(notebook, *cells)
    page.open(notebook.name)
    page.run_all()
    page.page.get_by_role("button", name="Stop", exact=True).wait_for(timeout=120_000)
    page.page.locator(".nbc-header").first.scroll_into_view_if_needed()


def says(page: Lab, words: str, seconds: float = 30) -> None:
    page.page.wait_for_function(
        "words => document.querySelector('.nbc-header').innerText.includes(words)", arg=words, timeout=seconds * 1000
    )


def test_every_button_is_answered_within_a_second_while_the_cell_runs(
    page: Lab, place: tuple[Browser, str, Path]
) -> None:
    begin(page, place[2] / "controls.ipynb", search(400), AFTER)
    page.page.get_by_role("button", name="Pause", exact=True).wait_for(timeout=30_000)
    says(page, "complete")
    took = []
    for _ in range(5):
        took.append(page.page.evaluate(PRESS, ["Pause", PAUSED]))
        took.append(page.page.evaluate(PRESS, ["Pause", f"!{PAUSED}"]))
    assert (
        page.page.evaluate(PRESS, ["Skip", "/stopped/.test(document.querySelector('.nbc-counts').innerText)"]) < 3_000
    )
    page.shot(SHOTS / "controls.png")
    took.append(page.page.evaluate(PRESS, ["Stop", STOPPING]))
    assert max(took) < 1_000, took
    says(page, "Stopped at")
    page.wait_for_end(60)
    # The search ended without an error, and the cell after it ran to its end.
    assert "after:" in page.page.locator(".jp-Notebook").inner_text()
    assert page.page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


def test_without_an_answer_stop_interrupts_this_search_and_nothing_else(
    page: Lab, place: tuple[Browser, str, Path]
) -> None:
    begin(page, place[2] / "deaf.ipynb", DEAF, search(400), AFTER)
    page.page.wait_for_function(
        "() => document.querySelector('.nbc-notes').innerText.includes('--background')", timeout=60_000
    )
    assert page.page.get_by_role("button", name="Skip", exact=True).count() == 0
    page.shot(SHOTS / "deaf.png")
    page.page.get_by_role("button", name="Stop", exact=True).click()
    says(page, "Interrupted at")
    page.wait_for_end(60)
    assert "after:" in page.page.locator(".jp-Notebook").inner_text()
    assert page.page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


HOSTILE = """%%bo_search --trials 12 --maximize score --study "<img src=x onerror=window.hit=1>" --sampler random
kind = Choice("<script>window.hit=2</script>", "'\\"><svg onload=window.hit=3>", "\\u202eright to left", "n" * 10_000)
time.sleep(.2)
print("<b onmouseover=window.hit=4>printed</b>")
if kind.startswith("<script>"):
    raise ValueError("<iframe src='javascript:parent.hit=5'></iframe>")
score = float(len(kind))"""


def test_hostile_strings_are_text_while_it_runs_and_afterwards(page: Lab, place: tuple[Browser, str, Path]) -> None:
    begin(page, place[2] / "hostile.ipynb", HOSTILE)
    for name in ("running", "ended"):
        page.page.wait_for_selector(".nbc-toggle")
        page.page.evaluate("document.querySelectorAll('.nbc-toggle').forEach(one => one.click())")
        assert "<img src=x onerror=window.hit=1>" in page.page.locator(".nbc-title").inner_text()
        assert page.page.locator(".nbc script, .nbc img, .nbc iframe, .nbc b, .nbc svg[onload]").count() == 0
        page.shot(SHOTS / f"hostile-{name}.png")
        page.wait_for_end(60)
        says(page, "12 trials")
    assert "<script>window.hit=2</script>" in page.page.locator(".nbc").inner_text()
    assert page.page.evaluate("window.hit") is None
