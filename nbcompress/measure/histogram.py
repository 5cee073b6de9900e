"""How the weights of models are spread, on one axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nbcompress.compress.layers import FLOATS, unique_parameters

# Odd, so that zero is the middle of a bin.
_BINS = 81
# The counts of one piece are float32, which is exact that far.
_PIECE = 2**22


@dataclass(frozen=True)
class WeightHistogram:
    """Counts of weights in equal bins: of every parameter with two axes or more, so without biases and norms.

    Attributes:
        edges: Ends of the bins, one more than there are bins; symmetric around zero.
        counts: For each model, by name, the weights in each bin. All weights of a model are in some bin.
        zeros: For each model, by name, how many weights are exactly zero. They are in `counts` too.
    """

    edges: tuple[float, ...]
    counts: Mapping[str, tuple[int, ...]]
    zeros: Mapping[str, int]


@torch.no_grad()
def weight_histogram(models: Mapping[str, nn.Module], bins: int = _BINS) -> WeightHistogram | None:
    """Count the weights of models in bins that are the same for all; None if there are no finite weights."""
    weights = {name: _weights(model) for name, model in models.items()}
    widest = max((float(one.abs().max()) for parts in weights.values() for one in parts), default=0.0)
    if not 0 < widest < float("inf"):
        return None
    step = 2 * widest / bins
    return WeightHistogram(
        tuple(-widest + step * place for place in range(bins + 1)),
        {name: _counts(parts, bins, widest) for name, parts in weights.items()},
        {name: sum(int((one == 0).sum()) for one in parts) for name, parts in weights.items()},
    )


def _counts(parts: list[Tensor], bins: int, widest: float) -> tuple[int, ...]:
    total = torch.zeros(bins, dtype=torch.int64, device="cpu")
    for one in parts:
        for piece in torch.split(one, _PIECE):
            total += torch.histc(piece, bins, -widest, widest).long()
    return tuple(total.tolist())


def _weights(model: nn.Module) -> list[Tensor]:
    found = [one for _, one in unique_parameters(model) if one.ndim >= 2 and one.dtype in FLOATS and one.numel()]
    return [one.detach().float().cpu().flatten() for one in found]


__all__ = ["WeightHistogram", "weight_histogram"]
