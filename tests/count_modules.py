"""Count the modules of ours that one search calls: `python tests/count_modules.py`, with `--names` for their names.

The job is 12 trials of a one-line objective with the journal on disk. It runs twice in this process, so that imports
are done; the second run is counted, in the main thread.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

CELL = "x = Float(-1, 1)\nloss = (x - 0.3) ** 2"


def modules_called(job: Callable[[], object]) -> dict[str, int]:
    """Run `job` and return how often each module of ours was called, by name."""
    calls: dict[str, int] = {}

    def count(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            name = frame.f_globals.get("__name__", "")
            if name.partition(".")[0] == "nbcompress":
                calls[name] = calls.get(name, 0) + 1

    sys.setprofile(count)
    try:
        job()
    finally:
        sys.setprofile(None)
    return calls


def function_job(folder: Path) -> Callable[[str], object]:
    import nbcompress as nc

    def job(name: str) -> object:
        space = {"x": nc.Float(-1, 1)}
        storage = folder / "function.journal"
        return nc.search(
            lambda x: {"loss": (x - 0.3) ** 2}, space, minimize="loss", trials=12, study=name, storage=storage
        )

    return job


def cell_job(folder: Path) -> Callable[[str], object]:
    from IPython.testing.globalipapp import start_ipython

    shell = start_ipython()
    shell.run_line_magic("load_ext", "nbcompress")

    def job(name: str) -> object:
        line = f"--trials 12 --minimize loss --panel text --study {name} --storage {folder / 'cell.journal'}"
        return shell.run_cell_magic("bo_search", line, CELL)

    return job


def counted(job: Callable[[str], object]) -> dict[str, int]:
    """Run the job once for its imports, and return the modules that its second run calls."""
    job("first")
    return modules_called(lambda: job("second"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for name, make in (("nc.search", function_job), ("%%bo_search", cell_job)):
            found = counted(make(Path(folder)))
            print(f"{name}: {len(found)} modules, {sum(found.values())} calls")
            if "--names" in sys.argv:
                print(*(f"  {module} {n}" for module, n in sorted(found.items())), sep="\n")
