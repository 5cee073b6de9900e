"""Notebooks of a few cells whose trials sleep, for tests of what surrounds a search."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

SETUP = "import time\n%load_ext nbcompress"
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}


def search(trials: int, seconds: float = 0.3, options: str = "") -> str:
    """Return a search cell whose trials sleep."""
    return (
        f"%%bo_search --trials {trials} --maximize score --study small {options}\n"
        "x = Float(0, 1)\n"
        f"time.sleep({seconds})\n"
        "score = 1 - (x - .3) ** 2"
    )


def write(path: Path, *cells: str, headings: bool = False) -> Path:
    """Write a notebook of code cells, the set-up first; with a heading before each of the others, if wanted."""
    made = [new_code_cell(SETUP)]
    for i, one in enumerate(cells):
        made += [new_markdown_cell(f"# Part {i}")] if headings else []
        made.append(new_code_cell(one))
    notebook = new_notebook(metadata={"kernelspec": KERNEL}, cells=made)
    nbformat.write(notebook, path)
    return path
