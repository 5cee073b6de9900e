"""A real shell with our magics, in a new folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output


@dataclass
class Ran:
    """What a cell left: its error, what it printed, what it displayed."""

    error: BaseException | None
    printed: str
    shown: list[dict[str, Any]] = field(default_factory=list)
    value: Any = None


class Notebook:
    """Cells, run in a real shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell

    @property
    def names(self) -> dict[str, Any]:
        return self.shell.user_ns

    def run(self, cell: str) -> Ran:
        with capture_output() as captured:
            done = self.shell.run_cell(cell, store_history=False)
        error = done.error_before_exec or done.error_in_exec
        shown = [output.data for output in captured.outputs]
        return Ran(error, captured.stdout + captured.stderr, shown, done.result)

    def must(self, cell: str) -> Ran:
        ran = self.run(cell)
        assert ran.error is None, ran.printed
        return ran

    def refused(self, cell: str) -> str:
        """Run a cell that is refused and return the one line that says why."""
        ran = self.run(cell)
        assert ran.error is not None, "the cell was not refused"
        assert type(ran.error).__name__ == "UsageError", ran.printed
        lines = [line for line in ran.printed.splitlines() if line.strip()]
        assert len(lines) == 1, ran.printed
        return lines[0]


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    hook = sys.displayhook
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(user_ns={"__name__": "__main__"})
    shell.history_manager.enabled = False
    shell.run_line_magic("load_ext", "nbcompress")
    yield Notebook(shell)
    shell.run_line_magic("unload_ext", "nbcompress")
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()
    sys.displayhook = hook
