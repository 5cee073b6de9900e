"""Where the zeros of a tensor are: three layouts, of which the writer takes the shortest.

`dense` knows no zeros: a zero is one symbol or number among others. `matrix` and `flat` first say where the
non-zeros are, by row and column or only by their share, and then code the non-zeros alone.

One range coder for writing and for reading, behind one face.

The models in `adaptive.py` learn from what was coded before, so writer and reader must walk the same path. Both
therefore run the same function: a `Writer` codes the symbols it is handed, a `Reader` is handed `None` and
returns what it finds. Symbols are coded with `constriction`; bytes that no model shortens go past it.

Models that learn while they code, so that no table of frequencies is stored.

`code_symbols` learns how often each symbol occurs. Symbols are leaves of a binary tree and each node learns how
often it was left to the left and to the right, so that neighbouring codes, such as those of a bell-shaped
distribution, learn from each other. `code_mask` learns where the non-zeros of a matrix are.

Writer and reader must compute the same probabilities to the last bit on every machine. So probabilities come
from +, -, * and / alone, which IEEE 754 rounds correctly; no logarithm and no exponential.

References:
    Krichevsky and Trofimov (1981), "The performance of universal encoding": the estimate at a node.
    Willems, Shtarkov and Tjalkens (1996), "Context weighting for general finite-context sources".

Numbers that no compressor made small: exact, and still in fewer bytes than they take in memory.

The bytes of all numbers are coded plane by plane: all first bytes, then all second bytes. The plane with sign and
exponent is much alike, those of the mantissa mostly noise, which passes by as it is.
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


class Coder(Protocol):
    """What a model needs: code `n` symbols under a `constriction` model, or pass `n` bytes through."""

    def code(self, symbols: NDArray[Any] | None, n: int, model: Any, *parameters: NDArray[np.float64]) -> Symbols: ...

    def plain(self, data: Bytes | None, n: int) -> Bytes: ...


class Writer:
    """Codes what it is handed and returns it."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()
        self.plain_parts: list[Bytes] = []
        self._n_plain = 0

    def code(self, symbols: NDArray[Any] | None, n: int, model: Any, *parameters: NDArray[np.float64]) -> Symbols:
        found = np.ascontiguousarray(_given(symbols, n), dtype=np.int32)
        self._encoder.encode(found, model, *parameters)
        return found

    def plain(self, data: Bytes | None, n: int) -> Bytes:
        found = _given(data, n)
        self.plain_parts.append(found)
        self._n_plain += n
        return found

    @property
    def n_bytes(self) -> int:
        """Bytes so far; the coded part in whole words of 4."""
        return 4 * int(self._encoder.num_words()) + self._n_plain

    def coded(self) -> bytes:
        """The coded part, most significant byte first, without trailing zero bytes (a reader puts them back)."""
        words: NDArray[np.uint32] = self._encoder.get_compressed()
        return words.astype(">u4").tobytes().rstrip(b"\0")


def _given(data: NDArray[Any] | None, n: int) -> NDArray[Any]:
    if data is None or len(data) != n:
        raise TypeError(f"a writer is handed what it writes: {n} symbols")
    return data


class Reader:
    """Returns what a `Writer` was handed, in the same order of calls.

    Raises:
        ArtifactError: The stream does not decode, or ends early.
    """

    def __init__(self, coded: memoryview, plain: memoryview) -> None:
        padded = bytes(coded) + bytes(-len(coded) % 4)
        self._decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, dtype=">u4").astype(np.uint32))
        self._plain = np.frombuffer(plain, dtype=np.uint8)
        self._position = 0

    def code(self, symbols: NDArray[Any] | None, n: int, model: Any, *parameters: NDArray[np.float64]) -> Symbols:  # noqa: ARG002
        try:
            found: Symbols = self._decoder.decode(model, *(parameters or (n,)))
        except (AssertionError, ValueError, KeyError) as err:
            raise ArtifactError(f"the coded part of the file does not decode: {err}") from err
        return found

    def plain(self, data: Bytes | None, n: int) -> Bytes:  # noqa: ARG002
        end = self._position + n
        if end > len(self._plain):
            raise ArtifactError(f"the file ends early: {end - len(self._plain)} bytes of values are missing")
        found = self._plain[self._position : end]
        self._position = end
        return found

    def check_end(self) -> None:
        """Refuse a file that holds more than was read."""
        left = len(self._plain) - self._position
        if left or not self._decoder.maybe_exhausted():
            raise ArtifactError(f"the file holds more than the model: {left} bytes of values are left over")


