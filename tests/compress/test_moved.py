"""Weights that were changed by a training loop of one's own after they were compressed: compressing again counts."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

import nbcompress as nc
from nbcompress.compress.record import record_of


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Embedding(16, 8), nn.Linear(32, 10))


def moved(model: nn.Module) -> nn.Module:
    """As after some steps of training; what was pruned is not zero any more."""
    torch.manual_seed(1)
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.01 * torch.randn_like(one))
    return model


Step = Callable[[nn.Module], nn.Module]

STEPS: dict[str, Step] = {
    "4 bits": lambda m: nc.quantize(m, 4),
    "1 bit": lambda m: nc.quantize(m, 1),
    "8 affine bits by tensor": lambda m: nc.quantize(m, 8, scheme="affine", granularity="tensor"),
    "groups": lambda m: nc.quantize(m, 3, granularity="group:5"),
    "own bits": lambda m: nc.quantize(m, {"0.weight": 2, "2.weight": 4, "3.weight": 8}),
    "clusters": lambda m: nc.cluster(m, 8),
    "clusters in 6 bits": lambda m: nc.quantize(nc.cluster(m, 8), 6),
    "pruned": lambda m: nc.prune(m, 0.5),
    "pruned by magnitude": lambda m: nc.prune(m, threshold=0.1),
    "pruned in 4 bits": lambda m: nc.quantize(nc.prune(m, 0.5), 4),
    "pruned in 1 bit": lambda m: nc.quantize(nc.prune(m, 0.5), 1),
    "pruned clusters": lambda m: nc.cluster(nc.prune(m, 0.5), 8),
    "low rank": lambda m: nc.factorize(m, 0.5),
}


def unbroken_size(model: nn.Module) -> int:
    """The size of a file in which every promise holds."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return nc.size_bytes(model)


@pytest.mark.parametrize("name", STEPS)
def test_the_same_step_again_keeps_its_promises(name: str) -> None:
    step = STEPS[name]
    small = step(plain())
    again = step(moved(small))
    assert unbroken_size(again) < 1.2 * unbroken_size(step(plain())) + 100
    assert record_of(again).tensors.keys() == record_of(small).tensors.keys()


@pytest.mark.parametrize("name", STEPS)
def test_the_same_step_again_changes_nothing_where_nothing_moved(name: str) -> None:
    small = STEPS[name](plain())
    again = STEPS[name](small)
    for one, other in zip(small.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("after", STEPS)
@pytest.mark.parametrize("before", STEPS)
def test_every_step_on_weights_that_moved(before: str, after: str) -> None:
    if (before, after) == ("low rank", "own bits"):
        pytest.skip("the weights that have bits of their own are gone")
    small = moved(STEPS[before](plain()))
    trained = [one.detach().clone() for one in small.parameters()]
    again = STEPS[after](small)
    unbroken_size(again)
    assert all(torch.equal(one, other) for one, other in zip(small.parameters(), trained, strict=True))


@pytest.mark.parametrize("bits", [4, 2, 1])
def test_quantized_from_the_weights_as_they_are(bits: int) -> None:
    """Not a grid of the weights before."""
    small = moved(nc.quantize(plain(), bits))
    fresh = plain()
    fresh.load_state_dict(small.state_dict())
    expected = nc.quantize(fresh, bits)
    for one, other in zip(nc.quantize(small, bits).parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


def test_as_many_values_are_shared_again() -> None:
    small = moved(nc.cluster(plain(), 8))
    again = nc.quantize(small, 8)
    assert all(1 < len(one.unique()) <= 8 for one in again.parameters() if one.ndim > 1)
    assert all(one.codebook is not None for one in record_of(again).tensors.values())
    for one, other in zip(small.parameters(), again.parameters(), strict=True):
        assert float((one - other).detach().abs().mean()) < 0.05


@pytest.mark.parametrize("step", ["4 bits", "1 bit", "clusters", "clusters in 6 bits"])
def test_pruning_what_moved_prunes_exactly(step: str) -> None:
    again = nc.prune(moved(STEPS[step](plain())), 0.5)
    weights = [one for one in again.parameters() if one.ndim > 1]
    assert sum(int((one == 0).sum()) for one in weights) == round(0.5 * sum(one.numel() for one in weights))
