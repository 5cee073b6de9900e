"""Entropy coding of codes, zeros and floating-point values: a range coder with adaptive models.

The models learn while they code, so no frequency table is stored. Encoder and decoder must therefore update the
models in the same way, so both run the same function: `EntropyEncoder` gets the symbols, `EntropyDecoder` gets None
and returns the symbols. The range coder is `constriction`; bytes that no model can shorten are stored raw.

Encoder and decoder must compute equal probabilities to the last bit on every machine. Probabilities are therefore
computed with +, -, * and / only, which IEEE 754 rounds exactly; never with a logarithm or an exponential.

References:
    Krichevsky and Trofimov (1981), "The performance of universal encoding": the estimate at a tree node.
    Willems, Shtarkov and Tjalkens (1996), "Context weighting for general finite-context sources".
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2, prod
from typing import Any, Protocol

import constriction
import numpy as np
import torch
from numpy.typing import NDArray

from nbcompress.errors import ArtifactError

Symbols = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


# ---- The range coder, one interface for both directions ----


class Coder(Protocol):
    """An encoder or a decoder, as the models use it."""

    def code(self, symbols: NDArray[Any] | None, n: int, model: Any, *parameters: NDArray[np.float64]) -> Symbols:
        """Code `n` symbols with a `constriction` model and return them; a decoder ignores `symbols`."""

    def raw(self, data: Bytes | None, n: int) -> Bytes:
        """Store or read `n` bytes without a model and return them; a decoder ignores `data`."""


class EntropyEncoder:
    """Encodes the symbols it gets and returns them."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()
        self.raw_parts: list[Bytes] = []
        self._n_raw = 0

    def code(self, symbols: NDArray[Any] | None, n: int, model: Any, *parameters: NDArray[np.float64]) -> Symbols:
        encoded = np.ascontiguousarray(_checked_input(symbols, n), dtype=np.int32)
        self._encoder.encode(encoded, model, *parameters)
        return encoded

    def raw(self, data: Bytes | None, n: int) -> Bytes:
        stored = _checked_input(data, n)
        self.raw_parts.append(stored)
        self._n_raw += n
        return stored

    @property
    def n_bytes(self) -> int:
        """Bytes so far; the coded part counts in whole words of 4 bytes."""
        return 4 * int(self._encoder.num_words()) + self._n_raw

    def coded(self) -> bytes:
        """The coded part, big-endian, without trailing zero bytes; the decoder appends them again."""
        words: NDArray[np.uint32] = self._encoder.get_compressed()
        return words.astype(">u4").tobytes().rstrip(b"\0")


def _checked_input(data: NDArray[Any] | None, n: int) -> NDArray[Any]:
    if data is None or len(data) != n:
        raise TypeError(f"an encoder needs the {n} symbols that it writes")
    return data


class EntropyDecoder:
    """Returns what an `EntropyEncoder` got, in the same order of calls.

    Raises:
        ArtifactError: From every method, where the stream does not decode or ends early.
    """

    def __init__(self, coded: memoryview, raw: memoryview) -> None:
        padded = bytes(coded) + bytes(-len(coded) % 4)
        self._decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, dtype=">u4").astype(np.uint32))
        self._raw = np.frombuffer(raw, dtype=np.uint8)
        self._position = 0

    def code(self, symbols: NDArray[Any] | None, n: int, model: Any, *parameters: NDArray[np.float64]) -> Symbols:  # noqa: ARG002
        try:
            decoded: Symbols = self._decoder.decode(model, *(parameters or (n,)))
        except (AssertionError, ValueError, KeyError) as err:
            raise ArtifactError(f"the coded part of the file does not decode: {err}") from err
        return decoded

    def raw(self, data: Bytes | None, n: int) -> Bytes:  # noqa: ARG002
        end = self._position + n
        if end > len(self._raw):
            raise ArtifactError(f"the file ends early: {end - len(self._raw)} bytes of values are missing")
        read = self._raw[self._position : end]
        self._position = end
        return read

    def check_end(self) -> None:
        """Raise an ArtifactError if the file holds more than was read."""
        n_left = len(self._raw) - self._position
        if n_left or not self._decoder.maybe_exhausted():
            raise ArtifactError(f"the file holds more than the model: {n_left} bytes of values are left over")


# ---- Adaptive models of symbols and of masks ----

