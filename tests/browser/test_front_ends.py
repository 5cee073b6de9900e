"""The same search in other front ends and after the page went away."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]

from lab import SHOTS, browser, lab, server  # noqa: E402
from playwright.sync_api import Browser, Page  # noqa: E402
from small_notebooks import search, write  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
ERRORS = "[data-mime-type='application/vnd.jupyter.error']"


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with browser() as started:
        yield started


def says(page: Page, words: str, seconds: float = 60) -> None:
    """Wait until a panel says so."""
    page.wait_for_function(
        "words => [...document.querySelectorAll('.nbc')].some(panel => panel.innerText.includes(words))",
        arg=words,
        timeout=seconds * 1000,
    )


def test_notebook_7_shows_the_panel_and_hears_stop(running: Browser, tmp_path: Path) -> None:
    write(tmp_path / "seven.ipynb", search(400), "print('after:', len(study.trials))")
    with server(tmp_path, application="notebook") as address, lab(running, address) as lab_page:
        page = lab_page.page
        page.goto(f"{address}notebooks/seven.ipynb?token=test")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        lab_page.run_all()
        stop = page.get_by_role("button", name="Stop", exact=True)
        stop.wait_for(timeout=120_000)
        page.get_by_role("button", name="Skip", exact=True).wait_for(timeout=30_000)
        says(page, "complete")
        page.locator(".nbc-header").scroll_into_view_if_needed()
        lab_page.shot(SHOTS / "notebook7-running.png")
        stop.click()
        says(page, "Stopped at")
        lab_page.wait_for_end(60)
        assert "after:" in page.locator(".jp-Notebook").inner_text()
        assert page.locator(ERRORS).count() == 0
        assert "model not found" not in page.locator(".jp-Notebook").inner_text()
        lab_page.shot(SHOTS / "notebook7-stopped.png")


def test_a_background_search_survives_a_reload_and_is_seen_from_another_notebook(
    running: Browser, tmp_path: Path
) -> None:
    write(tmp_path / "behind.ipynb", search(400, 0.3, "--background"), "print('other cells run')")
    write(tmp_path / "watching.ipynb", "watched = %bo_study small")
    with (
        server(tmp_path, theme="JupyterLab Dark") as address,
        lab(running, address) as lab_page,
    ):
        page = lab_page.page
        lab_page.open("behind.ipynb")
        lab_page.run_all()
        says(page, "complete", 120)
        assert "other cells run" in page.locator(".jp-Notebook").inner_text()
        lab_page.save()

        lab_page.open("watching.ipynb")
        lab_page.run_all()
        says(page, "this view follows it", 120)
        counted = "Number(document.querySelector('.nbc-done').innerText.split(' ')[0])"
        before = page.evaluate(counted)
        page.wait_for_function(f"before => {counted} > before + 2", arg=before, timeout=30_000)
        assert page.get_by_role("button", name="Stop", exact=True).count() == 0, "the buttons are where it runs"
        lab_page.shot(SHOTS / "watching.png")

        page.goto(f"{address}lab/tree/behind.ipynb?token=test&reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        says(page, "complete")
        page.get_by_role("button", name="Skip", exact=True).wait_for(timeout=30_000)
        lab_page.shot(SHOTS / "reloaded.png")
        page.get_by_role("button", name="Stop", exact=True).click()
        says(page, "Stopped at")
        page.wait_for_timeout(3_000)
        says(page, "Stopped at", 1)
