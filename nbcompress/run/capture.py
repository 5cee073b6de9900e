"""What surrounds a trial: captured output, seeds, settings that it may change, and free memory after it.

Output: `contextlib.redirect_stdout` would replace `sys.stdout` for every thread. Here a router takes its place while
trials run: text goes to the trial of the context that writes it, and to the original stream where there is none.

Seeds: one per trial, the same in every process and version. The notebook's own generators are left as they were.

Settings: what a trial changes in the interpreter or the process is put back when it ends (`settings_kept`).
"""

from __future__ import annotations

import builtins
import decimal
import gc
import hashlib
import logging
import multiprocessing
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

import psutil

from nbcompress.run.outcome import PrintedText
from nbcompress.run.trial import RunningTrial, current_trial

_PutBack = list[Callable[[], object]]
"""Each puts one thing back to how it was when the list was made."""


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
                if not _n_shared or getattr(sys, name) is router:
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
    for name in _SETTINGS_OF:
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
                _restore.extend(_SETTINGS_OF[fullname](module))
                _seed_module(fullname, module, self._seed)

            loader.exec_module = exec_module
        return spec


def _expect_nothing() -> None:
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _SeedsOnImport)]


def _snapshot() -> _PutBack:
    """Return what sets every loaded generator back to how it stands now."""
    python = random.getstate()
    loaded = [(name, sys.modules[name]) for name in _SETTING if name in sys.modules]
    return [
        lambda: random.setstate(python),
        *(restore for name, module in loaded for restore in _restoring(name, module)),
    ]


def _restoring(name: str, module: Any) -> _PutBack:
    """Return what sets the generators of NumPy or torch back to how they stand now."""
    if name == "numpy":
        state = module.random.get_state()
        return [lambda: module.random.set_state(state)]
    cpu = module.get_rng_state()
    restore: _PutBack = [lambda: module.set_rng_state(cpu)]
    if module.cuda.is_initialized():
        devices = module.cuda.get_rng_state_all()
        restore.append(lambda: module.cuda.set_rng_state_all(devices))
    return restore


_seed_lock = threading.Lock()
_seed_users = 0
_restore: _PutBack = []


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


_settings_lock = threading.Lock()
_settings_users = 0
_settings_restore: _PutBack = []
_n_shared = 0


@contextmanager
def settings_kept(trial: RunningTrial) -> Iterator[None]:
    """Put back, after the `with` block, what the trial changed in this thread and in this process.

    These are: torch's default dtype and device, grad mode, number of threads, deterministic mode and cuDNN flags;
    NumPy's error state; the decimal context; warning filters; matplotlib's backend, and its interactive mode if pyplot
    is imported already; level and handlers of the root logger; the garbage collector's state and thresholds; umask;
    recursion limit; `sys.path`; the working directory; environment variables; builtins; and the start method of
    processes.

    What belongs to the process is shared by trials that run in threads at the same time. The first one in takes the
    snapshot, and the last one out puts it back; so a search on threads leaves the notebook as it was, but its trials
    see what the others change. Inside `shared_with_cells`, what belongs to the process stays as it is.

    Not put back: signal handlers, locale, changed modules and classes, inference mode, files, and threads and
    processes that a trial starts.

    Args:
        trial: Gets a remark if a setting cannot be put back.
    """
    global _settings_users, _settings_restore
    with _settings_lock:
        if _settings_users == 0:
            _settings_restore = _process_settings()
        _settings_users += 1
    own = _thread_settings()
    try:
        yield
    finally:
        with _settings_lock:
            _settings_users -= 1
            if _settings_users == 0:
                if not _n_shared:
                    own += _settings_restore
                _settings_restore = []
            for put_back in own:
                try:
                    put_back()
                except Exception as error:  # noqa: BLE001 - the other settings are put back all the same
                    trial.remarks.append(
                        f"A trial changed a setting that could not be put back: {type(error).__name__}: {error}"
                    )


@contextmanager
def shared_with_cells() -> Iterator[None]:
    """Inside the `with` block other cells run beside the trials, so a change of the process may be theirs: keep it."""
    global _n_shared
    with _settings_lock:
        _n_shared += 1
    try:
        yield
    finally:
        with _settings_lock:
            _n_shared -= 1


def _kept(get: Callable[[], Any], put: Callable[[Any], object]) -> Callable[[], object]:
    """Return what puts the value of a setting back to what it is now, if it has changed by then."""
    before = get()
    return lambda: None if get() == before else put(before)


def _thread_settings() -> _PutBack:
    """Return what puts back what belongs to this thread, or to its context."""
    context = decimal.getcontext().copy()
    restore: _PutBack = [lambda: decimal.setcontext(context)]
    if numpy := sys.modules.get("numpy"):
        restore += _numpy_settings(numpy)
    if torch := sys.modules.get("torch"):
        restore += _torch_thread_settings(torch)
    return restore


