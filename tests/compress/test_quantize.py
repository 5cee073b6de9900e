from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from compress_zoo import ZOO
from torch import nn

from nbcompress.artifact import load, save
from nbcompress.compress import quantize, record_of
from nbcompress.compress.rest import half_rounded
from nbcompress.errors import CompressionError, DataError


@pytest.mark.parametrize(("granularity", "n_scales"), [("tensor", 1), ("channel", 6), ("group:4", 6 * 3)])
def test_scales_by_granularity(granularity: str, n_scales: int) -> None:
    small = quantize(nn.Linear(10, 6), 4, granularity=granularity)
    grid = record_of(small).tensors["weight"].grid
    assert grid is not None
    assert len(grid.scale) == n_scales


@pytest.mark.parametrize(
    ("bits", "scheme", "n_values"),
    [(1, "symmetric", 2), (2, "symmetric", 4), (8, "symmetric", 255), (2, "affine", 4), (8, "affine", 256)],
)
def test_number_of_values(bits: int, scheme: str, n_values: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(100, 100)
    nn.init.normal_(model.weight)
    small = quantize(model, bits, scheme=scheme, granularity="tensor")  # type: ignore[arg-type]
    # Outside four deviations a value of eight bits has no weight.
    assert n_values * 0.8 <= small.get_parameter("weight").unique().numel() <= n_values


def test_another_grid_is_fitted_anew() -> None:
    model = nn.Linear(20, 20)
    eight = quantize(model, 8)
    four = quantize(eight, 4)
    grid = record_of(four).tensors["weight"].grid
    assert grid is not None
    assert grid.bits == 4


def test_the_rest_is_half_precision() -> None:
    animal = ZOO["convolutional"]()
    with torch.no_grad():
        animal.model[0].bias[0] = 1e5
        animal.model[1].running_var[0] = 1e-9
        animal.model[1].running_mean[0] = 1e-9
    small = quantize(animal.model, 8)
    record = record_of(small)
    assert record.rest == "float16"
    reason = "stays in float32: half precision would overflow, or make a variance zero"
    assert record.left_out == {"0.bias": reason, "1.running_var": reason}
    assert torch.equal(small.get_parameter("0.bias"), animal.model.get_parameter("0.bias"))
    assert small.get_buffer("1.running_mean")[0] == 0
    assert small.get_buffer("1.num_batches_tracked").dtype == torch.int64
    bias = small.get_parameter("8.bias")
    assert torch.equal(bias.half().float(), bias)
    assert not torch.equal(bias, animal.model.get_parameter("8.bias"))
    assert torch.equal(
        quantize(animal.model, 8, rest="float32").get_parameter("8.bias"), animal.model.get_parameter("8.bias")
    )


def test_the_rest_stays_half_precision() -> None:
    """Once promised, later steps keep it."""
    small = quantize(quantize(nn.Linear(4, 4), 8), 4, rest="float32")
    assert record_of(small).rest == "float16"


def test_buffers_that_are_not_stored_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_buffer("mask", torch.full((2, 2), -torch.inf))
    model.register_buffer("angles", torch.full((3, 3), 0.1), persistent=False)
    small = quantize(model, 8)
    assert torch.equal(small.get_buffer("angles"), model.get_buffer("angles"))
    assert torch.equal(small.get_buffer("mask"), model.get_buffer("mask"))
    assert record_of(small).left_out == {"mask": "a buffer, not a parameter", "angles": "a buffer, not a parameter"}


def test_half_rounding_by_hand() -> None:
    """Float16 has 11 significant bits: between 2048 and 4096 it counts by twos."""
    rounded = half_rounded(torch.tensor([2049.0, 0.1, -0.0]))
    assert rounded is not None
    assert rounded.tolist() == [2048.0, pytest.approx(0.1, rel=2**-11), 0.0]
    assert half_rounded(torch.tensor([7e4])) is None
    assert half_rounded(torch.tensor([torch.inf])) is not None
    assert half_rounded(torch.tensor([1e-9])) is not None
    assert half_rounded(torch.tensor([1e-9]), keeps_positive=True) is None


def test_error_falls_with_bits() -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 64)
    weight = model.weight.detach()
    rounded = [quantize(model, bits).get_parameter("weight").detach() for bits in range(1, 9)]
    errors = [float((one - weight).square().mean()) for one in rounded]
    assert errors == sorted(errors, reverse=True)
    # Each bit more halves the step, and so quarters the squared error, once the grid is wide.
    assert errors[6] / errors[7] == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize("bits", [0, 9, 16, 2.5, True, "4", None, float("nan")])
