"""Storages that fail in the middle of a search: full, read-only or gone; clocks that jump; other writers.

The law: each trial that was announced, and each value that it keeps, is in the storage, and the search goes on from it
as if it had not been broken. What could not be stored was never announced; the error is one line and has the study
with all results. A few of each run with all tests; `NBCOMPRESS_FAULTS=200 pytest tests/faults` runs more.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import nbcompress as nc
from nbcompress.errors import NbcompressError, SearchFailed
from nbcompress.study import State, Study, Trial, read_study
from nbcompress.study.reading import read_foreign_study

N = int(os.environ.get("NBCOMPRESS_FAULTS", "1"))
N_TRIALS = 10
SPACE = {"x": nc.Float(-1, 1), "k": nc.Int(0, 5)}
STORAGES = ["a.journal", "sqlite"]


def loss(x: float, k: int) -> dict[str, float]:
    # Each trial is better than most before it, so that many values are kept and dropped.
    nc.keep(point=[x, k], text="x" * 3_000)
    return {"loss": x * x + k}


class Announced:
    """An observer that notes the trials that a person is told of, and calls `before` when a trial begins."""

    def __init__(self, before: Callable[[int], None] = lambda _number: None) -> None:
        self.trials: list[Trial] = []
        self._before = before

    def trial_started(self, trial: Trial) -> None:
        self._before(trial.number)

    def trial_ended(self, trial: Trial) -> None:
        self.trials.append(trial)

    def reported(self, number: int, step: int, values: Any) -> None: ...
    def ended(self, ending: Any) -> None: ...


def where(folder: Path, kind: str) -> str:
    return f"sqlite:///{folder}/a.db" if kind == "sqlite" else str(folder / kind)


def search(storage: str, told: Announced, n_trials: int = N_TRIALS) -> Study:
    return nc.search(
        loss, SPACE, minimize="loss", trials=n_trials, sampler="sobol", storage=storage, study="s", observers=[told]
    )


def table(trials: Any) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, dict(t.params), dict(t.values), t.seed) for t in trials]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    return table(search(str(tmp_path_factory.mktemp("unbroken") / "a.journal"), Announced()).all_trials)


def in_another_process(function: Callable[[], None]) -> None:
    """Call a function in a fork, whose failed assertion fails the test."""
    receiving, sending = multiprocessing.get_context("fork").Pipe(duplex=False)

    def call() -> None:
        try:
            function()
            sending.send("")
        except BaseException as error:  # noqa: BLE001 - it is shown by the test
            import traceback

            sending.send("".join(traceback.format_exception(error)))

    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    sending.close()
    text = receiving.recv() if receiving.poll(120) else "no answer"
    process.join()
    assert not text, text


def check_broken(storage: str, told: Announced) -> None:
    """Search in a storage that fails. The refusal is one line, and the study in memory has what was announced."""
    failure: NbcompressError | None = None
    study: Study | None = None
    try:
        study = search(storage, told)
    except NbcompressError as error:
        failure = error
    assert "\n" not in str(failure)
    if isinstance(failure, SearchFailed):
        study = failure.study
    if study is None:  # refused before it began
        assert not told.trials
        return
    in_memory = {row[0]: row for row in table(study.all_trials)}
    assert all(in_memory[row[0]] == row for row in table(told.trials))
    # Without an error the storage has taken all of it.
    assert failure is not None or len(told.trials) == N_TRIALS


def check_stored(storage: str, told: Announced, unbroken: list[tuple[Any, ...]]) -> None:
    """The storage works again: all announced trials are there, and the search goes on to the unbroken end."""
    if told.trials:
        stored = {row[0]: row for row in table(read_study("s", storage).all_trials)}
        assert all(stored[row[0]] == row for row in table(told.trials))
    resumed = search(storage, Announced())
    assert table(resumed.all_trials) == unbroken
    assert resumed.best is not None
    for trial in resumed.front:
        if trial.kept:
            assert trial.kept["point"] == list(trial.params.values())
    again = {trial.number for trial in told.trials}
    assert resumed.best.number in again or resumed.best.kept["point"] == list(resumed.best.params.values())


# Full -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORAGES)
@pytest.mark.parametrize("seed", range(N))
def test_a_file_that_may_not_grow(seed: int, kind: str, tmp_path: Path, unbroken: list[tuple[Any, ...]]) -> None:
    storage = where(tmp_path, kind)
    if kind == "sqlite":  # its tables take most of what the study needs
        search(storage, Announced(), n_trials=1)

    def broken() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        first = sum(path.stat().st_size for path in tmp_path.iterdir() if path.is_file())
        limit = first + random.Random(f"{kind} {seed}").randrange(0, 8_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        told = Announced()
        check_broken(storage, told)
        announced.send(told.trials)

    receiving, announced = multiprocessing.get_context("fork").Pipe(duplex=False)
    in_another_process(broken)
    told = Announced()
    told.trials = receiving.recv() if receiving.poll(1) else []
    check_stored(storage, told, unbroken)


@contextmanager
def small_disk(folder: Path, n_bytes: int) -> Iterator[None]:
    """Mount a file system of so many bytes in memory; skip the test where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder.mkdir(exist_ok=True)
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={n_bytes}".encode()) != 0:
        pytest.skip(f"No file system can be mounted here: {os.strerror(ctypes.get_errno())}.")
    try:
        yield
    finally:
        libc.umount2(str(folder).encode(), 2)


