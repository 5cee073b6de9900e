"""The promises of tensors in the stream: scales, zeros and shared values."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nbcompress.artifact.adaptive import code_symbols
from nbcompress.artifact.coder import Coder, Reader, Writer
from nbcompress.artifact.dtypes import bytes_of, tensor_of
from nbcompress.artifact.floats import code_values
from nbcompress.artifact.header import Entry, GridHead
from nbcompress.compress.codes import codes_of, values_of
from nbcompress.compress.record import Codebook, Grid, TensorRecord
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


__all__ = ["grid_head", "read_promise", "write_promise"]
