"""The quickstart, executed in its short mode, and then again down to its last search."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest

from nbcompress.study import read_study

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from run import execute  # noqa: E402

MIME = "application/vnd.nbcompress.study.v1+json"

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]


def outputs(path: Path) -> list[dict]:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def up_to_the_last_search(source: Path, target: Path) -> Path:
    """Write the first cells of a notebook, down to its last search."""
    notebook = nbformat.read(source, as_version=4)
    last = max(index for index, cell in enumerate(notebook.cells) if cell.source.startswith("%%bo_search"))
    notebook.cells = notebook.cells[: last + 1]
    nbformat.write(notebook, target)
    return target


def test_quickstart_runs_and_running_it_again_repeats_no_trial(tmp_path: Path) -> None:
    executed = execute(EXAMPLES / "quickstart.ipynb", tmp_path, short=True)
    left = outputs(executed)
    assert [output for output in left if output.output_type == "error"] == []
    studies = [output.data for output in left if output.get("data", {}).get(MIME)]
    assert len(studies) == 1
    assert {"text/html", "image/png", "text/plain"} <= set(studies[0])
    assert not any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in left)
    printed = "".join(output.text for output in left if output.output_type == "stream")
    assert "equal outputs in another process: True" in printed
    assert (tmp_path / "report.html").stat().st_size > 20_000

    before = {name: read_study(name, tmp_path / "nbcompress.journal").trials for name in ("digits", "digits-random")}
    begin = up_to_the_last_search(executed, tmp_path / "begin.ipynb")
    again = outputs(execute(begin, tmp_path))
    for name, trials in before.items():
        assert read_study(name, tmp_path / "nbcompress.journal").trials.equals(trials)
    text = next(output.data["text/plain"] for output in again if output.get("data", {}).get(MIME))
    assert "none was run again" in text
