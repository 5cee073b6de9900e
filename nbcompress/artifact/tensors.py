"""One tensor in the stream: by its codes if a promise holds, else by its values."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nbcompress.artifact.adaptive import code_symbols
from nbcompress.artifact.coder import Bytes, Coder, Reader, Writer
from nbcompress.artifact.dtypes import bytes_of, tensor_of
from nbcompress.artifact.floats import code_values
from nbcompress.artifact.sparse import DENSE, FLAT, Mask, best_layout, code_layout, code_nonzero
from nbcompress.compress.codes import values_of
from nbcompress.compress.record import TensorRecord

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


__all__ = ["Codes", "n_codes", "read_codes", "read_values", "write_codes", "write_values", "zero_code"]
