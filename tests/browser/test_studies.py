"""The sidebar, files as tabs, the form, and a reload while a cell runs, with real clicks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import optuna
import pytest

sys.path[:0] = [str(Path(__file__).parent)]

from lab import SHOTS, browser, lab, server, write_language_pack  # noqa: E402
from playwright.sync_api import Browser, Page  # noqa: E402
from small_notebooks import write  # noqa: E402

import nbcompress as nc  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

HOSTILE = "<img src=x onerror=alert(1)> \u05e2\u05d1\u05e8\u05d9\u05ea"
MODEL = """\
import torch
from torch import nn
torch.manual_seed(0)
train = (torch.randn(64, 1, 8, 8), torch.randint(0, 3, (64,)))
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 32), nn.ReLU(), nn.Linear(32, 3))
def evaluate(net):
    # Pure Python that never sleeps: the kernel answers nothing meanwhile.
    end = time.monotonic() + .7
    while time.monotonic() < end:
        pass
    with torch.no_grad():
        return float((net(train[0]).argmax(1) == train[1]).float().mean())
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with browser() as started:
        yield started


def fill(root: Path) -> None:
    """Write studies of ours and of Optuna's, and a compressed model."""
    from torch import nn

    for name in ("digits", "digits-random", HOSTILE):
        nc.search(
            lambda x: {"accuracy": 1 - x * x, "kilobytes": 10 + 50 * x},
            {"x": nc.Float(0, 1)},
            maximize="accuracy",
            minimize="kilobytes",
            trials=6,
            sampler="sobol",
            storage=str(root / "nbcompress.journal"),
            study=name,
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    theirs = optuna.create_study(storage=f"sqlite:///{root / 'theirs.db'}", study_name="theirs")
    theirs.optimize(lambda trial: trial.suggest_float("a", 0, 1), n_trials=5)
    nc.save(nc.quantize(nn.Linear(16, 4), bits=4), root / "small.nbz")


def test_studies_are_listed_opened_compared_and_deleted(running: Browser, tmp_path: Path) -> None:
    fill(tmp_path)
    with (
        server(tmp_path, theme="JupyterLab Dark") as address,
        lab(running, address, permissions=["clipboard-read", "clipboard-write"]) as lab_page,
    ):
        page = lab_page.page
        page.on("dialog", lambda dialog: pytest.fail(f"a name ran as a script: {dialog.message}"))
        page.goto(f"{address}lab?token=test&reset")
        page.get_by_role("tab", name="Studies").click(timeout=60_000)
        items = page.locator("#nbcompress-studies .nbc-side-item")
        items.nth(3).wait_for(timeout=30_000)
        assert sorted(items.locator(".nbc-side-name").all_inner_texts()) == sorted(
            ["digits", "digits-random", HOSTILE, "theirs"]
        )
        lab_page.shot(SHOTS / "studies.png")

        page.get_by_role("button", name="theirs", exact=True).click()
        page.locator(".nbc-tabpage .nbc-title", has_text="Study theirs").wait_for(timeout=30_000)
        for name in ("digits", "digits-random"):
            page.get_by_role("checkbox", name=f"Select {name} for a comparison", exact=True).check()
        page.get_by_role("button", name="Compare", exact=True).click()
        page.locator(".nbc-compare .nbc-legend li").nth(1).wait_for(timeout=30_000)
        page.locator(".nbc-compare path[stroke-width]").nth(3).wait_for(timeout=30_000)
        lab_page.shot(SHOTS / "studies-compared.png")

        copied_code_runs(page, tmp_path)
        exported_report_opens(page, running)

        page.get_by_role("button", name="Delete: digits-random", exact=True).click()
        page.get_by_role("button", name="Cancel").click()
        assert items.count() == 4
        page.get_by_role("button", name="Delete: digits-random", exact=True).click()
        page.locator(".jp-Dialog").get_by_role("button", name="Delete").click()
        page.wait_for_function("() => document.querySelectorAll('.nbc-side-item').length === 3", timeout=30_000)

        page.locator(".jp-SideBar [data-id='filebrowser']").click()
        for file, words in [
            ("nbcompress.journal", "Study of this file"),
            ("theirs.db", "Study theirs"),
            ("small.nbz", "4 bits, symmetric, by channel"),
        ]:
            page.locator(".jp-DirListing-item", has_text=file).dblclick()
            tab = page.locator(".lm-DockPanel .jp-MainAreaWidget:not(.lm-mod-hidden)").last
            (tab.get_by_label(words) if words.startswith("Study of") else tab.get_by_text(words).first).wait_for(
                timeout=60_000
            )
        lab_page.shot(SHOTS / "model-file.png")

        page.get_by_role("tab", name="Studies").click()
        page.set_viewport_size({"width": 800, "height": 900})
        for theme in ("JupyterLab Dark", "JupyterLab Dark High Contrast", "JupyterLab Light"):
            if theme != "JupyterLab Dark":
                lab_page.use_theme(theme)
            for tab in ("theirs", "Comparison", "small.nbz"):
                page.locator(
                    ".lm-DockPanel-tabBar .lm-TabBar-tab", has_text=re.compile(rf"^\s*{re.escape(tab)}\s*$")
                ).click()
                lab_page.shot(SHOTS / f"{tab}-{theme.split()[-1]}.png".lower())
                assert lab_page.faults("#nbcompress-studies", ".nbc-tabpage") == [], (theme, tab)


def copied_code_runs(page: Page, root: Path) -> None:
    """Copy a study as code; what the clipboard has then runs in the folder of the server."""
    page.get_by_role("button", name="Copy as code: digits", exact=True).click()
    page.get_by_text("Copied the lines that open digits.").wait_for(timeout=30_000)
    code = page.evaluate("() => navigator.clipboard.readText()")
    run = [sys.executable, "-c", f"{code}print(len(study.trials))"]
    assert subprocess.run(run, cwd=root, capture_output=True, text=True, check=True, timeout=120).stdout == "6\n"


def exported_report_opens(page: Page, running: Browser) -> None:
    """Export a report; the file shows the trials in a page of its own."""
    with page.expect_download(timeout=120_000) as saved:
        page.get_by_role("button", name="Export report: digits", exact=True).click()
    assert saved.value.suggested_filename == "digits.html"
    report = running.new_page()
    try:
        report.set_content(Path(saved.value.path()).read_text(encoding="utf-8"))
        report.locator(".nbc-title", has_text="Study digits").wait_for(timeout=30_000)
        assert report.locator(".nbc-table tbody tr:has(.nbc-number)").count() == 6
    finally:
        report.close()


def test_a_search_is_inserted_without_typing_and_comes_back_after_a_reload(running: Browser, tmp_path: Path) -> None:
    """In the language of JupyterLab's tests, which puts every text of ours in brackets."""
    write(tmp_path / "empty.ipynb", MODEL)
    pack = write_language_pack(tmp_path / ".pack")
    with server(tmp_path, language_pack=pack) as address, lab(running, address) as lab_page:
        page = lab_page.page
        lab_page.open("empty.ipynb")
        lab_page.run_all()
        lab_page.wait_for_end(120)
        page.locator("[data-command='nbcompress:insert-search']").first.click()
        page.locator(".nbc-form").wait_for(timeout=30_000)
        lab_page.shot(SHOTS / "insert-1-form.png")
        assert page.locator(".jp-Dialog-header").inner_text() == "\u27e6Insert a search\u27e7"
        labels = page.locator(".nbc-form label, .nbc-form legend, .jp-Dialog-footer .jp-mod-accept").all_inner_texts()
        assert [label for label in labels if label.strip() and "\u27e6" not in label] == []
        assert lab_page.faults(".nbc-form") == []
        page.get_by_role("button", name="Insert and run").click()
        # At once, while the kernel still writes the cell and loads what a search needs.
        page.get_by_text(re.compile("The kernel looks at the model|The search starts")).first.wait_for(timeout=5_000)
        lab_page.shot(SHOTS / "insert-2-starting.png")
        page.locator(".jp-OutputArea .nbc-header").wait_for(timeout=120_000)
        page.get_by_text("The search starts").wait_for(state="detached", timeout=30_000)
        lab_page.shot(SHOTS / "insert-2-running.png")
        tabs = page.locator(".jp-OutputArea .nbc-tab").all_inner_texts()
        assert tabs
        assert all(tab.startswith("\u27e6") for tab in tabs)
        assert "%%bo_search --trials 30 --maximize accuracy" in page.locator(".jp-Notebook").inner_text()
        lab_page.save()

        # While the kernel computes without a pause, the server answers.
        with urlopen(f"{address}nbcompress/studies?token=test", timeout=10) as answer:
            (line,) = json.load(answer)["studies"]
        assert (line["state"], line["wanted"]) == ("running", 30)
        assert len(line["kernels"]) == 1

        page.goto(f"{address}lab/tree/empty.ipynb?token=test&reset")
        page.locator(".nbc-running .nbc-header").wait_for(timeout=60_000)
        done = "Number(document.querySelector('.nbc-running .nbc-done').innerText.match(/\\d+/)[0])"
        before = page.evaluate(done)
        page.wait_for_function(f"before => {done} > before", arg=before, timeout=60_000)
        lab_page.shot(SHOTS / "insert-3-reloaded.png")
        page.locator(".nbc-running-head").get_by_role("button", name="Stop").click()
        page.get_by_text("The search that ran before the page was loaded has ended.").wait_for(timeout=60_000)


def test_notebook_7_has_the_command(running: Browser, tmp_path: Path) -> None:
    write(tmp_path / "seven.ipynb", MODEL)
    with server(tmp_path, application="notebook") as address, lab(running, address) as lab_page:
        page = lab_page.page
        page.goto(f"{address}notebooks/seven.ipynb?token=test")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        lab_page.run_all()
        lab_page.wait_for_end(120)
        page.locator("[data-command='nbcompress:insert-search']").first.click()
        page.locator(".nbc-form").wait_for(timeout=30_000)
        lab_page.shot(SHOTS / "notebook7-form.png")
        page.get_by_role("button", name="Insert", exact=True).click()
        page.wait_for_function(
            "() => document.querySelector('.jp-Notebook').innerText.includes('%%bo_search --trials 30')", timeout=60_000
        )
