from __future__ import annotations

import pytest
import torch
from compress_zoo import ZOO
from torch import nn

from nbcompress.compressors import TensorRecord, cluster, codes_of, prune, quantize, record_of
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
