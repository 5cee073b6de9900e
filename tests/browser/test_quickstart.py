"""The quickstart in a real JupyterLab: the panel while it runs, and the same notebook with no kernel."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nbformat
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES), str(Path(__file__).parent)]

from lab import SHOTS, Lab, browser, lab, server  # noqa: E402
from run import shortened  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    notebook = shortened(nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4))
    nbformat.write(notebook, tmp_path / "quickstart.ipynb")
    return tmp_path


def test_the_panel_lives_and_the_saved_notebook_tells_all(folder: Path) -> None:
    with browser() as running, server(folder) as address, lab(running, address) as page:
        page.open("quickstart.ipynb")
        watch_it_run(page)
        look_at_it_without_a_kernel(page, folder)


def watch_it_run(page: Lab) -> None:
    page.run_all()
    stop = page.page.get_by_role("button", name="Stop", exact=True)
    stop.wait_for(timeout=120_000)
    panel = page.page.locator(".nbc-header").first
    panel.scroll_into_view_if_needed()
    page.page.wait_for_function(
        "() => document.querySelector('.nbc-header').innerText.includes('complete')", timeout=60_000
    )
    page.shot(SHOTS / "running.png")
    for name in ("Pause", "Skip"):
        assert page.page.get_by_role("button", name=name, exact=True).is_visible()

    page.wait_for_end(400)
    assert page.page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert not stop.is_visible()
    page.page.locator(".nbc-header").first.scroll_into_view_if_needed()
    page.shot(SHOTS / "finished.png")
    page.save()


def look_at_it_without_a_kernel(page: Lab, folder: Path) -> None:
    saved = nbformat.read(folder / "quickstart.ipynb", as_version=4)
    nbformat.validate(saved)
    page.page.goto("about:blank")
    shutil.copy(folder / "quickstart.ipynb", folder / "reopened.ipynb")
    page.open("reopened.ipynb")
    page.page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
    view = page.page.locator(".nbc-header").first
    view.wait_for(timeout=60_000)
    view.scroll_into_view_if_needed()
    page.shot(SHOTS / "reopened.png")
    assert "digits" in view.inner_text()
    assert "model not found" not in page.page.locator(".jp-Notebook").inner_text()
