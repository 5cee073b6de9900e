from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compress_zoo import ZOO
from torch import nn

from nbcompress.artifact import load, save, size_bytes
from nbcompress.compressors import (
    Codebook,
    TensorRecord,
    attach_,
    cluster,
    codes_of,
    finetune,
    prune,
    quantize,
    record_of,
)
from nbcompress.errors import CompressionError


@pytest.mark.parametrize("clusters", [1, 2, 3, 16])
def test_zeros_of_a_pruned_model_stay(clusters: int) -> None:
    pruned = prune(ZOO["perceptron"]().model, 0.5)
    small = cluster(pruned, clusters)
    for name, constraint in record_of(small).tensors.items():
        before, after = pruned.get_parameter(name), small.get_parameter(name)
        assert torch.equal(before == 0, after == 0)
        assert constraint.is_pruned
        assert constraint.codebook is not None
        assert 0.0 in constraint.codebook.values.tolist()
        assert after.unique().numel() <= max(clusters, 2)


def test_quantizing_a_clustered_model_quantizes_its_codebooks() -> None:
    clustered = cluster(ZOO["perceptron"]().model, 16)
    small = quantize(clustered, 3)
    for name, constraint in record_of(small).tensors.items():
        assert constraint.grid is None
        assert constraint.codebook is not None
        assert constraint.codebook.grid is not None
        assert constraint.codebook.grid.bits == 3
        # The shared values lie on the grid, and no more than its codes.
        values = constraint.codebook.values
        codes_of(values, TensorRecord(grid=constraint.codebook.grid))
        assert len(values) <= 8
        # What shared a value before shares one now.
        pairs = torch.stack(
            [clustered.get_parameter(name).detach().flatten(), small.get_parameter(name).detach().flatten()]
        )
        assert pairs.unique(dim=1).shape[1] == clustered.get_parameter(name).unique().numel()
    again = quantize(small, 3)
    assert record_of(again) == record_of(small)


def test_clustering_a_quantized_model_gives_up_its_grid() -> None:
    small = cluster(quantize(ZOO["perceptron"]().model, 4), 4)
    for constraint in record_of(small).tensors.values():
        assert constraint.grid is None
        assert constraint.codebook is not None
        assert constraint.codebook.grid is None


def test_shared_values_are_half_precision_with_the_rest() -> None:
    model = ZOO["perceptron"]().model
    half, full = cluster(model, 8), cluster(model, 8, rest="float32")
    for name, constraint in record_of(half).tensors.items():
        assert constraint.codebook is not None
        assert torch.equal(constraint.codebook.values.half().float(), constraint.codebook.values), name
    assert record_of(full).rest == "float32"
    assert torch.equal(full.get_parameter("0.bias"), model.get_parameter("0.bias"))
    assert not torch.equal(half.get_parameter("0.bias"), model.get_parameter("0.bias"))


def test_bfloat16_values_are_those_in_the_codebook() -> None:
    small = cluster(nn.Linear(30, 30).bfloat16(), 200)
    constraint = record_of(small).tensors["weight"]
    assert constraint.codebook is not None
    assert torch.equal(small.get_parameter("weight").unique().float(), constraint.codebook.values)


@pytest.mark.parametrize("clusters", [0, -1, 65537, 2.5, True, "16", None, float("nan")])
def test_clusters_refused(clusters: object) -> None:
    with pytest.raises(CompressionError, match="clusters is an integer from 1 to 65536, but got"):
        cluster(nn.Linear(2, 2), clusters)  # type: ignore[arg-type]


def test_other_options_refused() -> None:
    with pytest.raises(
        CompressionError, match=r"start must be one of best, density, linear, random, got 'lineer'. Did you"
    ):
        cluster(nn.Linear(2, 2), start="lineer")  # type: ignore[arg-type]
    with pytest.raises(CompressionError, match="rest must be one of float16, float32, got 'int8'"):
        cluster(nn.Linear(2, 2), rest="int8")  # type: ignore[arg-type]


def two_lines() -> nn.Module:
    """The weights 0, 1, 2, 3 in one layer and 10, 11, 12, 13 in the other."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
        model[1].weight.copy_(torch.tensor([[10.0, 11.0], [12.0, 13.0]]))
    return model


def test_one_codebook_for_the_model_by_hand() -> None:
    """Two values for eight weights: 1.5 and 11.5; layer by layer it is 0.5, 2.5 and 10.5, 12.5."""
    small = cluster(two_lines(), 2, codebook="model")
    assert small[0].weight.unique().tolist() == [1.5]  # type: ignore[index, operator]
    assert small[1].weight.unique().tolist() == [11.5]  # type: ignore[index, operator]
    first, second = record_of(small).tensors.values()
    assert first.codebook is second.codebook
    by_layer = cluster(two_lines(), 2, codebook="layer")
    assert by_layer[0].weight.unique().tolist() == [0.5, 2.5]  # type: ignore[index, operator]


def test_one_codebook_is_stored_once_and_comes_back_as_one(tmp_path: Path) -> None:
    animal = ZOO["perceptron"]()
    small = cluster(prune(animal.model, 0.3), 50, codebook="model")
    apart = copy.deepcopy(small)
    record = record_of(apart)
    tensors = {
        name: replace(item, codebook=Codebook(item.codebook.values))
        for name, item in record.tensors.items()
        if item.codebook
    }
    attach_(apart, replace(record, tensors=tensors))
    # Three tensors; the values take two bytes each.
    assert size_bytes(apart) - size_bytes(small) > 150
    loaded = load(save(small, tmp_path / "small.nbz"), copy.deepcopy(animal.model))
    assert all(map(torch.equal, small.state_dict().values(), loaded.state_dict().values()))
    for model in (small, loaded, copy.deepcopy(small)):
        finetune(model, animal.data, epochs=2)
        codebooks = [item.codebook for item in record_of(model).tensors.values()]
        assert all(codebook is codebooks[0] for codebook in codebooks)
        weights = torch.cat([model.get_parameter(name).detach().flatten() for name in record_of(model).tensors])
        assert weights.unique().numel() <= 50
        assert set(weights.unique().tolist()) <= set(codebooks[0].values.tolist())  # type: ignore[union-attr]
        assert int((weights == 0).sum()) >= 0.3 * weights.numel() - 1
    assert all(map(torch.equal, small.state_dict().values(), loaded.state_dict().values()))
    four = quantize(small, 4)
    codebooks = [item.codebook for item in record_of(four).tensors.values()]
    assert codebooks[0] is codebooks[1]
    assert codebooks[0].grid.bits == 4  # type: ignore[union-attr]
    weights = torch.cat([four.get_parameter(name).detach().flatten() for name in record_of(four).tensors])
    assert weights.unique().numel() <= 16


def test_a_value_of_several_tensors_moves_by_all_of_them() -> None:
    """Two layers of one weight, both 1, in a chain: y = a b x, loss y^2 at x = 1. Both gradients are 2."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    small = cluster(model, 1, codebook="model", rest="float32")
    data = (torch.ones(1, 1), torch.zeros(1, 1))
    finetune(small, data, epochs=1, lr=0.1, optimizer="sgd", loss=nn.functional.mse_loss)
    assert [float(parameter.detach()) for parameter in small.parameters()] == [pytest.approx(0.8)] * 2


def test_one_codebook_needs_one_dtype() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).to(torch.bfloat16))
    with pytest.raises(CompressionError, match="codebook='model' needs weights of one dtype, got bfloat16, float32"):
        cluster(model, 4, codebook="model")
