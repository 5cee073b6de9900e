"""What surrounds a trial: captured output, seeds, and free memory after it. Its settings: see `settings`.

Output: `contextlib.redirect_stdout` would replace `sys.stdout` for every thread. Here a router takes its place while
trials run: text goes to the trial of the context that writes it, and to the original stream where there is none.

Seeds: one per trial, the same in every process and version. The notebook's own generators are left as they were.
"""

from __future__ import annotations

import gc
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

import psutil

from nbcompress.run.outcome import PrintedText
from nbcompress.run.settings import SETTINGS_OF, PutBack, is_shared_with_cells
from nbcompress.run.trial import RunningTrial, current_trial


def _printed() -> PrintedText | None:
    """Return what takes the text that is printed in this context, or None if it goes to the notebook."""
    trial = current_trial()
    return None if trial is None else trial.printed


class _Router:
    """Stands in for one stream; everything but writing is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        printed = _printed()
        if printed is None:
            written = self._stream.write(text)
            return len(text) if written is None else int(written)
        printed.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if _printed() is None:
            self._stream.flush()

    def close(self) -> None:
        """Close the stream; in a trial nothing happens, since it is the stream of the notebook and of later trials."""
        if _printed() is None:
            self._stream.close()

    def isatty(self) -> bool:
        return _printed() is None and bool(self._stream.isatty())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_printing_lock = threading.Lock()
_printing_users = 0
_routers: dict[str, _Router] = {}


def _install() -> None:
    global _printing_users
    with _printing_lock:
        _printing_users += 1
        if _printing_users == 1:
            for name in ("stdout", "stderr"):
                stream = getattr(sys, name)
                if stream is not None:
                    _routers[name] = _Router(stream)
                    setattr(sys, name, _routers[name])


def _uninstall() -> None:
    global _printing_users
    with _printing_lock:
        _printing_users -= 1
        if _printing_users == 0:
            # Also where a body has put its own stream: the next trial and the notebook write to theirs. A stream of
            # another cell that runs at the same time stays.
            for name, router in _routers.items():
                if not is_shared_with_cells() or getattr(sys, name) is router:
                    setattr(sys, name, router._stream)
            _routers.clear()


@contextmanager
def captured_output(trial: RunningTrial) -> Iterator[PrintedText]:
    """Collect what the trial writes to `sys.stdout` and `sys.stderr` inside the `with` block.

    Args:
        trial: The current one.
    """
    before, printed = trial.printed, PrintedText()
    _install()
    trial.printed = printed
    try:
        yield printed
    finally:
        trial.printed = before
        _uninstall()


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
    for name in SETTINGS_OF:
        if module := sys.modules.get(name):
            _seed_module(name, module, seed)
        else:
            sys.meta_path.insert(0, _SeedsOnImport(name, seed))


_SETTING: dict[str, Callable[[Any, int], object]] = {
    "numpy": lambda numpy, seed: numpy.random.seed(seed),
    "torch": lambda torch, seed: torch.manual_seed(seed),
}


def _seed_module(name: str, module: Any, seed: int) -> None:
    if name in _SETTING:
        _SETTING[name](module, seed)


class _SeedsOnImport(MetaPathFinder):
    """Seeds a module when a trial is the first to import it; else that trial alone would begin somewhere else.

    The module's settings as they are after the import are put back after the trial.
    """

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
                _restore.extend(_restoring(fullname, module) if fullname in _SETTING else ())
                _restore.extend(SETTINGS_OF[fullname](module))
                _seed_module(fullname, module, self._seed)

            loader.exec_module = exec_module
        return spec


def _expect_nothing() -> None:
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _SeedsOnImport)]


def _snapshot() -> PutBack:
    """Return what sets every loaded generator back to how it stands now."""
    python = random.getstate()
    loaded = [(name, sys.modules[name]) for name in _SETTING if name in sys.modules]
    return [
        lambda: random.setstate(python),
        *(restore for name, module in loaded for restore in _restoring(name, module)),
    ]


def _restoring(name: str, module: Any) -> PutBack:
    """Return what sets the generators of NumPy or torch back to how they stand now."""
    if name == "numpy":
        state = module.random.get_state()
        return [lambda: module.random.set_state(state)]
    cpu = module.get_rng_state()
    restore: PutBack = [lambda: module.set_rng_state(cpu)]
    if module.cuda.is_initialized():
        devices = module.cuda.get_rng_state_all()
        restore.append(lambda: module.cuda.set_rng_state_all(devices))
    return restore


_seed_lock = threading.Lock()
_seed_users = 0
_restore: PutBack = []


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Set all seeds inside the `with` block and put the generators back after it.

    The generators belong to the process. Where several threads run trials, they share them: the first one in takes
    the snapshot, and the last one out puts it back.
    """
    global _seed_users, _restore
    with _seed_lock:
        if _seed_users == 0:
            _restore = _snapshot()
        _seed_users += 1
        set_seeds(seed)
    try:
        yield
    finally:
        with _seed_lock:
            _seed_users -= 1
            if _seed_users == 0:
                _expect_nothing()
                for put_back in _restore:
                    put_back()
                _restore = []


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
