"""Which trial's globals are current here, for magics inside a body."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_CURRENT: ContextVar[dict[str, Any] | None] = ContextVar("nbcompress_trial_globals", default=None)


def current_globals() -> dict[str, Any] | None:
    """Return the globals of the trial that runs in this context; None outside a trial."""
    return _CURRENT.get()


@contextmanager
def running_in(globals_: dict[str, Any]) -> Iterator[None]:
    """Make `globals_` the current trial's for the time of the `with` block."""
    token = _CURRENT.set(globals_)
    try:
        yield
    finally:
        _CURRENT.reset(token)
