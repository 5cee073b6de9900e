"""Low-rank layers: a linear layer or a convolution becomes two thinner ones in a row."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from nbcompress.compressors.layers import Patterns, Target, check_number
from nbcompress.compressors.losses import LossFunction, LossSpec
from nbcompress.compressors.modes import outside_inference, with_progress
from nbcompress.compressors.optimizers import OptimizerChoice, OptimizerSpec
from nbcompress.compressors.outputs import OutputKey
from nbcompress.compressors.record import Surgery
from nbcompress.compressors.session import CompressionSession, FineTuneOptions
from nbcompress.errors import CompressionError, check_integer, option
from nbcompress.progress import progress_bar

# Not their subclasses, which may use the weight differently, as attention does with its output projection.
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank(nn.Sequential):
    """Two layers in the place of one: the first reduces the inputs to `rank` features, the second gives the outputs.

    Code that reads `weight`, `bias` or sizes of the original layer goes on working: `weight` is the product of both.
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


def why_not_factorizable(module: nn.Module) -> str | None:
    """Return the reason why `module` cannot be factorized, or None."""
    if type(module) is nn.Linear:
        return None
    if type(module) in _CONVOLUTIONS:
        return "a grouped convolution" if module.groups != 1 else None
    return f"no plain linear layer or convolution ({type(module).__name__})"


