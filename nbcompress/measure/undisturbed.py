"""Measuring without leaving a trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from nbcompress.compress.copying import deep_copy, why_uncopied, without_shape
from nbcompress.errors import MeasureError


def measured_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` in evaluation mode, so that whatever its forward changes is changed in the copy.

    Raises:
        MeasureError: It is no module, has no shapes yet, or cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise MeasureError(f"what is measured must be a torch.nn.Module, got {type(model).__name__}")
    missing = without_shape(model)
    if missing:
        raise MeasureError(missing)
    try:
        return deep_copy(model).eval()
    except Exception as err:  # a class refuses in any way
        raise MeasureError(
            f"{type(model).__name__} must allow copy.deepcopy to be measured, because its forward may change it, "
            f"but {why_uncopied(model, err)}"
        ) from err


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the random numbers of Python, NumPy and torch back to where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def threads_pinned(n_threads: int) -> Iterator[None]:
    """Let torch compute on `n_threads` threads, and on as many as before afterwards."""
    if type(n_threads) is not int or n_threads < 1:
        raise MeasureError(f"threads must be a count from 1, got {n_threads!r}")
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


__all__ = ["measured_copy", "random_state_kept", "threads_pinned"]
