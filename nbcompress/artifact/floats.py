"""Numbers that no compressor made small: exact, and still in fewer bytes than they take in memory.

The bytes of all numbers are coded plane by plane: all first bytes, then all second bytes. The plane with sign and
exponent is much alike, those of the mantissa mostly noise, which passes by as it is.
"""

from __future__ import annotations

from math import log2
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nbcompress.artifact.adaptive import code_number, code_symbols
from nbcompress.artifact.coder import Bytes, Coder, Writer

_ZERO, _CODED, _PLAIN = range(3)
# Coding must save 2 % of a plane to be worth the time of reading. A short plane is coded to see; of a long one
# this many bytes are counted.
_WORTH = 0.98
_SHORT = 1 << 12
_COUNTED = 1 << 18

_CAN_BE_HALF: dict[torch.dtype, type[np.floating[Any]]] = {torch.float32: np.float32, torch.float64: np.float64}


def code_values(coder: Coder, data: Bytes | None, n: int, dtype: torch.dtype) -> Bytes:
    """Code `n` numbers of `dtype`, given and returned as their bytes of shape `(n, width)`.

    Where every number of a float32 or float64 tensor is exactly a float16, only 2 bytes are coded: this is how
    rounding the rest of a model to half precision pays off.
    """
    width = dtype.itemsize
    wide = _CAN_BE_HALF.get(dtype)
    if wide is None or n == 0:
        return _code_planes(coder, data, n, width)
    half = None if data is None else _as_half(data, wide)
    if code_number(coder, None if data is None else int(half is not None), 2) == 0:
        return _code_planes(coder, data, n, width)
    found = _code_planes(coder, half, n, 2)
    return _bytes(_numbers(found, np.float16).astype(wide))


def _numbers(data: Bytes, dtype: type[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    return np.ascontiguousarray(data).view(dtype).reshape(-1)


def _bytes(numbers: NDArray[np.floating[Any]]) -> Bytes:
    return numbers.view(np.uint8).reshape(len(numbers), -1)


def _as_half(data: Bytes, wide: type[np.floating[Any]]) -> Bytes | None:
    numbers = _numbers(data, wide)
    # A look at a few first: most tensors that are not in half precision show it at once.
    for part in (numbers[:64], numbers):
        with np.errstate(over="ignore", invalid="ignore"):
            half = part.astype(np.float16)
            # Compared as bytes, so that a negative zero or the payload of a NaN is not lost.
            if not np.array_equal(half.astype(wide).view(np.uint8), part.view(np.uint8)):
                return None
    return _bytes(half)


def _code_planes(coder: Coder, data: Bytes | None, n: int, width: int) -> Bytes:
    found = np.empty((n, width), dtype=np.uint8) if data is None else data
    if n == 0:
        return found
    for place in range(width):
        plane = None if data is None else np.ascontiguousarray(data[:, place])
        way = code_number(coder, None if plane is None else _way(plane), 3)
        if way == _CODED:
            decoded = code_symbols(coder, plane, n, 256)
        elif way == _PLAIN:
            decoded = coder.plain(plane, n)
        else:
            decoded = np.zeros(n, dtype=np.uint8)
        if data is None:
            found[:, place] = decoded
    return found


def _way(plane: Bytes) -> int:
    if not plane.any():
        return _ZERO
    if len(plane) <= _SHORT:
        trial = Writer()
        code_symbols(trial, plane, len(plane), 256)
        return _CODED if trial.n_bytes < _WORTH * len(plane) else _PLAIN
    counts = np.bincount(plane[:: -(-len(plane) // _COUNTED)], minlength=256)
    share = counts[counts > 0] / counts.sum()
    # Entropy, and half a logarithm of the length for each symbol that has to be learnt.
    n_bits = -len(plane) * float(share @ np.log2(share)) + len(share) * log2(len(plane)) / 2
    return _CODED if n_bits < _WORTH * 8 * len(plane) else _PLAIN


__all__ = ["code_values"]
