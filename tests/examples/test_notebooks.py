"""Every example as it is stored: a title, code that compiles, no outputs, no download, and a result that is checked."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def read(path: Path) -> Any:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def body(source: str) -> str:
    """Return the Python in a cell: without the line of a search, and empty for a file that is written."""
    first, _, rest = source.partition("\n")
    if first.startswith("%%"):
        return rest if first.startswith("%%bo_search") else ""
    return source


def tree(source: str) -> ast.Module:
    """Return the syntax tree of a cell, whose magics have become calls."""
    return ast.parse(TransformerManager().transform_cell(body(source)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook(path: Path) -> None:
    notebook = read(path)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count] == []
    trees = [tree(cell.source) for cell in code]
    asserts = [any(isinstance(node, ast.Assert) for node in ast.walk(parsed)) for parsed in trees]
    assert any(asserts), "the result must be checked"
    text = "\n".join(cell.source for cell in code)
    assert "plt.show()" in text or "%%bo_search" in text, "a notebook shows a picture"
    assert "fetch_" not in text, "data comes with scikit-learn or Python, and is not downloaded"
    for old in notebook.metadata.get("nbcompress", {}).get("short", {}):
        assert any(old in cell.source for cell in code), f"the short mode replaces {old!r}, which is gone"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_studies_have_names(path: Path) -> None:
    """A cell without `--study` gets another study as soon as a value changes, and would be run anew."""
    for cell in read(path).cells:
        first = cell.source.partition("\n")[0]
        if cell.cell_type == "code" and first.startswith("%%bo_search"):
            assert "--study " in first
            assert "--fresh" not in first


def test_the_readme_lists_every_notebook() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS if f"`examples/{path.name}`" not in text] == []


def test_make_reports_runs_every_notebook() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "$(wildcard examples/*.ipynb)" in makefile
    assert "--html" in makefile.partition("\nreports:")[2].partition("\n\n")[0]
