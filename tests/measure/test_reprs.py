"""What a measurement returns is shown in short where it stands at the end of a cell; `print` shows the table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import nbcompress as nc

X, Y = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


MEASURED: dict[str, Callable[[nn.Module], object]] = {
    "accuracy": lambda model: nc.accuracy(model, (X, Y)),
    "footprint": lambda model: nc.footprint(model, X, repeats=0),
    "footprints": lambda model: nc.footprint([model, network()], X, repeats=0),
    "compare": lambda model: nc.compare(model, nc.prune(model, 0.5), X, data=(X, Y), seconds=0.1),
    "sensitivity": lambda model: nc.sensitivity(model, lambda _: 1.0, compressor="quantize", levels=[4]),
    "weights": nc.weights,
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_repr_is_short_and_a_text_is_a_table(name: str) -> None:
    measured = MEASURED[name](network())
    assert len(repr(measured)) < 160
    assert "\n" not in repr(measured)
    assert "\n" in str(measured)
