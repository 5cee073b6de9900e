"""Seeds: one per trial, the same in every process and version, and the notebook's own generators left as they were."""

from __future__ import annotations

import hashlib
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any


def trial_seed(study_seed: int, number: int, repeat: int = 0) -> int:
    """Return the seed of a run, in `[0, 2**32)` as NumPy's generators take it.

    A hash rather than a sum, so that the trials of neighbouring study seeds share none.
    """
    text = f"nbcompress/{study_seed}/{number}/{repeat}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def set_seeds(seed: int) -> None:
    """Set the global generators of `random`, NumPy and torch (CUDA too), which are loaded or will be."""
    random.seed(seed)
    _expect_nothing()
    for name, setting in _SETTING.items():
        if module := sys.modules.get(name):
            setting(module, seed)
        else:
            sys.meta_path.insert(0, _SeedsOnImport(name, seed))


_SETTING: dict[str, Callable[[Any, int], object]] = {
    "numpy": lambda numpy, seed: numpy.random.seed(seed),
    "torch": lambda torch, seed: torch.manual_seed(seed),
}


class _SeedsOnImport(MetaPathFinder):
    """Seeds a module when a trial is the first to import it; else that trial alone would begin somewhere else."""

    def __init__(self, name: str, seed: int) -> None:
        self._name, self._seed = name, seed

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        if fullname != self._name or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                _restore.extend(_restoring(fullname, module))
                _SETTING[fullname](module, self._seed)

            loader.exec_module = exec_module
        return spec


def _expect_nothing() -> None:
    sys.meta_path[:] = [one for one in sys.meta_path if not isinstance(one, _SeedsOnImport)]


def _snapshot() -> list[Callable[[], None]]:
    """Return what sets every loaded generator back to how it stands now."""
    python = random.getstate()
    loaded = [(name, sys.modules[name]) for name in _SETTING if name in sys.modules]
    return [lambda: random.setstate(python), *(one for name, module in loaded for one in _restoring(name, module))]


def _restoring(name: str, module: Any) -> list[Callable[[], None]]:
    """Return what sets the generators of NumPy or torch back to how they stand now."""
    if name == "numpy":
        state = module.random.get_state()
        return [lambda: module.random.set_state(state)]
    cpu = module.get_rng_state()
    restore: list[Callable[[], None]] = [lambda: module.set_rng_state(cpu)]
    if module.cuda.is_initialized():
        devices = module.cuda.get_rng_state_all()
        restore.append(lambda: module.cuda.set_rng_state_all(devices))
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
                _expect_nothing()
                for put_back in _restore:
                    put_back()
                _restore = []
