"""Randomness that is fixed for a while and then put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, *generators: torch.Generator | None) -> Iterator[None]:
    """Seed torch (every device), NumPy's and Python's global generators, and `generators`; restore all at the end.

    So equal seeds give equal results, also where a data set draws its own augmentations, and the notebook's
    randomness goes on as if nothing had been drawn.
    """
    own = [one for one in generators if one is not None]
    states = [one.get_state() for one in own]
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        for one in own:
            one.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for one, state in zip(own, states, strict=True):
                one.set_state(state)


__all__ = ["seeded"]