@pytest.mark.parametrize("kind", STORAGES)
@pytest.mark.parametrize("seed", range(N))
def test_a_full_disk(seed: int, kind: str, tmp_path: Path, unbroken: list[tuple[Any, ...]]) -> None:
    with small_disk(tmp_path / "disk", 4_000_000):
        storage, ballast = where(tmp_path / "disk", kind), tmp_path / "disk" / "ballast"
        full_at = random.Random(f"{kind} {seed}").randrange(N_TRIALS)

        def fill(number: int) -> None:
            if number == full_at:
                with suppress(OSError), ballast.open("wb") as file:
                    while True:
                        file.write(b"0" * 4096)
                        file.flush()

        told = Announced(fill)
        check_broken(storage, told)
        with suppress(FileNotFoundError):
            ballast.unlink()
        check_stored(storage, told, unbroken)


# Read-only and gone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORAGES)
def test_a_disk_that_becomes_read_only(kind: str, tmp_path: Path, unbroken: list[tuple[Any, ...]]) -> None:
    libc = ctypes.CDLL(None)
    remount, read_only = 32, 1
    with small_disk(tmp_path / "disk", 4_000_000):
        disk = str(tmp_path / "disk").encode()
        storage = where(tmp_path / "disk", kind)

        def make_read_only(number: int) -> None:
            if number == 4:
                libc.mount(b"tmpfs", disk, b"tmpfs", remount | read_only, None)

        told = Announced(make_read_only)
        check_broken(storage, told)
        assert len(told.trials) < N_TRIALS or not os.path.ismount(disk)
        libc.mount(b"tmpfs", disk, b"tmpfs", remount, None)
        check_stored(storage, told, unbroken)


def test_a_folder_that_may_not_be_written_is_refused_before_the_first_trial() -> None:
    begun: list[int] = []

    def attempt(folder: Path) -> None:
        if os.getuid() == 0:
            os.setuid(65534)  # to root all folders are open
        for kind in STORAGES:
            with pytest.raises(NbcompressError) as caught:
                search(where(folder, kind), Announced(begun.append))
            assert "\n" not in str(caught.value)
            assert str(folder) in str(caught.value)
        assert not begun

    # Not `tmp_path`, which another user may not enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        in_another_process(lambda: attempt(Path(folder)))
        Path(folder).chmod(0o755)


@pytest.mark.parametrize("kind", STORAGES)
def test_a_folder_that_vanishes(kind: str, tmp_path: Path, unbroken: list[tuple[Any, ...]]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    told = Announced(lambda number: shutil.rmtree(folder) if number == 4 else None)
    with pytest.raises(SearchFailed) as caught:
        search(where(folder, kind), told)
    assert "\n" not in str(caught.value)
    assert table(caught.value.study.all_trials)[:4] == unbroken[:4] == table(told.trials)
    # A new search begins anew in a new folder.
    folder.mkdir(exist_ok=True)
    assert table(search(where(folder, kind), Announced()).all_trials) == unbroken


def test_a_folder_of_kept_values_that_vanishes(tmp_path: Path, unbroken: list[tuple[Any, ...]]) -> None:
    kept = tmp_path / "a.kept"
    told = Announced(lambda number: shutil.rmtree(kept) if kept.is_dir() and number == 4 else None)
    study = search(str(tmp_path / "a.journal"), told)
    assert table(study.all_trials) == unbroken
    assert study.best is not None
    assert "point" not in study.best.kept or study.best.kept["point"] == list(study.best.params.values())


# Clocks and other writers ---------------------------------------------------------------------------------------------


def test_two_processes_whose_clocks_jump_by_hours_run_each_point_once(tmp_path: Path) -> None:
    storage = where(tmp_path, "a.journal")
    context = multiprocessing.get_context("fork")

    def run(seed: int) -> None:
        rng, real = random.Random(seed), time.time
        time.time = lambda: real() + rng.choice([-86_400.0, -3_600.0, 0.0, 3_600.0, 86_400.0])
        with suppress(NbcompressError):
            nc.search(loss, SPACE, minimize="loss", trials=16, sampler="random", storage=storage, study="s")

    processes = [context.Process(target=run, args=(seed,)) for seed in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    trials = nc.search(loss, SPACE, minimize="loss", trials=16, sampler="random", storage=storage, study="s").all_trials
    assert [trial.state for trial in trials] == [State.COMPLETE] * 16
    assert len({tuple(trial.params.items()) for trial in trials}) == 16
    assert all(0 <= trial.ended - trial.started < 60 for trial in trials if trial.started and trial.ended)


def test_a_study_of_optuna_in_the_same_journal(tmp_path: Path, unbroken: list[tuple[Any, ...]]) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = tmp_path / "a.journal"
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def write() -> None:
        other = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name="theirs")
        for _ in range(20):
            other.tell(other.ask({"y": optuna.distributions.FloatDistribution(0, 1)}), 1.0)

    process = multiprocessing.get_context("fork").Process(target=write)
    told = Announced(lambda number: process.start() if number == 2 else None)
    study = search(str(path), told)
    process.join()
    assert process.exitcode == 0
    assert table(study.all_trials) == table(read_study("s", path).all_trials) == unbroken
    theirs = read_foreign_study("theirs", path)
    assert theirs is not None
    assert len(theirs.all_trials) == 20
