"""Weight sharing: all weights of a tensor take one of a few values."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from nbcompress.compressors.codebooks import STARTS, Start, fit_codebook, round_to_codebook
from nbcompress.compressors.layers import Patterns, check_choice
from nbcompress.compressors.losses import LossFunction, LossSpec
from nbcompress.compressors.modes import outside_inference, with_progress
from nbcompress.compressors.optimizers import OptimizerChoice, OptimizerSpec
from nbcompress.compressors.outputs import OutputKey
from nbcompress.compressors.record import TensorRecord
from nbcompress.compressors.session import CompressionSession, FineTuneOptions
from nbcompress.errors import CompressionError, check_integer, option
from nbcompress.progress import progress_bar


@outside_inference
def cluster(
    model: nn.Module,
    clusters: int = 16,
    *,
    codebook: Literal["layer", "model"] = "layer",
    start: Start = "best",
    rest: Literal["float16", "float32"] = "float16",
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
    """Return a copy of `model` in which the weights of each tensor share a few values (a codebook), by k-means.

    Args:
        model: Any module; it stays as it is.
        clusters: The number of distinct values that a tensor may have, 1 to 65536. Zero counts as one of them in a
            pruned tensor, which always has at least one other value.
        codebook: `layer` fits the values of each tensor, `model` the same values for all of them. A file then holds
            them once, and training moves them together.
        start: Where k-means starts: `density` (at quantiles), `linear` (evenly over the range), `random` (at values
            drawn from the weights), or `best` (the better of the first two).
        rest: `float16` rounds everything else, and the shared values, to half precision; `float32` does not.
        layers: A shell pattern on dotted module names, or several; None for all layers.
        data: Data for fine-tuning: a `DataLoader`, a data set, or a pair of tensors (inputs, targets).
        finetune: Epochs of training afterwards. The shared values are trained; which weight has which value does not
            change.
        lr: Step size of that training.
        seed: Seed of `start="random"` and of fine-tuning.
        loss: A function from what the model returns and the target to a scalar; see `finetune`.
        output: Index or key of the prediction, where the model returns several tensors.
        optimizer, momentum, betas, eps, weight_decay: The optimizer of that training and its options; see `finetune`.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        The copy. Later steps and `finetune` keep every chosen tensor in its codebook. A tensor gives up the grid that
        it had; zeros of a pruned tensor stay zeros. A tensor with at most `clusters` distinct values keeps them.

    Raises:
        CompressionError: An option or a weight makes no sense, or fine-tuning diverges.
        LayerNotFound: `layers` matches nothing.
        DataError: Fine-tuning is asked for without data, or with data that does not fit.

    Example:
        >>> import torch, nbcompress as nc
        >>> small = nc.cluster(torch.nn.Linear(8, 4), clusters=5)
        >>> len(small.weight.unique())
        5

    References:
        Han, Mao and Dally (2016), "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
        Quantization and Huffman Coding", section 3.
    """
    n_clusters = check_integer("clusters", clusters, 1, 65536, error=CompressionError)
    check_choice("codebook", codebook, ("layer", "model"))
    check_choice("start", start, STARTS)
    check_choice("rest", rest, ("float16", "float32"))
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
    is_half = rest == "float16" or session.record.rest == "float16"
    with with_progress(progress):
        if codebook == "model":
            _share_one_codebook(session, n_clusters, is_half=is_half, start=start, seed=seed)
        else:
            _fit_each(session, n_clusters, is_half=is_half, start=start, seed=seed)
        session.set_rest(rest)
        return session.finish()


def _fit_each(session: CompressionSession, k: int, *, is_half: bool, start: Start, seed: int) -> None:
    """Give each chosen tensor values of its own."""
    with progress_bar("cluster", len(session.targets), "tensor") as advance:
        for target in session.targets:
            is_pruned = session.constraint_of(target).is_pruned
            fitted = fit_codebook(target.parameter, k, is_pruned, is_half=is_half, start=start, seed=seed)
            values = round_to_codebook(target.parameter, fitted, is_pruned)
            session.apply(target, TensorRecord(is_pruned, codebook=fitted), values)
            advance(1)


def _share_one_codebook(session: CompressionSession, k: int, *, is_half: bool, start: Start, seed: int) -> None:
    """Give all chosen tensors the same values.

    Raises:
        CompressionError: They have several dtypes.
    """
    kinds = {target.parameter.dtype for target in session.targets}
    if len(kinds) > 1:
        listed = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        raise CompressionError(
            f"{option('codebook', 'model')} needs weights of one dtype, got {listed}: use {option('layers=')} too"
        )
    pruned = {target.name: session.constraint_of(target).is_pruned for target in session.targets}
    joined = torch.cat([target.parameter.detach().flatten().cpu() for target in session.targets])
    fitted = fit_codebook(joined, k, any(pruned.values()), is_half=is_half, start=start, seed=seed)
    for target in session.targets:
        values = round_to_codebook(target.parameter, fitted, pruned[target.name])
        session.apply(target, TensorRecord(pruned[target.name], codebook=fitted), values)
