"""One tensor in the coded part of a file.

A tensor with a grid or a codebook (its `TensorRecord`) is stored as its encoding (scales, zeros, shared values) and the
code of each number. Any other tensor is stored as its values, bit for bit.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nbcompress.artifact.entropy import (
    DENSE,
    FLAT,
    Bytes,
    Coder,
    EntropyDecoder,
    EntropyEncoder,
    Mask,
    best_layout,
    code_layout,
    code_nonzero,
    code_symbols,
    code_values,
)
from nbcompress.artifact.header import GridHeader, TensorEntry, bytes_of, tensor_of
from nbcompress.compressors.codes import codes_of, values_of
from nbcompress.compressors.record import Codebook, Grid, TensorRecord
from nbcompress.errors import ArtifactError, CompressionError

Codes = NDArray[Any]
# The code of the value zero: one for all numbers, one for each number, or None where no code stands for zero.
Zero = int | NDArray[np.int32] | None


# ---- The encoding: scales, zeros and shared values ----


def write_encoding(encoder: EntropyEncoder, record: TensorRecord, dtype: torch.dtype, n_weights: int) -> None:
    """Write what the header does not say about the grid or codebook of a tensor of `n_weights` of `dtype`."""
    codebook = record.codebook
    grid = record.grid if codebook is None else codebook.grid
    if grid is not None:
        _code_floats(encoder, grid.scale, len(grid.scale))
        _code_zeros(encoder, grid.zero, len(grid.zero), grid_header(grid))
        if grid.in_half is not None:
            marked = np.zeros(n_weights, dtype=np.uint8)
            marked[grid.in_half.numpy()] = 1
            code_symbols(encoder, marked, n_weights, 2)
    if codebook is not None and grid is None:
        _code_floats(encoder, codebook.values, len(codebook.values))
    elif codebook is not None:
        codes = codes_of(codebook.values.to(dtype), TensorRecord(grid=grid))
        code_symbols(encoder, codes.numpy(), len(codes), grid.n_codes if grid else 0)


def read_encoding(decoder: EntropyDecoder, entry: TensorEntry) -> TensorRecord:
    """Read what `write_encoding` wrote.

    Call it only after the shape of `entry` was checked against an instance: the shape bounds what is allocated.

    Raises:
        ArtifactError: The numbers cannot be a grid or a codebook.
    """
    header = entry.grid
    try:
        # The values of a codebook are one group, whatever the shape of the tensor.
        grid = None if header is None else _read_grid(decoder, header, () if entry.n_values else entry.shape)
        if not entry.n_values:
            return TensorRecord(entry.is_pruned, grid)
        if header is None:
            values = _code_floats(decoder, None, entry.n_values)
        else:
            codes = code_symbols(decoder, None, entry.n_values, header.n_codes).astype(np.int32)
            # Shared values are rounded to the dtype of the tensor, as its numbers are.
            values = values_of(torch.from_numpy(codes), TensorRecord(grid=grid), entry.dtype).to(torch.float32)
        return TensorRecord(entry.is_pruned, None, Codebook(values, grid))
    except CompressionError as err:
        raise ArtifactError(f"the file is damaged: {err}") from err


def grid_header(grid: Grid) -> GridHeader:
    """Return what the header says about a grid."""
    n_in_half = 0 if grid.in_half is None else len(grid.in_half)
    return GridHeader(
        grid.bits, grid.scheme, grid.group, is_fixed=grid.is_fixed, n_in_half=n_in_half, is_turned=grid.is_turned
    )


def _read_grid(decoder: EntropyDecoder, header: GridHeader, shape: tuple[int, ...]) -> Grid:
    # A grid of one group is made first, because it can tell the number of groups.
    scale = torch.from_numpy(np.ones(1, dtype=np.float32))
    zero = torch.from_numpy(np.full(1, _middle(header), dtype=np.int32))
    template = Grid(header.bits, header.scheme, header.group, scale, zero, is_turned=header.is_turned)
    if header.group != "tensor" and not shape:
        raise ArtifactError("the file is damaged: a grid by channel of what has no channels")
    n_groups = template.n_groups(shape)
    scale = _code_floats(decoder, None, n_groups)
    zero = _code_zeros(decoder, None, n_groups, header)
    in_half = None
    if header.n_in_half:
        marked = code_symbols(decoder, None, prod(shape), 2)
        in_half = torch.from_numpy(np.flatnonzero(marked).astype(np.int64))
        if len(in_half) != header.n_in_half:
            raise ArtifactError("the file is damaged: weights in half precision are not as many as its header says")
    return Grid(header.bits, header.scheme, header.group, scale, zero, header.is_fixed, in_half, header.is_turned)


def write_half(encoder: EntropyEncoder, tensor: Tensor, positions: Tensor) -> None:
    """Write the values of the weights of `tensor` that are in half precision, at flat `positions`."""
    values = tensor.detach().reshape(-1)[positions.to(tensor.device)]
    code_values(encoder, bytes_of(values), len(values), values.dtype)


def read_half_(decoder: EntropyDecoder, tensor: Tensor, positions: Tensor) -> None:
    """Read what `write_half` wrote into `tensor`, in place."""
    values = tensor_of(code_values(decoder, None, len(positions), tensor.dtype), (len(positions),), tensor.dtype)
    tensor.view(-1)[positions] = values


def _middle(header: GridHeader) -> int:
    return (header.n_codes - 1) // 2


def _code_floats(coder: Coder, numbers: Tensor | None, n: int) -> Tensor:
    data = code_values(coder, None if numbers is None else bytes_of(numbers), n, torch.float32)
    return tensor_of(data, (n,), torch.float32)


def _code_zeros(coder: Coder, zeros: Tensor | None, n: int, header: GridHeader) -> Tensor:
    lowest, n_kinds = 0, header.n_codes
    if header.scheme == "symmetric":
        lowest, n_kinds = _middle(header), 1 + header.has_sides
    offsets = code_symbols(coder, None if zeros is None else (zeros - lowest).numpy(), n, n_kinds)
    return torch.from_numpy(offsets.astype(np.int32)) + lowest


# ---- Values, bit for bit ----


def write_values(encoder: EntropyEncoder, tensor: Tensor) -> None:
    """Write the values of `tensor`, bit for bit."""
    data, shape = bytes_of(tensor), tuple(tensor.shape)
    nonzero = _nonzero(data)

    def encode(coder: Coder, layout: int) -> None:
        _code_values(coder, data, nonzero, layout, shape, tensor.dtype)

    layout = best_layout(nonzero, shape, FLAT, encode) if len(data) else DENSE
    code_layout(encoder, layout)
    encode(encoder, layout)


def read_values(decoder: EntropyDecoder, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Read what `write_values` wrote."""
    layout = code_layout(decoder, None)
    return tensor_of(_code_values(decoder, None, None, layout, shape, dtype), shape, dtype)


