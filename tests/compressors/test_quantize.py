from __future__ import annotations

import copy
from importlib import import_module
from itertools import product
from pathlib import Path

import pytest
import torch
from compress_zoo import ZOO
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nbcompress.artifact import load, save, size_bytes
from nbcompress.compressors import cluster, codes_of, finetune, prune, quantize, record_of
from nbcompress.compressors.constraints import round_to_half
from nbcompress.compressors.layers import select
from nbcompress.compressors.losses import LossSpec
from nbcompress.compressors.quantize import BitCost, BitCosts, allocate_bits, bit_increases, error_weights
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
    """Later steps keep half precision once it was asked for."""
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
    rounded = round_to_half(torch.tensor([2049.0, 0.1, -0.0]))
    assert rounded is not None
    assert rounded.tolist() == [2048.0, pytest.approx(0.1, rel=2**-11), 0.0]
    assert round_to_half(torch.tensor([7e4])) is None
    assert round_to_half(torch.tensor([torch.inf])) is not None
    assert round_to_half(torch.tensor([1e-9])) is not None
    assert round_to_half(torch.tensor([1e-9]), keeps_positive=True) is None


def test_error_falls_with_bits() -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 64)
    weight = model.weight.detach()
    rounded = [quantize(model, bits).get_parameter("weight").detach() for bits in range(1, 9)]
    errors = [float((weights - weight).square().mean()) for weights in rounded]
    assert errors == sorted(errors, reverse=True)
    # Each bit more halves the step, and so quarters the squared error, once the grid is wide.
    assert errors[6] / errors[7] == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize("bits", [0, 9, 16, 2.5, True, "4", None, float("nan")])
def test_bits_refused(bits: object) -> None:
    with pytest.raises(CompressionError, match="bits is an integer from 1 to 8, but got"):
        quantize(nn.Linear(2, 2), bits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": "auto"}, "bits='auto' needs the length of the file: call nbcompress.quantize with budget="),
        ({"bits": {"weight": 9}}, "bits is an integer from 1 to 8, but got 9"),
        ({"bits": {"wieght": 4}}, r"bits names 'wieght', which is no chosen weight. Did you mean 'weight'\?"),
        ({"bits": {}}, "bits must name every chosen weight, but not weight"),
        ({"activations": "fixed"}, "activations must be one of none, dynamic, static, got 'fixed'"),
        ({"activations": "static"}, "activations='static' measures ranges on data: pass data="),
        ({"bits": 1, "scheme": "affine"}, "one bit is sign . scale: bits=1 needs scheme='symmetric', got 'affine'"),
        ({"scheme": "symetric"}, "scheme must be one of symmetric, affine, got 'symetric'. Did you mean 'symmetric'"),
        ({"granularity": "group:1"}, "granularity must be channel, tensor, or group:N with N from 2"),
        ({"scale": "mse"}, "scale must be one of error, absmax, pow2, got 'mse'"),
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


def test_choices_by_hand() -> None:
    """Over the least 3 bytes, `a` saves 6 for 2 more and 1 for another 2, `b` 2 for 1 more."""
    costs: BitCosts = {
        "a": {1: BitCost(2, 8.0), 2: BitCost(4, 2.0), 3: BitCost(6, 1.0)},
        "b": {1: BitCost(1, 3.0), 2: BitCost(2, 1.0)},
    }
    assert allocate_bits(costs, 2) is None
    assert allocate_bits(costs, 3) == {"a": 1, "b": 1}
    assert allocate_bits(costs, 5) == {"a": 2, "b": 1}
    assert allocate_bits(costs, 6) == {"a": 2, "b": 2}
    assert allocate_bits(costs, 7) == {"a": 2, "b": 2}
    assert allocate_bits(costs, 8) == {"a": 3, "b": 2}


def test_what_costs_nothing_comes_first() -> None:
    costs: BitCosts = {"a": {1: BitCost(5, 3.0), 2: BitCost(5, 1.0), 3: BitCost(9, 0.0)}}
    assert allocate_bits(costs, 5) == {"a": 2}


COST = st.builds(BitCost, st.integers(1, 20), st.floats(0, 10))


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.lists(COST, min_size=1, max_size=4), min_size=1, max_size=4), room=st.integers(0, 80))
def test_within_the_room_and_not_to_be_improved(rows: list[list[BitCost]], room: int) -> None:
    costs: BitCosts = {str(k): dict(enumerate(row, start=1)) for k, row in enumerate(rows)}
    bits = allocate_bits(costs, room)
    least = sum(min(cell.n_bytes for cell in row) for row in rows)
    assert (bits is None) == (least > room)
    if bits is None:
        return
    used = sum(costs[name][b].n_bytes for name, b in bits.items())
    assert used <= room
    assert all(step.n_bytes > room - used for step in bit_increases(costs, bits))


