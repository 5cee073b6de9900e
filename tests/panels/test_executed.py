"""A notebook run by programs: what it holds afterwards is complete for a reader without a kernel."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from nbcompress.panels.view import MIME

pytestmark = pytest.mark.timeout(300)
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
SEARCH = """%%bo_search --trials 6 --maximize score --study small
x = Float(0, 1)
kind = Choice("a", "<b>bold</b>")
print("tried <i>it</i>")
if x > .9:
    raise ValueError("<script>alert(1)</script>")
score = 1 - (x - .3) ** 2"""
# What code-hosting sites take out of a notebook's HTML, with everything inside.
STRIPPED = {"style", "script", "svg", "iframe", "object", "link"}


class Sanitized(HTMLParser):
    """The text and the pictures that are left of HTML once a code-hosting site has cleaned it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.pictures, self.depth = "", 0, 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.depth += tag in STRIPPED
        source = dict(attrs).get("src") or ""
        self.pictures += tag == "img" and not self.depth and source.startswith("data:image/png;base64,")

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag in STRIPPED

    def handle_data(self, data: str) -> None:
        if not self.depth:
            self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("executed")
    cells = [new_code_cell("%load_ext nbcompress"), new_code_cell(SEARCH), new_code_cell("print(len(study.trials))")]
    nbformat.write(new_notebook(metadata={"kernelspec": KERNEL}, cells=cells), folder / "small.ipynb")
    return folder


def ran(folder: Path, *command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def check(path: Path) -> None:
    """Check that a notebook is valid, refers to no widget, and holds the study in every form."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "widget-view" not in str([cell.outputs for cell in notebook.cells])
    (output,) = [output for output in notebook.cells[1].outputs if MIME in output.get("data", {})]
    assert set(output.data) == {MIME, "text/html", "text/latex", "image/png", "text/plain"}
    assert output.data[MIME]["state"] == "ended"
    left = Sanitized(output.data["text/html"])
    for words in ("Study small", "The best trial", "All trials (6)", "Record of the experiment", "<b>bold</b>"):
        assert words in left.text
    assert left.pictures >= 1
    assert notebook.cells[2].outputs[0].text.strip() == "6"


def test_nbconvert_runs_it_and_writes_a_complete_page(folder: Path) -> None:
    ran(folder, "nbconvert", "--execute", "--to", "notebook", "--output", "converted.ipynb", "small.ipynb")
    check(folder / "converted.ipynb")
    ran(folder, "nbconvert", "--to", "html", "--output", "page.html", "converted.ipynb")
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert "model not found" not in page.lower()
    assert not re.search(r"<script>alert\(1\)|<b>bold</b>|<i>it</i>", page)
    left = Sanitized(page)
    assert "Study small" in left.text
    assert left.pictures >= 1


def test_papermill_runs_it(folder: Path) -> None:
    pytest.importorskip("papermill")
    ran(folder, "papermill", "small.ipynb", "papermill.ipynb", "--no-progress-bar")
    check(folder / "papermill.ipynb")


def test_papermill_sets_the_options(folder: Path) -> None:
    pytest.importorskip("papermill")
    parameters = new_code_cell("trials, name = 9, 'default'", metadata={"tags": ["parameters"]})
    search = new_code_cell(SEARCH.replace("--trials 6", "--trials {trials}").replace("--study small", "--study {name}"))
    shown = new_code_cell("print(study.name, len(study.trials))")
    cells = [parameters, new_code_cell("%load_ext nbcompress"), search, shown]
    nbformat.write(new_notebook(metadata={"kernelspec": KERNEL}, cells=cells), folder / "options.ipynb")
    values = ["-p", "trials", "2", "-p", "name", "first"]
    ran(folder, "papermill", "options.ipynb", "set.ipynb", "--no-progress-bar", *values)
    assert nbformat.read(folder / "set.ipynb", as_version=4).cells[-1].outputs[0].text.strip() == "first 2"