def _nonzero(data: Bytes) -> Mask:
    """Which rows of `data` have a byte that is not zero; a negative zero counts as non-zero."""
    width = data.shape[1]
    if width > 8:
        wide: Mask = np.any(data, axis=1)
        return wide
    integers: NDArray[np.unsignedinteger[Any]] = np.ascontiguousarray(data).view(f"u{width}").reshape(-1)
    nonzero: Mask = np.not_equal(integers, 0)
    return nonzero


def _code_values(
    coder: Coder, data: Bytes | None, nonzero: Mask | None, layout: int, shape: tuple[int, ...], dtype: torch.dtype
) -> Bytes:
    n = prod(shape)
    if layout == DENSE:
        return code_values(coder, data, n, dtype)
    nonzero = code_nonzero(coder, nonzero, layout, shape)
    inner = code_values(coder, None if data is None else data[nonzero], int(np.count_nonzero(nonzero)), dtype)
    coded = np.zeros((n, inner.shape[1]), dtype=np.uint8)
    coded[nonzero] = inner
    return coded


# ---- Codes ----


def write_codes(encoder: EntropyEncoder, codes: Codes, shape: tuple[int, ...], record: TensorRecord) -> None:
    """Write the flat codes of a tensor of `shape` with the grid or codebook of `record`."""
    codes = _mirrored(codes, record, shape)
    n_kinds, zero = n_codes(record), zero_code(record, shape)
    nonzero = np.ones(len(codes), dtype=np.bool_) if zero is None else codes != zero

    def encode(coder: Coder, layout: int) -> None:
        _code_codes(coder, codes, nonzero, layout, shape, n_kinds, zero)

    # If groups have different codes for zero, many zeros are not one frequent code.
    default = FLAT if isinstance(zero, np.ndarray) else DENSE
    layout = best_layout(nonzero, shape, default, encode) if len(codes) else DENSE
    code_layout(encoder, layout)
    encode(encoder, layout)


