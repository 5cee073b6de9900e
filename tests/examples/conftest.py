"""Notebooks of the folder `examples`, executed in their short mode."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from run import execute  # noqa: E402


@pytest.fixture
def outputs_of(tmp_path: Path) -> Callable[[str], list[Any]]:
    """A function that executes a notebook in `tmp_path`, and returns its outputs, none of which is an error."""

    def executed(name: str) -> list[Any]:
        notebook = nbformat.read(execute(EXAMPLES / name, tmp_path, short=True), as_version=4)
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        assert [output for output in outputs if output.output_type == "error"] == []
        return outputs

    return executed