def test_bits_refused(bits: object) -> None:
    with pytest.raises(CompressionError, match="bits must be a whole number from 1 to 8, got"):
        quantize(nn.Linear(2, 2), bits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": "auto"}, "bits='auto' needs the length of the file: call nbcompress.quantize with budget="),
        ({"bits": {"weight": 9}}, "bits must be a whole number from 1 to 8, got 9"),
        ({"bits": {"wieght": 4}}, r"bits names 'wieght', which is no chosen weight. Did you mean 'weight'\?"),
        ({"bits": {}}, "bits must name every chosen weight, but not weight"),
        ({"activations": "fixed"}, "activations must be one of none, dynamic, static, got 'fixed'"),
        ({"activations": "static"}, "activations='static' measures ranges on data: pass data="),
        ({"bits": 1, "scheme": "affine"}, "one bit is sign . scale: bits=1 needs scheme='symmetric', got 'affine'"),
        ({"scheme": "symetric"}, "scheme must be one of symmetric, affine, got 'symetric'. Did you mean 'symmetric'"),
        ({"granularity": "group:1"}, "granularity must be channel, tensor, or group:N with N from 2"),
        ({"scale": "mse"}, "scale must be one of error, absmax, got 'mse'"),
        ({"rest": "bfloat16"}, "rest must be one of float16, float32, got 'bfloat16'. Did you mean 'float16'"),
    ],
)
def test_options_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(CompressionError, match=text):
        quantize(nn.Linear(2, 2), **options)  # type: ignore[arg-type]


def test_data_is_read_before_anything_is_done() -> None:
    with pytest.raises(DataError, match="data must hold at least one batch, but it is empty"):
        quantize(nn.Linear(2, 2), data=[], finetune=1)


def test_aware_training_starts_from_the_weights_before_rounding() -> None:
    """With a step too small to matter, two bits come out as if there had been no training."""
    animal = ZOO["perceptron"]()
    plain = quantize(animal.model, 2, rest="float32")
    tuned = quantize(animal.model, 2, rest="float32", data=animal.data, finetune=1, lr=1e-9)
    assert torch.allclose(plain.get_parameter("0.weight"), tuned.get_parameter("0.weight"), atol=1e-3)


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("bits", [3, 8])
def test_scales_follow_the_weights_in_training(bits: int, scheme: str) -> None:
    """Weights that have to grow a hundred times are not held back by the range that they began in."""
    torch.manual_seed(0)
    model = nn.Linear(2, 1, bias=False)
    nn.init.constant_(model.weight, 0.1)
    x = torch.randn(640, 2)
    small = quantize(model, bits, scheme=scheme, data=(x, 10 * x.sum(1, keepdim=True)), finetune=20, lr=0.1)  # type: ignore[arg-type]
    assert small.get_parameter("weight").flatten().tolist() == pytest.approx([10, 10], rel=0.05)


@pytest.mark.parametrize("granularity", ["channel", "tensor", "group:3"])
def test_one_bit_of_zeros(granularity: str, tmp_path: Path) -> None:
    """A layer that begins at zero, as at the end of a residual branch, and the row of a padding token."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 8, padding_idx=0), nn.Linear(8, 5), nn.Linear(5, 4))
    nn.init.zeros_(model[1].weight)
    small = quantize(model, 1, granularity=granularity)
    assert not small[1].weight.any()
    assert granularity == "tensor" or not small[0].weight[0].any()
    loaded = load(save(small, tmp_path / "small.nbz"), copy.deepcopy(model))
    assert torch.equal(loaded[1].weight, small[1].weight)
    data = torch.randint(1, 6, (64,)), torch.randint(0, 4, (64,))
    trained = quantize(model, 1, granularity=granularity, data=data, finetune=20, lr=0.01)
    assert 0 < float(trained[1].weight.detach().abs().max()) < 0.5
