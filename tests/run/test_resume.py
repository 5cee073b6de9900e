"""A kernel that dies in mid search: nothing that ended is lost, and the rest is as if it had lived."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import nbcompress as nc
from nbcompress.errors import SearchFailed, StudyError
from nbcompress.study import State, read_study

# `BREAK` is the number of the trial in whose midst the process kills itself; -1 for none.
SCRIPT = """
import os, random, signal, sys, time
import nbcompress as nc

journal, engine, sampler = sys.argv[1], sys.argv[2], sys.argv[4]
# In the environment, since a study is not continued where the function reads other values than before.
os.environ |= {"DIE_AT": sys.argv[3], "KERNEL": str(os.getpid())}

def g(x, method, k=None):
    nc.report(size=x)
    count = len(open(journal + ".ran").readlines()) if os.path.exists(journal + ".ran") else 0
    with open(journal + ".ran", "a") as file:
        file.write(f"{os.getpid()}\\n")
    if count == int(os.environ["DIE_AT"]):
        os.kill(int(os.environ["KERNEL"]), signal.SIGKILL)
        time.sleep(100)
    return {"loss": (x - 0.3) ** 2 + (k or 0) / 100 + random.random() / 1000}

space = {
    "x": nc.Float(0.0, 1.0),
    "method": nc.Choice("a", "b"),
    "k": nc.Int(1, 9, when={"method": "b"}),
}
nc.search(g, space, minimize=["loss"], subject_to=["size <= 0.9"], trials=9, study="s", storage=journal,
          engine=engine, sampler=sampler, seed=3)
"""


def searching(folder: Path, name: str, engine: str, die_at: int = -1, sampler: str = "gp", *, said: str = "") -> int:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder / name), engine, str(die_at), sampler]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.stderr == said
    return done.returncode


def rows(folder: Path, name: str) -> list[tuple[Any, ...]]:
    study = read_study("s", folder / name)
    return [
        (trial.number, trial.state, dict(trial.params), dict(trial.values), trial.seed) for trial in study.all_trials
    ]


@pytest.mark.parametrize("engine", ["inline", "process"])
def test_killed_in_mid_search(engine: str, tmp_path: Path) -> None:
    assert searching(tmp_path, "unbroken", engine) == 0
    assert searching(tmp_path, "broken", engine, die_at=6) == -signal.SIGKILL
    study = read_study("s", tmp_path / "broken")
    assert [trial.state for trial in study.all_trials][6] is State.INTERRUPTED
    assert len(study.all_trials) == 7
    if engine == "process":
        wait_for_death(tmp_path / "broken.ran")
    assert searching(tmp_path, "broken", engine) == 0
    assert rows(tmp_path, "broken") == rows(tmp_path, "unbroken")
    assert len(read_study("s", tmp_path / "broken").trials) == 9
    # And again: nothing runs.
    ran = (tmp_path / "broken.ran").read_text()
    said = "The study 's' has its 9 trials already; none was run again.\n"
    assert searching(tmp_path, "broken", engine, said=said) == 0
    assert (tmp_path / "broken.ran").read_text() == ran


def wait_for_death(ran: Path) -> None:
    """Wait until the last trial's process has noticed that its kernel is gone."""
    last = int(ran.read_text().split()[-1])
    end = time.monotonic() + 55
    while time.monotonic() < end:
        try:
            os.kill(last, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the trial outlived its kernel")


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_storage_that_is_removed_in_mid_search_loses_no_result(kind: str, jobs: int, tmp_path: Path) -> None:
    file = tmp_path / ("a.journal" if kind == "journal" else "a.db")
    n_runs = itertools.count()

    def loss(x: float) -> dict[str, float]:
        if next(n_runs) == 3:
            file.unlink()
        return {"loss": (x - 0.3) ** 2}

    with ThreadPoolExecutor(jobs) as pool, pytest.raises(SearchFailed) as caught:
        nc.search(
            loss,
            {"x": nc.Float(0, 1)},
            minimize="loss",
            trials=9,
            storage=str(file) if kind == "journal" else f"sqlite:///{file}",
            sampler="sobol",
            engine="inline" if jobs == 1 else pool,
            jobs=jobs,
        )
    study = caught.value.study
    assert isinstance(study, nc.Study)
    ended = [trial for trial in study.all_trials if trial.state is State.COMPLETE]
    # The fourth trial removes the file. With two at once, the third may still run then.
    assert len(ended) >= (4 if jobs == 1 else 2)
    assert all(trial.values["loss"] == (trial.params["x"] - 0.3) ** 2 for trial in ended)
    assert study.best is not None
    assert len(study.trials) >= len(ended)
    assert str(caught.value).endswith(f"The search has ended; the study in memory keeps its {len(ended)} trials.")
    assert "\n" not in str(caught.value)
    assert repr(study).startswith("Study ")


def test_another_search_of_the_study_is_no_failure_of_the_storage(tmp_path: Path) -> None:
    def loss(x: float) -> dict[str, float]:
        with pytest.raises(StudyError, match="is being searched in this process"):
            nc.search(loss, space, minimize="loss", trials=3, storage=tmp_path / "a.journal", study="s")
        return {"loss": x}

    space = {"x": nc.Float(0, 1)}
    study = nc.search(loss, space, minimize="loss", trials=1, storage=tmp_path / "a.journal", study="s")
    assert [trial.state for trial in study.all_trials] == [State.COMPLETE]
