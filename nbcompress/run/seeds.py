"""Seeds: one per trial, the same in every process and version, and the notebook's own generators left as they were."""

from __future__ import annotations

import hashlib
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def trial_seed(study_seed: int, number: int, repeat: int = 0) -> int:
    """Return the seed of a run, in `[0, 2**32)` as NumPy's generators take it.

    A hash rather than a sum, so that the trials of neighbouring study seeds share none.
    """
    text = f"nbcompress/{study_seed}/{number}/{repeat}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def set_seeds(seed: int) -> None:
    """Set the global generators of `random`, and of NumPy and torch (CUDA too) where they are loaded."""
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


def _snapshot() -> list[Callable[[], None]]:
    """Return what sets every loaded generator back to how it stands now."""
    python = random.getstate()
    restore: list[Callable[[], None]] = [lambda: random.setstate(python)]
    if numpy := sys.modules.get("numpy"):
        state = numpy.random.get_state()
        restore.append(lambda: numpy.random.set_state(state))
    if torch := sys.modules.get("torch"):
        cpu = torch.get_rng_state()
        restore.append(lambda: torch.set_rng_state(cpu))
        if torch.cuda.is_initialized():
            devices = torch.cuda.get_rng_state_all()
            restore.append(lambda: torch.cuda.set_rng_state_all(devices))
    return restore


_lock = threading.Lock()
_users = 0
_restore: list[Callable[[], None]] = []


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Set all seeds inside the `with` block and put the generators back after it.

    The generators belong to the process. Where several threads run trials, they share them: the first one in takes
    the snapshot, and the last one out puts it back.
    """
    global _users, _restore
    with _lock:
        if _users == 0:
            _restore = _snapshot()
        _users += 1
        set_seeds(seed)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                for put_back in _restore:
                    put_back()
                _restore = []
