"""A compiled model is compressed like the module in it, and the copy computes with weights of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nbcompress.artifact import load, save
from nbcompress.compressors import cluster, finetune, prune, quantize

X, Y = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4


def compiled() -> Any:
    torch.manual_seed(0)
    return torch.compile(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), backend="eager")


@pytest.mark.filterwarnings("ignore:.*graph break.*")
def test_the_copy_of_a_compiled_model_computes_with_its_own_weights(tmp_path: Path) -> None:
    model = compiled()
    before = model(X)
    emptied: Any = prune(model, amount=1.0)
    assert torch.equal(emptied(X), emptied._orig_mod[2].bias.expand(32, -1))
    trained = quantize(model, bits=3, data=(X, Y), finetune=1, lr=0.1)
    assert not torch.equal(trained(X), quantize(model, bits=3)(X))
    finetune(cluster(model, clusters=4), (X, Y), epochs=1)
    assert torch.equal(model(X), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    loaded = load(save(trained, tmp_path / "model.nbz"), compiled())
    assert torch.equal(loaded(X), trained(X))


def test_a_part_of_a_model_that_is_compiled_goes_along() -> None:
    model = nn.Sequential(compiled(), nn.Linear(4, 4))
    emptied: Any = prune(model, amount=1.0)
    assert torch.equal(emptied(X), emptied[1].bias.expand(32, -1))
