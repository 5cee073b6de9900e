"""Progress bars of what takes longer than two seconds, drawn by tqdm.

A function that works in steps opens a bar around them and advances it. No bar is made before two seconds have passed,
so tqdm is not even imported for what is quick. Of bars inside each other, only the outermost is drawn.

tqdm draws on a terminal or as a widget of a notebook, and nothing where the standard error is a file. Further rules:
no bar in a trial of a search, whose panel shows how far it is; none in a kernel that no person watches (nbconvert,
papermill); and what a bar leaves in a notebook is an empty text, so that no saved output refers to a widget.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

# Seconds before a bar appears.
_DELAY = 2.0

_is_shown: ContextVar[bool] = ContextVar("nbcompress_progress", default=True)
Advance = Callable[[float], None]


@contextmanager
def bars_shown(is_shown: bool) -> Iterator[None]:
    """Show no bar inside the `with` block, in this context only, if `is_shown` is False; True changes nothing."""
    token = _is_shown.set(_is_shown.get() and is_shown)
    try:
        yield
    finally:
        _is_shown.reset(token)


@contextmanager
def progress_bar(text: str, total: float | None = None, unit: str = "step") -> Iterator[Advance]:
    """Show how far the block is, from two seconds on and until it ends.

    Args:
        text: What is done, such as `quantize`.
        total: How many steps there are; None if nobody knows.
        unit: What a step is, such as `layer`.

    Yields:
        A function to call with the number of steps that were done. The bar can only appear in such a call.
    """
    if not _is_shown.get():
        yield _ignore
        return
    bar = _DelayedBar(text, total, unit)
    token = _is_shown.set(False)
    try:
        yield bar.advance
    finally:
        _is_shown.reset(token)
        bar.close()


def _ignore(n: float) -> None:
    """Do nothing."""


class _DelayedBar:
    def __init__(self, text: str, total: float | None, unit: str) -> None:
        self._options: dict[str, Any] = {"desc": text, "total": total, "unit": unit}
        self._started = time.monotonic()
        self._n: float = 0
        self._bar: Any = None
        # The output of a notebook that holds the bar.
        self._output: Any = None
        self._is_open = True

    def advance(self, n: float) -> None:
        self._n += n
        if self._bar is not None:
            self._bar.update(n)
        elif self._is_open and time.monotonic() - self._started >= _DELAY:
            self._is_open = _is_watched()
            if self._is_open:
                self._open()

    def _open(self) -> None:
        from tqdm.auto import tqdm

        options = {**self._options, "leave": False, "dynamic_ncols": True, "disable": None}
        is_widget = any(base.__name__ == "tqdm_notebook" for base in tqdm.__mro__)
        if is_widget:
            from tqdm.notebook import display

            # Displayed here, for a handle on the output.
            self._bar = tqdm(**options, display=False)
            self._output = display(self._bar.container, display_id=True)
        else:
            self._bar = tqdm(**options)
        if not self._bar.disable:
            # The steps before are counted, and their time.
            self._bar.start_t -= time.monotonic() - self._started
            self._bar.update(self._n)
            self._bar.refresh()

    def close(self) -> None:
        self._is_open = False
        if self._bar is None:
            return
        self._bar.close()
        if self._output is not None:
            self._bar.container.close()
            self._output.update({"text/plain": ""}, raw=True)


def _is_watched() -> bool:
    """Whether a bar has a place: everywhere but in kernels without a person, and in consoles, which draw no widgets."""
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if not hasattr(shell, "kernel"):
        return True
    parent = shell.get_parent()
    return not (is_unattended(parent) or is_console(parent))


def is_unattended(parent: object) -> bool:
    """Return whether a program such as nbconvert or papermill runs the cell, which ends the kernel after the last one.

    Such a program says that it takes no input. Voila does so, too, but it keeps the kernel.

    Args:
        parent: The message that the kernel answers.
    """
    content = parent.get("content") if isinstance(parent, Mapping) else None
    takes_input = not isinstance(content, Mapping) or content.get("allow_stdin", True)
    return not takes_input and not os.environ.get("SERVER_SOFTWARE", "").startswith("voila")


def is_console(parent: object) -> bool:
    """Return whether the code was typed in Jupyter console or qtconsole, which draw no widgets.

    Nothing in a message says which program sent it. These two are built on jupyter_client, which sends the name of the
    user. JupyterLab, Notebook and VS Code do not; programs that run notebooks are built on it, too, but take no input.

    Args:
        parent: The message that the kernel answers.
    """
    if not isinstance(parent, Mapping):
        return False
    header, content = parent.get("header") or {}, parent.get("content") or {}
    is_code = header.get("msg_type") == "execute_request"
    return bool(is_code and header.get("username") and content.get("allow_stdin") and not parent.get("metadata"))


__all__ = ["Advance", "bars_shown", "is_console", "is_unattended", "progress_bar"]
