"""Quantization: weights on a uniform grid of 1 to 8 bits, and the choice of bits for each tensor under a budget."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from numbers import Real
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nbcompress.choices import SCALES
from nbcompress.compressors.calibration import layers_of, why_no_layer
from nbcompress.compressors.codebooks import quantize_codebook
from nbcompress.compressors.codes import satisfies, without
from nbcompress.compressors.grids import GridSpec, fit_grid, grids_by_range, parse_granularity, round_to_grid
from nbcompress.compressors.layers import Patterns, Target, check_choice, check_number, is_turned
from nbcompress.compressors.losses import LossFunction, LossSpec
from nbcompress.compressors.modes import outside_inference, with_progress
from nbcompress.compressors.optimizers import OptimizerChoice, OptimizerSpec
from nbcompress.compressors.outputs import OutputKey
from nbcompress.compressors.record import ActivationRange, Codebook, Grid, TensorRecord
from nbcompress.compressors.rounding import call_order, rounded_by_data
from nbcompress.compressors.session import CompressionSession, FineTuneOptions, refit
from nbcompress.compressors.training import check_gradients, each_gradient
from nbcompress.errors import CompressionError, DataError, check_integer, did_you_mean, option, warn
from nbcompress.progress import progress_bar

# ---------------------------------------------------------------------------------------------------------------------
# Bits for each tensor under a budget of bytes


@dataclass(frozen=True)
class BitCost:
    """The cost of one tensor at one number of bits.

    Attributes:
        n_bytes: Bytes in the file.
        error: Weighted squared error, which adds up over tensors.
    """

    n_bytes: int
    error: float


# By tensor name and bits.
BitCosts = Mapping[str, Mapping[int, BitCost]]


# Weights that the data does not reach still count this much, so that bits that are left over go where they help most.
_UNREACHED = 1e-6


def error_weights(
    model: nn.Module, targets: Sequence[Target], data: object, seed: int, spec: LossSpec | None = None
) -> list[Tensor]:
    """Compute how much the squared error of each weight counts.

    Without data: one over the sum of squares of the tensor, so that the error is noise relative to the signal, which
    each layer passes on to the next. With data: the diagonal of the empirical Fisher information (the squared gradients
    of all batches), which estimates how the loss grows (Dong et al. 2019, "HAWQ", use the Hessian in this way), scaled
    such that setting all weights to zero has the error 1.

    Args:
        model: Comes back as it was.
        targets: Its tensors.
        data: See `Batches`; or None.
        seed: Seed of the order of the data.
        spec: The loss.

    Returns:
        For each target, a tensor of its shape, float64 on the CPU.

    Raises:
        CompressionError: A gradient is NaN or infinite.
        DataError: The data does not fit.
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
    check_gradients(totals, f"{option('bits', 'auto')} with data")
    whole = sum(float((total * weight.square()).sum()) for total, weight in zip(totals, weights, strict=True))
    pairs = zip(totals, relative, strict=True)
    return [total / max(whole, 1e-300) + _UNREACHED * unreached for total, unreached in pairs]


# At most so many sums of bytes are kept apart. If there are more, near sums count as equal.
_MOST_SUMS = 1 << 15


