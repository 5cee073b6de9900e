"""The sidebar, files as tabs, the form, and a reload while a cell runs, with real clicks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import optuna
import pytest

sys.path[:0] = [str(Path(__file__).parent)]

from lab import SHOTS, browser, lab, server  # noqa: E402
from playwright.sync_api import Browser  # noqa: E402
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
    with server(tmp_path, theme="JupyterLab Dark") as address, lab(running, address) as lab_page:
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


def test_a_search_is_inserted_without_typing_and_comes_back_after_a_reload(running: Browser, tmp_path: Path) -> None:
    write(tmp_path / "empty.ipynb", MODEL)
    with server(tmp_path) as address, lab(running, address) as lab_page:
        page = lab_page.page
        lab_page.open("empty.ipynb")
        lab_page.run_all()
        lab_page.wait_for_end(120)
        page.locator("[data-command='nbcompress:insert-search']").first.click()
        page.locator(".nbc-form").wait_for(timeout=30_000)
        lab_page.shot(SHOTS / "insert-1-form.png")
        page.get_by_role("button", name="Insert and run").click()
        page.locator(".jp-OutputArea .nbc-header").wait_for(timeout=120_000)
        lab_page.shot(SHOTS / "insert-2-running.png")
        assert "%%bo_search --trials 30 --maximize accuracy" in page.locator(".jp-Notebook").inner_text()
        lab_page.save()

        # While the kernel computes without a pause, the server answers.
        with urlopen(f"{address}nbcompress/studies?token=test", timeout=10) as answer:
            (line,) = json.load(answer)["studies"]
        assert (line["state"], line["wanted"]) == ("running", 30)
        assert len(line["kernels"]) == 1

        page.goto(f"{address}lab/tree/empty.ipynb?token=test&reset")
        page.locator(".nbc-running .nbc-header").wait_for(timeout=60_000)
        done = "Number(document.querySelector('.nbc-running .nbc-done').innerText.split(' ')[0])"
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
