"""Weight sharing: all weights of a tensor take one of a few values."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from nbcompress.compress.cluster.kmeans import STARTS, Start, kmeans
from nbcompress.compress.layers import Patterns
from nbcompress.compress.losses import LossFunction, LossSpec
from nbcompress.compress.modes import outside_inference
from nbcompress.compress.options import check_choice, check_count
from nbcompress.compress.outputs import Output
from nbcompress.compress.record import Codebook, TensorRecord
from nbcompress.compress.rest import half_rounded
from nbcompress.compress.workpiece import Tuning, Workpiece


@outside_inference
def cluster(
    model: nn.Module,
    clusters: int = 16,
    *,
    start: Start = "best",
    rest: Literal["float16", "float32"] = "float16",
    layers: Patterns = None,
    data: object = None,
    finetune: int = 0,
    lr: float = 1e-3,
    seed: int = 0,
    loss: LossFunction | None = None,
    output: Output | None = None,
) -> nn.Module:
    """Return a copy of `model` whose weights share a few values, one codebook for each tensor.

    Args:
        model: Any module; it stays as it is.
        clusters: How many distinct values a tensor may hold, 1 to 65536. A pruned tensor spends one of them on zero
            (and always has one more).
        start: Where k-means begins: `density`, `linear`, `random`, or `best` (the better of the first two).
        rest: `float16` rounds everything else to half precision, and the shared values too.
        layers: Shell patterns on dotted module names.
        data: For fine-tuning.
        finetune: Epochs in which the shared values are trained; which weight has which value stays.
        lr: Step size of fine-tuning (Adam).
        seed: Of `start="random"` and of fine-tuning.
        loss: As in `finetune`: from what the model returns and the target to a scalar.
        output: Index or key of the prediction, where the model returns several tensors.

    Returns:
        A copy with the promise that every chosen tensor keeps its codebook. A grid that a tensor had is given up;
        zeros of a pruned tensor stay zeros. A tensor with no more than `clusters` values stays as it is.

    Raises:
        CompressionError: An option or a weight makes no sense, or fine-tuning diverges.
        LayerNotFound: `layers` matches nothing.
        DataError: Fine-tuning is asked for without data, or with data that does not fit.

    References:
        Han, Mao and Dally (2016), "Deep Compression", section 3.
    """
    n_clusters = check_count("clusters", clusters, 1, 65536)
    check_choice("start", start, STARTS)
    check_choice("rest", rest, ("float16", "float32"))
    tuning = Tuning(data, finetune, lr, seed, LossSpec(loss, output))
    work = Workpiece(model, layers, tuning)
    is_half = rest == "float16" or work.record.rest == "float16"
    for target in work.targets:
        before = work.record_of(target)
        codebook = fit_codebook(target.parameter, n_clusters, before.is_pruned, is_half=is_half, start=start, seed=seed)
        values = nearest_values(target.parameter, codebook, before.is_pruned)
        work.put(target, TensorRecord(before.is_pruned, codebook=codebook), values)
    work.round_rest(rest)
    return work.finished()


def fit_codebook(
    tensor: Tensor, k: int, is_pruned: bool, *, is_half: bool = False, start: Start = "best", seed: int = 0
) -> Codebook:
    """Fit a codebook of at most `k` values (and at least one beside zero) to `tensor`."""
    values = tensor.detach().to("cpu", torch.float32).flatten().numpy()
    if is_pruned and not values.all():
        alive = values[values != 0]
        centres = kmeans(alive, max(k - 1, 1), start, seed) if len(alive) else np.empty(0)
        centres = np.append(centres, 0.0)
    else:
        centres = kmeans(values, k, start, seed)
    return Codebook(storable_values(torch.from_numpy(centres).to(torch.float32), tensor.dtype, is_half=is_half))


def storable_values(values: Tensor, dtype: torch.dtype, *, is_half: bool) -> Tensor:
    """Shared values as a tensor of `dtype` holds them: rounded, distinct, ascending, float32."""
    rounded = values.to(torch.float32)
    if is_half:
        half = half_rounded(rounded)
        rounded = rounded if half is None else half
    distinct: Tensor = torch.unique(rounded.to(dtype).to(torch.float32))
    return distinct


def nearest_values(tensor: Tensor, codebook: Codebook, is_pruned: bool) -> Tensor:
    """`tensor` with every value replaced by the nearest one of `codebook`.

    In a pruned tensor zero is a value of its own: zeros stay, and no other weight becomes zero.
    """
    values = codebook.values.to(tensor.device)
    if is_pruned and bool((values != 0).any()):
        values = values[values != 0]
    middles = (values[1:].double() + values[:-1].double()) / 2
    codes = torch.bucketize(tensor.detach().double(), middles)
    nearest = values[codes].to(tensor.dtype)
    return torch.where(tensor == 0, tensor, nearest) if is_pruned else nearest


__all__ = ["cluster", "fit_codebook", "nearest_values", "storable_values"]
