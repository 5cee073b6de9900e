"""Weights on a uniform grid of few bits.

How many bits does each tensor get, when all of them have to fit into a number of bytes?
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nbcompress.compressors.calibration import layers_of, why_no_layer
from nbcompress.compressors.grids import Scheme, fit_grid, parse_granularity, rounded
from nbcompress.compressors.keeping import keeps, kept_again, quantized_codebook
from nbcompress.compressors.layers import Patterns, Target, check_choice, check_count
from nbcompress.compressors.losses import LossFunction, LossSpec
from nbcompress.compressors.modes import outside_inference
from nbcompress.compressors.outputs import Output
from nbcompress.compressors.record import ActivationRange, Codebook, TensorRecord
from nbcompress.compressors.session import Tuning, Workpiece
from nbcompress.compressors.training import check_gradients, each_gradient
from nbcompress.errors import CompressionError, DataError, did_you_mean, option


@dataclass(frozen=True)
class Cost:
    """What one tensor costs at one number of bits: bytes, and an error that adds up over tensors."""

    n_bytes: int
    error: float


# By tensor name and bits.
Costs = Mapping[str, Mapping[int, Cost]]


# What the data does not touch still counts this much, so that bits left over go somewhere sensible.
_UNTOUCHED = 1e-6


def importances(
    model: nn.Module, targets: Sequence[Target], data: object, seed: int, spec: LossSpec | None = None
) -> list[Tensor]:
    """How much the squared error of each weight counts, of the shape of each target, float64 on the CPU.

    Without data, one over the sum of squares of the tensor: noise relative to the signal, which every layer hands on to
    the next. With data, the diagonal of the empirical Fisher information, the squared gradients of all batches, which
    estimates how the loss grows (Dong et al. 2019 use the Hessian so, "HAWQ"); scaled so that it gives all weights
    together, set to zero, the error 1.
    """
    weights = [target.parameter.detach().to("cpu", torch.float64) for target in targets]
    relative = [torch.full_like(weight, 1 / max(float(weight.square().sum()), 1e-300)) for weight in weights]
    if data is None:
        return relative
    totals = [torch.zeros_like(weight) for weight in weights]

    def add(gradients: Sequence[Tensor | None]) -> None:
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += gradient.detach().to("cpu", torch.float64).square()

    each_gradient(model, [target.parameter for target in targets], data, seed, spec or LossSpec(), add)
    check_gradients(totals, "bits='auto' with data")
    whole = sum(float((total * weight.square()).sum()) for total, weight in zip(totals, weights, strict=True))
    return [total / max(whole, 1e-300) + _UNTOUCHED * one for total, one in zip(totals, relative, strict=True)]


# So many sums of bytes are told apart at most; with more tensors than that takes, near sums count as one.
_MOST_SUMS = 1 << 15


def allotted(costs: Costs, room: int) -> dict[str, int] | None:
    """Bits by tensor name of least error that fit into `room` bytes, or None if not even the smallest do.

    Tensor after tensor is added to a list of everything that could be reached, in which more bytes always mean less
    error. Exact until the list grows beyond `_MOST_SUMS`. What comes out cannot be improved by other bits for any one
    tensor within the room.
    """
    least = {
        name: min(one.values(), key=lambda cost: (cost.n_bytes, cost.error)).n_bytes for name, one in costs.items()
    }
    left = room - sum(least.values())
    if left < 0:
        return None
    n_bytes, errors = np.zeros(1, np.int64), np.zeros(1)
    trail: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for name, one in costs.items():
        more = np.array([cost.n_bytes - least[name] for cost in one.values()])
        sums = (n_bytes[:, None] + more).ravel()
        found = (errors[:, None] + [cost.error for cost in one.values()]).ravel()
        kept = _front(sums, found, left)
        n_bytes, errors = sums[kept], found[kept]
        trail.append((kept // len(one), kept % len(one)))
    bits: dict[str, int] = {}
    place = len(n_bytes) - 1
    for (name, one), (parents, choices) in zip(reversed(list(costs.items())), reversed(trail), strict=True):
        bits[name] = list(one)[choices[place]]
        place = int(parents[place])
    return _stepped_up(costs, {name: bits[name] for name in costs}, room)


def _front(sums: NDArray[np.int64], errors: NDArray[np.float64], left: int) -> NDArray[np.int64]:
    """Places of the sums that fit and that no smaller one beats, by rising bytes and falling error."""
    order: NDArray[np.int64] = np.lexsort((errors, sums))
    order = order[sums[order] <= left]
    lowest = np.minimum.accumulate(errors[order])
    order = order[np.concatenate([[True], errors[order][1:] < lowest[:-1]])]
    if len(order) > _MOST_SUMS:
        # Of near sums the best stays, and the smallest of all, which alone is sure to lead to an end.
        cells = sums[order] * _MOST_SUMS // (left + 1)
        is_last = np.concatenate([cells[1:] != cells[:-1], [True]])
        is_last[0] = True
        order = order[is_last]
    return order


def _stepped_up(costs: Costs, bits: dict[str, int], room: int) -> dict[str, int]:
    left = room - sum(costs[name][b].n_bytes for name, b in bits.items())
    while True:
        step = next((step for step in steps_up(costs, bits) if step.n_bytes <= left), None)
        if step is None:
            return bits
        bits[step.name] = step.bits
        left -= step.n_bytes


@dataclass(frozen=True)
class Step:
    """Another number of bits for one tensor, with the bytes that it takes more and the error that it takes away."""

    name: str
    bits: int
    n_bytes: int
    gain: float


def steps_up(costs: Costs, bits: Mapping[str, int]) -> Iterator[Step]:
    """Every step that takes error away, the best for a byte first; those for no byte before all others."""
    found = []
    for name, one in costs.items():
        now = one[bits[name]]
        for b, cost in one.items():
            if cost.error < now.error:
                found.append(Step(name, b, cost.n_bytes - now.n_bytes, now.error - cost.error))
    yield from sorted(found, key=lambda item: (-item.gain / max(item.n_bytes, 1e-9), item.name, item.bits))


@outside_inference
def quantize(
    model: nn.Module,
    bits: int | Mapping[str, int] = 8,
    *,
    scheme: Literal["symmetric", "affine"] = "symmetric",
    granularity: str = "channel",
    scale: Literal["error", "absmax"] = "error",
    activations: Literal["none", "dynamic", "static"] = "none",
    rest: Literal["float16", "float32"] = "float16",
    layers: Patterns = None,
    data: object = None,
    finetune: int = 0,
    lr: float = 1e-3,
    seed: int = 0,
    loss: LossFunction | None = None,
    output: Output | None = None,
) -> nn.Module:
    """Return a copy of `model` whose weights lie on uniform grids: `(code - zero) * scale`.

    Args:
        model: Any module; it stays as it is.
        bits: 1 to 8. One bit is sign times mean magnitude. A dict gives every chosen tensor bits of its own, by
            parameter name. (`nbcompress.quantize` also takes `auto` with a budget; the length of a file is known on a
            higher floor.)
        scheme: `symmetric` has zero in the middle of its `2^bits` values, with one more on one side: on the one that
            fits better where bits are 2 or 3, below zero from 4 to 7; 8 bits leave that one out. `affine` places the
            values where the weights are. Both hold zero.
        granularity: What shares a scale: `channel` (along axis 0), `tensor`, or `group:N` consecutive weights of a
            channel.
        scale: `error` searches for the scale of least error, which clips outliers where that pays, `absmax` spans the
            largest weight to within half a step.
        activations: How integer kernels of an exported model take the inputs of linear layers and convolutions, in 8
            bits: `static` by ranges of least squared error on the data, `dynamic` by a range found at every run. The
            record of the copy says it, and export reads it; the copy itself goes on computing activations in floating
            point, so what rounding them costs is seen in the exported model. Layers of other kinds keep floating
            inputs, by name.
        rest: `float16` rounds everything else (biases, norms, stored buffers) to half precision in the model.
        layers: Shell patterns on dotted module names.
        data: For fine-tuning, and for static activations, whose ranges are measured after it.
        finetune: Epochs of quantization-aware training, from the weights as they are before rounding: gradients
            pass straight through the rounding, and every few steps scales follow the weights.
        lr: Step size of fine-tuning (Adam).
        seed: Of fine-tuning, and of the order of the data.
        loss: As in `finetune`: from what the model returns and the target to a scalar.
        output: Index or key of the prediction, where the model returns several tensors.

    Returns:
        A copy with the promise that every chosen tensor keeps to its grid. Zeros of a pruned tensor stay zeros. Of a
        clustered tensor, the shared values are rounded to a grid of one group. A tensor whose values lie on such a grid
        already (same bits, scheme and granularity) stays as it is. Where the values of a clustered tensor were changed
        since by other means than `finetune`, as many shared values are fitted to them first.

    Raises:
        CompressionError: An option or a weight makes no sense, or fine-tuning diverges.
        LayerNotFound: `layers` matches nothing.
        DataError: Fine-tuning is asked for without data, or with data that does not fit.

    References:
        Jacob et al. (2018), "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", sections 2.1 and 3 (grid, straight-through training).
    """
    check_choice("activations", activations, ("none", "dynamic", "static"))
    check_choice("rest", rest, ("float16", "float32"))
    default = _scheme(next(iter(bits.values()), 8) if isinstance(bits, Mapping) else bits, scheme, granularity, scale)
    tuning = Tuning(data, finetune, lr, seed, LossSpec(loss, output))
    if activations == "static" and data is None:
        raise DataError(
            f"{option('activations', 'static')} measures ranges on data: pass {option('data=')}, "
            "such as (inputs, labels)"
        )
    work = Workpiece(model, layers, tuning)
    plans = dict.fromkeys((target.name for target in work.targets), default)
    if isinstance(bits, Mapping):
        _check_names(bits, plans)
        plans = {name: _scheme(bits[name], scheme, granularity, scale) for name in plans}
    is_half = rest == "float16" or work.record.rest == "float16"
    for target in work.targets:
        before, plan = work.record_of(target), plans[target.name]
        is_kept, codebook = keeps(target.parameter, before), before.codebook
        if codebook is not None:
            if not is_kept or codebook.grid is None or not _codebook_plan(plan).is_that_of(codebook.grid):
                shared, values = before, target.parameter.detach()
                if not is_kept:
                    plain = TensorRecord(before.is_pruned, codebook=Codebook(codebook.values))
                    shared, values = kept_again(values, plain, is_half=is_half)
                codebook, values = quantized_codebook(values, shared, plan)
                work.put(target, TensorRecord(before.is_pruned, codebook=codebook), values)
        elif not is_kept or before.grid is None or not plan.is_that_of(before.grid):
            grid = fit_grid(target.parameter, plan, is_pruned=before.is_pruned)
            values = rounded(target.parameter, grid, is_pruned=before.is_pruned)
            work.put(target, TensorRecord(before.is_pruned, grid=grid), values)
    _take_inputs(work, activations)
    work.round_rest(rest)
    return work.finished()


def _take_inputs(work: Workpiece, activations: str) -> None:
    """Note how the inputs of the chosen layers are taken, and name the layers whose inputs stay in floating point."""
    layers = {target.name: list(layers_of(work.model, target)) for target in work.targets}
    names = [name for found in layers.values() for name in found]
    if activations == "none":
        work.take_inputs({}, gone=names)
        return
    # Measured at the end, when all weights are what they will be.
    how: ActivationRange | Literal["dynamic"] = "dynamic" if activations == "dynamic" else ActivationRange(0.0, 0.0)
    work.take_inputs(dict.fromkeys(names, how))
    reasons = {}
    for target in work.targets:
        owner = work.model.get_submodule(target.name.rpartition(".")[0])
        if not layers[target.name] and not isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
            reasons[target.name] = f"its inputs stay in floating point: {why_no_layer(work.model, target)}"
    work.leave_out(reasons)


def _codebook_plan(plan: Scheme) -> Scheme:
    return Scheme(plan.bits, plan.scheme, "tensor", plan.scale)


def _check_names(bits: Mapping[str, int], chosen: Collection[str]) -> None:
    for name in bits:
        if name not in chosen:
            raise CompressionError(f"bits names {name!r}, which is no chosen weight.{did_you_mean(name, chosen)}")
    missing = [name for name in chosen if name not in bits]
    if missing:
        raise CompressionError(
            f"{option('bits')} must name every chosen weight, but not {', '.join(missing[:4])}: "
            f"use {option('layers=')} too"
        )


def _scheme(bits: object, scheme: str, granularity: str, scale: str) -> Scheme:
    if bits == "auto":
        raise CompressionError("bits='auto' needs the length of the file: call nbcompress.quantize with budget=")
    check_choice("scheme", scheme, ("symmetric", "affine"))
    check_choice("scale", scale, ("error", "absmax"))
    n_bits = check_count("bits", bits, 1, 8)
    if n_bits == 1 and scheme == "affine":
        raise CompressionError(
            f"one bit is sign * scale: {option('bits', 1)} needs {option('scheme', 'symmetric')}, got 'affine'"
        )
    return Scheme(
        n_bits,
        cast(Literal["symmetric", "affine"], scheme),
        parse_granularity(granularity),
        cast(Literal["error", "absmax"], scale),
    )
