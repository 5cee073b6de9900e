"""Low-rank layers: one matrix becomes the product of two thin ones."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from nbcompress.compress.factorize.low_rank import LowRank, fill_low_rank_, low_rank_like, why_not
from nbcompress.compress.keeping import keep_again_
from nbcompress.compress.layers import Patterns, Target
from nbcompress.compress.losses import LossFunction, LossSpec
from nbcompress.compress.modes import outside_inference
from nbcompress.compress.options import check_number
from nbcompress.compress.outputs import Output
from nbcompress.compress.record import Surgery
from nbcompress.compress.workpiece import Tuning, Workpiece
from nbcompress.errors import CompressionError


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
        raise CompressionError(f"rank= and energy= both say how much is kept: pass one, got {rank!r} and {energy!r}")
    if isinstance(rank, (int, float)) and rank > 1:
        raise CompressionError(
            f"rank is the share of a layer's full rank that is kept, above 0 to 1, got {rank!r}: "
            "4 of 64 are rank=0.0625"
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


__all__ = ["factorize"]