def _process_settings() -> _PutBack:
    """Return what puts back what belongs to the process."""
    root = logging.getLogger()
    # Read by setting it; files that another thread makes between the two calls are private.
    umask = os.umask(0o077)
    os.umask(umask)
    restore: _PutBack = [
        _kept_list(sys, "path"),
        _kept_warnings(),
        _kept_variables(),
        _kept_builtins(),
        lambda: os.umask(umask),
        _kept_directory(),
        _kept(sys.getrecursionlimit, sys.setrecursionlimit),
        _kept(gc.isenabled, lambda is_enabled: gc.enable() if is_enabled else gc.disable()),
        _kept(gc.get_threshold, lambda thresholds: gc.set_threshold(*thresholds)),
        _kept(gc.get_debug, gc.set_debug),
        _kept(lambda: root.level, root.setLevel),
        _kept(lambda: logging.root.manager.disable, logging.disable),
        _kept_list(root, "handlers"),
        _kept(
            lambda: multiprocessing.get_start_method(allow_none=True),
            lambda method: multiprocessing.set_start_method(method, force=True),
        ),
    ]
    if matplotlib := sys.modules.get("matplotlib"):
        restore += _matplotlib_settings(matplotlib)
    if torch := sys.modules.get("torch"):
        restore += _torch_process_settings(torch)
    return restore


def _numpy_settings(numpy: Any) -> _PutBack:
    return [_kept(numpy.geterr, lambda state: numpy.seterr(**state)), _kept(numpy.geterrcall, numpy.seterrcall)]


def _torch_thread_settings(torch: Any) -> _PutBack:
    def device() -> Any:
        # `get_default_device` cannot tell a default of "cpu" from none; with one, every new tensor costs more.
        mode = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
        return None if mode is None else mode.device

    return [
        _kept(device, torch.set_default_device),
        _kept(torch.is_grad_enabled, torch.set_grad_enabled),
        _kept(torch.get_num_threads, torch.set_num_threads),
    ]


def _torch_process_settings(torch: Any) -> _PutBack:
    def deterministic() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    def set_deterministic(before: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])

    cudnn = torch.backends.cudnn
    return [
        _kept(torch.get_default_dtype, torch.set_default_dtype),
        _kept(deterministic, set_deterministic),
        *(_kept_attribute(cudnn, name) for name in ("benchmark", "deterministic")),
    ]


def _matplotlib_settings(matplotlib: Any) -> _PutBack:
    settings = matplotlib.rcParams

    def backend() -> Any:
        return dict.__getitem__(settings, "backend")  # as stored; asking in the usual way chooses one

    def set_backend(before: Any) -> None:
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.switch_backend(before)
        else:
            dict.__setitem__(settings, "backend", before)

    # The first import of pyplot loads the backend, and the one of notebooks turns the interactive mode on. If a trial
    # is the first to import it, the mode stays: without it, later cells would not show their figures.
    is_loaded = "matplotlib.pyplot" in sys.modules
    interactive = [_kept(matplotlib.is_interactive, matplotlib.interactive)] if is_loaded else []
    return [_kept(backend, set_backend), *interactive]


# By module: what puts its settings back. Of a module that is not loaded yet, it is called after the import.
_SETTINGS_OF: dict[str, Callable[[Any], _PutBack]] = {
    "numpy": _numpy_settings,
    "torch": lambda torch: _torch_thread_settings(torch) + _torch_process_settings(torch),
    "matplotlib": _matplotlib_settings,
}


def _kept_attribute(owner: Any, name: str) -> Callable[[], object]:
    return _kept(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _kept_list(owner: Any, name: str) -> Callable[[], None]:
    """Put back a list, which may have been changed or replaced: the same object with the same items."""
    found = getattr(owner, name)
    before = list(found)

    def put_back() -> None:
        if getattr(owner, name) is not found:
            setattr(owner, name, found)
        if found != before:
            found[:] = before

    return put_back


def _kept_directory() -> Callable[[], None]:
    try:
        before = os.getcwd()
    except FileNotFoundError:  # it was removed before the trial
        return lambda: None
    return lambda: os.chdir(before)  # without asking where we are: that place may have been removed


def _kept_warnings() -> Callable[[], None]:
    filters: Any = warnings.filters
    before, show = list(filters), warnings.showwarning

    def put_back() -> None:
        warnings.showwarning = show
        if warnings.filters is not filters or filters != before:
            warnings.filters = filters
            warnings.resetwarnings()  # so that what was decided by other filters is decided anew
            filters[:] = before

    return put_back


def _kept_variables() -> Callable[[], None]:
    # The encoded variables: to decode them all takes longer than everything else here.
    variables: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]
    before = dict(variables)

    def put_back() -> None:
        changed = [key for key in {*before, *variables} if before.get(key) != variables.get(key)]
        for key in changed:
            name = os.environ.decodekey(key)
            if key in before:
                os.environ[name] = os.environ.decodevalue(before[key])
            else:
                del os.environ[name]
            if name == "TZ" and hasattr(time, "tzset"):
                time.tzset()

    return put_back


def _kept_builtins() -> Callable[[], None]:
    names = vars(builtins)
    before = dict(names)

    def put_back() -> None:
        for name in [name for name in names if name not in before]:
            del names[name]
        names.update(before)

    return put_back


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
