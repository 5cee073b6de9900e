"""What a trial changes in the interpreter and the process is put back."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_searches import searched

from nbcompress.run import Assignment, RunningTrial
from nbcompress.run.capture import captured_output, seeded
from nbcompress.run.settings import settings_kept, shared_with_cells


def spoil(folder: str) -> None:
    """Change all that a trial can change and that is put back."""
    import builtins
    import decimal
    import gc
    import locale
    import logging
    import multiprocessing
    import os
    import resource
    import signal
    import socket
    import threading
    import warnings

    import matplotlib

    multiprocessing.set_start_method("spawn", force=True)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    warnings.filterwarnings("ignore", "never said")
    matplotlib.use("svg" if matplotlib.get_backend() != "svg" else "agg")
    matplotlib.interactive(not matplotlib.is_interactive())
    gc.set_threshold(123)
    (gc.disable if gc.isenabled() else gc.enable)()
    logging.basicConfig(level=logging.DEBUG, force=True)
    logging.disable(logging.ERROR)
    os.umask(0o055)
    sys.setrecursionlimit(sys.getrecursionlimit() + 77)
    sys.path = [folder, *sys.path]
    sys.path.append("nowhere")
    os.chdir(folder)
    os.environ["NBCOMPRESS_TEST"] = "set"
    os.environ.pop("HOME", None)
    os.environ["PATH"] += ":/nowhere"
    sys.stdout = sys.stderr = io.StringIO()
    np.seterr(all="raise")
    decimal.getcontext().prec = 3
    locale.setlocale(locale.LC_ALL, "C.UTF-8" if locale.setlocale(locale.LC_ALL) == "C" else "C")
    logging.getLogger("nbcompress.test").setLevel(7)
    logging.getLogger("nbcompress.test").addHandler(logging.NullHandler())
    logging.getLogger("nbcompress.test").disabled = True
    matplotlib.rcParams["figure.dpi"] = 17
    torch.autograd.set_detect_anomaly(True)
    torch.set_float32_matmul_precision("medium")
    socket.setdefaulttimeout(3)
    sys.setswitchinterval(0.5)
    sys.set_int_max_str_digits(700)
    sys.argv.append("--more")
    sys.excepthook = sys.displayhook = threading.excepthook = print
    sys.stdin = io.StringIO()
    resource.setrlimit(resource.RLIMIT_CORE, (1, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 5000)
    builtins.surprise = 1  # type: ignore[attr-defined]
    builtins.print = repr  # type: ignore[assignment]


def settings() -> dict[str, Any]:
    """Return what `spoil` changes."""
    import builtins
    import decimal
    import gc
    import locale
    import logging
    import multiprocessing
    import os
    import resource
    import signal
    import socket
    import threading
    import warnings

    import matplotlib

    umask = os.umask(0)
    os.umask(umask)
    logger = logging.getLogger("nbcompress.test")
    return {
        "start method": multiprocessing.get_start_method(allow_none=True),
        "dtype": torch.get_default_dtype(),
        "device": torch.empty(1).device,
        "device mode": getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": torch.backends.cudnn.benchmark,
        "filters": list(warnings.filters),
        "backend": matplotlib.get_backend(),
        "interactive": matplotlib.is_interactive(),
        "gc": (gc.isenabled(), gc.get_threshold()),
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "umask": umask,
        "recursion": sys.getrecursionlimit(),
        "path": list(sys.path),
        "path object": id(sys.path),
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "streams": (id(sys.stdout), id(sys.stderr)),
        "numpy": np.geterr(),
        "decimal": decimal.getcontext().prec,
        "builtins": (hasattr(builtins, "surprise"), builtins.print),
        "locale": locale.setlocale(locale.LC_ALL),
        "logger": (logger.level, logger.handlers[:], logger.disabled),
        "rcParams": matplotlib.rcParams["figure.dpi"],
        "anomaly": torch.is_anomaly_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "sockets": socket.getdefaulttimeout(),
        "switch": sys.getswitchinterval(),
        "digits": sys.get_int_max_str_digits(),
        "argv": list(sys.argv),
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook, sys.stdin),
        "limits": resource.getrlimit(resource.RLIMIT_CORE),
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "cores": os.sched_getaffinity(0),
        "input": os.fstat(0).st_ino,
        "handlers": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)],
        "alarm": round(signal.getitimer(signal.ITIMER_REAL)[0], -3),  # pytest may have set one
    }


def test_what_a_trial_changes_is_put_back(tmp_path: Path) -> None:
    """After every trial, also a failed one, and also if the folder that the trial went to is gone."""
    before, within = settings(), []

    def body(x: float) -> dict[str, float]:
        within.append({name: value for name, value in settings().items() if name != "streams"})
        folder = tmp_path / str(len(within))
        folder.mkdir()
        spoil(str(folder))
        folder.rmdir()
        if x > 0.5:
            raise ValueError
        return {"loss": x}

    searched(body, trials=6)
    assert settings() == before
    assert all(seen == {name: before[name] for name in seen} for seen in within)
    assert len(within) == 6


def test_the_streams_of_the_system_are_opened_again(capfd: pytest.CaptureFixture[str]) -> None:
    trial = RunningTrial(Assignment(0, {}, 0))
    with settings_kept(trial):
        os.close(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.write(1, b"out"), os.write(2, b"err")
    assert tuple(capfd.readouterr()) == ("out", "err")
    assert not trial.remarks


def test_copies_of_streams_are_closed_beside_other_cells_too() -> None:
    def n_open() -> int:
        return len(os.listdir("/dev/fd"))

    before = n_open()
    for _ in range(3):
        with settings_kept(RunningTrial(Assignment(0, {}, 0))), shared_with_cells():
            assert n_open() > before
        assert n_open() == before


@pytest.mark.parametrize("is_changed", [False, True])
def test_an_alarm_of_the_notebook_stays(is_changed: bool) -> None:
    import signal

    before = signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        with settings_kept(RunningTrial(Assignment(0, {}, 0))):
            if is_changed:
                signal.setitimer(signal.ITIMER_REAL, 0)
        assert 900 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_trials_on_threads_leave_the_notebook_as_it_was(tmp_path: Path) -> None:
    before = settings()

    def work(number: int) -> list[str]:
        trial = RunningTrial(Assignment(number, {}, number))
        with trial.entered(), settings_kept(trial), captured_output(trial), seeded(number):
            torch.set_grad_enabled(False), np.seterr(all="raise"), torch.set_default_device("meta")
            spoil(str(tmp_path))
        own = torch.is_grad_enabled(), np.geterr()["divide"], torch.empty(1).device.type
        return [*trial.remarks, *map(str, own)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(40))) == [["True", "warn", "cpu"]] * 40
    after = settings()
    assert after == before


def test_a_setting_that_cannot_be_put_back_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    trial = RunningTrial(Assignment(0, {}, 0))
    with settings_kept(trial):
        torch.set_grad_enabled(False)
        os.chdir(tmp_path)
        gone.rmdir()
    assert torch.is_grad_enabled()
    (said,) = trial.remarks
    assert said.startswith("A trial changed a setting that could not be put back: FileNotFoundError")


def test_beside_other_cells_the_process_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes may be the work of another cell."""
    monkeypatch.setenv("NBCOMPRESS_TEST", "before")
    trial = RunningTrial(Assignment(0, {}, 0))
    with shared_with_cells(), settings_kept(trial):
        os.environ["NBCOMPRESS_TEST"] = "another cell"
        torch.set_grad_enabled(False)
    assert os.environ["NBCOMPRESS_TEST"] == "another cell"
    assert torch.is_grad_enabled()


def test_settings_of_a_module_that_the_trial_imports_first() -> None:
    code = """
import sys
from nbcompress.run import Assignment, RunningTrial
from nbcompress.run.capture import seeded
from nbcompress.run.settings import settings_kept
loaded = {"torch", "numpy", "matplotlib"} & set(sys.modules)
trial = RunningTrial(Assignment(0, {}, 0))
with settings_kept(trial), seeded(5):
    assert loaded >= {"torch", "matplotlib"} & set(sys.modules)
    import matplotlib, torch
    before = dict.__getitem__(matplotlib.rcParams, "backend")
    matplotlib.use("svg")
    torch.set_default_dtype(torch.float64)
assert torch.get_default_dtype() is torch.float32
assert dict.__getitem__(matplotlib.rcParams, "backend") == before, before
assert not trial.remarks
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
