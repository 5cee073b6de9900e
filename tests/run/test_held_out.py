"""The test at the end: the original and the front, once, on data that no trial saw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import nbcompress as nc
from nbcompress.errors import SearchError
from nbcompress.panels.document import StudyPictures, study_html
from nbcompress.panels.view import study_view
from nbcompress.run.record import share_memory
from nbcompress.study import State

SPACE = {"x": nc.Float(0, 1)}
OPTIONS: dict[str, Any] = {"maximize": "accuracy", "trials": 6, "sampler": "sobol", "keep": "model"}
measured: list[float] = []


class Offset(nn.Module):
    """Predicts class 1 where the input is above its offset."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(float(offset)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.offset - x, x - self.offset], 1)


def train(x: float) -> dict[str, float]:
    nc.keep(model=Offset(x))
    return {"accuracy": 1 - abs(x - 0.5)}


def unseen(model: Offset) -> float:
    measured.append(model.offset.item())
    return 0.75 - abs(model.offset.item() - 0.5)


def test_the_original_and_the_front_are_measured_once() -> None:
    measured.clear()
    study = nc.search(train, SPACE, test=unseen, original=Offset(2.0), **OPTIONS)
    best = study.best
    assert best is not None
    assert measured == pytest.approx([2.0, best.params["x"]])
    models = study.record["test"]["models"]
    assert models["original"]["values"]["accuracy"][0] == pytest.approx(-0.75)
    assert models[str(best.number)]["values"]["accuracy"] == [pytest.approx(best.values["accuracy"] - 0.25), None, None]
    sentence = study.record["test"]["sentence"]
    assert sentence.startswith(f"On data that no trial saw, trial {best.number} has accuracy ")
    own = f"The search measured accuracy {best.values['accuracy']:.4g}: 0.25 better than on unseen data."
    assert sentence.endswith(own)


def test_a_search_that_goes_on_measures_what_is_new(tmp_path: Any) -> None:
    measured.clear()
    where = {"study": "s", "storage": tmp_path / "j", "original": Offset(2.0)}
    study = nc.search(train, SPACE, test=unseen, **where, **OPTIONS)
    n = len(measured)
    nc.search(train, SPACE, test=unseen, **where, **OPTIONS)
    assert len(measured) == n == 1 + len(study.front)
    nc.search(train, SPACE, test=lambda model: 2 * unseen(model), **where, **OPTIONS)
    assert len(measured) == 2 * n  # another function measures anew


def test_other_data_or_another_original_is_measured_anew(tmp_path: Any) -> None:
    where = {"study": "s", "storage": tmp_path / "j"}
    inputs, calls = torch.linspace(0, 1, 11), []

    def test(model: Offset) -> float:
        calls.append(model)
        return float(model(inputs).argmax(1).float().mean())

    def share_of_original() -> float:
        return nc.search(train, SPACE, test=test, original=original, **where, **OPTIONS).record["test"]["models"][
            "original"
        ]["values"]["accuracy"][0]

    original = Offset(0.45)
    assert share_of_original() == pytest.approx(6 / 11)
    n = len(calls)
    inputs = torch.linspace(0.5, 1, 11)
    assert share_of_original() == 1.0
    original = Offset(2.0)
    assert share_of_original() == 0.0
    assert len(calls) == 3 * n


def test_a_test_that_failed_is_run_again(tmp_path: Any) -> None:
    where = {"study": "s", "storage": tmp_path / "j"}
    is_broken = [True]

    def flaky(model: Offset) -> float:
        if is_broken[0]:
            raise OSError("the disk is not there")
        return 1.0

    first = nc.search(train, SPACE, test=flaky, **where, **OPTIONS).record["test"]
    assert "failed: OSError" in first["sentence"]
    is_broken[0] = False
    second = nc.search(train, SPACE, test=flaky, **where, **OPTIONS).record["test"]
    assert "has accuracy 1." in second["sentence"]


