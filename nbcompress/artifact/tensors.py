"""One tensor in the stream: by its codes if a promise holds, else by its values.

The promises of tensors in the stream: scales, zeros and shared values.
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
    Mask,
    Reader,
    Writer,
    best_layout,
    code_layout,
    code_nonzero,
    code_symbols,
    code_values,
)
from nbcompress.artifact.header import Entry, GridHead, bytes_of, tensor_of
from nbcompress.compressors.record import Codebook, Grid, TensorRecord, codes_of, values_of
from nbcompress.errors import ArtifactError, CompressionError


def write_promise(writer: Writer, promise: TensorRecord, dtype: torch.dtype) -> None:
    """Write what the header does not say of a promise that has a grid or a codebook, for a tensor of `dtype`."""
    codebook = promise.codebook
    grid = promise.grid if codebook is None else codebook.grid
    if grid is not None:
        _code_floats(writer, grid.scale, len(grid.scale))
        _code_zeros(writer, grid.zero, len(grid.zero), grid_head(grid))
    if codebook is not None and grid is None:
        _code_floats(writer, codebook.values, len(codebook.values))
    elif codebook is not None:
        codes = codes_of(codebook.values.to(dtype), TensorRecord(grid=grid))
        code_symbols(writer, codes.numpy(), len(codes), grid.n_codes if grid else 0)


def read_promise(reader: Reader, entry: Entry) -> TensorRecord:
    """Read the promise of the tensor of `entry`, whose shape was checked against the instance before.

    Raises:
        ArtifactError: The numbers cannot be a grid or a codebook.
    """
    head = entry.grid
    try:
        # The values of a codebook are one group, whatever the tensor's shape.
        grid = None if head is None else _read_grid(reader, head, () if entry.n_values else entry.shape)
        if not entry.n_values:
            return TensorRecord(entry.is_pruned, grid)
        if head is None:
            values = _code_floats(reader, None, entry.n_values)
        else:
            codes = code_symbols(reader, None, entry.n_values, head.n_codes).astype(np.int32)
            # Shared values are such as the tensor can hold, on the grid up to the rounding of its dtype.
            values = values_of(torch.from_numpy(codes), TensorRecord(grid=grid), entry.dtype).to(torch.float32)
        return TensorRecord(entry.is_pruned, None, Codebook(values, grid))
    except CompressionError as err:
        raise ArtifactError(f"the file is damaged: {err}") from err


def grid_head(grid: Grid) -> GridHead:
    """The part of a grid that the header says."""
    return GridHead(grid.bits, grid.scheme, grid.group)


def _read_grid(reader: Reader, head: GridHead, shape: tuple[int, ...]) -> Grid:
    # A grid of one scale knows how many codes and groups its kind has.
    scale = torch.from_numpy(np.ones(1, dtype=np.float32))
    one = Grid(head.bits, head.scheme, head.group, scale, torch.from_numpy(np.full(1, _middle(head), dtype=np.int32)))
    if head.group != "tensor" and not shape:
        raise ArtifactError("the file is damaged: a grid by channel of what has no channels")
    n_groups = one.n_groups(shape)
    scale = _code_floats(reader, None, n_groups)
    zero = _code_zeros(reader, None, n_groups, head)
    return Grid(head.bits, head.scheme, head.group, scale, zero)


def _middle(head: GridHead) -> int:
    return (head.n_codes - 1) // 2


def _code_floats(coder: Coder, numbers: Tensor | None, n: int) -> Tensor:
    data = code_values(coder, None if numbers is None else bytes_of(numbers), n, torch.float32)
    return tensor_of(data, (n,), torch.float32)


def _code_zeros(coder: Coder, zeros: Tensor | None, n: int, head: GridHead) -> Tensor:
    least, n_kinds = 0, head.n_codes
    if head.scheme == "symmetric":
        least, n_kinds = _middle(head), 1 + head.has_sides
    found = code_symbols(coder, None if zeros is None else (zeros - least).numpy(), n, n_kinds)
    return torch.from_numpy(found.astype(np.int32)) + least


Codes = NDArray[Any]
# The code of the value zero: one for all entries, one for each, or None where no code stands for zero.
Zero = int | NDArray[np.int32] | None


def write_values(writer: Writer, tensor: Tensor) -> None:
    """Write the values of `tensor`, bit for bit."""
    data, shape = bytes_of(tensor), tuple(tensor.shape)
    nonzero = _nonzero(data)

    def write(coder: Coder, layout: int) -> None:
        _code_values(coder, data, nonzero, layout, shape, tensor.dtype)

    layout = best_layout(nonzero, shape, FLAT, write) if len(data) else DENSE
    code_layout(writer, layout)
    write(writer, layout)


def read_values(reader: Reader, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Read what `write_values` wrote."""
    layout = code_layout(reader, None)
    return tensor_of(_code_values(reader, None, None, layout, shape, dtype), shape, dtype)


