"""A layer as two thinner ones in a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nbcompress.errors import CompressionError

# Subclasses may use their weight in ways of their own, as attention does with its output projection.
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank(nn.Sequential):
    """Two layers in the place of one: first down to `rank` features, then up to the outputs.

    Code that reads `weight`, `bias` or the number of features of the layer that was here goes on working:
    `weight` is the product of the two.
    """

    @property
    def rank(self) -> int:
        first: Any = self[0]
        return int(first.weight.shape[0])

    @property
    def weight(self) -> Tensor:
        first: Any = self[0]
        last: Any = self[1]
        product: Tensor = last.weight.flatten(1) @ first.weight.flatten(1)
        return product.reshape(last.weight.shape[0], *first.weight.shape[1:])

    @property
    def bias(self) -> Tensor | None:
        last: Any = self[1]
        bias: Tensor | None = last.bias
        return bias

    def __getattr__(self, name: str) -> Any:
        if name in ("in_features", "in_channels", "kernel_size", "stride", "padding", "dilation"):
            return getattr(self[0], name)
        if name in ("out_features", "out_channels", "groups"):
            return getattr(self[1], name)
        return super().__getattr__(name)


def why_not(module: nn.Module) -> str | None:
    """Why `module` cannot be factorized, or None."""
    if type(module) is nn.Linear:
        return None
    if type(module) in _CONVOLUTIONS:
        return "a grouped convolution" if module.groups != 1 else None
    return f"no plain linear layer or convolution ({type(module).__name__})"


def low_rank_like(module: nn.Module, rank: int) -> LowRank:
    """Two layers of zeros that can take the place of `module`.

    Args:
        module: A `Linear`, or a `Conv1d`, `Conv2d` or `Conv3d` with one group.
        rank: From 1 to the full rank of the weight as a matrix `(out, in * kernel)`.

    Raises:
        CompressionError: Another kind of module, or another rank.
    """
    reason = why_not(module)
    if reason is not None:
        raise CompressionError(
            f"only linear layers and convolutions with one group can be factorized; this is {reason}"
        )
    weight: Tensor = module.weight  # type: ignore[assignment]
    full = min(weight.shape[0], weight[0].numel())
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= full:
        raise CompressionError(f"rank must be from 1 to {full} here, got {rank!r}")
    has_bias = module.bias is not None
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    # Without the usual random start, which would also move the notebook's generator.
    skip_init: Any = nn.utils.skip_init
    if isinstance(module, nn.Linear):
        first = skip_init(nn.Linear, module.in_features, rank, bias=False, **place)
        last = skip_init(nn.Linear, rank, module.out_features, bias=has_bias, **place)
    else:
        kind: Any = type(module)
        conv: Any = module
        shape = {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        first = skip_init(kind, conv.in_channels, rank, conv.kernel_size, bias=False, **shape, **place)
        last = skip_init(kind, rank, conv.out_channels, 1, bias=has_bias, **place)
    pair = LowRank(first, last)
    for parameter in pair.parameters():
        nn.init.zeros_(parameter)
        parameter.requires_grad_(weight.requires_grad)
    return pair.train(module.training)


@torch.no_grad()
def fill_low_rank_(pair: LowRank, module: nn.Module) -> None:
    """Give `pair` the best approximation of `module` in squared error of the weight (Eckart and Young 1936)."""
    layer: Any = module
    weight: Tensor = layer.weight.detach()
    matrix = weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
    left, strength, right = torch.linalg.svd(matrix, full_matrices=False)
    # Half of the strength on either side, so that both factors have entries of like size to train and to quantize.
    root = strength[: pair.rank].sqrt()
    first: Any = pair[0]
    last: Any = pair[1]
    first.weight.copy_((root[:, None] * right[: pair.rank]).reshape(first.weight.shape))
    last.weight.copy_((left[:, : pair.rank] * root).reshape(last.weight.shape))
    if last.bias is not None:
        last.bias.copy_(layer.bias)
        last.bias.requires_grad_(layer.bias.requires_grad)


__all__ = ["LowRank", "fill_low_rank_", "low_rank_like", "why_not"]
