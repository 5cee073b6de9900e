"""Tensors that share memory: disjoint views are filled, overlapping ones with different numbers are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nbcompress.artifact import load, quantize, save
from nbcompress.errors import ArtifactError


class Views(nn.Module):
    """Two parameters that are views of one memory."""

    def __init__(self, first: slice, second: slice, *, is_by_column: bool = False) -> None:
        super().__init__()
        whole = torch.randn(6, 6)
        self.first = nn.Parameter(whole[:, first] if is_by_column else whole[first])
        self.second = nn.Parameter(whole[:, second] if is_by_column else whole[second])

    def forward(self, x: Tensor) -> Tensor:
        return self.first * x, self.second * x  # type: ignore[return-value]


@pytest.mark.parametrize("is_by_column", [False, True], ids=["rows", "columns"])
def test_views_side_by_side_are_filled(is_by_column: bool, tmp_path: Path) -> None:
    halves = slice(0, 3), slice(3, 6)
    model = Views(*halves, is_by_column=is_by_column)
    loaded = load(save(model, tmp_path / "model.nbz"), Views(*halves, is_by_column=is_by_column))
    assert torch.equal(loaded.first, model.first)
    assert torch.equal(loaded.second, model.second)


@pytest.mark.parametrize("is_by_column", [False, True], ids=["rows", "columns"])
def test_views_that_overlap_and_differ_are_refused(is_by_column: bool, tmp_path: Path) -> None:
    model = Views(slice(0, 4), slice(2, 6), is_by_column=is_by_column)
    # In a copy, each has a memory of its own.
    apart = quantize(model, bits=3, granularity="tensor", layers=["first", "second"])
    path = save(apart, tmp_path / "apart.nbz")
    instance = Views(slice(0, 4), slice(2, 6), is_by_column=is_by_column)
    before = instance.first.detach().clone()
    with pytest.raises(ArtifactError, match=r"'first' of this Views shares memory between numbers that differ"):
        load(path, instance)
    assert torch.equal(instance.first, before)
    # The same numbers in the same places are no contradiction.
    loaded = load(save(model, tmp_path / "model.nbz"), instance)
    assert torch.equal(loaded.first, model.first)
    assert torch.equal(loaded.second, model.second)


def test_one_number_that_stands_for_several_is_refused(tmp_path: Path) -> None:
    path = save(nn.Linear(3, 4), tmp_path / "model.nbz")
    instance = nn.Linear(3, 4)
    instance.weight = nn.Parameter(torch.randn(1, 3).expand(4, 3))
    with pytest.raises(ArtifactError, match=r"'weight' of this Linear shares memory between numbers that differ"):
        load(path, instance)
