"""A real JupyterLab on this machine and a real browser in front of it."""

from __future__ import annotations

import json
import os
import re
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


AXE = ROOT / "labextension" / "node_modules" / "axe-core" / "axe.min.js"
# What axe finds in the elements that are there, of those that the selectors name.
FAULTS = """async selectors => {
    const include = selectors.filter(selector => document.querySelector(selector));
    const found = await axe.run({ include }, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa'] });
    return found.violations.map(({ impact, id, nodes }) => [impact, id, nodes.map(node => node.html.slice(0, 160))]);
}"""
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


def _write_settings(folder: Path, theme: str, saves_widgets: bool, language: str | None) -> None:
    """Ask for nothing, keep every cell in the page, and use `theme`; save the state of widgets, if wanted."""
    settings = {
        "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
        "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "@jupyterlab/apputils-extension/themes": {"theme": theme},
        "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": saves_widgets},
        "@jupyterlab/translation-extension/plugin": {"locale": language or "default"},
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
    folder: Path,
    application: str = "lab",
    theme: str = "JupyterLab Light",
    saves_widgets: bool = False,
    language_pack: Path | None = None,
) -> Iterator[str]:
    """Serve `folder` and yield the address; `language_pack` is a folder from `write_language_pack`."""
    home = Path(tempfile.mkdtemp(prefix="jupyter-"))
    _write_settings(home / "settings", theme, saves_widgets, PSEUDO_LANGUAGE if language_pack else None)
    command = [
        *[sys.executable, "-m", "jupyter", application, "--no-browser", "--allow-root", "--port=0"],
        *["--IdentityProvider.token=test", "--ServerApp.password=", f"--ServerApp.root_dir={folder}"],
    ]
    folders = {"RUNTIME": "JUPYTER_RUNTIME_DIR", "config": "JUPYTER_CONFIG_DIR", "settings": "JUPYTERLAB_SETTINGS_DIR"}
    env = {**os.environ, **_extensions_of_this_checkout(home)}
    env |= {variable: str(home / name.lower()) for name, variable in folders.items()}
    if language_pack is not None:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(language_pack), env.get("PYTHONPATH")]))
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


# The one that JupyterLab has for tests of translations.
PSEUDO_LANGUAGE = "ach_UG"
_TEXT = r'"((?:[^"\\\\]|\\\\.)*)"'
_CALL = re.compile(rf"\b(?:__\(\s*{_TEXT}|_n\(\s*{_TEXT},\s*{_TEXT})")


def write_language_pack(folder: Path) -> Path:
    """Write a language pack that puts every text of our sources and settings in brackets; return the folder."""
    texts: dict[str, Any] = {
        "": {"language": PSEUDO_LANGUAGE.replace("_", "-"), "plural_forms": "nplurals=2; plural=(n != 1);"}
    }
    for source in (ROOT / "labextension" / "src").glob("*.ts"):
        for found in _CALL.findall(source.read_text(encoding="utf-8")):
            given = [json.loads(f'"{text}"') for text in found if text]
            texts[given[0]] = [f"\u27e6{text}\u27e7" for text in given]
    schema = json.loads((ROOT / "labextension" / "schema" / "settings.json").read_text(encoding="utf-8"))
    for part in (schema, *schema["properties"].values()):
        for key in ("title", "description"):
            texts[f"schema\u0004{part[key]}"] = [f"\u27e6{part[key]}\u27e7"]
    messages = folder / "pseudo_pack" / "locale" / PSEUDO_LANGUAGE / "LC_MESSAGES"
    messages.mkdir(parents=True)
    (folder / "pseudo_pack" / "__init__.py").touch()
    (messages / "nbcompress.json").write_text(json.dumps(texts), encoding="utf-8")
    about = folder / "pseudo_pack-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: pseudo-pack\nVersion: 1\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(f"[jupyterlab.languagepack]\n{PSEUDO_LANGUAGE} = pseudo_pack\n")
    return folder


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

    def use_theme(self, name: str) -> None:
        """Choose a theme in the menu, and wait until it is there."""
        self.page.get_by_role("menuitem", name="Settings", exact=True).click()
        self.page.locator(".lm-Menu-item[data-type='submenu']", has_text=re.compile(r"^\s*Theme")).click()
        self.page.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True).click()
        self.page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name, timeout=30_000)

    def faults(self, *selectors: str) -> list[Any]:
        """Return what axe finds in our elements; without axe the test is skipped."""
        if not AXE.is_file():
            pytest.skip("axe-core is not installed: run `npm ci` in labextension.")
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found: list[Any] = self.page.evaluate(FAULTS, list(selectors))
        return found

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
