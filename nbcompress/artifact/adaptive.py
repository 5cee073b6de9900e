"""Models that learn while they code, so that no table of frequencies is stored.

`code_symbols` learns how often each symbol occurs. Symbols are leaves of a binary tree and each node learns how
often it was left to the left and to the right, so that neighbouring codes, such as those of a bell-shaped
distribution, learn from each other. `code_mask` learns where the non-zeros of a matrix are.

Writer and reader must compute the same probabilities to the last bit on every machine. So probabilities come
from +, -, * and / alone, which IEEE 754 rounds correctly; no logarithm and no exponential.

References:
    Krichevsky and Trofimov (1981), "The performance of universal encoding": the estimate at a node.
    Willems, Shtarkov and Tjalkens (1996), "Context weighting for general finite-context sources".
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from nbcompress.artifact.coder import Coder, Symbols

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


__all__ = ["code_mask", "code_number", "code_symbols"]
