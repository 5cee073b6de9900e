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

SHOTS = Path(__file__).parent / "shots"
ROOT = Path(__file__).parents[2]

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


RUNNING = "[...document.querySelectorAll('.jp-InputPrompt')].some(prompt => prompt.textContent.includes('*'))"


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


def _write_settings(folder: Path, theme: str, saves_widgets: bool) -> None:
    """Ask for nothing, keep every cell in the page, and use `theme`; save the state of widgets, if wanted."""
    settings = {
        "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
        "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "@jupyterlab/apputils-extension/themes": {"theme": theme},
        "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": saves_widgets},
    }
    for name, values in settings.items():
        path = folder / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


def _extensions_of_this_checkout(home: Path) -> dict[str, str]:
    """Return the variables with which Jupyter finds the two extensions of this checkout before installed ones."""
    share, config = home / "share", home / "etc"
    for folder in (share / "labextensions", config / "jupyter_server_config.d"):
        folder.mkdir(parents=True)
    (share / "labextensions" / "nbcompress").symlink_to(ROOT / "nbcompress" / "labextension")
    shutil.copy(ROOT / "jupyter-config" / "nbcompress.json", config / "jupyter_server_config.d")
    return {"JUPYTER_PATH": str(share), "JUPYTER_CONFIG_PATH": str(config)}


@contextmanager
def server(
    folder: Path, application: str = "lab", theme: str = "JupyterLab Light", saves_widgets: bool = False
) -> Iterator[str]:
    """Serve `folder` and yield the address."""
    home = Path(tempfile.mkdtemp(prefix="jupyter-"))
    _write_settings(home / "settings", theme, saves_widgets)
    command = [
        *[sys.executable, "-m", "jupyter", application, "--no-browser", "--allow-root", "--port=0"],
        *["--IdentityProvider.token=test", "--ServerApp.password=", f"--ServerApp.root_dir={folder}"],
    ]
    folders = {"RUNTIME": "JUPYTER_RUNTIME_DIR", "config": "JUPYTER_CONFIG_DIR", "settings": "JUPYTERLAB_SETTINGS_DIR"}
    env = {**os.environ, **_extensions_of_this_checkout(home)}
    env |= {variable: str(home / name.lower()) for name, variable in folders.items()}
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


def _address(process: subprocess.Popen[bytes], home: Path, time_limit: float = 60) -> str:
    end = time.monotonic() + time_limit
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
        """Run all cells by the menu, once the page and the server agree that the kernel is there.

        The page shows "idle" before it has a session; Run All would then ask which kernel to start.
        """
        end = time.monotonic() + 60
        while not self._has_idle_kernel():
            assert time.monotonic() < end, "no kernel has started"
            time.sleep(0.3)
        self.page.wait_for_selector(".jp-NotebookPanel-toolbar [data-status='idle']", timeout=60_000)
        self.page.wait_for_timeout(2_000)
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.page.wait_for_function(f"() => {RUNNING}", timeout=30_000)

    def _has_idle_kernel(self) -> bool:
        with urlopen(f"{self.address}api/sessions?token=test", timeout=5) as answer:
            return any(session["kernel"]["execution_state"] == "idle" for session in json.load(answer))

    def wait_for_end(self, seconds: float) -> None:
        """Wait until no cell runs or waits."""
        self.page.wait_for_function(f"() => !{RUNNING}", timeout=seconds * 1000)

    def save(self) -> None:
        self.page.keyboard.press("Control+s")
        self.page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')", timeout=20_000)

    def shot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)


@contextmanager
def lab(running: Browser, address: str, **options: Any) -> Iterator[Lab]:
    """Open a page; what it showed when a test failed is kept as a picture."""
    context = running.new_context(viewport={"width": 1400, "height": 1100}, **options)
    page = Lab(context.new_page(), address)
    try:
        yield page
    except Exception:
        page.shot(SHOTS / "failed.png")
        raise
    finally:
        context.close()
