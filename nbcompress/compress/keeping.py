"""Promises that hold again after weights were changed by other means, such as a training loop of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from nbcompress.compress.cluster.apply import fit_codebook, nearest_values
from nbcompress.compress.codes import codes_of
from nbcompress.compress.grids.fit import Scheme, fit_grid, rounded
from nbcompress.compress.layers import Target
from nbcompress.compress.record import Codebook, TensorRecord
from nbcompress.compress.workpiece import Workpiece
from nbcompress.errors import CompressionError


def keeps(tensor: Tensor, promise: TensorRecord) -> bool:
    """Whether the values of `tensor` still lie on the grid or in the codebook of `promise`, if it has any."""
    codebook = promise.codebook
    try:
        if promise.grid is not None or codebook is not None:
            codes_of(tensor, promise)
        if codebook is not None and codebook.grid is not None:
            codes_of(codebook.values.to(tensor.dtype), TensorRecord(grid=codebook.grid))
    except CompressionError:
        return False
    return True


def kept_again(tensor: Tensor, promise: TensorRecord, *, is_half: bool) -> tuple[TensorRecord, Tensor]:
    """A promise of the kind of `promise`, fitted to `tensor` as it is now, and the values that keep it.

    Args:
        tensor: Values that left their grid or codebook.
        promise: What was promised of them.
        is_half: Shared values are rounded to half precision.
    """
    grid, codebook = promise.grid, promise.codebook
    if grid is not None:
        grid = fit_grid(tensor, Scheme(grid.bits, grid.scheme, grid.group), is_pruned=promise.is_pruned)
        return replace(promise, grid=grid), rounded(tensor, grid, is_pruned=promise.is_pruned)
    if codebook is None:
        return promise, tensor.detach()
    # Zero is one of the values of a pruned tensor, also while none of its weights is zero.
    fitted = fit_codebook(tensor, len(codebook.values), promise.is_pruned, is_half=is_half)
    values = nearest_values(tensor, fitted, promise.is_pruned)
    record = replace(promise, codebook=fitted)
    if codebook.grid is not None:
        scheme = Scheme(codebook.grid.bits, codebook.grid.scheme, "tensor")
        on_grid, values = quantized_codebook(values, record, scheme)
        record = replace(promise, codebook=on_grid)
    return record, values


def keep_again_(work: Workpiece, targets: Iterable[Target]) -> None:
    """Let every one of `targets` in `work` keep what was promised of it, fitted anew where its values left it."""
    for target in targets:
        promise = work.record_of(target)
        if not keeps(target.parameter, promise):
            work.put(target, *kept_again(target.parameter, promise, is_half=work.record.rest == "float16"))


def quantized_codebook(tensor: Tensor, record: TensorRecord, plan: Scheme) -> tuple[Codebook, Tensor]:
    """Round the shared values of a clustered tensor to a grid of one group.

    Returns:
        The new codebook, in which equal values are one, and the tensor's new values.
    """
    if record.codebook is None:
        raise CompressionError("a tensor without a codebook has no shared values to quantize")
    codes = codes_of(tensor, record).long()
    values = record.codebook.values
    grid = fit_grid(tensor, replace(plan, group="tensor"), is_pruned=record.is_pruned)
    snapped = rounded(values.to(tensor.dtype), grid, is_pruned=record.is_pruned)
    return Codebook(torch.unique(snapped.to(torch.float32)), grid), snapped.to(tensor.device)[codes]


__all__ = ["keep_again_", "keeps", "kept_again", "quantized_codebook"]