# What a node of the tree believes before it has seen anything, in observations: the Krichevsky-Trofimov half.
_PRIOR = 0.5
# Symbols coded before the model is refreshed first. Later blocks grow with what was seen, since one more
# symbol then changes little: a quarter costs about 1 % more than refreshing at every symbol.
_FIRST_BLOCK = 8
_GROWTH = 4
# Bounds the memory of the int32 copy of a block.
_LAST_BLOCK = 1 << 20

# How many observations the share of the whole matrix weighs against those of one column, and how many the
# expectation weighs against those of one row. Tuned by hand on pruned multilayer perceptrons.
_COLUMN_PRIOR = 1.5
_ROW_PRIOR = 1.5
_SMALLEST = 1 / 4096

_SHARES = constriction.stream.model.Bernoulli(perfect=False)


def code_number(coder: Coder, value: int | None, n: int) -> int:
    """Code one number of `range(n)`, all alike; `n` at most 65536."""
    given = None if value is None else np.array([value], dtype=np.int32)
    return (
        int(coder.code(given, 1, constriction.stream.model.Categorical(np.ones(n), perfect=False))[0]) if n > 1 else 0
    )


def code_symbols(coder: Coder, symbols: NDArray[Any] | None, n: int, n_kinds: int) -> NDArray[Any]:
    """Code `n` symbols of `range(n_kinds)`, of any integer dtype, and return them.

    The cost is near `n` times their entropy, plus some `log2(n) / 2` bits for each symbol that occurs.
    """
    if n_kinds == 1:
        return np.zeros(n, dtype=np.int32)
    counts = np.zeros(1 << (n_kinds - 1).bit_length(), dtype=np.int64)
    found: NDArray[Any] = np.empty(n, dtype=np.uint8 if n_kinds <= 256 else np.int32)
    start = 0
    while start < n:
        stop = min(n, start + min(_LAST_BLOCK, max(_FIRST_BLOCK, start // _GROWTH)))
        model = constriction.stream.model.Categorical(_shares(counts)[:n_kinds], perfect=False)
        block = coder.code(None if symbols is None else symbols[start:stop], stop - start, model)
        counts += np.bincount(block, minlength=len(counts))
        found[start:stop] = block
        start = stop
    return found


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The tree's belief in each symbol, shape of `counts` (a power of two), in units of 2^-24 and never zero."""
    levels = [counts]
    while len(levels[-1]) > 1:
        levels.append(levels[-1].reshape(-1, 2).sum(axis=1))
    belief = np.ones(1)
    for parent, child in zip(levels[:0:-1], levels[-2::-1], strict=True):
        share = (child.reshape(-1, 2) + _PRIOR) / (parent[:, None] + 2 * _PRIOR)
        belief = (belief[:, None] * share).reshape(-1)
    # Whole numbers, so that the coder's sum over them does not depend on its order.
    whole: NDArray[np.float64] = np.floor(belief * 2.0**24) + 1.0
    return whole


def code_mask(coder: Coder, mask: NDArray[np.bool_] | None, n_rows: int, n_columns: int) -> NDArray[np.bool_]:
    """Code which entries of an `n_rows x n_columns` matrix are set, and return them flat, row by row.

    The belief in an entry mixes what its column held in the rows above with what its row held in the columns
    before: pruned networks have inputs that nothing reads and neurons with few weights. Entries on one
    anti-diagonal do not depend on each other, so a diagonal is coded at once: `n_rows + n_columns` steps.
    """
    flat = None if mask is None else mask.reshape(-1).view(np.uint8)
    found: NDArray[np.uint8] = np.empty(n_rows * n_columns, dtype=np.uint8)
    in_column, in_row = np.zeros(n_columns), np.zeros(n_rows)  # set so far
    expected = np.zeros(n_rows)  # how many of a row should have been, by the columns' belief
    n_set = n_seen = 0
    for step in range(n_rows + n_columns - 1):
        top, bottom = max(0, step - n_columns + 1), min(n_rows, step + 1)
        rows = slice(top, bottom)
        # Columns run down while rows run up, so they are read backwards.
        columns = slice(step - bottom + 1, step - top + 1)
        above = np.arange(top, bottom, dtype=np.float64)
        share = (n_set + 0.4) / (n_seen + 1.0)
        column = (in_column[columns][::-1] + _COLUMN_PRIOR * share) / (above + _COLUMN_PRIOR)
        odds = column / (1.0 - column) * ((in_row[rows] + _ROW_PRIOR) / (expected[rows] + _ROW_PRIOR))
        belief = np.clip(odds / (1.0 + odds), _SMALLEST, 1.0 - _SMALLEST)
        # Entry (i, step - i) lies at i * n_columns + step - i of the flat matrix: a stride of n_columns - 1.
        places = step + np.arange(top, bottom) * (n_columns - 1)
        entries: Symbols = coder.code(None if flat is None else flat[places], bottom - top, _SHARES, belief)
        found[places] = entries
        in_row[rows] += entries
        in_column[columns] += entries[::-1]
        expected[rows] += column
        n_set += int(entries.sum())
        n_seen += bottom - top
    return found.view(np.bool_)


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


Mask = NDArray[np.bool_]

DENSE, MATRIX, FLAT = range(3)

# Up to this many entries every layout is tried in full; above it the gain of the matrix is estimated from counts.
_TRIED = 1 << 15
# What a row or a column must save on average, in bits, before the matrix pays; chance alone gives 0.7.
_WORTH_BITS = 2.0
# With fewer zeros than this no layout but the dense one is tried.
_FEW_ZEROS = 0.15
# A matrix is coded in rows + columns steps of some 20 microseconds each, so a large one must not be thin.
_ENTRIES_PER_STEP = 16


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Channels by weights of a channel; one row for what has fewer than two axes."""
    return (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))


def code_layout(coder: Coder, layout: int | None) -> int:
    """Code which layout follows."""
    return code_number(coder, layout, 3)


def code_nonzero(coder: Coder, nonzero: Mask | None, layout: int, shape: tuple[int, ...]) -> Mask:
    """Code where a tensor of `shape` is not zero; flat, row by row. All of it in the dense layout."""
    n = prod(shape)
    if layout == DENSE:
        return np.ones(n, dtype=np.bool_)
    if layout == MATRIX:
        return code_mask(coder, nonzero, *matrix_shape(shape))
    return code_symbols(coder, nonzero, n, 2).astype(np.bool_)


def best_layout(nonzero: Mask, shape: tuple[int, ...], usual: int, write: Callable[[Coder, int], None]) -> int:
    """The layout that writes a tensor of `shape` in the fewest bytes, or nearly so if it is large.

    Args:
        nonzero: Where the tensor is not zero, flat.
        shape: Of the tensor.
        usual: What a large tensor with many zeros takes if they follow neither rows nor columns: flat for
            numbers, of which a zero would cost all bytes; dense for codes, if zero is one of them.
        write: Called with a coder and a layout: writes the tensor.
    """
    n_rows, n_columns = matrix_shape(shape)
    n_zeros = nonzero.size - int(np.count_nonzero(nonzero))
    if n_zeros == 0 or n_zeros < _FEW_ZEROS * nonzero.size:
        return DENSE
    has_matrix = min(n_rows, n_columns) > 1
    if nonzero.size > _TRIED:
        is_thin = nonzero.size < _ENTRIES_PER_STEP * (n_rows + n_columns)
        return MATRIX if has_matrix and not is_thin and _matrix_pays(nonzero.reshape(n_rows, n_columns)) else usual
    costs = {}
    for layout in (DENSE, FLAT, MATRIX) if has_matrix else (DENSE, FLAT):
        trial = Writer()
        write(trial, layout)
        costs[layout] = trial.n_bytes
    return min(costs, key=costs.__getitem__)


def _matrix_pays(nonzero: Mask) -> bool:
    """Whether knowing row and column tells enough about an entry, by the entropies of their shares."""
    n_rows, n_columns = nonzero.shape
    in_row, in_column = np.count_nonzero(nonzero, axis=1), np.count_nonzero(nonzero, axis=0)
    whole = _entropy(np.array([in_row.sum() / nonzero.size])) * nonzero.size
    gain = 2 * whole - _entropy(in_row / n_columns) * n_columns - _entropy(in_column / n_rows) * n_rows
    return bool(gain > _WORTH_BITS * (n_rows + n_columns))


def _entropy(shares: NDArray[np.float64]) -> float:
    """Bits of one entry for each of `shares`, summed."""
    inside = shares[(shares > 0) & (shares < 1)]
    return float(-(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside)).sum())
