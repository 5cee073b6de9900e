"""Every option of the compressing magics reaches the function: the record of what comes out shows it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nbcompress as nc
from nbcompress.compressors import ActivationRange, LowRank, record_of


@pytest.fixture
def work(notebook: Any) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    student = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    train = (torch.randn(64, 16), torch.randint(0, 4, (64,)))
    notebook.names.update(model=model, student=student, train=train, limit=1500)
    return notebook


def test_prune(work: Any) -> None:
    work.must("a = %prune model --granularity 2:4")
    weight = work.names["a"][0].weight
    assert bool(((weight.reshape(-1, 4) != 0).sum(1) == 2).all())
    for criterion in ("gradient", "activation", "hessian"):
        work.must(f"a = %prune model --amount 0.5 --criterion {criterion} --data train")
        assert 0.45 < float((work.names["a"][0].weight == 0).double().mean()) < 0.6
    work.must("a = %prune model --amount 0.5 --granularity channel --criterion mutual-information --data train")
    assert work.names["a"][0].out_features == 16
    work.names["normed"] = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 4))
    work.must("a = %prune normed --amount 0.5 --granularity channel --norms cut --data train")
    assert work.names["a"][1].normalized_shape == (16,)
    assert "Did you mean 'cut'?" in work.refused("a = %prune normed --amount 0.5 --norms cutt --data train")
    line = work.refused("a = %prune model --amount 0.5 --criterion hessian")
    assert "--criterion hessian needs data: pass --data, such as" in line
    line = work.refused("a = %prune model --amount 0.5 --criterion hesian --data train")
    assert "Did you mean 'hessian'?" in line


def test_quantize(work: Any) -> None:
    for budget in ("1.5kB", "limit"):
        work.must(f"b = %quantize model --bits auto --budget {budget} --data train")
        assert nc.size_bytes(work.names["b"]) <= 1500
    assert "--bits auto needs --budget, the length" in work.refused("%quantize model --bits auto")
    assert "--budget belongs to --bits auto, got --bits 4" in work.refused("%quantize model --bits 4 --budget 2kB")
    work.must("b = %quantize model --activations dynamic")
    assert record_of(work.names["b"]).activations == {"0": "dynamic", "2": "dynamic"}
    work.must("b = %quantize model --activations static --data train")
    assert isinstance(record_of(work.names["b"]).activations["2"], ActivationRange)


def test_factorize_and_distill(work: Any) -> None:
    work.must("c = %factorize model --energy 0.5")
    assert any(isinstance(one, LowRank) for one in work.names["c"])
    assert "pass one" in work.refused("%factorize model --energy 0.5 --rank 0.5")
    work.must("d = %distill model student --data train --epochs 2 --match 0:0 --match 1:1")
    expected = nc.distill(work.names["model"], work.names["student"], work.names["train"], 2, match=["0:0", "1:1"])
    assert torch.equal(work.names["d"][0].weight, expected[0].weight)
    assert "the student has no layer '3'" in work.refused("%distill model student --data train --match 0:3")
