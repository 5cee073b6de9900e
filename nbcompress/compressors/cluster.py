"""Weight sharing: all weights of a tensor take one of a few values.

k-means on a line: the shared values of one tensor.

On a line, clusters are intervals of the sorted values. So the values are sorted once, with running sums beside them;
then a step of Lloyd's algorithm costs `k` binary searches, however many millions of weights there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nbcompress.compressors.constraints import half_rounded
from nbcompress.compressors.layers import Patterns, check_choice, check_count
from nbcompress.compressors.losses import LossFunction, LossSpec
from nbcompress.compressors.modes import outside_inference
from nbcompress.compressors.outputs import Output
from nbcompress.compressors.record import Codebook, TensorRecord
from nbcompress.compressors.session import Tuning, Workpiece

Floats = NDArray[np.float64]
Start = Literal["best", "density", "linear", "random"]

STARTS: tuple[Start, ...] = ("best", "density", "linear", "random")
# Lloyd's algorithm stops when no interval changes, mostly far earlier; what is left after so many steps is slow drift.
_N_STEPS = 300


@dataclass(frozen=True)
class _Line:
    """Sorted distinct values, with running sums of count, value and square before each: length `n + 1`."""

    values: Floats
    count: Floats
    total: Floats
    square: Floats

    def error(self, edges: NDArray[np.intp]) -> Floats:
        """Sum of squared distances to the mean in each interval between `edges`."""
        count, total, square = (np.diff(sums[edges]) for sums in (self.count, self.total, self.square))
        mean = total / np.maximum(count, 1)
        return np.maximum(square - total * mean, 0.0)


def kmeans(values: NDArray[np.float32], k: int, start: Start = "best", seed: int = 0) -> Floats:
    """At most `k` values such that the squared distance of each of `values` to the nearest one is small.

    Args:
        values: Any number of finite values, at least one.
        k: At least 1.
        start: Where the centres begin: at quantiles (`density`), evenly over the range (`linear`), drawn from the
            values themselves (`random`), or whichever of the first two ends with the smaller error (`best`).
        seed: For `random`.

    Returns:
        Ascending distinct centres, float64. If there are no more than `k` distinct values, exactly those. A
        local minimum: each centre is the mean of the values nearest to it (up to 300 steps).

    References:
        Han, Mao and Dally (2016), "Deep Compression", section 3.1 (density, linear and random starts).
    """
    distinct, counts = np.unique(values.astype(np.float64), return_counts=True)
    if len(distinct) <= k:
        return distinct
    # Centred, so that the difference of running sums of squares keeps its digits.
    middle = float(np.average(distinct, weights=counts))
    line = _line(distinct - middle, counts)
    names = ("density", "linear") if start == "best" else (start,)
    found = [_lloyd(line, _first_edges(line, k, name, seed), k) for name in names]
    edges = min(found, key=lambda item: float(line.error(item).sum()))
    centres = np.diff(line.total[edges]) / np.diff(line.count[edges])
    return np.unique(centres + middle)


def _line(values: Floats, counts: NDArray[np.intp]) -> _Line:
    sums = [np.concatenate([[0.0], np.cumsum(column)]) for column in (counts, counts * values, counts * values**2)]
    return _Line(values, *sums)


def _first_edges(line: _Line, k: int, start: str, seed: int) -> NDArray[np.intp]:
    values = line.values
    if start == "linear":
        centres = np.linspace(values[0], values[-1], k)
    elif start == "density":
        ranks = (np.arange(k) + 0.5) / k * line.count[-1]
        centres = np.unique(values[np.searchsorted(line.count[1:], ranks)])
    else:
        ranks = np.random.default_rng(seed).uniform(0, line.count[-1], k)
        centres = np.unique(values[np.searchsorted(line.count[1:], ranks)])
    return _edges_between(line, centres)


def _edges_between(line: _Line, centres: Floats) -> NDArray[np.intp]:
    """Where the intervals of the values nearest to each centre begin; empty ones are dropped."""
    inner = np.searchsorted(line.values, (centres[1:] + centres[:-1]) / 2)
    return np.unique(np.concatenate([[0], inner, [len(line.values)]])).astype(np.intp)


def _lloyd(line: _Line, edges: NDArray[np.intp], k: int) -> NDArray[np.intp]:
    """Alternate between means and nearest means; intervals that emptied are made again by splitting the worst."""
    for _ in range(_N_STEPS):
        if len(edges) - 1 < k:
            edges = _split_worst(line, edges, k)
        centres = np.diff(line.total[edges]) / np.diff(line.count[edges])
        new = _edges_between(line, centres)
        if np.array_equal(new, edges):
            break
        edges = new
    return edges


def _split_worst(line: _Line, edges: NDArray[np.intp], k: int) -> NDArray[np.intp]:
    """Split the intervals of largest error at their means, as many as are missing and can be split."""
    worst = np.argsort(-line.error(edges), kind="stable")
    can_split = np.diff(edges)[worst] > 1
    worst = worst[can_split][: k + 1 - len(edges)]
    means = (np.diff(line.total[edges]) / np.diff(line.count[edges]))[worst]
    # Strictly inside by the count above, whatever the rounding of the mean says.
    inside = np.clip(np.searchsorted(line.values, means), edges[worst] + 1, edges[worst + 1] - 1)
    return np.unique(np.concatenate([edges, inside]))


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
