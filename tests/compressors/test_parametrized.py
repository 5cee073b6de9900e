"""Weights that a parametrization computes from others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from nbcompress.compressors import cluster, factorize, prune, quantize
from nbcompress.errors import CompressionError


def normed() -> nn.Module:
    """A layer whose second row of directions has the smallest weights."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 3)
    with torch.no_grad():
        layer.weight[1] *= 1e-3
    return nn.Sequential(parametrizations.weight_norm(layer), nn.Linear(3, 2))


@pytest.mark.parametrize("is_training", [True, False])
def test_a_direction_of_zeros_is_refused(is_training: bool) -> None:
    model = normed().train(is_training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CompressionError, match=r"parametrization of '0.weight' computes NaN .* a smaller amount"):
        prune(model, amount=0.34, scope="global", layers="0")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training is is_training for module in model.modules())


@pytest.mark.parametrize("parametrization", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize(
    "compress",
    [
        lambda model: prune(model, amount=0.5, scope="layer", layers="0.parametrizations.*"),
        lambda model: quantize(model, bits=4),
        lambda model: cluster(model, clusters=8),
        factorize,
    ],
    ids=["prune", "quantize", "cluster", "factorize"],
)
def test_parametrized_weights_are_compressed(
    parametrization: Callable[[nn.Module], nn.Module], compress: Callable[[nn.Module], nn.Module]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(parametrization(nn.Linear(12, 8)), nn.Linear(8, 2))
    x = torch.randn(4, 12)
    assert bool(compress(model)(x).isfinite().all())
