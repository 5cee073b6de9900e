"""Low-rank layers: one matrix becomes the product of two thin ones.

A layer as two thinner ones in a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from nbcompress.compressors.keeping import keep_again_
from nbcompress.compressors.layers import Patterns, Target, check_number
from nbcompress.compressors.losses import LossFunction, LossSpec
from nbcompress.compressors.modes import outside_inference
from nbcompress.compressors.outputs import Output
from nbcompress.compressors.record import Surgery
from nbcompress.compressors.session import Tuning, Workpiece
from nbcompress.errors import CompressionError, option

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
        raise CompressionError(f"{option('rank')} must be from 1 to {full} here, got {rank!r}")
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


@outside_inference
def factorize(
    model: nn.Module,
    rank: float | None = None,
    *,
    energy: float | None = None,
    layers: Patterns = None,
    data: object = None,
    finetune: int = 0,
    lr: float = 1e-3,
    seed: int = 0,
    loss: LossFunction | None = None,
    output: Output | None = None,
) -> nn.Module:
    """Return a copy of `model` in which linear layers and convolutions are products of two thinner ones.

    Args:
        model: Any module; it stays as it is.
        rank: Share of the full rank that is kept, above 0 to 1; at least rank 1. The default is 0.25.
        energy: Instead of `rank`: every layer keeps the fewest singular values whose squares sum to this share of all
            squares, above 0 to 1, so the squared error of its weight is at most the share `1 - energy`.
        layers: Shell patterns on dotted module names.
        data: For fine-tuning.
        finetune: Epochs of training afterwards.
        lr: Step size of fine-tuning (Adam).
        seed: Of fine-tuning.
        loss: As in `finetune`: from what the model returns and the target to a scalar.
        output: Index or key of the prediction, where the model returns several tensors.

    Returns:
        A copy with `LowRank` pairs in the place of layers, the truncated singular value decomposition of their
        weights: a linear layer becomes two; a convolution becomes one of the same kernel with `rank` channels and a
        1x1 one. Layers where that would not save parameters, that share their weight, or that are of another kind
        stay, and `record_of(copy).left_out` names them. A grid, codebook or zeros of a factorized weight are given up.

    Raises:
        CompressionError: The rank makes no sense, a weight is NaN, or fine-tuning diverges.
        LayerNotFound: `layers` matches nothing.
        DataError: Fine-tuning is asked for without data, or with data that does not fit.

    References:
        Denton et al. (2014), "Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation".
    """
    if rank is not None and energy is not None:
        raise CompressionError(
            f"{option('rank=')} and {option('energy=')} both say how much is kept: "
            f"pass one, got {rank!r} and {energy!r}"
        )
    if isinstance(rank, (int, float)) and rank > 1:
        raise CompressionError(
            f"{option('rank')} is the share of a layer's full rank that is kept, above 0 to 1, got {rank!r}: "
            f"4 of 64 are {option('rank', 0.0625)}"
        )
    amount = Amount(
        check_number("rank", 0.25 if rank is None else rank, 0, 1, is_open_low=True),
        None if energy is None else check_number("energy", energy, 0, 1, is_open_low=True),
    )
    work = Workpiece(model, layers, Tuning(data, finetune, lr, seed, LossSpec(loss, output)))
    for target in work.targets:
        reason = _replace_(work, target, amount)
        if reason is not None:
            keep_again_(work, [target])
            work.leave_out({target.name: reason})
    return work.finished()


@dataclass(frozen=True)
class Amount:
    """How much is kept: a share of the rank, or if `energy` is given a share of the squares."""

    share: float
    energy: float | None

    def rank_of(self, weight: Tensor) -> int:
        """The rank that a weight of shape `(out, ...)` keeps, at least 1."""
        matrix = weight.detach().flatten(1)
        if self.energy is None:
            return max(1, round(self.share * min(matrix.shape)))
        values = torch.linalg.svdvals(matrix.to(torch.promote_types(matrix.dtype, torch.float32)))
        kept = values.double().square().cumsum(0)
        # A hair of room, since all of the energy shall be reached in spite of rounding.
        return min(int((kept < self.energy * kept[-1] * (1 - 1e-12)).sum()) + 1, len(values))


def _replace_(work: Workpiece, target: Target, amount: Amount) -> str | None:
    """Factorize the layer of `target`, or return why not."""
    path, _, last = target.name.rpartition(".")
    module = work.model.get_submodule(path)
    around = work.model.get_submodule(path.rpartition(".")[0])
    if isinstance(around, LowRank):
        return "it is a factor already"
    reason = why_not(module) if last == "weight" else "not the weight of a layer"
    if reason is not None:
        return reason
    if not path:
        raise CompressionError(
            "the model is a single layer, which cannot be replaced in itself: put it into a Sequential"
        )
    if len(target.names) > 1:
        return f"it is shared with {target.names[1]}"
    n_out, n_in = target.parameter.shape[0], prod(target.parameter.shape[1:])
    rank = amount.rank_of(target.parameter)
    if rank * (n_out + n_in) >= n_out * n_in:
        return f"rank {rank} would not save parameters"
    pair = low_rank_like(module, rank)
    fill_low_rank_(pair, module)
    setattr(around, path.rpartition(".")[2], pair)
    shapes = {name: tuple(one.shape) for name, one in pair.named_parameters()}
    work.operate(Surgery("factorize", path, shapes, {"rank": rank}), gone=target.name)
    return None
