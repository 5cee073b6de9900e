from __future__ import annotations

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbcompress.compressors import Codebook
from nbcompress.compressors.codebooks import STARTS, kmeans
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


@pytest.mark.parametrize("values", [[], [2.0, 1.0], [1.0, 1.0], [0.0, torch.inf]])
def test_impossible_codebooks(values: list[float]) -> None:
    with pytest.raises(CompressionError, match="codebook"):
        Codebook(torch.tensor(values))


def test_memory_is_little_more_than_that_of_a_sorted_copy() -> None:
    values = np.random.default_rng(0).normal(size=1 << 21).astype(np.float32)
    tracemalloc.start()
    try:
        kmeans(values, 16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The copy, one part of it in double precision and its squares.
    assert peak < 3.5 * values.nbytes


def test_equal_values_stay_together_where_intervals_are_split() -> None:
    """Two of three distinct values are one interval at first, and each split is between different values."""
    values = np.repeat(np.array([0.0, 1.0, 100.0], dtype=np.float32), [50, 3, 4])
    for start in STARTS:
        assert kmeans(values, 3, start, seed=2).tolist() == [0.0, 1.0, 100.0]
    six = np.array([0, 1, 1.5, 2, 3, 17], dtype=np.float32)
    assert len(kmeans(six, 5, "linear")) == 5