@pytest.mark.parametrize("most", [1 << 15, 20])
def test_the_best_of_all(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all 4^5 choices; nearly so where sums of bytes are merged."""
    monkeypatch.setattr(import_module("nbcompress.compressors.quantize"), "_MOST_SUMS", most)
    sizes, scales = [40, 7, 100, 23, 11], [1.0, 30.0, 0.5, 4.0, 9.0]
    costs: BitCosts = {
        str(k): {b: BitCost(n * b, scale * 4.0**-b) for b in (1, 2, 3, 4)}
        for k, (n, scale) in enumerate(zip(sizes, scales, strict=True))
    }
    for room in (181, 250, 400, 600, 724):
        bits = allocate_bits(costs, room)
        assert bits is not None
        fitting = [
            sum(costs[str(k)][b].error for k, b in enumerate(choice))
            for choice in product((1, 2, 3, 4), repeat=5)
            if sum(costs[str(k)][b].n_bytes for k, b in enumerate(choice)) <= room
        ]
        found = sum(costs[name][b].error for name, b in bits.items())
        assert found == pytest.approx(min(fitting), rel=1e-9 if most > 20 else 0.3)


def test_importance_by_hand() -> None:
    """One weight, two batches: gradients of (w - y)^2 at w = 2 are 2 (2 - y) = 4 and -2, so their squares sum to 20.

    Times w^2 that is 80, which is scaled to 1: 1/4. Without data it is 1 / w^2, of which a millionth is added.
    """
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    loader = [(torch.ones(1, 1), torch.zeros(1, 1)), (torch.ones(1, 1), torch.full((1, 1), 3.0))]
    targets = select(model).targets
    assert error_weights(model, targets, loader, 0, LossSpec(nn.functional.mse_loss))[0].tolist() == [
        [pytest.approx(0.25 + 0.25e-6)]
    ]
    assert error_weights(model, targets, None, 0)[0].tolist() == [[0.25]]


def test_importances_leave_the_model() -> None:
    animal = ZOO["recurrent"]()
    targets = select(animal.model).targets
    found = error_weights(animal.model, targets, animal.data, 0)
    assert [item.shape for item in found] == [target.parameter.shape for target in targets]
    assert all(parameter.grad is None for parameter in animal.model.parameters())
    assert animal.model.training
    assert pytest.approx(0) != float(found[0].sum())


def line(*weights: float) -> nn.Linear:
    model = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([weights]))
    return model


def values(model: nn.Module) -> list[float]:
    return model.get_parameter("weight").detach().flatten().tolist()  # type: ignore[no-any-return]


def test_scales_by_hand() -> None:
    model = line(0.7, -0.3, 0.11, 0.04)
    assert values(quantize(model, 4, scale="absmax")) == pytest.approx([0.7, -0.3, 0.1, 0.0], abs=1e-6)
    assert values(quantize(model, 8, scale=20)) == pytest.approx([0.7, -0.3, 0.1, 0.05], abs=1e-6)
    assert values(quantize(model, 4, scale="pow2")) == [0.75, -0.25, 0.125, 0.0]
    affine = quantize(line(0.0, 1.0, 2.0, 3.1), 2, scheme="affine", scale="absmax")
    assert values(affine) == pytest.approx([0.0, 3.1 / 3, 2 * 3.1 / 3, 3.1])
    # What cannot be reached is said.
    with pytest.warns(UserWarning, match=r"scale=20 with 4 bits clips 1 of 4 weights of 'weight'"):
        assert values(quantize(model, 4, scale=20))[0] == pytest.approx(0.35)
    # Again the same, and another one where another is asked for.
    once = quantize(model, 8, scale=20)
    assert values(quantize(once, 8, scale=20)) == values(once)
    assert record_of(quantize(once, 8, scale=10)).tensors["weight"].grid.scale.tolist() == [pytest.approx(0.1)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "options", [{"scale": "pow2"}, {"scale": 64, "bits": 8}, {"share": 0.75}, {"share": 0.5, "bits": 1}]
)
def test_training_and_files_keep_what_was_chosen(options: dict[str, object], tmp_path: Path) -> None:
    animal = ZOO["convolutional"]()
    small = quantize(animal.model, **{"bits": 4, "data": animal.data, "finetune": 2, **options})  # type: ignore[arg-type]
    plain = quantize(animal.model, 4, data=animal.data, finetune=2)
    assert not torch.equal(plain.get_parameter("0.weight"), small.get_parameter("0.weight"))
    path = save(small, tmp_path / "small.nbz")
    loaded = load(path, copy.deepcopy(animal.model))
    for model in (small, loaded, copy.deepcopy(small)):
        finetune(model, animal.data, epochs=1)
    assert all(map(torch.equal, small.state_dict().values(), loaded.state_dict().values()))
    assert record_of(loaded).tensors == record_of(small).tensors
    for name, constraint in record_of(small).tensors.items():
        grid, weight = constraint.grid, small.get_parameter(name).detach().flatten()
        assert grid is not None
        if options.get("scale") == "pow2":
            assert bool((torch.frexp(grid.scale).mantissa == 0.5).all())
        elif "scale" in options:
            assert torch.equal((weight * 64).round() / 64, weight)
        else:
            share = options["share"]
            assert grid.in_half is not None
            assert len(grid.in_half) == weight.numel() - round(share * weight.numel())  # type: ignore[operator]
            rest = weight.clone()
            rest[grid.in_half] = 0
            assert rest.unique().numel() <= len(grid.scale) * 2**grid.bits + 1
            assert torch.equal(weight.half().float()[grid.in_half], weight[grid.in_half])


def test_a_share_in_half_precision_lowers_the_error_and_costs_bytes() -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 64)
    nn.init.normal_(model.weight)
    with torch.no_grad():
        model.weight[torch.rand(64, 64) < 0.02] *= 12
    errors, sizes = [], []
    for share in (1.0, 0.95, 0.5):
        small = quantize(model, 3, share=share)
        errors.append(float((small.get_parameter("weight") - model.weight).detach().square().sum()))
        sizes.append(size_bytes(small))
    assert errors[0] > 4 * errors[1]
    assert errors[1] > errors[2]
    assert sizes == sorted(sizes)
    assert values(quantize(model, 3, share=1.0)) == values(quantize(model, 3))


def test_a_cut_keeps_weights_in_half_precision() -> None:
    animal = ZOO["convolutional"]()
    small = quantize(animal.model, 4, share=0.75)
    cut = prune(small, 0.5, granularity="channel", example=animal.example)
    assert cut.get_parameter("0.weight").shape[0] == 4
    for name, constraint in record_of(cut).tensors.items():
        codes_of(cut.get_parameter(name), constraint, name)
    assert any(item.grid is not None and item.grid.in_half is not None for item in record_of(cut).tensors.values())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scale": 0}, "scale must be one of error, absmax, pow2, or a factor above 0, got 0"),
        ({"scale": True}, "scale must be one of error, absmax, pow2, or a factor above 0, got True"),
        ({"scale": 8, "bits": 1}, "one bit is sign \\* scale: a factor needs bits=2 or more, got scale=8"),
        ({"share": 0}, "share must be a number above 0 to 1, got 0"),
        ({"share": 0.9, "activations": "dynamic"}, "share=0.9 keeps weights in floating point, with which integer"),
        ({"share": 1.5}, "share must be a number above 0 to 1, got 1.5"),
    ],
)
def test_scales_and_shares_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(CompressionError, match=text):
        quantize(nn.Linear(4, 4), **options)  # type: ignore[arg-type]
    if "share" not in options:
        return
    with pytest.raises(
        CompressionError, match=r"share=0\.5 keeps single weights in half precision, but 'weight' shares"
    ):
        quantize(cluster(nn.Linear(4, 4), 3), 4, share=0.5)
