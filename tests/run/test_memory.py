"""Many trials need no more memory than a few."""

from __future__ import annotations

import gc

import psutil
import pytest
import torch
from run_searches import fresh_study, searched

from nbcompress.run import keep


def test_memory_stays_flat() -> None:
    def body(x: float) -> dict[str, float]:
        big = torch.full((1_000_000,), x)  # 4 MB
        cycle: list[object] = [big]
        cycle.append(cycle)
        keep(big=big)
        if x > 0.8:
            raise ValueError("with a traceback that holds it")
        return {"loss": float(big.mean())}

    study = fresh_study()
    searched(body, study, trials=40)
    gc.collect()
    before = psutil.Process().memory_info().rss
    searched(body, study, trials=340)
    # Counted before any collection of ours: what waits in cycles stays below the growth that starts one (32 MB are 8),
    # how ever much freed memory the allocator keeps for itself.
    alive = sum(type(one) is torch.Tensor and one.numel() == 1_000_000 for one in gc.get_objects())
    assert alive < 40
    # Had they stayed, these 300 trials would hold 1,200 MB.
    assert psutil.Process().memory_info().rss - before < 600_000_000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_memory_is_freed_between_trials() -> None:
    def body(x: float) -> dict[str, float]:
        big = torch.full((10_000_000,), x, device="cuda")
        cycle: list[object] = [big]
        cycle.append(cycle)
        return {"loss": float(big.mean())}

    searched(body, trials=10)
    assert torch.cuda.memory_allocated() == 0
    assert torch.cuda.memory_reserved() < 50_000_000
