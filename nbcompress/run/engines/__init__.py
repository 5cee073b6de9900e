"""Where trials run: in the kernel, in processes of their own, or on an executor of the user."""

from __future__ import annotations

from typing import Any

from nbcompress.choices import ENGINES
from nbcompress.errors import SearchError, did_you_mean
from nbcompress.run.engines.base import Engine, EngineError
from nbcompress.run.engines.executor import ExecutorEngine
from nbcompress.run.engines.inline import InlineEngine
from nbcompress.run.engines.process import ProcessEngine


def engine_of(choice: Any, name: str = "") -> Engine:
    """Return the engine for a fixed word, or for an executor (anything with a `submit` method).

    Args:
        name: The user's name for the executor, for messages.

    Raises:
        SearchError: It is neither.
    """
    if choice == "inline":
        return InlineEngine()
    if choice == "process":
        return ProcessEngine()
    if isinstance(choice, str) or not callable(getattr(choice, "submit", None)):
        hint = did_you_mean(choice, ENGINES) if isinstance(choice, str) else ""
        raise SearchError(f"An engine is inline, process or a concurrent.futures.Executor, but got {choice!r}.{hint}")
    return ExecutorEngine(choice, name or type(choice).__name__)


__all__ = ["ENGINES", "Engine", "EngineError", "ExecutorEngine", "InlineEngine", "ProcessEngine", "engine_of"]
