"""Settings of the interpreter and the process that a trial may change: each is put back when the trial ends."""

from __future__ import annotations

import builtins
import decimal
import gc
import locale
import logging
import multiprocessing
import operator
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from nbcompress.run.trial import RunningTrial

PutBack = list[Callable[[], object]]
"""Each puts one thing back to how it was when the list was made."""

_settings_lock = threading.Lock()
_settings_users = 0
_settings_restore: PutBack = []
_n_shared = 0


@contextmanager
def settings_kept(trial: RunningTrial) -> Iterator[None]:
    """Put back, after the `with` block, what the trial changed in this thread and in this process.

    These are: torch's default dtype and device, grad mode, number of threads, deterministic mode, anomaly detection,
    precision of matrix products and cuDNN flags; NumPy's error state; the decimal context; warning filters;
    matplotlib's rcParams and backend, and its interactive mode if pyplot is imported already; levels and handlers of
    loggers; the garbage collector's state and thresholds; umask; recursion limit; `sys.path`, `sys.argv`, `sys.stdin`
    and hooks for exceptions; the working directory; environment variables; builtins; the locale; the start method of
    processes; the default timeout of sockets; limits of resources; the standard streams of the system (descriptors 0
    to 2); blocked signals, and in the main thread signal handlers and alarms.

    What belongs to the process is shared by trials that run in threads at the same time. The first one in takes the
    snapshot, and the last one out puts it back; so a search on threads leaves the notebook as it was, but its trials
    see what the others change. Inside `shared_with_cells`, what belongs to the process stays as it is.

    Not put back: changed modules, classes and options of other libraries, tracing, inference mode, files, priority,
    and threads and processes that a trial starts.

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


def is_shared_with_cells() -> bool:
    """Return whether other cells run beside the trials."""
    return _n_shared > 0


def _kept(get: Callable[[], Any], put: Callable[[Any], object]) -> Callable[[], object]:
    """Return what puts the value of a setting back to what it is now, if it has changed by then."""
    before = get()
    return lambda: None if get() == before else put(before)


def _thread_settings() -> PutBack:
    """Return what puts back what belongs to this thread, or to its context."""
    context = decimal.getcontext().copy()
    restore: PutBack = [lambda: decimal.setcontext(context)]
    if hasattr(signal, "pthread_sigmask"):
        restore.append(
            _kept(
                lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
                lambda blocked: signal.pthread_sigmask(signal.SIG_SETMASK, blocked),
            )
        )
    if hasattr(os, "sched_setaffinity"):
        restore.append(_kept(lambda: os.sched_getaffinity(0), lambda cores: os.sched_setaffinity(0, cores)))
    if numpy := sys.modules.get("numpy"):
        restore += _numpy_settings(numpy)
    if torch := sys.modules.get("torch"):
        restore += _torch_thread_settings(torch)
    return restore


# Attributes of modules that are put back to the object that they were.
_ATTRIBUTES = [
    (sys, "stdin"),
    (sys, "displayhook"),
    (sys, "excepthook"),
    (sys, "unraisablehook"),
    (threading, "excepthook"),
]


def _process_settings() -> PutBack:
    """Return what puts back what belongs to the process."""
    # Read by setting it; files that another thread makes between the two calls are private.
    umask = os.umask(0o077)
    os.umask(umask)
    restore: PutBack = [
        _kept_descriptors(),  # first, since what follows may write
        _kept_list(sys, "path"),
        _kept_list(sys, "argv"),
        *(_kept_attribute(owner, name) for owner, name in _ATTRIBUTES),
        _kept_warnings(),
        _kept_variables(),
        _kept_builtins(),
        lambda: os.umask(umask),
        _kept_directory(),
        _kept(sys.getrecursionlimit, sys.setrecursionlimit),
        _kept(sys.getswitchinterval, sys.setswitchinterval),
        _kept(sys.get_int_max_str_digits, sys.set_int_max_str_digits),
        _kept(gc.isenabled, lambda is_enabled: gc.enable() if is_enabled else gc.disable()),
        _kept(gc.get_threshold, lambda thresholds: gc.set_threshold(*thresholds)),
        _kept(gc.get_debug, gc.set_debug),
        _kept(socket.getdefaulttimeout, socket.setdefaulttimeout),
        _kept(lambda: locale.setlocale(locale.LC_ALL), lambda before: locale.setlocale(locale.LC_ALL, before)),
        _kept(lambda: logging.root.manager.disable, logging.disable),
        _kept_loggers(),
        _kept(
            lambda: multiprocessing.get_start_method(allow_none=True),
            lambda method: multiprocessing.set_start_method(method, force=True),
        ),
        *_limits(),
        *_signals(),
    ]
    if matplotlib := sys.modules.get("matplotlib"):
        restore += _matplotlib_settings(matplotlib)
    if torch := sys.modules.get("torch"):
        restore += _torch_process_settings(torch)
    return restore


# Those of real time are left out, which takes half of the time. The handlers of the others cannot be changed.
_SIGNALS = [number for number in signal.Signals if number.name not in ("SIGKILL", "SIGSTOP")]


# An alarm that differs by more from when it is due was set by the trial.
_ALARM_SECONDS = 0.5


def _signals() -> PutBack:
    """Return what puts back the handlers of signals and the alarm; only the main thread can change and set handlers."""
    restore: PutBack = []
    if hasattr(signal, "setitimer"):
        restore.append(_kept_alarm())
    if threading.current_thread() is not threading.main_thread():
        return restore
    before = [(number, signal.getsignal(number)) for number in _SIGNALS]

    def put_back() -> None:
        for number, handler in before:
            if signal.getsignal(number) != handler:
                if handler is None:
                    raise RuntimeError(f"The handler of {number.name} was not one of Python.")
                signal.signal(number, handler)

    return [*restore, put_back]


def _kept_alarm() -> Callable[[], None]:
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    due = time.monotonic() + left

    def put_back() -> None:
        now = signal.getitimer(signal.ITIMER_REAL)[0]
        expected = max(0.0, due - time.monotonic()) if left else 0.0
        # One that is not touched goes on by itself, or has rung.
        if abs(now - expected) > _ALARM_SECONDS:
            signal.setitimer(signal.ITIMER_REAL, expected, interval)

    return put_back


def _limits() -> PutBack:
    """Return what puts back the limits of resources, such as the memory that the process may ask for."""
    try:
        import resource
    except ImportError:  # on Windows
        return []
    numbers = {number for name, number in vars(resource).items() if name.startswith("RLIMIT_")}
    before = [(number, resource.getrlimit(number)) for number in numbers]

    def put_back() -> None:
        for number, limits in before:
            if resource.getrlimit(number) != limits:
                resource.setrlimit(number, limits)

    return [put_back]


class _Descriptor:
    """A copy of a descriptor of the system, closed when nobody holds it any more."""

    def __init__(self, number: int) -> None:
        self._number, self._copy = number, os.dup(number)
        self._file = _file_of(number)

    def put_back(self) -> None:
        if _file_of(self._number) != self._file:
            os.dup2(self._copy, self._number)

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            os.close(self._copy)


def _file_of(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:  # closed
        return None
    return status.st_dev, status.st_ino


def _kept_descriptors() -> Callable[[], None]:
    """Put back input, output and error stream of the system: a program started later would write elsewhere."""
    copies: list[_Descriptor] = []
    for number in (0, 1, 2):
        with suppress(OSError):
            copies.append(_Descriptor(number))

    def put_back() -> None:
        for descriptor in copies:
            descriptor.put_back()

    return put_back


def _numpy_settings(numpy: Any) -> PutBack:
    return [_kept(numpy.geterr, lambda state: numpy.seterr(**state)), _kept(numpy.geterrcall, numpy.seterrcall)]


def _torch_thread_settings(torch: Any) -> PutBack:
    def device() -> Any:
        # `get_default_device` cannot tell a default of "cpu" from none; with one, every new tensor costs more.
        mode = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
        return None if mode is None else mode.device

    return [
        _kept(device, torch.set_default_device),
        _kept(torch.is_grad_enabled, torch.set_grad_enabled),
        _kept(torch.get_num_threads, torch.set_num_threads),
    ]


def _torch_process_settings(torch: Any) -> PutBack:
    def deterministic() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    def set_deterministic(before: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])

    def anomaly() -> tuple[bool, bool]:
        return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()

    cudnn = torch.backends.cudnn
    return [
        _kept(torch.get_default_dtype, torch.set_default_dtype),
        _kept(deterministic, set_deterministic),
        _kept(anomaly, lambda before: torch.set_anomaly_enabled(*before)),
        _kept(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        *(_kept_attribute(cudnn, name) for name in ("benchmark", "deterministic")),
    ]


# Settings of matplotlib that are put back in another way, or not at all.
_NO_PLAIN_SETTING = frozenset({"backend", "backend_fallback", "interactive"})


def _matplotlib_settings(matplotlib: Any) -> PutBack:
    settings = matplotlib.rcParams
    # As stored: asking in the usual way chooses a backend, and warns of names that are going to change.
    # Keys and values by themselves: to copy this kind of dict takes ten times as long.
    names, values = list(dict.keys(settings)), list(dict.values(settings))

    def put_back() -> None:
        if all(map(operator.is_, dict.values(settings), values)):
            return
        for name, value in zip(names, values, strict=True):
            if name not in _NO_PLAIN_SETTING and dict.get(settings, name) is not value:
                dict.__setitem__(settings, name, value)

    def backend() -> Any:
        return dict.__getitem__(settings, "backend")

    def set_backend(before: Any) -> None:
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.switch_backend(before)
        else:
            dict.__setitem__(settings, "backend", before)

    # The first import of pyplot loads the backend, and the one of notebooks turns the interactive mode on. If a trial
    # is the first to import it, the mode stays: without it, later cells would not show their figures.
    is_loaded = "matplotlib.pyplot" in sys.modules
    interactive = [_kept(matplotlib.is_interactive, matplotlib.interactive)] if is_loaded else []
    return [put_back, _kept(backend, set_backend), *interactive]


# By module: what puts its settings back. Of a module that is not loaded yet, it is called after the import.
SETTINGS_OF: dict[str, Callable[[Any], PutBack]] = {
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


def _kept_loggers() -> Callable[[], None]:
    """Put back level and handlers of each logger that there is, and whether it is on."""
    # Some names stand for loggers that nobody has asked for yet; they have no level.
    known = [logging.root, *logging.root.manager.loggerDict.values()]
    before = [
        (logger, logger.level, logger.disabled, tuple(logger.handlers))
        for logger in known
        if isinstance(logger, logging.Logger)
    ]

    def put_back() -> None:
        for logger, level, disabled, handlers in before:
            if logger.level != level:
                logger.setLevel(level)
            logger.disabled = disabled
            if len(logger.handlers) != len(handlers) or tuple(logger.handlers) != handlers:
                logger.handlers[:] = handlers

    return put_back


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
