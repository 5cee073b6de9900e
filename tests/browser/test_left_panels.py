"""Panels that have outlived their search: they say so, offer nothing, and interrupt nobody."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import nbformat
import pytest

sys.path[:0] = [str(Path(__file__).parent)]

from lab import SHOTS, Lab, browser, lab, server  # noqa: E402
from playwright.sync_api import Browser  # noqa: E402
from small_notebooks import search, write  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
LEFT = "%bo_study small shows how it stands"
BUTTONS = ".nbc-buttons button"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, str, Path]]:
    folder = tmp_path_factory.mktemp("left")
    with browser() as running, server(folder, saves_widgets=True) as address:
        yield running, address, folder


@pytest.fixture
def page(place: tuple[Browser, str, Path]) -> Iterator[Lab]:
    with lab(place[0], place[1]) as one:
        yield one


def begin(page: Lab, notebook: Path, *cells: str) -> None:
    write(notebook, *cells)
    page.open(notebook.name)
    page.run_all()
    page.page.get_by_role("button", name="Skip", exact=True).wait_for(timeout=120_000)


def says(page: Lab, words: str, seconds: float = 30) -> None:
    page.page.wait_for_function(
        "words => document.querySelector('.nbc-header')?.innerText.includes(words)", arg=words, timeout=seconds * 1000
    )


def asked(address: str, path: str, data: bytes | None = None) -> object:
    with urlopen(Request(f"{address}api/{path}", data, {"Authorization": "token test"}), timeout=30) as answer:
        return json.load(answer)


def kernel_of(page: Lab, notebook: str) -> str:
    sessions = asked(page.address, "sessions")
    assert isinstance(sessions, list)
    return str(next(one["kernel"]["id"] for one in sessions if one["path"] == notebook))


DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize("how", ["menu", "elsewhere", "killed"])
def test_after_its_kernel_was_restarted(page: Lab, place: tuple[Browser, str, Path], how: str) -> None:
    notebook = place[2] / f"restarted-{how}.ipynb"
    # A restart by another client interrupts first, which ends a search in the foreground in good order.
    begin(page, notebook, search(400, options="" if how == "menu" else "--background"))
    says(page, "complete")
    if how == "menu":
        page.page.get_by_role("menuitem", name="Kernel", exact=True).click()
        page.page.locator(".lm-Menu [data-command='kernelmenu:restart']").click()
        page.page.locator(".jp-Dialog .jp-mod-accept").click()
    elif how == "elsewhere":
        asked(page.address, f"kernels/{kernel_of(page, notebook.name)}/restart", b"{}")
    else:
        run_below(page, DIES)
        page.page.locator(".jp-Dialog .jp-mod-accept").click()
    says(page, LEFT)
    assert page.page.locator(BUTTONS).count() == 0
    page.page.get_by_role("tab", name="What if").click()
    assert not page.page.get_by_role("button", name="Run this next").is_visible()
    assert "left" not in page.page.locator(".nbc-counts").inner_text()
    page.shot(SHOTS / f"left-{how}.png")


def run_below(page: Lab, code: str) -> None:
    """Type a cell at the end of the notebook and run it."""
    page.page.locator(".jp-Notebook .jp-Cell").last.locator(".cm-content").click()
    page.page.keyboard.press("Escape")
    page.page.keyboard.press("b")
    page.page.keyboard.press("Enter")
    page.page.keyboard.insert_text(code)
    page.page.keyboard.press("Control+Enter")


def test_saved_in_mid_run_and_opened_another_day(page: Lab, place: tuple[Browser, str, Path]) -> None:
    notebook = place[2] / "saved.ipynb"
    begin(page, notebook, search(400))
    says(page, "complete")
    with page.page.expect_response(lambda one: one.request.method == "PUT" and "saved.ipynb" in one.url):
        page.page.keyboard.press("Control+s")
    kernel = kernel_of(page, notebook.name)
    saved = nbformat.read(notebook, as_version=4)
    assert saved.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    page.page.goto("about:blank")
    ends = Request(f"{page.address}api/kernels/{kernel}", headers={"Authorization": "token test"}, method="DELETE")
    urlopen(ends, timeout=30).close()
    # Another day, another kernel, in which something else runs.
    nbformat.write(saved, place[2] / "another-day.ipynb")
    page.open("another-day.ipynb")
    says(page, LEFT)
    page.shot(SHOTS / "left-saved.png")
    assert page.page.locator(BUTTONS).count() == 0
    run_below(page, "import time\ntime.sleep(8)\nprint('slept', 'well')")
    page.page.wait_for_timeout(2_000)
    assert page.page.locator(BUTTONS).count() == 0
    page.page.get_by_text("slept well", exact=True).wait_for(timeout=60_000)
