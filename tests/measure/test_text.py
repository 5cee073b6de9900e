"""Weights counted in bins, none lost."""

from __future__ import annotations

import torch
from torch import nn

import nbcompress as nc
from nbcompress.measure import weight_histogram


def test_every_weight_is_in_a_bin() -> None:
    model = nn.Sequential(nn.Linear(30, 20), nn.LayerNorm(20), nn.Linear(20, 10))
    found = weight_histogram({"before": model, "after": nc.prune(model, amount=0.75)})
    assert found is not None
    assert [sum(counts) for counts in found.counts.values()] == [800, 800]
    assert found.zeros == {"before": 0, "after": 600}
    middle = len(found.edges) // 2 - 1
    assert found.counts["after"][middle] >= 600
    assert found.edges[middle] < 0 < found.edges[middle + 1]


def test_a_model_without_weights() -> None:
    assert weight_histogram({"model": nn.ReLU()}) is None
    with torch.no_grad():
        empty = nn.Linear(3, 3)
        empty.weight.zero_()
    assert weight_histogram({"model": empty}) is None
    found = weight_histogram({"model": nn.Linear(3, 3), "gone": nn.ReLU()})
    assert found is not None
    assert sum(found.counts["gone"]) == 0
