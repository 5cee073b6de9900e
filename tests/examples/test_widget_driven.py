"""The notebook with sliders, executed in its short mode without a person."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest

from nbcompress.study import read_study

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from run import execute  # noqa: E402

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]


def test_it_runs_without_a_person(tmp_path: Path) -> None:
    executed = nbformat.read(execute(EXAMPLES / "widget-driven.ipynb", tmp_path, short=True), as_version=4)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    study = read_study("by-hand", tmp_path / "nbcompress.journal")
    # The sliders' first values are the first trial and the point from the queue; no person has moved them.
    assert len(study.trials) == 7
    points = [(trial.params["amount"], trial.params["bits"]) for trial in study.all_trials]
    assert points[0] == (0.8, 3)
    assert (0.85, 3) in points[4:]
