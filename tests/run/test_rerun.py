"""Running a trial of a study again."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nbcompress as nc
from nbcompress.errors import NbcompressWarning, StudyError
from nbcompress.study import State, read_study

SPACE = {"x": nc.Float(0, 1)}
OPTIONS: dict[str, Any] = {"minimize": "loss", "trials": 5, "sampler": "sobol"}


def train(x: float) -> dict[str, float]:
    model = nn.Linear(2, 1)  # random weights, from the seed of the trial
    nc.keep(model=model, x=x)
    return {"loss": x, "weight": float(model.weight.detach().sum())}


def worst(study: nc.Study) -> nc.Trial:
    return max(study.all_trials, key=lambda trial: trial.values["loss"])


@pytest.mark.parametrize("engine", ["inline", "process"])
@pytest.mark.parametrize("is_stored", [True, False])
def test_a_rerun_gives_the_same_values_and_what_the_trial_keeps(tmp_path: Path, is_stored: bool, engine: str) -> None:
    storage = {"storage": tmp_path / "j", "study": "s"} if is_stored else {}
    study = nc.search(train, SPACE, engine=engine, **OPTIONS, **storage)
    before, table = worst(study), study.trials
    assert not before.kept
    again = study.rerun(before.number)
    assert (again.state, again.values, again.params) == (State.COMPLETE, before.values, before.params)
    kept = again.kept["model"]
    kept = kept.load(into=nn.Linear(2, 1)) if hasattr(kept, "load") else kept
    assert float(kept.weight.detach().sum()) == pytest.approx(before.values["weight"])
    assert study.trials.equals(table)


def test_what_a_rerun_keeps_stays_in_a_study_that_goes_on(tmp_path: Path) -> None:
    storage = {"storage": tmp_path / "j", "study": "s"}
    study = nc.search(train, SPACE, **OPTIONS, **storage)
    number = worst(study).number
    study.rerun(number)
    more = nc.search(train, SPACE, **{**OPTIONS, "trials": 9}, **storage)
    assert more.all_trials[number].kept["x"] == more.all_trials[number].params["x"]
    others = [trial.number for trial in more.all_trials if trial.kept]
    assert sorted({number, more.best.number}) == sorted(others)


def test_a_rerun_that_gives_other_values_says_so() -> None:
    offset = [0.0]
    study = nc.search(lambda x: {"loss": x + offset[0]}, SPACE, **OPTIONS)
    offset[0] = 1.0
    number, before = study.best.number, study.best.values["loss"]
    with pytest.warns(NbcompressWarning, match=f"Trial {number} gave other values when it was run again: loss"):
        assert study.rerun(number).values["loss"] == before + 1


def test_a_rerun_that_fails_keeps_nothing_and_says_why() -> None:
    is_broken = []

    def g(x: float) -> dict[str, float]:
        if is_broken:
            raise ValueError("no data")
        nc.keep(x=x)
        return {"loss": x}

    study = nc.search(g, SPACE, **OPTIONS)
    is_broken.append(True)
    again = study.rerun(worst(study).number)
    assert (again.state, again.kept.keys()) == (State.FAILED, set())
    assert again.failure is not None
    assert again.failure.message == "no data"


def test_a_trial_is_not_run_again_where_it_cannot_be(tmp_path: Path) -> None:
    study = nc.search(train, SPACE, study="s", storage=tmp_path / "j", **OPTIONS)
    with pytest.raises(StudyError, match="The study 's' has no trial 7; it has 5 trials"):
        study.rerun(7)
    with pytest.raises(StudyError, match="number is an integer, but got True"):
        study.rerun(True)
    with pytest.raises(StudyError, match=r"study.rerun\(0\) needs the cell or the function of the search"):
        read_study("s", tmp_path / "j").rerun(0)


def test_the_slot_does_not_keep_a_study_alive() -> None:
    study = nc.search(train, SPACE, **OPTIONS)
    alive = weakref.ref(study)
    del study
    gc.collect()
    assert alive() is None


def test_torch_seeds_are_those_of_the_trial() -> None:
    study = nc.search(lambda x: {"loss": float(torch.rand(()))}, SPACE, **OPTIONS)
    for trial in study.all_trials:
        assert study.rerun(trial.number).values == trial.values