def test_predictions_give_an_interval_and_flips() -> None:
    x = torch.linspace(0, 1, 101)
    data = (x, (x > 0.5).long())
    study = nc.search(train, SPACE, test=lambda model: nc.accuracy(model, data), original=Offset(0.5), **OPTIONS)
    facts = study.record["test"]["models"]
    assert facts["original"]["values"]["accuracy"][0] == 1.0
    value, low, high = facts[str(study.best.number)]["values"]["accuracy"]
    assert low < value < high
    wrong = round(101 * (1 - value))
    assert f"{wrong} flipped: {wrong} now wrong, 0 now right" in facts[str(study.best.number)]["flips"]


def test_a_test_that_fails_is_told_and_takes_nothing_with_it() -> None:
    def broken(model: Offset) -> float:
        raise ValueError("no such file\nat all")

    study = nc.search(train, SPACE, test=broken, **OPTIONS)
    assert [trial.state for trial in study.all_trials] == [State.COMPLETE] * 6
    assert "failed: ValueError: no such file" in study.record["test"]["sentence"]
    text = nc.search(train, SPACE, test=lambda model: "good", **OPTIONS).record["test"]["sentence"]
    assert "failed: The metric 'accuracy' is a number, but got" in text


def test_it_is_shown_as_a_table_beside_the_searchs_own_metric() -> None:
    study = nc.search(train, SPACE, test=lambda model: {"<b>": 1.5, "accuracy": unseen(model)}, **OPTIONS)
    view = study_view(study)
    assert view["test"]["columns"] == [
        "model", "<b> on unseen data", "<b> in the search", "accuracy on unseen data", "accuracy in the search", "",
    ]  # fmt: skip
    assert view["test"]["rows"][0][:3] == [f"trial {study.best.number}", "1.5", ""]
    html = study_html(view, StudyPictures(None), "")
    assert "On data that no trial saw" in html
    assert "&lt;b&gt; on unseen data" in html
    assert "test" not in view["record"]


X = np.arange(20.0)
TRAIN, HELD_OUT = X[:10], X[10:]


def trained(x: float) -> dict[str, float]:
    nc.keep(model=x)
    return {"accuracy": x + float(TRAIN.sum())}


def test_data_that_the_trials_read_is_refused_before_the_first_trial() -> None:
    text = r"test measures on data that no trial saw, but it reads 'X', which overlaps 'TRAIN' of the trials"
    with pytest.raises(SearchError, match=text):
        nc.search(trained, SPACE, test=lambda model: model + X.sum(), **OPTIONS)
    study = nc.search(trained, SPACE, test=lambda model: model + HELD_OUT.sum(), **OPTIONS)
    assert study.record["test"]["models"]


BOTH = TensorDataset(torch.zeros(20, 2), torch.zeros(20))
PARTS = random_split(BOTH, [15, 5], torch.Generator().manual_seed(0))
FITTED, OTHER = (DataLoader(part, 5) for part in PARTS)


def fitted(x: float) -> dict[str, float]:
    nc.keep(model=x)
    return {"accuracy": x + sum(float(batch.sum()) for batch, _ in FITTED)}


def test_parts_of_one_data_set_are_no_data_that_the_trials_read() -> None:
    study = nc.search(fitted, SPACE, test=lambda model: sum(float(batch.sum()) for batch, _ in OTHER), **OPTIONS)
    assert "problem" not in study.record["test"]["models"][str(study.best.number)]
    with pytest.raises(SearchError, match=r"it reads 'BOTH.tensors\[0\]', which overlaps 'FITTED' of the trials"):
        nc.search(fitted, SPACE, test=lambda model: float(BOTH.tensors[0].sum()), **OPTIONS)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"test": 3}, "test is a function from a model to a number, but got 3"),
        ({"test": unseen, "keep": ()}, "test measures the models that trials keep: name them with keep"),
        ({"original": 3}, "original is what test compares with: give both"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SearchError, match=text):
        nc.search(train, SPACE, **{**OPTIONS, **options})


def test_shared_memory_is_found_exactly() -> None:
    x = torch.arange(10.0)
    assert share_memory(x, x[3:5])
    assert share_memory(x[:6], x.numpy()[5:])
    assert not share_memory(x[::2], x[1::2])
    assert not share_memory(x, x.clone())
    assert share_memory(x.requires_grad_(), x)