# Counts that a tree node starts with on either side: the Krichevsky-Trofimov estimate.
_NODE_PRIOR = 0.5
# Length of the first block, in symbols. The frequencies are updated after each block. Later blocks have this fraction
# of the symbols before them, since a few more symbols then change little. Heuristic, see
# benchmarks.md#constants-of-the-file-format.
_MIN_BLOCK = 8
_BLOCK_DIVISOR = 4
# Bounds the memory of the int32 copy of a block.
_MAX_BLOCK = 1 << 20

# Weight of the share of non-zeros in the whole matrix against one column, and of the expected count against one row, in
# observations. Heuristic, see benchmarks.md#constants-of-the-file-format.
_COLUMN_PRIOR = 1.5
_ROW_PRIOR = 1.5
_MIN_PROBABILITY = 1 / 4096

_BERNOULLI = constriction.stream.model.Bernoulli(perfect=False)


def code_number(coder: Coder, value: int | None, n: int) -> int:
    """Code one number of `range(n)`, all equally likely; `n` is at most 65536."""
    if n <= 1:
        return 0
    uniform = constriction.stream.model.Categorical(np.ones(n), perfect=False)
    return int(coder.code(None if value is None else np.array([value], dtype=np.int32), 1, uniform)[0])


def code_symbols(coder: Coder, symbols: NDArray[Any] | None, n: int, n_kinds: int) -> NDArray[Any]:
    """Code `n` symbols of `range(n_kinds)`, of any integer dtype, and return them.

    Symbols are the leaves of a binary tree. Each node counts how often its left and its right child occurred, so
    neighbouring codes, such as those of a bell-shaped distribution, share statistics. The cost is near `n` times the
    entropy, plus about `log2(n) / 2` bits for each symbol that occurs.
    """
    if n_kinds == 1:
        return np.zeros(n, dtype=np.int32)
    counts = np.zeros(1 << (n_kinds - 1).bit_length(), dtype=np.int64)
    coded: NDArray[Any] = np.empty(n, dtype=np.uint8 if n_kinds <= 256 else np.int32)
    start = 0
    while start < n:
        stop = min(n, start + min(_MAX_BLOCK, max(_MIN_BLOCK, start // _BLOCK_DIVISOR)))
        model = constriction.stream.model.Categorical(_symbol_weights(counts)[:n_kinds], perfect=False)
        block = coder.code(None if symbols is None else symbols[start:stop], stop - start, model)
        counts += np.bincount(block, minlength=len(counts))
        coded[start:stop] = block
        start = stop
    return coded


def _symbol_weights(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability of each symbol by the tree, in units of 2^-24 and never zero; shape of `counts`, a power of two."""
    levels = [counts]
    while len(levels[-1]) > 1:
        levels.append(levels[-1].reshape(-1, 2).sum(axis=1))
    probability = np.ones(1)
    for parent, child in zip(levels[:0:-1], levels[-2::-1], strict=True):
        share = (child.reshape(-1, 2) + _NODE_PRIOR) / (parent[:, None] + 2 * _NODE_PRIOR)
        probability = (probability[:, None] * share).reshape(-1)
    # Whole numbers, so that the sum over them in the coder does not depend on its order.
    weights: NDArray[np.float64] = np.floor(probability * 2.0**24) + 1.0
    return weights


def code_mask(coder: Coder, mask: Mask | None, n_rows: int, n_columns: int) -> Mask:
    """Code which entries of an `n_rows x n_columns` matrix are set, and return them flat, row by row.

    The probability of an entry mixes the entries above it in its column with the entries before it in its row, because
    a pruned network has unused inputs and neurons with few weights. Entries on one anti-diagonal do not depend on each
    other, so each diagonal is coded at once, in `n_rows + n_columns` steps.
    """
    flat = None if mask is None else mask.reshape(-1).view(np.uint8)
    coded: NDArray[np.uint8] = np.empty(n_rows * n_columns, dtype=np.uint8)
    in_column, in_row = np.zeros(n_columns), np.zeros(n_rows)  # entries set so far
    expected = np.zeros(n_rows)  # entries of a row that the columns predicted to be set
    n_set = n_seen = 0
    for step in range(n_rows + n_columns - 1):
        top, bottom = max(0, step - n_columns + 1), min(n_rows, step + 1)
        rows = slice(top, bottom)
        # The column index falls while the row index rises, so columns are read backwards.
        columns = slice(step - bottom + 1, step - top + 1)
        above = np.arange(top, bottom, dtype=np.float64)
        share = (n_set + 0.4) / (n_seen + 1.0)
        column = (in_column[columns][::-1] + _COLUMN_PRIOR * share) / (above + _COLUMN_PRIOR)
        odds = column / (1.0 - column) * ((in_row[rows] + _ROW_PRIOR) / (expected[rows] + _ROW_PRIOR))
        probability = np.clip(odds / (1.0 + odds), _MIN_PROBABILITY, 1.0 - _MIN_PROBABILITY)
        # Entry (i, step - i) has the flat index i * n_columns + step - i: a stride of n_columns - 1.
        indices = step + np.arange(top, bottom) * (n_columns - 1)
        entries: Symbols = coder.code(None if flat is None else flat[indices], bottom - top, _BERNOULLI, probability)
        coded[indices] = entries
        in_row[rows] += entries
        in_column[columns] += entries[::-1]
        expected[rows] += column
        n_set += int(entries.sum())
        n_seen += bottom - top
    return coded.view(np.bool_)


# ---- Floating-point values, bit for bit ----

# How a byte plane is stored; the numbers are in the file.
_ALL_ZERO, _MODELLED, _RAW = range(3)
# A plane is coded only if that saves 2 %, since decoding takes time. A short plane is coded to find out; of a long one,
# this many bytes are counted.
_MAX_RELATIVE_SIZE = 0.98
_MAX_TRIED_BYTES = 1 << 12
_MAX_SAMPLED_BYTES = 1 << 18

_HALF_CANDIDATES: dict[torch.dtype, type[np.floating[Any]]] = {torch.float32: np.float32, torch.float64: np.float64}


def code_values(coder: Coder, data: Bytes | None, n: int, dtype: torch.dtype) -> Bytes:
    """Code `n` numbers of `dtype`, given and returned as bytes of shape `(n, width)`.

    The bytes are coded plane by plane: all first bytes, then all second bytes. The plane with sign and exponent
    compresses well. Those of the mantissa are mostly noise and are stored raw.

    If every number of a float32 or float64 tensor is exactly a float16, only 2 bytes each are coded. This is how
    rounding the rest of a model to half precision makes the file smaller.
    """
    width = dtype.itemsize
    wide_dtype = _HALF_CANDIDATES.get(dtype)
    if wide_dtype is None or n == 0:
        return _code_planes(coder, data, n, width)
    half = None if data is None else _as_half(data, wide_dtype)
    if code_number(coder, None if data is None else int(half is not None), 2) == 0:
        return _code_planes(coder, data, n, width)
    return _bytes(_numbers(_code_planes(coder, half, n, 2), np.float16).astype(wide_dtype))


def _numbers(data: Bytes, dtype: type[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    return np.ascontiguousarray(data).view(dtype).reshape(-1)


def _bytes(numbers: NDArray[np.floating[Any]]) -> Bytes:
    return numbers.view(np.uint8).reshape(len(numbers), -1)


def _as_half(data: Bytes, wide_dtype: type[np.floating[Any]]) -> Bytes | None:
    """The numbers as float16 bytes; None if one of them is not exactly a float16."""
    numbers = _numbers(data, wide_dtype)
    # The first 64 alone rule out most tensors.
    for part in (numbers[:64], numbers):
        with np.errstate(over="ignore", invalid="ignore"):
            half = part.astype(np.float16)
            # Compared as bytes, so that a negative zero or the payload of a NaN is not lost.
            if not np.array_equal(half.astype(wide_dtype).view(np.uint8), part.view(np.uint8)):
                return None
    return _bytes(half)


def _code_planes(coder: Coder, data: Bytes | None, n: int, width: int) -> Bytes:
    coded = np.empty((n, width), dtype=np.uint8) if data is None else data
    if n == 0:
        return coded
    for index in range(width):
        plane = None if data is None else np.ascontiguousarray(data[:, index])
        mode = code_number(coder, None if plane is None else _plane_mode(plane), 3)
        if mode == _MODELLED:
            decoded = code_symbols(coder, plane, n, 256)
        elif mode == _RAW:
            decoded = coder.raw(plane, n)
        else:
            decoded = np.zeros(n, dtype=np.uint8)
        if data is None:
            coded[:, index] = decoded
    return coded


def _plane_mode(plane: Bytes) -> int:
    if not plane.any():
        return _ALL_ZERO
    if len(plane) <= _MAX_TRIED_BYTES:
        trial = EntropyEncoder()
        code_symbols(trial, plane, len(plane), 256)
        return _MODELLED if trial.n_bytes < _MAX_RELATIVE_SIZE * len(plane) else _RAW
    counts = np.bincount(plane[:: -(-len(plane) // _MAX_SAMPLED_BYTES)], minlength=256)
    share = counts[counts > 0] / counts.sum()
    # The entropy, and log2(length) / 2 bits for each symbol that the model has to learn.
    n_bits = -len(plane) * float(share @ np.log2(share)) + len(share) * log2(len(plane)) / 2
    return _MODELLED if n_bits < _MAX_RELATIVE_SIZE * 8 * len(plane) else _RAW


# ---- Layouts of zeros ----

# DENSE has no special zero: a zero is coded as any other symbol or number. MATRIX and FLAT first code where the
# non-zeros are, by row and column or only by their share, and then code the non-zeros. The numbers are in the file.
DENSE, MATRIX, FLAT = range(3)

# Up to this many entries every layout is tried in full; above it the gain of MATRIX is estimated from counts.
_MAX_TRIED_ENTRIES = 1 << 15
# Bits that MATRIX must save on average for each row and column, since chance alone appears to save some. Heuristic, see
# benchmarks.md#constants-of-the-file-format.
_MIN_GAIN_BITS = 2.0
# With a smaller share of zeros only DENSE is considered.
_MIN_ZERO_SHARE = 0.15
# MATRIX takes rows + columns steps, so a large matrix must hold this many entries for each step. Heuristic, see
# benchmarks.md#constants-of-the-file-format.
_MIN_ENTRIES_PER_STEP = 16


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Channels by weights of a channel; one row for a tensor with fewer than two axes."""
    return (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))


def code_layout(coder: Coder, layout: int | None) -> int:
    """Code which layout follows."""
    return code_number(coder, layout, 3)


def code_nonzero(coder: Coder, nonzero: Mask | None, layout: int, shape: tuple[int, ...]) -> Mask:
    """Code where a tensor of `shape` is not zero, flat, row by row; everywhere in the dense layout."""
    n = prod(shape)
    if layout == DENSE:
        return np.ones(n, dtype=np.bool_)
    if layout == MATRIX:
        return code_mask(coder, nonzero, *matrix_shape(shape))
    return code_symbols(coder, nonzero, n, 2).astype(np.bool_)


def best_layout(nonzero: Mask, shape: tuple[int, ...], default: int, encode: Callable[[Coder, int], None]) -> int:
    """Return the layout that encodes a tensor of `shape` in the fewest bytes, or nearly so if the tensor is large.

    Args:
        nonzero: Where the tensor is not zero, flat.
        shape: Of the tensor.
        default: Layout of a large tensor with many zeros that follow neither rows nor columns: FLAT for numbers, where
            a zero would cost all its bytes; DENSE for codes, if zero is one of them.
        encode: Called with a coder and a layout; encodes the tensor.
    """
    n_rows, n_columns = matrix_shape(shape)
    n_zeros = nonzero.size - int(np.count_nonzero(nonzero))
    if n_zeros == 0 or n_zeros < _MIN_ZERO_SHARE * nonzero.size:
        return DENSE
    has_matrix = min(n_rows, n_columns) > 1
    if nonzero.size > _MAX_TRIED_ENTRIES:
        is_thin = nonzero.size < _MIN_ENTRIES_PER_STEP * (n_rows + n_columns)
        is_matrix = has_matrix and not is_thin and _is_matrix_shorter(nonzero.reshape(n_rows, n_columns))
        return MATRIX if is_matrix else default
    costs = {}
    for layout in (DENSE, FLAT, MATRIX) if has_matrix else (DENSE, FLAT):
        trial = EntropyEncoder()
        encode(trial, layout)
        costs[layout] = trial.n_bytes
    return min(costs, key=costs.__getitem__)


def _is_matrix_shorter(nonzero: Mask) -> bool:
    """Whether row and column tell enough about an entry, by the entropies of their shares of non-zeros."""
    n_rows, n_columns = nonzero.shape
    in_row, in_column = np.count_nonzero(nonzero, axis=1), np.count_nonzero(nonzero, axis=0)
    whole = _entropy(np.array([in_row.sum() / nonzero.size])) * nonzero.size
    gain = 2 * whole - _entropy(in_row / n_columns) * n_columns - _entropy(in_column / n_rows) * n_rows
    return bool(gain > _MIN_GAIN_BITS * (n_rows + n_columns))


def _entropy(shares: NDArray[np.float64]) -> float:
    """Sum over `shares` of the entropy of an entry that is set with this probability, in bits."""
    inside = shares[(shares > 0) & (shares < 1)]
    return float(-(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside)).sum())