def read_codes(
    decoder: EntropyDecoder,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    record: TensorRecord,
    *,
    is_balanced: bool = False,
) -> Tensor:
    """Read what `write_codes` wrote, as values of `dtype`.

    Args:
        decoder: Of the coded part.
        shape: Of the tensor.
        dtype: Of the tensor.
        record: Its grid or codebook.
        is_balanced: Whether the codes are those of a grid of file versions 1 and 2, see `GridHeader`.
    """
    layout = code_layout(decoder, None)
    n_kinds, zero = n_codes(record) - is_balanced, zero_code(record, shape)
    if is_balanced:
        zero = n_kinds // 2
    codes = _code_codes(decoder, None, None, layout, shape, n_kinds, zero)
    if not is_balanced:
        codes = _mirrored(codes, record, shape)
    return values_of(torch.from_numpy(codes).reshape(shape), record, dtype)


def n_codes(record: TensorRecord) -> int:
    """Number of codes of a grid or codebook; 0 without either."""
    if record.grid is not None:
        return record.grid.n_codes
    return len(record.codebook.values) if record.codebook is not None else 0


def zero_code(record: TensorRecord, shape: tuple[int, ...]) -> Zero:
    """The code of the value zero in a tensor of `shape`, after `_mirrored` for symmetric grids."""
    if record.grid is not None:
        if record.grid.scheme == "symmetric":
            return record.grid.n_codes // 2
        spread = record.grid.spread(shape)[1].numpy()
        return np.ascontiguousarray(np.broadcast_to(spread, shape)).reshape(-1)
    if record.codebook is None:
        return None
    indices = torch.nonzero(record.codebook.values == 0)
    return int(indices[0]) if len(indices) else None


def _mirrored(codes: Codes, record: TensorRecord, shape: tuple[int, ...]) -> Codes:
    """Flat codes of a symmetric grid, mirrored in groups that have the extra code above zero; other codes unchanged.

    After this, zero has the same code in all groups, and so has the extra code. The function is its own inverse.
    """
    grid = record.grid
    if grid is None or grid.scheme == "affine" or bool((grid.zero == grid.n_codes // 2).all()):
        return codes
    zero = np.broadcast_to(grid.spread(shape)[1].numpy(), shape).reshape(-1)
    mirrored: Codes = np.where(zero == grid.n_codes // 2, codes, grid.n_codes - 1 - codes).astype(codes.dtype)
    return mirrored


def _code_codes(
    coder: Coder,
    codes: Codes | None,
    nonzero: Mask | None,
    layout: int,
    shape: tuple[int, ...],
    n_kinds: int,
    zero: Zero,
) -> Codes:
    n = prod(shape)
    if layout == DENSE or zero is None:
        return code_symbols(coder, codes, n, n_kinds)
    nonzero = code_nonzero(coder, nonzero, layout, shape)
    # Only non-zeros are coded now, so the codes above that of zero move down by one.
    zero_here = zero[nonzero] if isinstance(zero, np.ndarray) else zero
    inner = None if codes is None else codes[nonzero]
    if inner is not None:
        inner = inner - (inner > zero_here)
    inner = code_symbols(coder, inner, int(np.count_nonzero(nonzero)), max(1, n_kinds - 1)).astype(np.int32)
    coded = np.empty(n, dtype=np.int32)
    coded[:] = zero
    coded[nonzero] = inner + (inner >= zero_here)
    return coded
