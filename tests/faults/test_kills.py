"""Searches that are killed at random instants and journals that are cut in any byte: nothing that ended is lost.

A few of each run with all tests. For a longer campaign: `NBCOMPRESS_FAULTS=200 pytest tests/faults`.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

import nbcompress as nc
from nbcompress.errors import StudyError
from nbcompress.study import State, read_study

N = int(os.environ.get("NBCOMPRESS_FAULTS", "3"))
N_TRIALS = 12
BEGUN = "NBCOMPRESS_TEST_BEGUN"
SPACE = {"x": nc.Float(-1, 1), "k": nc.Int(0, 5)}


def loss(x: float, k: int) -> dict[str, float]:
    if BEGUN in os.environ:
        # A trial begins when all before it are recorded.
        with open(os.environ[BEGUN], "ab", buffering=0) as file:
            file.write(b".")
    nc.keep(point=[x, k])
    return {"loss": x * x + k}


def search(storage: Path) -> nc.Study:
    return nc.search(loss, SPACE, minimize="loss", trials=N_TRIALS, sampler="sobol", storage=storage, study="s")


def search_and_tell(storage: Path, begun: Path) -> None:
    """Search in another process; a byte is appended to `begun` when a trial begins."""
    os.environ[BEGUN] = str(begun)
    search(storage)


def table(study: nc.Study) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, dict(t.params), dict(t.values), t.seed) for t in study.all_trials]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple[Any, ...]], bytes]:
    path = tmp_path_factory.mktemp("unbroken") / "a.journal"
    # In a process that has ended: what runs in this one would count as running.
    process = multiprocessing.get_context("fork").Process(target=search, args=(path,))
    process.start()
    process.join()
    return table(read_study("s", path)), path.read_bytes()


@pytest.mark.parametrize("seed", range(N))
def test_a_killed_search_loses_nothing_and_goes_on_as_if_unbroken(
    seed: int, tmp_path: Path, unbroken: tuple[list[tuple[Any, ...]], bytes]
) -> None:
    rng, path, begun = random.Random(seed), tmp_path / "a.journal", tmp_path / "begun"
    process = multiprocessing.get_context("fork").Process(target=search_and_tell, args=(path, begun))
    process.start()
    # At the begin of some trial, and then after a moment of any length.
    n_before = rng.randrange(1, N_TRIALS)
    while process.is_alive() and (not begun.exists() or begun.stat().st_size < n_before):
        process.join(0.001)
    process.join(rng.random() * 0.01)
    if process.is_alive():
        os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    n_begun = begun.stat().st_size
    study = read_study("s", path)
    complete = [trial for trial in study.all_trials if trial.state is State.COMPLETE]
    assert [trial.number for trial in complete][: n_begun - 1] == list(range(n_begun - 1))
    resumed = search(path)
    assert table(resumed) == unbroken[0]
    assert resumed.best is not None
    assert resumed.best.kept["point"] == list(resumed.best.params.values())


@pytest.mark.parametrize("seed", range(N))
def test_a_journal_that_is_cut_in_any_byte_keeps_the_trials_before(
    seed: int, tmp_path: Path, unbroken: tuple[list[tuple[Any, ...]], bytes]
) -> None:
    path, text = tmp_path / "a.journal", unbroken[1]
    path.write_bytes(text[: random.Random(seed).randrange(1, len(text))])
    try:
        before = table(read_study("s", path))
    except StudyError:  # cut before the study began
        before = []
    known = {row[0]: row for row in unbroken[0]}
    assert all(row == known[row[0]] for row in before if row[1] is State.COMPLETE)
    assert table(search(path)) == unbroken[0]