def allocate_bits(costs: BitCosts, room: int) -> dict[str, int] | None:
    """Choose bits for each tensor, such that all fit into a number of bytes with the least error.

    Dynamic programming: tensor after tensor is added to a list of all reachable sums of bytes, in which more bytes
    always give less error. The result is exact until the list grows beyond `_MOST_SUMS`. In any case, no change of the
    bits of one tensor alone gives less error within the room.

    Args:
        costs: The cost of each tensor at each number of bits.
        room: Bytes for all tensors together.

    Returns:
        Bits by tensor name; None if the smallest costs do not fit.
    """
    least = {
        name: min(by_bits.values(), key=lambda cost: (cost.n_bytes, cost.error)).n_bytes
        for name, by_bits in costs.items()
    }
    left = room - sum(least.values())
    if left < 0:
        return None
    n_bytes, errors = np.zeros(1, np.int64), np.zeros(1)
    trail: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for name, by_bits in costs.items():
        more = np.array([cost.n_bytes - least[name] for cost in by_bits.values()])
        all_bytes = (n_bytes[:, None] + more).ravel()
        all_errors = (errors[:, None] + [cost.error for cost in by_bits.values()]).ravel()
        kept = _front(all_bytes, all_errors, left)
        n_bytes, errors = all_bytes[kept], all_errors[kept]
        trail.append((kept // len(by_bits), kept % len(by_bits)))
    bits: dict[str, int] = {}
    place = len(n_bytes) - 1
    for (name, by_bits), (parents, choices) in zip(reversed(list(costs.items())), reversed(trail), strict=True):
        bits[name] = list(by_bits)[choices[place]]
        place = int(parents[place])
    return _increased(costs, {name: bits[name] for name in costs}, room)


def _front(sums: NDArray[np.int64], errors: NDArray[np.float64], left: int) -> NDArray[np.int64]:
    """Indices of the sums that fit and that no smaller sum beats, by rising bytes and falling error."""
    order: NDArray[np.int64] = np.lexsort((errors, sums))
    order = order[sums[order] <= left]
    lowest = np.minimum.accumulate(errors[order])
    order = order[np.concatenate([[True], errors[order][1:] < lowest[:-1]])]
    if len(order) > _MOST_SUMS:
        # The best of near sums stays, and the smallest sum of all, which is the only one that surely leads to a result.
        cells = sums[order] * _MOST_SUMS // (left + 1)
        is_kept = np.concatenate([cells[1:] != cells[:-1], [True]])
        is_kept[0] = True
        order = order[is_kept]
    return order


def _increased(costs: BitCosts, bits: dict[str, int], room: int) -> dict[str, int]:
    """`bits` with every increase that still fits."""
    left = room - sum(costs[name][b].n_bytes for name, b in bits.items())
    while True:
        increase = next((step for step in bit_increases(costs, bits) if step.n_bytes <= left), None)
        if increase is None:
            return bits
        bits[increase.name] = increase.bits
        left -= increase.n_bytes


@dataclass(frozen=True)
class BitIncrease:
    """Another number of bits for one tensor that lowers its error.

    Attributes:
        name: Name of the tensor.
        bits: The new number of bits.
        n_bytes: Additional bytes; negative if the tensor shrinks.
        gain: By how much the error falls.
    """

    name: str
    bits: int
    n_bytes: int
    gain: float


def bit_increases(costs: BitCosts, bits: Mapping[str, int]) -> Iterator[BitIncrease]:
    """Yield every change that lowers the error, by falling gain per byte; those that need no byte come first."""
    increases = []
    for name, by_bits in costs.items():
        now = by_bits[bits[name]]
        for b, cost in by_bits.items():
            if cost.error < now.error:
                increases.append(BitIncrease(name, b, cost.n_bytes - now.n_bytes, now.error - cost.error))
    yield from sorted(increases, key=lambda step: (-step.gain / max(step.n_bytes, 1e-9), step.name, step.bits))


# ---------------------------------------------------------------------------------------------------------------------
# The compressor


@outside_inference
def quantize(
    model: nn.Module,
    bits: int | Mapping[str, int] = 8,
    *,
    scheme: Literal["symmetric", "affine"] = "symmetric",
    granularity: str = "channel",
    scale: Literal["error", "absmax", "pow2"] | float = "error",
    share: float = 1.0,
    rounding: Literal["nearest", "gptq"] = "nearest",
    activations: Literal["none", "dynamic", "static"] = "none",
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
    """Return a copy of `model` whose weights lie on uniform grids: `weight = (code - zero) * scale`.

    Args:
        model: Any module; it stays as it is.
        bits: Bits per weight, 1 to 8. With one bit a weight is its sign times the mean magnitude. A dict sets the bits
            of each chosen tensor, by parameter name. (`nbcompress.quantize` also takes `auto` with a budget.)
        scheme: `symmetric` has zero in the middle of its `2^bits` values. One side has one value more: with 2 or 3 bits
            the one that fits better, with 4 to 7 the negative one; with 8 bits this value is left out. `affine` places
            the values where the weights are. Zero is a value of both.
        granularity: Which weights share a scale: `channel` (along axis 0; along axis 1 in layers of Hugging Face that
            hold their weight transposed, as those of GPT-2), `tensor`, or `group:N` consecutive weights of a channel.
        scale: `error` searches for the scale of least error, which clips outliers if that pays. `absmax` ends at the
            largest weights: `max |w| / (2^(bits-1) - 1)`, or `(max - min) / (2^bits - 1)` if affine. `pow2` is the
            power of two of least error. A number Q is a factor of one's own: a weight becomes `round(w * Q) / Q`, and a
            warning says which weights the codes do not reach. Training keeps powers of two and factors as they are.
        share: Share of the weights of each tensor that lie on the grid, above 0 to 1, ranked by magnitude. The largest
            of the others stay in half precision, also in the file.
        rounding: `nearest`, or `gptq`: such that the outputs of each layer on the data change least. Linear layers,
            convolutions and recurrent layers are rounded so, one after the other, which takes a pass of the data for
            each; the inputs of a few hundred examples are enough. For an embedding the nearest values are the best.
            Layers whose inputs are not known are rounded to the nearest values, and the record names them.
        activations: How integer kernels of an exported model read the inputs of linear layers and convolutions, in 8
            bits: `static` by ranges of least squared error on the data, `dynamic` by a range that is found at every
            run. The record of the copy says it and `export` reads it. The copy itself computes activations in floating
            point, so the cost of rounding them shows in the exported model only. Layers of other kinds keep floating
            inputs; the record names them.
        rest: `float16` rounds everything else (biases, norms, stored buffers) to half precision; `float32` does not.
        layers: A shell pattern on dotted module names, or several; None for all layers.
        data: Data for fine-tuning and for static activations, whose ranges are measured after it: a `DataLoader`, a
            data set, or a pair of tensors (inputs, targets).
        finetune: Epochs of quantization-aware training, which starts at the weights before rounding. Gradients pass
            straight through the rounding, and every few steps the scales are fitted to the weights again.
        lr: Step size of that training.
        seed: Seed of fine-tuning, and of the order of the data.
        loss: A function from what the model returns and the target to a scalar; see `finetune`.
        output: Index or key of the prediction, where the model returns several tensors.
        optimizer, momentum, betas, eps, weight_decay: The optimizer of that training and its options; see `finetune`.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        The copy. Later steps and `finetune` keep every chosen tensor on its grid, and zeros of a pruned tensor stay
        zeros. In a clustered tensor, the shared values are rounded to a grid of one group; if its weights were changed
        by other means than `finetune`, as many shared values are fitted to them first. A tensor that lies on such a
        grid already (same bits, scheme and granularity) stays as it is.

    Raises:
        CompressionError: An option or a weight makes no sense, or fine-tuning diverges.
        LayerNotFound: `layers` matches nothing.
        DataError: Data is needed and missing, or it does not fit.

    Example:
        >>> import torch
        >>> from nbcompress.compressors import quantize
        >>> layer = torch.nn.Linear(4, 1, bias=False)
        >>> _ = torch.nn.init.constant_(layer.weight, 1.5)
        >>> quantize(layer, bits=1).weight.tolist()
        [[1.5, 1.5, 1.5, 1.5]]

    References:
        Jacob et al. (2018), "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", sections 2.1 and 3 (grid, straight-through training).
        Rastegari et al. (2016), "XNOR-Net", equation 6 (one bit).
        Frantar et al. (2023), "GPTQ", algorithm 1 (`rounding="gptq"`).
    """
    check_choice("activations", activations, ("none", "dynamic", "static"))
    check_choice("rest", rest, ("float16", "float32"))
    share = check_number("share", share, 0, 1, is_open_low=True)
    if share < 1 and activations != "none":
        raise CompressionError(
            f"{option('share', share)} keeps weights in floating point, with which integer kernels cannot compute: "
            f"leave out {option('activations=')}"
        )
    first_bits = next(iter(bits.values()), 8) if isinstance(bits, Mapping) else bits
    default = _grid_spec(first_bits, scheme, granularity, scale, share)
    fine_tune = FineTuneOptions(
        data, finetune, lr, seed, LossSpec(loss, output), OptimizerSpec(optimizer, momentum, betas, eps, weight_decay)
    )
    check_choice("rounding", rounding, ("nearest", "gptq"))
    if rounding == "gptq" and data is None:
        raise DataError(
            f"{option('rounding', 'gptq')} needs the inputs of each layer: pass {option('data=')}, such as inputs alone"
        )
    if activations == "static" and data is None:
        raise DataError(
            f"{option('activations', 'static')} measures ranges on data: pass {option('data=')}, "
            "such as (inputs, labels)"
        )
    session = CompressionSession(model, layers, fine_tune)
    specs = dict.fromkeys((target.name for target in session.targets), default)
    if isinstance(bits, Mapping):
        _check_names(bits, specs)
        specs = {name: _grid_spec(bits[name], scheme, granularity, scale, share) for name in specs}
    is_half = rest == "float16" or session.record.rest == "float16"
    with with_progress(progress):
        _quantize_targets_(session, specs, is_half, by_data=rounding == "gptq")
        _set_activations(session, activations)
        session.set_rest(rest)
        return session.finish()


def _quantize_targets_(
    session: CompressionSession, specs: Mapping[str, GridSpec], is_half: bool, *, by_data: bool
) -> None:
    """Put every chosen tensor onto its grid: by data one layer after the other, in the order in which they run."""
    for target in session.targets:
        spec = specs[target.name]
        if spec.share == 1 and spec.group != "tensor" and is_turned(session.model, target):
            specs = {**specs, target.name: replace(spec, is_turned=True)}
    done = _quantize_shared_(session, specs)
    targets: Sequence[Target] = session.targets
    if by_data:
        targets = call_order(session.model, targets, session.fine_tune.data, session.fine_tune.seed)
    with progress_bar("quantize", len(targets), "tensor") as advance:
        for target in targets:
            if target.name not in done:
                _quantize_target_(session, target, specs[target.name], is_half, by_data=by_data)
            advance(1)


def _quantize_shared_(session: CompressionSession, specs: Mapping[str, GridSpec]) -> set[str]:
    """Round codebooks that several of the chosen tensors have, and return the names of those tensors."""
    members: dict[tuple[int, GridSpec], list[Target]] = {}
    for target in session.targets:
        constraint, spec = session.constraint_of(target), specs[target.name]
        if constraint.codebook is not None and spec.share == 1 and satisfies(target.parameter, constraint):
            members.setdefault((id(constraint.codebook), replace(spec, group="tensor", is_turned=False)), []).append(
                target
            )
    done: set[str] = set()
    for (_, spec), targets in members.items():
        codebook = session.constraint_of(targets[0]).codebook
        if len(targets) < 2 or codebook is None:
            continue
        done.update(target.name for target in targets)
        if codebook.grid is not None and spec.matches(codebook.grid, len(codebook.values)):
            continue
        pruned = {target.name: session.constraint_of(target).is_pruned for target in targets}
        joined = torch.cat([target.parameter.detach().flatten().cpu() for target in targets])
        before = TensorRecord(any(pruned.values()), codebook=codebook)
        after, values = quantize_codebook(joined, before, spec)
        for target, part in zip(
            targets, torch.split(values, [target.parameter.numel() for target in targets]), strict=True
        ):
            session.apply(
                target, TensorRecord(pruned[target.name], codebook=after), part.reshape(target.parameter.shape)
            )
    return done


def _quantize_target_(
    session: CompressionSession, target: Target, spec: GridSpec, is_half: bool, *, by_data: bool
) -> None:
    """Put one tensor onto a grid, or the shared values of a clustered one, unless they lie on such a grid already."""
    before, values = session.constraint_of(target), target.parameter.detach()
    is_satisfied, is_pruned, codebook = satisfies(values, before), before.is_pruned, before.codebook
    if codebook is None:
        if is_satisfied and before.grid is not None and spec.matches(before.grid, values.numel()):
            return
        grid = fit_grid(values, spec, is_pruned=is_pruned)
        _warn_of_clipping(target.name, values, grid, spec)
        rounded: tuple[Tensor, Grid] | str = ""
        if by_data:
            # Scales that somebody chose stay.
            has_choice = spec.scale == "error" and spec.group != "tensor"
            grids = [grid, *(grids_by_range(values, spec) if has_choice else ())]
            tuning = session.fine_tune
            rounded = rounded_by_data(session.model, target, grids, tuning.data, tuning.seed, is_pruned=is_pruned)
        if isinstance(rounded, str):
            found = round_to_grid(values, grid, is_pruned=is_pruned)
        else:
            found, grid = rounded
        session.apply(target, TensorRecord(is_pruned, grid=grid), found, starts_at_values=not isinstance(rounded, str))
        if isinstance(rounded, str) and rounded:
            session.leave_out({target.name: f"rounded to the nearest values: {rounded}"})
        return
    if spec.share < 1:
        raise CompressionError(
            f"{option('share', spec.share)} keeps single weights in half precision, but {target.name!r} shares its "
            f"values: quantize without {option('share=')}, or before clustering"
        )
    spec = replace(spec, group="tensor", is_turned=False)
    if is_satisfied and codebook.grid is not None and spec.matches(codebook.grid, values.numel()):
        return
    if not is_satisfied:
        without_grid = TensorRecord(is_pruned, codebook=Codebook(codebook.values))
        before, values = refit(values, without_grid, is_half=is_half)
    codebook, values = quantize_codebook(values, before, spec)
    session.apply(target, TensorRecord(is_pruned, codebook=codebook), values)


def _warn_of_clipping(name: str, values: Tensor, grid: Grid, spec: GridSpec) -> None:
    """Warn of weights beyond the codes of a factor of the user's own."""
    if isinstance(spec.scale, str):
        return
    scale, zero = grid.spread(tuple(values.shape), values.device)
    steps = torch.round(without(values, grid.in_half).to(torch.float32) / scale)
    n_beyond = int(((steps < -zero) | (steps > grid.n_codes - 1 - zero)).sum())
    if n_beyond:
        warn(
            f"scale={spec.scale:g} with {spec.bits} bits clips {n_beyond} of {values.numel()} weights of {name!r}: "
            "take a smaller factor or more bits",
            stacklevel=5,
        )


def _set_activations(session: CompressionSession, activations: str) -> None:
    """Record how the inputs of the chosen layers are read, and name those that stay in floating point."""
    layers = {target.name: list(layers_of(session.model, target)) for target in session.targets}
    names = [name for found in layers.values() for name in found]
    if activations == "none":
        session.set_activations({}, removed=names)
        return
    # An empty range stands for one that is measured at the end, with the final weights.
    how: ActivationRange | Literal["dynamic"] = "dynamic" if activations == "dynamic" else ActivationRange(0.0, 0.0)
    session.set_activations(dict.fromkeys(names, how))
    reasons = {}
    for target in session.targets:
        owner = session.model.get_submodule(target.name.rpartition(".")[0])
        if not layers[target.name] and not isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
            reasons[target.name] = f"its inputs stay in floating point: {why_no_layer(session.model, target)}"
    session.leave_out(reasons)


def _check_names(bits: Mapping[str, int], chosen: Collection[str]) -> None:
    for name in bits:
        if name not in chosen:
            raise CompressionError(
                f"{option('bits')} names {name!r}, which is no chosen weight.{did_you_mean(name, chosen)}"
            )
    missing = [name for name in chosen if name not in bits]
    if missing:
        raise CompressionError(
            f"{option('bits')} must name every chosen weight, but not {', '.join(missing[:4])}: "
            f"use {option('layers=')} too"
        )


def _grid_spec(bits: object, scheme: str, granularity: str, scale: object, share: float) -> GridSpec:
    if bits == "auto":
        raise CompressionError(
            f"{option('bits', 'auto')} needs the length of the file: call nbcompress.quantize with {option('budget=')}"
        )
    check_choice("scheme", scheme, ("symmetric", "affine"))
    if isinstance(scale, str):
        check_choice("scale", scale, SCALES)
    elif isinstance(scale, bool) or not isinstance(scale, Real) or not isfinite(scale) or scale <= 0:
        raise CompressionError(
            f"{option('scale')} must be one of {', '.join(SCALES)}, or a factor above 0, got {scale!r}"
        )
    n_bits = check_integer("bits", bits, 1, 8, error=CompressionError)
    if n_bits == 1 and scheme == "affine":
        raise CompressionError(
            f"one bit is sign * scale: {option('bits', 1)} needs {option('scheme', 'symmetric')}, got 'affine'"
        )
    if n_bits == 1 and not isinstance(scale, str):
        raise CompressionError(
            f"one bit is sign * scale: a factor needs {option('bits', 2)} or more, got {option('scale', scale)}"
        )
    return GridSpec(
        n_bits,
        cast(Literal["symmetric", "affine"], scheme),
        parse_granularity(granularity),
        cast(Literal["error", "absmax", "pow2"], scale) if isinstance(scale, str) else float(cast(float, scale)),
        share,
    )
