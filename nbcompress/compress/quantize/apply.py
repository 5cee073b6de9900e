"""Weights on a uniform grid of few bits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, cast

from torch import nn

from nbcompress.compress.grids.fit import Scheme, fit_grid, rounded
from nbcompress.compress.grids.groups import parse_granularity
from nbcompress.compress.keeping import keeps, kept_again, quantized_codebook
from nbcompress.compress.layers import Patterns
from nbcompress.compress.losses import LossFunction, LossSpec
from nbcompress.compress.modes import outside_inference
from nbcompress.compress.observing import layers_of, why_no_layer
from nbcompress.compress.options import check_choice, check_count
from nbcompress.compress.outputs import Output
from nbcompress.compress.record import ActivationRange, Codebook, TensorRecord
from nbcompress.compress.workpiece import Tuning, Workpiece
from nbcompress.errors import CompressionError, DataError, did_you_mean


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
        raise DataError("activations='static' measures ranges on data: pass data=, such as (inputs, labels)")
    work = Workpiece(model, layers, tuning)
    plans = dict.fromkeys((one.name for one in work.targets), default)
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
        raise CompressionError(f"bits must name every chosen weight, but not {', '.join(missing[:4])}: use layers= too")


def _scheme(bits: object, scheme: str, granularity: str, scale: str) -> Scheme:
    if bits == "auto":
        raise CompressionError("bits='auto' needs the length of the file: call nbcompress.quantize with budget=")
    check_choice("scheme", scheme, ("symmetric", "affine"))
    check_choice("scale", scale, ("error", "absmax"))
    n_bits = check_count("bits", bits, 1, 8)
    if n_bits == 1 and scheme == "affine":
        raise CompressionError("one bit is sign * scale: bits=1 needs scheme='symmetric', got 'affine'")
    return Scheme(
        n_bits,
        cast(Literal["symmetric", "affine"], scheme),
        parse_granularity(granularity),
        cast(Literal["error", "absmax"], scale),
    )


__all__ = ["quantize"]
