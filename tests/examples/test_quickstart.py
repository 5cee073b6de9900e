"""The quickstart, executed in its short mode, twice."""

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


def test_quickstart_runs_and_running_it_again_repeats_no_trial(tmp_path: Path) -> None:
    executed = execute(EXAMPLES / "quickstart.ipynb", tmp_path, short=True)
    left = outputs(executed)
    assert [one for one in left if one.output_type == "error"] == []
    studies = [one.data for one in left if one.get("data", {}).get(MIME)]
    assert len(studies) == 1
    assert {"text/html", "image/png", "text/plain"} <= set(studies[0])
    assert not any("application/vnd.jupyter.widget-view+json" in one.get("data", {}) for one in left)
    printed = "".join(one.text for one in left if one.output_type == "stream")
    assert "equal outputs in another process: True" in printed
    assert (tmp_path / "report.html").stat().st_size > 20_000

    before = {name: read_study(name, tmp_path / "nbcompress.journal").trials for name in ("digits", "digits-random")}
    again = outputs(execute(EXAMPLES / "quickstart.ipynb", tmp_path, short=True))
    for name, trials in before.items():
        assert read_study(name, tmp_path / "nbcompress.journal").trials.equals(trials)
    text = next(one.data["text/plain"] for one in again if one.get("data", {}).get(MIME))
    assert "none was run again" in text
