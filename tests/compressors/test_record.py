from __future__ import annotations

import copy
import pickle
import tempfile
import warnings

import pytest
import torch
from torch import nn

import nbcompress as nc
from nbcompress.compressors import (
    ActivationRange,
    Codebook,
    Grid,
    Record,
    Surgery,
    TensorRecord,
    attach_,
    codes_of,
    factorize,
    finetune,
    prune,
    quantize,
    record_of,
    replay_surgery_,
)
from nbcompress.errors import CompressionError, NbcompressWarning


def test_a_model_that_was_never_compressed_has_an_empty_record() -> None:
    assert record_of(nn.Linear(2, 2)) == Record()


def test_a_part_that_was_compressed_on_its_own() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(20, 20)))
    model[1] = factorize(model[1], 0.1)
    model[0] = quantize(model[0], 4)
    record = record_of(model)
    assert set(record.tensors) == {"0.weight"}
    assert [cut.module for cut in record.surgery] == ["1.0"]
    assert record.rest == "float32"
    fresh = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(20, 20)))
    replay_surgery_(fresh, record.surgery[0])
    fresh.load_state_dict(model.state_dict())
    # From the next step on, the record is that of the whole.
    small = prune(model, 0.5)
    assert record_of(small[0]).tensors == {"weight": record_of(small).tensors["0.weight"]}
    assert set(record_of(small).tensors) == {"0.weight", "1.0.0.weight", "1.0.1.weight"}
    grid = record_of(small).tensors["0.weight"].grid
    assert grid is not None
    assert grid == record.tensors["0.weight"].grid


def test_parts_that_are_taken_out_keep_their_record() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 16))
    model = nn.DataParallel(nn.Sequential(block, nn.Linear(16, 3)))
    x = torch.randn(4, 16)
    small = prune(model, 0.5, granularity="channel", example=x)
    small = quantize(prune(small, 0.5), 4, activations="static", data=x)
    whole = record_of(small)
    for part in (small.module, copy.deepcopy(small).module, pickle.loads(pickle.dumps(small)).module):
        found = record_of(part)
        assert found == record_of(copy.deepcopy(part))
        assert [f"module.{name}" for name in found.tensors] == list(whole.tensors)
        assert [f"module.{step.module}" for step in found.surgery] == [step.module for step in whole.surgery]
        assert [f"module.{name}" for name in found.activations] == list(whole.activations)
    # Also within another model, without one part twice; and after a step of its own.
    other = nn.Sequential(nn.Flatten(), small.module[0], nn.ReLU(), small.module[1])
    assert set(record_of(other).tensors) == {"1.0.weight", "1.2.weight", "3.weight"}
    assert record_of(other).tensors["3.weight"] == whole.tensors["module.1.weight"]
    assert {step.module for step in record_of(other).surgery} == {"1.0", "1.2", "3"}
    assert record_of(small.module[0][2]).activations[""] == whole.activations["module.0.2"]
    more = quantize(small.module[0], 2)
    assert {item.grid.bits for item in record_of(more).tensors.values() if item.grid is not None} == {2}
    assert record_of(more).surgery == record_of(small.module[0]).surgery
    assert record_of(small) is whole
    # A loader needs the class only.
    fresh = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 16))
    with tempfile.TemporaryDirectory() as folder:
        nc.load(nc.save(small.module[0], f"{folder}/part.nbz"), fresh)
    assert torch.equal(fresh(x), small.module[0](x))
    assert fresh[0].out_features == 6


def test_zeros_that_were_trained_away_are_told() -> None:
    small = prune(nn.Linear(8, 8), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nc.size_bytes(finetune(small, (torch.randn(9, 8), torch.randn(9, 8)), loss=nn.functional.mse_loss))
    with torch.no_grad():
        small.weight[small.weight == 0] += 0.1
    with pytest.warns(NbcompressWarning, match=r"'weight' must keep its zeros, but 32 of 32 are other numbers now"):
        nc.size_bytes(small)
    # What a part of the model lost is told as well.
    with pytest.warns(NbcompressWarning, match=r"'0\.weight' must keep its zeros"):
        nc.size_bytes(nn.Sequential(small))
    small = prune(small, 0.5)
    nc.size_bytes(small)


def test_a_record_is_replaced() -> None:
    model = nn.Linear(2, 2)
    record = Record(surgery=(Surgery("cut", "x"),))
    attach_(model, record)
    assert record_of(model) is record
    assert "_nbcompress_record" not in model.state_dict()


def test_grid_or_codebook() -> None:
    grid = Grid(2, "symmetric", "tensor", torch.ones(1), torch.ones(1, dtype=torch.int32))
    with pytest.raises(CompressionError, match="a grid or a codebook, never both"):
        TensorRecord(grid=grid, codebook=Codebook(torch.zeros(1)))
    assert grid != Codebook(torch.zeros(1))
    assert Codebook(torch.zeros(1)) != Codebook(torch.zeros(1), grid)


def test_a_change_by_hand_is_found() -> None:
    small = quantize(nn.Linear(4, 4), 4)
    with torch.no_grad():
        small.weight[0, 0] += 0.001
    with pytest.raises(CompressionError, match=r"'weight' must keep to its grid, but 1 of 16 values left it"):
        codes_of(small.get_parameter("weight"), record_of(small).tensors["weight"], "weight")


def test_a_range_by_hand() -> None:
    """-1 to 4.1 in 255 steps of 0.02; zero is step 50."""
    found = ActivationRange(-1.0, 4.1)
    assert found.scale == pytest.approx(0.02, rel=1e-6)
    assert found.zero == 50
    assert (ActivationRange(0.0, 0.0).scale, ActivationRange(0.0, 0.0).zero) == (1.0, 0)
    assert ActivationRange(-2.0, 0.0).zero == 255
    # Steps that float32 cannot hold are not zero.
    assert ActivationRange(0.0, 1e-44).scale > 0


@pytest.mark.parametrize(("low", "high"), [(0.1, 1.0), (-1.0, -0.5), (float("nan"), 1.0), (-float("inf"), 0.0)])
def test_a_range_holds_zero(low: float, high: float) -> None:
    with pytest.raises(CompressionError, match="an activation range must be finite and hold zero, got"):
        ActivationRange(low, high)


def test_ranges_of_a_part() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    attach_(model[1], Record(activations={"0": ActivationRange(-1.0, 1.0)}))
    attach_(model[0], Record(activations={"": "dynamic"}))
    assert record_of(model).activations == {"0": "dynamic", "1.0": ActivationRange(-1.0, 1.0)}
