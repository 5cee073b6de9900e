from __future__ import annotations

import pytest
import torch
from torch import nn

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
    prune,
    quantize,
    record_of,
    replay_surgery_,
)
from nbcompress.errors import CompressionError


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
    # From the next step on, the whole has the only record.
    small = prune(model, 0.5)
    assert record_of(small[0]) == Record()
    assert set(record_of(small).tensors) == {"0.weight", "1.0.0.weight", "1.0.1.weight"}
    grid = record_of(small).tensors["0.weight"].grid
    assert grid is not None
    assert grid == record.tensors["0.weight"].grid


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
