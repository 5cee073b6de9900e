"""Between the values of a promised tensor and their codes, exactly, both ways."""

from __future__ import annotations

import torch
from torch import Tensor

from nbcompress.compress.record import Codebook, Grid, TensorRecord
from nbcompress.errors import CompressionError


def codes_of(tensor: Tensor, record: TensorRecord, name: str = "") -> Tensor:
    """The codes whose values `tensor` holds.

    Args:
        tensor: Values that were promised to lie on the grid or in the codebook of `record`.
        record: With a grid (codes in `range(grid.n_codes)`) or a codebook (codes are positions in its values).
        name: The parameter's name, for the error text.

    Returns:
        int32 codes of the shape and on the device of `tensor`; `values_of` gives `tensor` back, bit for bit.
        In bfloat16 two codes of a wide grid can share one value; then either of them is returned.

    Raises:
        CompressionError: A value left its grid or codebook, or nothing was promised.
    """
    tensor = tensor.detach()
    if record.grid is not None:
        codes, promise = _grid_codes(tensor, record.grid), "grid"
    elif record.codebook is not None:
        codes, promise = _codebook_codes(tensor, record.codebook), "codebook"
    else:
        raise CompressionError(f"{_called(name)} has neither a grid nor a codebook, so it has no codes")
    wrong = values_of(codes, record, tensor.dtype) != tensor
    n_wrong = int(wrong.sum())
    if n_wrong:
        raise CompressionError(
            f"{_called(name)} must keep to its {promise}, but {n_wrong} of {tensor.numel()} values left it, the first "
            f"is {tensor[wrong][0].item():.6g}: change weights with finetune(), which keeps promises, or compress again"
        )
    return codes


def values_of(codes: Tensor, record: TensorRecord, dtype: torch.dtype) -> Tensor:
    """Decode `codes` (any integer dtype) by the grid or the codebook of `record` into values of `dtype`."""
    if record.grid is not None:
        return record.grid.values(codes).to(dtype)
    if record.codebook is None:
        raise CompressionError("a tensor without grid and codebook has no codes")
    values: Tensor = record.codebook.values.to(codes.device)[codes.long()]
    return values.to(dtype)


def _called(name: str) -> str:
    return f"parameter {name!r}" if name else "the tensor"


def _grid_codes(tensor: Tensor, grid: Grid) -> Tensor:
    scale, zero = grid.spread(tuple(tensor.shape), tensor.device)
    # NaN has no integer; it becomes code 0 here and is told from its value by the caller.
    steps = torch.round(tensor.to(torch.float32).nan_to_num(0.0) / scale).to(torch.int32)
    codes = (steps + zero).clamp_(0, grid.n_codes - 1)
    if tensor.dtype in (torch.float32, torch.float64):
        return codes
    # In 16 bits a value can lie half a step off its code; the neighbours are tried too.
    for shift in (-1, 1):
        wrong = grid.values(codes).to(tensor.dtype) != tensor
        if not bool(wrong.any()):
            break
        other = (steps + zero + shift).clamp_(0, grid.n_codes - 1)
        better = wrong & (grid.values(other).to(tensor.dtype) == tensor)
        codes = torch.where(better, other, codes)
    return codes


def _codebook_codes(tensor: Tensor, codebook: Codebook) -> Tensor:
    values = codebook.values.to(tensor.device)
    found = torch.searchsorted(values, tensor.to(torch.float32).contiguous(), out_int32=True)
    return found.clamp_(max=len(values) - 1)


__all__ = ["codes_of", "values_of"]