def write_codes(writer: Writer, codes: Codes, shape: tuple[int, ...], promise: TensorRecord) -> None:
    """Write the flat codes of a tensor of `shape` that keeps the grid or codebook of `promise`."""
    codes = _turned(codes, promise, shape)
    n_kinds, zero = n_codes(promise), zero_code(promise, shape)
    nonzero = np.ones(len(codes), dtype=np.bool_) if zero is None else codes != zero

    def write(coder: Coder, layout: int) -> None:
        _code_codes(coder, codes, nonzero, layout, shape, n_kinds, zero)

    # Where groups have different codes for zero, many zeros are not one frequent code.
    usual = FLAT if isinstance(zero, np.ndarray) else DENSE
    layout = best_layout(nonzero, shape, usual, write) if len(codes) else DENSE
    code_layout(writer, layout)
    write(writer, layout)


def read_codes(
    reader: Reader, shape: tuple[int, ...], dtype: torch.dtype, promise: TensorRecord, *, is_balanced: bool = False
) -> Tensor:
    """Read what `write_codes` wrote, as values of `dtype`; or, balanced, what that of versions 1 and 2 did."""
    layout = code_layout(reader, None)
    n_kinds, zero = n_codes(promise) - is_balanced, zero_code(promise, shape)
    if is_balanced:
        zero = n_kinds // 2
    codes = _code_codes(reader, None, None, layout, shape, n_kinds, zero).astype(np.int32)
    if not is_balanced:
        codes = _turned(codes, promise, shape)
    return values_of(torch.from_numpy(codes).reshape(shape), promise, dtype)


def n_codes(promise: TensorRecord) -> int:
    """Size of the alphabet of a promise."""
    if promise.grid is not None:
        return promise.grid.n_codes
    return len(promise.codebook.values) if promise.codebook is not None else 0


def zero_code(promise: TensorRecord, shape: tuple[int, ...]) -> Zero:
    """The code of the value zero in a tensor of `shape`, symmetric grids all turned to one side."""
    if promise.grid is not None:
        if promise.grid.scheme == "symmetric":
            return promise.grid.n_codes // 2
        spread = promise.grid.spread(shape)[1].numpy()
        return np.ascontiguousarray(np.broadcast_to(spread, shape)).reshape(-1)
    if promise.codebook is None:
        return None
    places = torch.nonzero(promise.codebook.values == 0)
    return int(places[0]) if len(places) else None


def _turned(codes: Codes, promise: TensorRecord, shape: tuple[int, ...]) -> Codes:
    """Flat codes of a symmetric grid, mirrored where it has one code more above zero; all others as they are.

    So zero has the same code in all groups, and the one code more has the same one too. Its own inverse.
    """
    grid = promise.grid
    if grid is None or grid.scheme == "affine" or bool((grid.zero == grid.n_codes // 2).all()):
        return codes
    zero = np.broadcast_to(grid.spread(shape)[1].numpy(), shape).reshape(-1)
    turned: Codes = np.where(zero == grid.n_codes // 2, codes, grid.n_codes - 1 - codes).astype(codes.dtype)
    return turned


def _nonzero(data: Bytes) -> Mask:
    width = data.shape[1]
    if width > 8:
        found: Mask = np.any(data, axis=1)
        return found
    whole: NDArray[np.unsignedinteger[Any]] = np.ascontiguousarray(data).view(f"u{width}").reshape(-1)
    nonzero: Mask = np.not_equal(whole, 0)
    return nonzero


def _code_values(
    coder: Coder, data: Bytes | None, nonzero: Mask | None, layout: int, shape: tuple[int, ...], dtype: torch.dtype
) -> Bytes:
    n = prod(shape)
    if layout == DENSE:
        return code_values(coder, data, n, dtype)
    where = code_nonzero(coder, nonzero, layout, shape)
    given = None if data is None else data[where]
    inner = code_values(coder, given, int(np.count_nonzero(where)), dtype)
    found = np.zeros((n, inner.shape[1]), dtype=np.uint8)
    found[where] = inner
    return found


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
    where = code_nonzero(coder, nonzero, layout, shape)
    # Zero is not among what is coded now, so the codes above it move down by one.
    here = zero[where] if isinstance(zero, np.ndarray) else zero
    given = None if codes is None else codes[where]
    if given is not None:
        given = given - (given > here)
    inner = code_symbols(coder, given, int(np.count_nonzero(where)), max(1, n_kinds - 1)).astype(np.int32)
    found = np.empty(n, dtype=np.int32)
    found[:] = zero
    found[where] = inner + (inner >= here)
    return found
