"""The kinds of numbers that a file can hold, and tensors as bytes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nbcompress.artifact.coder import Bytes

# The place in this row is what the file stores: append, never insert.
DTYPES: tuple[torch.dtype, ...] = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def bytes_of(tensor: Tensor) -> Bytes:
    """The bytes of `tensor`, on any device and of any strides, shape `(n, width)`; a view where possible."""
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    if flat.is_complex():
        return torch.view_as_real(flat).reshape(-1).view(torch.uint8).numpy().reshape(len(flat), -1)
    width = flat.element_size()
    return flat.view(torch.uint8).numpy().reshape(len(flat), width)


def tensor_of(data: Bytes, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor whose bytes are `data`, on the CPU, in memory of its own."""
    found = torch.empty(shape, dtype=dtype, device="cpu")
    if data.size:
        flat = torch.from_numpy(np.array(data, dtype=np.uint8, order="C").reshape(-1))
        # A complex tensor has no view as bytes, but bytes have one as complex numbers.
        found.copy_(flat.view(dtype).reshape(shape))
    return found


__all__ = ["DTYPES", "bytes_of", "dtype_name", "tensor_of"]
