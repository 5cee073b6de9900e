from __future__ import annotations

import pytest
import torch
from compress_zoo import ZOO
from torch import nn
from torch.nn.functional import linear

from nbcompress.compressors import LowRank, Surgery, factorize, prune, quantize, record_of, replay_surgery_
from nbcompress.errors import CompressionError


def of_rank(n_out: int, n_in: int, rank: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(n_out, rank) @ torch.randn(rank, n_in)


def test_a_layer_of_low_rank_is_kept_exactly() -> None:
    model = nn.Sequential(nn.Linear(12, 8))
    with torch.no_grad():
        model[0].weight.copy_(of_rank(8, 12, 2))
    small = factorize(model, 0.25)
    x = torch.randn(5, 12)
    assert isinstance(small[0], LowRank)
    assert small[0].rank == 2
    torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 3, stride=2, padding=1, dilation=1),
        nn.Conv2d(4, 8, (3, 1), padding="same", bias=False, padding_mode="circular"),
        nn.Conv1d(4, 8, 3),
    ],
    ids=str,
)
def test_a_convolution_of_low_rank_is_kept_exactly(layer: nn.Conv2d) -> None:
    with torch.no_grad():
        layer.weight.copy_(of_rank(8, layer.weight[0].numel(), 2).reshape(layer.weight.shape))
    small = factorize(nn.Sequential(layer), 0.25)
    x = torch.randn(2, 4, *[9] * (layer.weight.ndim - 2))
    torch.testing.assert_close(small(x), layer(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(small[0].weight, layer.weight, rtol=1e-4, atol=1e-4)


def test_truncation_is_the_best_of_its_rank() -> None:
    """The squared error is the sum of the squared singular values left out (Eckart and Young)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20, bias=False))
    small = factorize(model, 0.2)
    left_out = torch.linalg.svdvals(model[0].weight.detach())[4:].square().sum()
    difference = (small[0].weight - model[0].weight).detach()
    assert float(difference.square().sum()) == pytest.approx(float(left_out), rel=1e-4)


def test_code_that_reads_the_weight_goes_on_working() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True).eval()
    small = factorize(layer, 0.25)
    assert isinstance(small.get_submodule("linear1"), LowRank)
    x = torch.randn(2, 3, 16)
    with torch.no_grad():
        assert small(x).shape == x.shape
    pair = small.get_submodule("linear1")
    assert isinstance(pair, LowRank)
    assert (pair.in_features, pair.out_features) == (16, 64)
    y = torch.randn(4, 16)
    torch.testing.assert_close(linear(y, pair.weight, pair.bias), pair(y), rtol=1e-4, atol=1e-5)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        pair.nothing_like_it  # noqa: B018


def test_only_where_it_saves() -> None:
    """Rank 6 of an 8 by 12 layer would take 6 * 20 = 120 weights, more than 96."""
    model = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 8))
    small = factorize(model, 0.7)
    assert record_of(small).surgery == ()
    assert record_of(small).left_out == {
        "0.weight": "rank 6 would not save parameters",
        "1.weight": "rank 6 would not save parameters",
    }


def test_left_out_by_name() -> None:
    assert record_of(factorize(ZOO["tied"]().model, 0.3)).left_out == {
        "embedding.weight": "no plain linear layer or convolution (Embedding)"
    }
    assert record_of(factorize(ZOO["convolutional"]().model, 0.3)).left_out["3.weight"] == "a grouped convolution"
    left_out = record_of(factorize(ZOO["attention"]().model, 0.1)).left_out
    assert (
        left_out["attention.out_proj.weight"]
        == "no plain linear layer or convolution (NonDynamicallyQuantizableLinear)"
    )


def test_factors_are_not_factorized_again() -> None:
    once = factorize(nn.Sequential(nn.Linear(40, 40)), 0.25)
    twice = factorize(once, 0.1)
    assert [cut.attributes["rank"] for cut in record_of(twice).surgery] == [10]
    assert record_of(twice).left_out["0.0.weight"] == "it is a factor already"


def test_a_grid_is_given_up_but_the_rest_stays_half() -> None:
    small = factorize(quantize(nn.Sequential(nn.Linear(20, 20)), 4), 0.25)
    record = record_of(small)
    assert record.tensors == {}
    assert record.rest == "float16"
    weight = small.get_parameter("0.0.weight")
    assert torch.equal(weight.half().float(), weight)
    # And compressors go on from there.
    assert set(record_of(prune(small, 0.5)).tensors) == {"0.0.weight", "0.1.weight"}


def test_surgery_makes_a_fresh_instance_fit() -> None:
    for animal in ("perceptron", "convolutional", "recurrent"):
        small = factorize(ZOO[animal]().model, 0.3)
        fresh = ZOO[animal]().model
        for surgery in record_of(small).surgery:
            replay_surgery_(fresh, surgery)
            shapes = {
                name: tuple(parameter.shape)
                for name, parameter in fresh.get_submodule(surgery.module).named_parameters()
            }
            assert shapes == surgery.shapes
        fresh.load_state_dict(small.state_dict())
        assert torch.equal(ZOO[animal]().output(fresh), ZOO[animal]().output(small))


def test_no_randomness_is_used() -> None:
    state = torch.get_rng_state()
    model = ZOO["perceptron"]().model
    factorize(model, 0.3)
    replay_surgery_(model, Surgery("factorize", "0", attributes={"rank": 2}))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("rank", [0, -0.5, True, "all", float("nan")])
def test_rank_refused(rank: object) -> None:
    with pytest.raises(CompressionError, match="rank must be a number above 0 to 1, got"):
        factorize(nn.Sequential(nn.Linear(2, 2)), rank)  # type: ignore[arg-type]


@pytest.mark.parametrize(("energy", "rank"), [(0.6, 1), (0.7, 2), (0.95, 2), (0.97, 3), (1 - 1e-9, 3)])
def test_rank_by_energy(energy: float, rank: int) -> None:
    """Singular values 8, 5, 2 and zeros: squares 64, 25, 4 of 93 are .688, .957 and 1."""
    model = nn.Sequential(nn.Linear(20, 10))
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(10, 3))[0], torch.linalg.qr(torch.randn(20, 3))[0]
    with torch.no_grad():
        model[0].weight.copy_(left @ torch.diag(torch.tensor([8.0, 5.0, 2.0])) @ right.T)
    small = factorize(model, energy=energy)
    assert record_of(small).surgery[0].attributes == {"rank": rank}
    lost = (small[0].weight - model[0].weight).detach().square().sum() / model[0].weight.detach().square().sum()
    assert float(lost) <= 1 - energy + 1e-6


def test_energy_of_every_layer() -> None:
    model = ZOO["perceptron"]().model
    assert record_of(factorize(model, energy=1.0)).surgery == ()
    ranks = [cut.attributes["rank"] for cut in record_of(factorize(model, energy=0.3)).surgery]
    assert len(ranks) == 3
    with torch.no_grad():
        model[2].weight.zero_()
    assert record_of(factorize(model, energy=1.0)).surgery[0].attributes == {"rank": 1}


@pytest.mark.parametrize("energy", [0, -0.5, 1.5, True, "most", float("nan")])
def test_energy_refused(energy: object) -> None:
    with pytest.raises(CompressionError, match="energy must be a number above 0 to 1, got"):
        factorize(nn.Sequential(nn.Linear(2, 2)), energy=energy)  # type: ignore[arg-type]


def test_rank_or_energy() -> None:
    with pytest.raises(CompressionError, match=r"both say how much is kept: pass one, got 0.5 and 0.9"):
        factorize(nn.Sequential(nn.Linear(2, 2)), 0.5, energy=0.9)


def test_a_single_layer_cannot_be_replaced_in_itself() -> None:
    with pytest.raises(CompressionError, match=r"the model is a single layer, .* put it into a Sequential"):
        factorize(nn.Linear(10, 10), 0.1)


@pytest.mark.parametrize("rank", [4, 1.5, float("inf")])
def test_a_rank_is_a_share(rank: float) -> None:
    with pytest.raises(CompressionError, match=rf"above 0 to 1, got {rank}: 4 of 64 are rank=0\.0625"):
        factorize(nn.Linear(64, 64), rank=rank)