def low_rank_like(module: nn.Module, rank: int) -> LowRank:
    """Make two layers of zeros that can replace `module`.

    Args:
        module: A `Linear`, or a `Conv1d`, `Conv2d` or `Conv3d` with one group.
        rank: From 1 to the full rank of the weight as a matrix `(out, in * kernel)`.

    Raises:
        CompressionError: The module is of another kind, or the rank is out of range.
    """
    reason = why_not_factorizable(module)
    if reason is not None:
        raise CompressionError(
            f"only linear layers and convolutions with one group can be factorized; this is {reason}"
        )
    weight: Tensor = module.weight  # type: ignore[assignment]
    full_rank = min(weight.shape[0], weight[0].numel())
    rank = check_integer("rank", rank, 1, full_rank, error=CompressionError)
    has_bias = module.bias is not None
    tensor_options: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    # The usual random start would also advance the random state of the notebook.
    skip_init: Any = nn.utils.skip_init
    if isinstance(module, nn.Linear):
        first = skip_init(nn.Linear, module.in_features, rank, bias=False, **tensor_options)
        last = skip_init(nn.Linear, rank, module.out_features, bias=has_bias, **tensor_options)
    else:
        kind: Any = type(module)
        conv: Any = module
        shape = {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        first = skip_init(kind, conv.in_channels, rank, conv.kernel_size, bias=False, **shape, **tensor_options)
        last = skip_init(kind, rank, conv.out_channels, 1, bias=has_bias, **tensor_options)
    pair = LowRank(first, last)
    for parameter in pair.parameters():
        nn.init.zeros_(parameter)
        parameter.requires_grad_(weight.requires_grad)
    return pair.train(module.training)


@torch.no_grad()
def fill_low_rank_(pair: LowRank, module: nn.Module) -> None:
    """Fill `pair` with the approximation of `module` of least squared error of the weight (Eckart and Young 1936)."""
    layer: Any = module
    weight: Tensor = layer.weight.detach()
    matrix = weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
    left, singular_values, right = torch.linalg.svd(matrix, full_matrices=False)
    # Each factor gets the square root, so that the entries of both are of similar size for training and quantization.
    root = singular_values[: pair.rank].sqrt()
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
    output: OutputKey | None = None,
    optimizer: OptimizerChoice = "adam",
    momentum: float | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    weight_decay: float = 0.0,
    progress: bool = True,
) -> nn.Module:
    """Return a copy of `model` in which linear layers and convolutions are products of two thinner ones.

    Args:
        model: Any module; it stays as it is.
        rank: Share of the full rank that each layer keeps, above 0 to 1; it keeps at least rank 1. The default is 0.25.
        energy: Replaces `rank`: each layer keeps the fewest singular values whose squares sum to this share of all
            squares, above 0 to 1. So the squared error of its weight is at most the share `1 - energy`.
        layers: A shell pattern on dotted module names, or several; None for all layers.
        data: Data for fine-tuning: a `DataLoader`, a data set, or a pair of tensors (inputs, targets).
        finetune: Epochs of training afterwards.
        lr: Step size of that training.
        seed: Seed of fine-tuning.
        loss: A function from what the model returns and the target to a scalar; see `finetune`.
        output: Index or key of the prediction, where the model returns several tensors.
        optimizer, momentum, betas, eps, weight_decay: The optimizer of that training and its options; see `finetune`.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        The copy. `LowRank` pairs replace layers, by the truncated singular value decomposition of their weights: a
        linear layer becomes two; a convolution becomes one with the same kernel and `rank` channels, and a 1x1 one.
        A layer stays if this would not save parameters, if it shares its weight, or if it is of another kind;
        `record_of(copy).left_out` names it. A factorized weight gives up its grid, codebook or pruned zeros.

    Raises:
        CompressionError: The rank makes no sense, a weight is NaN, or fine-tuning diverges.
        LayerNotFound: `layers` matches nothing.
        DataError: Fine-tuning is asked for without data, or with data that does not fit.

    Example:
        >>> import torch, nbcompress as nc
        >>> small = nc.factorize(torch.nn.Sequential(torch.nn.Linear(64, 32)), rank=0.25)
        >>> [tuple(parameter.shape) for parameter in small.parameters()]
        [(8, 64), (32, 8), (32,)]

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
    rule = RankRule(
        check_number("rank", 0.25 if rank is None else rank, 0, 1, is_open_low=True),
        None if energy is None else check_number("energy", energy, 0, 1, is_open_low=True),
    )
    session = CompressionSession(
        model,
        layers,
        FineTuneOptions(
            data,
            finetune,
            lr,
            seed,
            LossSpec(loss, output),
            OptimizerSpec(optimizer, momentum, betas, eps, weight_decay),
        ),
    )
    with with_progress(progress):
        with progress_bar("factorize", len(session.targets), "tensor") as advance:
            for target in session.targets:
                reason = _factorize_layer_(session, target, rule)
                if reason is not None:
                    session.refit_([target])
                    session.leave_out({target.name: reason})
                advance(1)
        return session.finish()


@dataclass(frozen=True)
class RankRule:
    """Which rank a layer keeps.

    Attributes:
        share: Share of the full rank.
        energy: Replaces `share` if given: share of the sum of squared singular values.
    """

    share: float
    energy: float | None

    def rank_of(self, weight: Tensor) -> int:
        """Return the rank that a weight of shape `(out, ...)` keeps, at least 1."""
        matrix = weight.detach().flatten(1)
        if self.energy is None:
            return max(1, round(self.share * min(matrix.shape)))
        values = torch.linalg.svdvals(matrix.to(torch.promote_types(matrix.dtype, torch.float32)))
        sums = values.double().square().cumsum(0)
        # A small tolerance, so that rounding does not keep an energy of 1 from being reached.
        return min(int((sums < self.energy * sums[-1] * (1 - 1e-12)).sum()) + 1, len(values))


def _factorize_layer_(session: CompressionSession, target: Target, rule: RankRule) -> str | None:
    """Factorize the layer of `target`, or return the reason why not."""
    path, _, last = target.name.rpartition(".")
    module = session.model.get_submodule(path)
    parent = session.model.get_submodule(path.rpartition(".")[0])
    if isinstance(parent, LowRank):
        return "it is a factor already"
    reason = why_not_factorizable(module) if last == "weight" else "not the weight of a layer"
    if reason is not None:
        return reason
    if not path:
        raise CompressionError(
            "the model is a single layer, which cannot be replaced in itself: put it into a Sequential"
        )
    if len(target.names) > 1:
        return f"it is shared with {target.names[1]}"
    n_out, n_in = target.parameter.shape[0], prod(target.parameter.shape[1:])
    rank = rule.rank_of(target.parameter)
    if rank * (n_out + n_in) >= n_out * n_in:
        return f"rank {rank} would not save parameters"
    pair = low_rank_like(module, rank)
    fill_low_rank_(pair, module)
    setattr(parent, path.rpartition(".")[2], pair)
    shapes = {name: tuple(parameter.shape) for name, parameter in pair.named_parameters()}
    session.add_surgery(Surgery("factorize", path, shapes, {"rank": rank}), removed=target.name)
    return None
