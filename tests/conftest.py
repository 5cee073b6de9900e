"""What makes the suite faster without a change of what it tests."""

from __future__ import annotations

import copy
import gc
import sys
from functools import cache
from typing import Any

import pytest

_EXPORTER = "torch.onnx._internal.exporter._registration"


def pytest_collection_finish() -> None:
    """Take what exists before the first test away from the collector.

    These objects stay until the end. With torch and thousands of tests, a full collection looks at a million of them.
    """
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let torch parse the sources of its ONNX operators once in a process, and not again for each export."""
    registry: Any = getattr(sys.modules.get(_EXPORTER), "ONNXRegistry", None)
    if registry is None or not hasattr(registry, "from_torchlib") or hasattr(registry, "_is_shared"):
        return
    parsed = cache(registry.from_torchlib)

    def from_torchlib(*args: Any, **kwargs: Any) -> Any:
        new = copy.copy(parsed(*args, **kwargs))
        # An export may add operators.
        new.functions = {name: list(functions) for name, functions in new.functions.items()}
        return new

    registry.from_torchlib, registry._is_shared = staticmethod(from_torchlib), True
