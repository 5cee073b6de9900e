"""Giving back what a trial leaves in memory."""

from __future__ import annotations

import gc
import sys

import psutil

# Python collects cycles by their number, not by what they hold: a few of them may hold many models. Collecting costs
# some 50 ms once torch is loaded, so it waits until the process has grown by this much.
_GROWTH_BYTES = 32 * 2**20

_size_after_last = 0


def free_memory() -> None:
    """Collect what the last trial left in cycles, if it may be much, and give free CUDA memory back."""
    global _size_after_last
    torch = sys.modules.get("torch")
    uses_cuda = torch is not None and torch.cuda.is_initialized()
    if uses_cuda or _size() > _size_after_last + _GROWTH_BYTES:
        gc.collect()
        _size_after_last = _size()
    if torch is not None and uses_cuda:
        torch.cuda.empty_cache()


def _size() -> int:
    return int(psutil.Process().memory_info().rss)
