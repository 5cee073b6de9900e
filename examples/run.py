"""Execute a notebook headless, with a progress line, and say where its results are.

The notebook is copied to the output folder and runs there, so that its journal, its saved model and its report lie
beside the executed copy. Running it again continues its studies and repeats no trial.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def shortened(notebook: Any) -> Any:
    """Apply the replacements that the notebook's metadata lists for a quick check; every one must occur."""
    for old, new in notebook.metadata.get("nbcompress", {}).get("short", {}).items():
        cells = [cell for cell in notebook.cells if cell.cell_type == "code" and old in cell.source]
        if not cells:
            raise SystemExit(f"The short mode replaces {old!r}, but no cell holds it.")
        for cell in cells:
            cell.source = cell.source.replace(old, new)
    return notebook


def headline(source: str) -> str:
    """Return the first line of a cell that says something, cut to fit a progress line."""
    lines = [line for line in source.splitlines() if line.strip()]
    first = lines[0] if lines else ""
    return first if len(first) <= 70 else first[:69] + "…"


class Progress:
    """One line per code cell: which, how long."""

    def __init__(self, notebook: Any) -> None:
        self.cells = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
        self.began = time.monotonic()

    def started(self, cell: Any, cell_index: int) -> None:
        if cell.cell_type == "code":
            self.began = time.monotonic()
            position = self.cells.index(cell_index) + 1
            print(f"[{position:2d}/{len(self.cells)}] {headline(cell.source):<72}", end="", flush=True)

    def ended(self, **_: Any) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s", flush=True)


def execute(source: Path, output: Path, *, short: bool = False) -> Path:
    """Run a copy of `source` in the folder `output` and return the executed copy.

    Raises:
        SystemExit: A cell raised; the copy, as far as it came, is written all the same.
    """
    notebook = nbformat.read(source, as_version=4)
    if short:
        shortened(notebook)
    output.mkdir(parents=True, exist_ok=True)
    target = output / source.name
    progress = Progress(notebook)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        extra_arguments=["--log-level=40"],
        resources={"metadata": {"path": str(output)}},
        on_cell_start=progress.started,
        on_cell_executed=progress.ended,
    )
    try:
        client.execute()
    except CellExecutionError as err:
        print(f"\n{err}", file=sys.stderr)
        raise SystemExit(1) from err
    finally:
        nbformat.write(notebook, target)
    return target


def write_html(executed: Path) -> Path:
    """Write an executed notebook as one HTML page beside it, and return the page."""
    from nbconvert import HTMLExporter  # slow to import, and only needed here

    page, _ = HTMLExporter().from_filename(str(executed))
    target = executed.with_suffix(".html")
    target.write_text(page, encoding="utf-8")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--short", action="store_true", help="a quick check with few trials and epochs")
    parser.add_argument("--html", action="store_true", help="also write the executed notebook as an HTML page")
    arguments = parser.parse_args()
    began = time.monotonic()
    target = execute(arguments.notebook, arguments.output, short=arguments.short)
    nbformat.validate(json.loads(target.read_text(encoding="utf-8")))
    used = getrusage(RUSAGE_CHILDREN)  # of the kernel, and of what it started and waited for
    spent = f"{used.ru_utime + used.ru_stime:.0f} processor seconds"
    print(f"\nDone in {time.monotonic() - began:.0f} s, with {spent}.")
    print(f"  executed notebook  {target}")
    if arguments.html:
        print(f"  as a page          {write_html(target)}")
    for report in sorted(arguments.output.glob("*report*.html")):
        print(f"  report             {report}")
    print("  open it live       make lab")


if __name__ == "__main__":
    main()
