"""The output of one cell: shown under an id, replaced later, also from another thread."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from IPython.display import display

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbcompress.panels.ladder import Kind


class Output:
    """Where a panel draws. It belongs to the cell that runs when it is made."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._id = uuid.uuid4().hex
        self._parent: Any = getattr(shell, "get_parent", lambda: None)()
        self._is_shown = False

    @property
    def best_kind(self) -> Kind:
        """`live` in a kernel, whose front end may draw widgets; `text` in a terminal."""
        return "live" if hasattr(self._shell, "kernel") else "text"

    def show(self, bundle: Mapping[str, Any]) -> None:
        """Show a mime bundle, or put it in the place of the one shown before."""
        display(dict(bundle), raw=True, display_id=self._id, update=self._is_shown)
        self._is_shown = True

    def print(self, text: str) -> None:
        """Add a line of text below."""
        print(text, flush=True)

    def follow(self) -> None:
        """Send what this thread shows to the cell, whatever other cells run meanwhile."""
        if self._parent is None:
            return
        # ipykernel 7.4 keeps a parent per thread; before that, there is one setter for all.
        shell: Any = self._shell
        setter = getattr(shell, "set_thread_parent", None) or shell.set_parent
        setter(self._parent)
