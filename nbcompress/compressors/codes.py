"""The codes of weights on a grid or in a codebook, and the values that codes stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nbcompress.compressors.record import Codebook, Grid, TensorRecord, called
from nbcompress.errors import CompressionError

# Numbers that are worked on at a time (a heuristic: intermediate results take several times as much memory, and fewer
# of them fit into the caches of a processor better).
_PART = 1 << 17


def row_parts(tensor: Tensor, group: str | int) -> list[Tensor]:
    """Cut a tensor along axis 0 into parts of limited size that no group of weights reaches across."""
    if group == "tensor" or tensor.numel() <= _PART:
        return [tensor]
    return list(torch.split(tensor, max(1, _PART // max(1, tensor[0].numel()))))


def grid_parts(grid: Grid, parts: Sequence[Tensor]) -> list[Grid]:
    """The grid of each of the parts that `row_parts` gives; weights in half precision are left to the whole."""
    if len(parts) == 1:
        return [grid]
    counts = [grid.n_groups(tuple(part.shape)) for part in parts]
    pairs = zip(torch.split(grid.scale, counts), torch.split(grid.zero, counts), strict=True)
    return [replace(grid, scale=scale, zero=zero, in_half=None) for scale, zero in pairs]


def codes_of(tensor: Tensor, record: TensorRecord, name: str = "") -> Tensor:
    """Encode the values of a tensor that satisfies its constraint.

    Args:
        tensor: Values on the grid or in the codebook of `record`.
        record: A constraint with a grid (codes in `range(grid.n_codes)`) or a codebook (codes are positions in it).
        name: The parameter's name, for the text of an error.

    Returns:
        int32 codes of the shape and on the device of `tensor`; `values_of` gives `tensor` back, bit for bit, except for
        weights in half precision, whose code is that of zero. In bfloat16 two codes of a wide grid can have the same
        value; then either of them is returned.

    Raises:
        CompressionError: A value left its grid or codebook, or there is neither.
    """
    tensor = tensor.detach()
    if record.grid is not None and record.grid.in_half is not None:
        _check_half(tensor, record.grid.in_half, name)
        tensor = without(tensor, record.grid.in_half)
    if record.grid is not None and record.grid.is_turned:
        return codes_of(tensor.T, replace(record, grid=record.grid.of_transposed), name).T.contiguous()
    kind = "grid" if record.grid is not None else "codebook"
    group = "channel" if record.grid is None else record.grid.group
    parts = row_parts(tensor, group)
    grids: Sequence[Grid | None] = [None] * len(parts) if record.grid is None else grid_parts(record.grid, parts)
    codes = torch.empty(tensor.shape, dtype=torch.int32, device=tensor.device)
    n_wrong, first = 0, 0.0
    for part, its_codes, grid in zip(parts, row_parts(codes, group), grids, strict=True):
        its_record = record if grid is None or grid is record.grid else replace(record, grid=grid)
        its_codes.copy_(_codes_of_part(part, its_record, name))
        wrong = values_of(its_codes, its_record, tensor.dtype) != part
        if bool(wrong.any()):
            first = first if n_wrong else part[wrong][0].item()
            n_wrong += int(wrong.sum())
    if n_wrong:
        raise CompressionError(
            f"{called(name)} must keep to its {kind}, but {n_wrong} of {tensor.numel()} values left it, the first "
            f"is {first:.6g}: change weights with finetune(), which keeps it, or compress again"
        )
    return codes


def _codes_of_part(tensor: Tensor, record: TensorRecord, name: str) -> Tensor:
    if record.grid is not None:
        return _grid_codes(tensor, record.grid)
    if record.codebook is not None:
        return _codebook_codes(tensor, record.codebook)
    raise CompressionError(f"{called(name)} has neither a grid nor a codebook, so it has no codes")


def without(tensor: Tensor, positions: Tensor | None) -> Tensor:
    """Return `tensor` with zeros at flat `positions`: a copy, or itself if there are none."""
    if positions is None:
        return tensor
    copy = tensor.detach().clone(memory_format=torch.contiguous_format)
    copy.view(-1)[positions.to(copy.device)] = 0
    return copy


def _check_half(tensor: Tensor, positions: Tensor, name: str) -> None:
    values = tensor.reshape(-1)[positions.to(tensor.device)]
    if values.dtype in (torch.float32, torch.float64):
        n_wrong = int((values.to(torch.float16).to(values.dtype) != values).sum())
        if n_wrong:
            raise CompressionError(
                f"{called(name)} must keep {len(values)} weights in half precision, but {n_wrong} of them have more "
                "digits now: change weights with finetune(), which keeps it, or compress again"
            )


def values_of(codes: Tensor, record: TensorRecord, dtype: torch.dtype) -> Tensor:
    """Decode `codes` (any integer dtype) by the grid or the codebook of `record` into values of `dtype`.

    Raises:
        CompressionError: There is neither a grid nor a codebook.
    """
    if record.grid is None and record.codebook is None:
        raise CompressionError("a tensor without grid and codebook has no codes")
    if record.grid is not None and record.grid.is_turned:
        return values_of(codes.T, replace(record, grid=record.grid.of_transposed), dtype).T.contiguous()
    group = "channel" if record.grid is None else record.grid.group
    parts, values = row_parts(codes, group), torch.empty(codes.shape, dtype=dtype, device=codes.device)
    if record.grid is not None:
        for part, decoded, grid in zip(parts, row_parts(values, group), grid_parts(record.grid, parts), strict=True):
            decoded.copy_(grid.values(part))
    elif record.codebook is not None:
        shared = record.codebook.values.to(codes.device)
        for part, decoded in zip(parts, row_parts(values, group), strict=True):
            decoded.copy_(shared[part.long()])
    return values


def satisfies(tensor: Tensor, constraint: TensorRecord) -> bool:
    """Whether the values of `tensor` lie on the grid or in the codebook of `constraint`, if it has any."""
    codebook = constraint.codebook
    try:
        if constraint.grid is not None or codebook is not None:
            codes_of(tensor, constraint)
        if codebook is not None and codebook.grid is not None:
            codes_of(codebook.values.to(tensor.dtype), TensorRecord(grid=codebook.grid))
    except CompressionError:
        return False
    return True


def _grid_codes(tensor: Tensor, grid: Grid) -> Tensor:
    scale, zero = grid.spread(tuple(tensor.shape), tensor.device)
    # NaN has no integer. It gets the code of zero here, and the caller sees that the value differs.
    steps = torch.round(tensor.to(torch.float32).nan_to_num(0.0) / scale).to(torch.int32)
    codes = (steps + zero).clamp_(0, grid.n_codes - 1)
    if tensor.dtype in (torch.float32, torch.float64):
        return codes
    # In 16 bits a value can be half a step away from its code, so the neighbours are tried too.
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
