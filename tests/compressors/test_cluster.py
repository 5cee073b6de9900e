from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from compress_zoo import ZOO
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nbcompress.compressors import Codebook, TensorRecord, cluster, codes_of, prune, quantize, record_of
from nbcompress.compressors.cluster import STARTS, kmeans
from nbcompress.errors import CompressionError


def error(values: np.ndarray, centres: np.ndarray) -> float:
    return float(np.min((values[:, None] - centres[None, :]) ** 2, axis=1).sum())


def best_error(values: np.ndarray, k: int) -> float:
    """By trying every way to cut the sorted values into `k` runs."""
    values = np.sort(values)
    cuts = combinations(range(1, len(values)), k - 1)
    return min(sum(((run - run.mean()) ** 2).sum() for run in np.split(values, list(cut))) for cut in cuts)


@pytest.mark.parametrize("start", STARTS)
def test_by_hand(start: str) -> None:
    """Two heaps: their means."""
    values = np.array([1.0, 2.0, 3.0, 11.0, 12.0], dtype=np.float32)
    assert kmeans(values, 2, start).tolist() == pytest.approx([2.0, 11.5])  # type: ignore[arg-type]
    assert kmeans(values, 1, start).tolist() == pytest.approx([5.8])  # type: ignore[arg-type]
    assert kmeans(values, 5, start).tolist() == values.tolist()  # type: ignore[arg-type]
    assert kmeans(values, 99, start).tolist() == values.tolist()  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(st.floats(-100, 100, width=16), min_size=1, max_size=12).map(
        lambda x: np.array(x, dtype=np.float32)
    ),
    k=st.integers(1, 5),
    start=st.sampled_from(STARTS),
)
def test_centres_are_means_of_what_is_nearest(values: np.ndarray, k: int, start: str) -> None:
    centres = kmeans(values, k, start, seed=1)  # type: ignore[arg-type]
    distinct = np.unique(values)
    assert len(centres) == min(k, len(distinct))
    assert (np.diff(centres) > 0).all()
    nearest = np.abs(values[:, None] - centres[None, :]).argmin(axis=1)
    for j, centre in enumerate(centres):
        members = values[np.abs(values - centre) <= np.abs(values[:, None] - centres).min(axis=1) + 1e-9]
        assert len(members)
        if len(set(nearest)) == len(centres) and (nearest == j).any():
            assert members.min() - 1e-4 <= centre <= members.max() + 1e-4


def test_near_the_best_there_is() -> None:
    random = np.random.default_rng(0)
    ratios = []
    for _ in range(60):
        values = random.standard_normal(14).astype(np.float32)
        ratios.append(error(values, kmeans(values, 4)) / best_error(values.astype(np.float64), 4))
    assert np.median(ratios) < 1.02
    assert max(ratios) < 2


def test_weights_may_repeat() -> None:
    values = np.array([0.0] * 1000 + [1.0, 2.0, 10.0], dtype=np.float32)
    centres = kmeans(values, 3)
    assert centres[0] == 0.0
    assert error(values, centres) == pytest.approx(0.5)


def test_far_from_zero() -> None:
    """Running sums of squares are centred, so a common offset loses no digits."""
    values = np.array([4096.0, 4096.001, 4096.5, 4096.501], dtype=np.float32)
    assert kmeans(values, 2) == pytest.approx([4096.0005, 4096.5005], abs=3e-4)


def test_millions_in_seconds() -> None:
    values = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    centres = kmeans(values, 16)
    # The distortion of 16 levels for a normal variable is .00950 (Max 1960, table I).
    assert error(values[:100_000], centres) / 100_000 == pytest.approx(0.0095, rel=0.06)


@pytest.mark.parametrize("clusters", [1, 2, 3, 16])
def test_zeros_of_a_pruned_model_stay(clusters: int) -> None:
    pruned = prune(ZOO["perceptron"]().model, 0.5)
    small = cluster(pruned, clusters)
    for name, promise in record_of(small).tensors.items():
        before, after = pruned.get_parameter(name), small.get_parameter(name)
        assert torch.equal(before == 0, after == 0)
        assert promise.is_pruned
        assert promise.codebook is not None
        assert 0.0 in promise.codebook.values.tolist()
        assert after.unique().numel() <= max(clusters, 2)


def test_quantizing_a_clustered_model_quantizes_its_codebooks() -> None:
    clustered = cluster(ZOO["perceptron"]().model, 16)
    small = quantize(clustered, 3)
    for name, promise in record_of(small).tensors.items():
        assert promise.grid is None
        assert promise.codebook is not None
        assert promise.codebook.grid is not None
        assert promise.codebook.grid.bits == 3
        # The shared values lie on the grid, and no more than its codes.
        values = promise.codebook.values
        codes_of(values, TensorRecord(grid=promise.codebook.grid))
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
    for promise in record_of(small).tensors.values():
        assert promise.grid is None
        assert promise.codebook is not None
        assert promise.codebook.grid is None


def test_shared_values_are_half_precision_with_the_rest() -> None:
    model = ZOO["perceptron"]().model
    half, full = cluster(model, 8), cluster(model, 8, rest="float32")
    for name, promise in record_of(half).tensors.items():
        assert promise.codebook is not None
        assert torch.equal(promise.codebook.values.half().float(), promise.codebook.values), name
    assert record_of(full).rest == "float32"
    assert torch.equal(full.get_parameter("0.bias"), model.get_parameter("0.bias"))
    assert not torch.equal(half.get_parameter("0.bias"), model.get_parameter("0.bias"))


def test_bfloat16_values_are_those_in_the_codebook() -> None:
    small = cluster(nn.Linear(30, 30).bfloat16(), 200)
    promise = record_of(small).tensors["weight"]
    assert promise.codebook is not None
    assert torch.equal(small.get_parameter("weight").unique().float(), promise.codebook.values)


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


@pytest.mark.parametrize("values", [[], [2.0, 1.0], [1.0, 1.0], [0.0, torch.inf]])
def test_impossible_codebooks(values: list[float]) -> None:
    with pytest.raises(CompressionError, match="codebook"):
        Codebook(torch.tensor(values))
