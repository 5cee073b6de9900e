"""`nc.compress` runs the search that `%compress` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.errors import CompressionError, SearchError

WAYS: dict[str, Any] = {"tries": ["weights", "bits", "training"], "trials": 4}


def task() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    x = torch.randn(80, 32)
    data = (x, (x[:, 0] + x[:, 1] > 0).long())
    model = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 2))
    nc.finetune(model, data, epochs=5)
    return model, data


def test_every_best_model_meets_the_budget_and_is_measured_by_the_users_function() -> None:
    model, data = task()
    before = [parameter.clone() for parameter in model.parameters()]

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(data[0]).argmax(1) == data[1]).float().mean())

    study = nc.compress(model, data, evaluate, budget="1kB", keep_accuracy=0.5, **WAYS)
    assert len(study.trials) == 4
    assert str(study.goal).startswith("maximize accuracy subject to kilobytes <= 1")
    best = study.best
    assert best is not None
    small = study.kept["small"]
    assert nc.size_bytes(small) == round(1000 * best.values["kilobytes"]) <= 1000
    assert evaluate(small) == pytest.approx(best.values["accuracy"])
    assert study.record["baseline"] == {"accuracy": evaluate(model), "kilobytes": nc.size_bytes(model) / 1000}
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_without_a_function_it_is_the_accuracy_on_the_data() -> None:
    model, data = task()
    study = nc.compress(model, data, budget="1kB", **WAYS)
    assert study.best is not None
    assert float(nc.accuracy(study.kept["small"], data)) == pytest.approx(study.best.values["accuracy"])


def test_a_stored_study_goes_on(tmp_path: Path) -> None:
    model, data = task()
    where = {"study": "s", "storage": tmp_path / "j"}
    nc.compress(model, data, budget="1kB", **WAYS, **where)
    study = nc.compress(model, data, budget="1kB", **{**WAYS, "trials": 5}, **where)
    assert len(study.trials) == 5
    assert study.kept["small"](data[0]).shape == (80, 2)


def test_milliseconds_are_a_budget_too() -> None:
    model, data = task()
    study = nc.compress(model, data, budget=["1kB", "1000ms"], **WAYS)
    assert study.best is not None
    assert 0 < study.best.values["milliseconds"] <= 1000


def test_what_cannot_be_is_said_before_the_first_trial() -> None:
    model, data = task()
    with pytest.raises(CompressionError, match="budget cannot be met"):
        nc.compress(model, data, budget="10B", **WAYS)
    with pytest.raises(SearchError, match=r"nc.compress takes the options of nc.search but .* and got start"):
        nc.compress(model, data, budget="1kB", start=[])
    with pytest.raises(SearchError, match=r"and got jbos. Did you mean 'jobs'"):
        nc.compress(model, data, budget="1kB", jbos=2)
    with pytest.raises(SearchError, match="but baseline, keep, noise, start and the objectives, and got noise"):
        nc.compress(model, data, budget="1kB", noise="accuracy_std")
    with pytest.raises(SearchError, match="A time limit is above 0"):  # before the budget, which takes long
        nc.compress(model, data, budget="10B", timeout="soon")
    with pytest.raises(SearchError, match="The cell needs a metric"):
        nc.compress(model, budget="1kB")
