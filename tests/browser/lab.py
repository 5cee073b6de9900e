"""A real JupyterLab on this machine and a real browser in front of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

# Chromium looks things up at its start and fetches components; none of that belongs in a test.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    """Return the path of the browser; without one the tests are skipped, and in CI they fail."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found:
        return found
    sentence = "Browser tests need Chromium: install it, or name one with CHROMIUM=/path."
    if os.environ.get("CI"):
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


@contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=chromium(), args=QUIET)
        try:
            yield running
        finally:
            running.close()


@contextmanager
def server(folder: Path, application: str = "lab") -> Iterator[str]:
    """Serve `folder` and yield the address."""
    home = Path(tempfile.mkdtemp(prefix="jupyter-"))
    command = [
        *[sys.executable, "-m", "jupyter", application, "--no-browser", "--allow-root", "--port=0"],
        *["--IdentityProvider.token=test", "--ServerApp.password=", f"--ServerApp.root_dir={folder}"],
        *["--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
    ]
    env = dict(os.environ, JUPYTER_RUNTIME_DIR=str(home / "runtime"), JUPYTER_CONFIG_DIR=str(home / "config"))
    log = (home / "log").open("w")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield _address(process, home)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
        shutil.rmtree(home, ignore_errors=True)


def _address(process: subprocess.Popen[bytes], home: Path, patience: float = 60) -> str:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        for info in (home / "runtime").glob("jpserver-*.json"):
            text = info.read_text()
            if text.strip():
                url: str = json.loads(text)["url"]
                try:
                    urlopen(f"{url}api?token=test", timeout=2).close()
                except OSError:
                    break
                return url
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError("The Jupyter server did not start:\n" + (home / "log").read_text())


class Lab:
    """One JupyterLab page and what a person does there."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address

    def open(self, notebook: str) -> None:
        self.page.goto(f"{self.address}lab/tree/{notebook}?token=test&reset")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)

    def run_all(self) -> None:
        """Wait for the kernel, then run all cells by the menu."""
        self.page.wait_for_selector(".jp-NotebookPanel-toolbar [data-status='idle']", timeout=60_000)
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.jp-InputPrompt')].some(one => one.textContent.includes('*'))",
            timeout=30_000,
        )

    def save(self) -> None:
        self.page.keyboard.press("Control+s")
        self.page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')", timeout=20_000)

    def shot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)


@contextmanager
def lab(running: Browser, address: str, **options: Any) -> Iterator[Lab]:
    context = running.new_context(viewport={"width": 1400, "height": 1100}, **options)
    try:
        yield Lab(context.new_page(), address)
    finally:
        context.close()
