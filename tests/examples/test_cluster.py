"""The notebook for clusters, executed in its short mode: both cells on Dask."""

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


def test_it_runs(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'nbcompress[dask]'")
    executed = nbformat.read(execute(EXAMPLES / "cluster.ipynb", tmp_path, short=True), as_version=4)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    for name in ("on-dask", "on-ray"):
        assert len(read_study(name, tmp_path / "nbcompress.journal").all_trials) == 3
    assert "Linear(" in "".join(output.text for output in outputs if output.output_type == "stream")
