"""Weights on a uniform grid of few bits."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from nbcompress.compress.codes import codes_of
from nbcompress.compress.grids.fit import Scheme, fit_grid, rounded
from nbcompress.compress.grids.groups import parse_granularity
from nbcompress.compress.layers import Patterns
from nbcompress.compress.options import check_choice, check_count
from nbcompress.compress.record import Codebook, TensorRecord
from nbcompress.compress.workpiece import Tuning, Workpiece
from nbcompress.errors import CompressionError


def quantize(
    model: nn.Module,
    bits: int = 8,
    *,
    scheme: Literal["symmetric", "affine"] = "symmetric",
    granularity: str = "channel",
    scale: Literal["error", "absmax"] = "error",
    rest: Literal["float16", "float32"] = "float16",
    layers: Patterns = None,
    data: object = None,
    finetune: int = 0,
    lr: float = 1e-3,
    seed: int = 0,
) -> nn.Module:
    """Return a copy of `model` whose weights lie on uniform grids: `(code - zero) * scale`.

    Args:
        model: Any module; it stays as it is.
        bits: 1 to 8. One bit is sign times mean magnitude; two symmetric bits are the three values -s, 0, s.
        scheme: `symmetric` has as many values below zero as above (`2^bits - 1` in all), `affine` places
            `2^bits` values where the weights are. Both hold zero.
        granularity: What shares a scale: `channel` (along axis 0), `tensor`, or `group:N` consecutive weights of a
            channel.
        scale: `error` searches for the scale of least squared error, which clips outliers where that pays (far
            better below 5 bits), `absmax` spans the largest weight.
        rest: `float16` rounds everything else (biases, norms, stored buffers) to half precision in the model.
        layers: Shell patterns on dotted module names.
        data: For fine-tuning.
        finetune: Epochs of quantization-aware training, from the weights as they are before rounding: gradients
            pass straight through the rounding, and scales follow the weights.
        lr: Step size of fine-tuning (Adam).
        seed: Of fine-tuning.

    Returns:
        A copy with the promise that every chosen tensor keeps to its grid. Zeros of a pruned tensor stay zeros. Of a
        clustered tensor, the shared values are rounded to a grid of one group. A tensor on such a grid already
        (same bits, scheme and granularity) stays as it is.

    Raises:
        CompressionError: An option or a weight makes no sense, or fine-tuning diverges.
        LayerNotFound: `layers` matches nothing.
        DataError: Fine-tuning is asked for without data, or with data that does not fit.

    References:
        Jacob et al. (2018), "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", sections 2.1 and 3 (grid, straight-through training).
    """
    plan = _check(bits, scheme, granularity, scale)
    check_choice("rest", rest, ("float16", "float32"))
    work = Workpiece(model, layers, Tuning(data, finetune, lr, seed))
    for target in work.targets:
        before = work.record_of(target)
        if before.codebook is not None:
            if before.codebook.grid is None or not _codebook_plan(plan).is_that_of(before.codebook.grid):
                codebook, values = quantized_codebook(target.parameter, before, plan)
                work.put(target, TensorRecord(before.is_pruned, codebook=codebook), values)
        elif before.grid is None or not plan.is_that_of(before.grid):
            grid = fit_grid(target.parameter, plan, is_pruned=before.is_pruned)
            values = rounded(target.parameter, grid, is_pruned=before.is_pruned)
            work.put(target, TensorRecord(before.is_pruned, grid=grid), values)
    work.round_rest(rest)
    return work.finished()


def quantized_codebook(tensor: Tensor, record: TensorRecord, plan: Scheme) -> tuple[Codebook, Tensor]:
    """Round the shared values of a clustered tensor to a grid of one group.

    Returns:
        The new codebook, in which equal values are one, and the tensor's new values.
    """
    if record.codebook is None:
        raise CompressionError("a tensor without a codebook has no shared values to quantize")
    codes = codes_of(tensor, record).long()
    values = record.codebook.values
    counts = torch.bincount(codes.flatten(), minlength=len(values)).cpu()
    grid = fit_grid(values.to(tensor.dtype), _codebook_plan(plan), is_pruned=record.is_pruned, counts=counts)
    snapped = rounded(values.to(tensor.dtype), grid, is_pruned=record.is_pruned)
    return Codebook(torch.unique(snapped.to(torch.float32)), grid), snapped.to(tensor.device)[codes]


def _codebook_plan(plan: Scheme) -> Scheme:
    return Scheme(plan.bits, plan.scheme, "tensor", plan.scale)


def _check(bits: object, scheme: str, granularity: str, scale: str) -> Scheme:
    if bits == "auto":
        raise CompressionError("bits='auto' is not built yet: choose 1 to 8, or search over Choice(2, 4, 8)")
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


__all__ = ["quantize", "quantized_codebook"]
