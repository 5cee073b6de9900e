"""Figures of `pyplot` that a cell has open stay open while messages of widgets arrive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


@contextmanager
def figures_stay_open(shell: InteractiveShell | None) -> Iterator[None]:
    """A `with` block in which only the main thread shows and closes the figures of `pyplot`.

    ipykernel fires `post_execute` after a cell and after every message of a comm, and on that event the inline
    backend shows and closes all figures. Messages that arrive while a cell runs are handled by other threads, so that
    a press of a button, or a page that connects, would close what the cell is about to save. The event at the end of
    the cell shows what is still open. Outside the main thread this does nothing: a search in the background must not
    hold back what other cells show.
    """
    if shell is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    events: Any = shell.events
    before = events.trigger

    # All events pass here, since the backend may be loaded, and registered, while the block runs.
    def trigger(event: str, *arguments: Any, **keywords: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            before(event, *arguments, **keywords)
            return
        for callback in tuple(events.callbacks[event]):
            if not _closes_figures(callback):
                try:
                    callback(*arguments, **keywords)
                except (Exception, KeyboardInterrupt):  # noqa: BLE001 - IPython shows what a callback raises, too
                    shell.showtraceback()

    events.trigger = trigger
    try:
        yield
    finally:
        events.trigger = before


def _closes_figures(callback: Callable[..., object]) -> bool:
    name, module = getattr(callback, "__name__", ""), getattr(callback, "__module__", "") or ""
    return name == "flush_figures" and module.endswith("backend_inline")
