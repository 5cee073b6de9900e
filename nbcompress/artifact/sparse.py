"""Where the zeros of a tensor are: three layouts, of which the writer takes the shortest.

`dense` knows no zeros: a zero is one symbol or number among others. `matrix` and `flat` first say where the
non-zeros are, by row and column or only by their share, and then code the non-zeros alone.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from numpy.typing import NDArray

from nbcompress.artifact.adaptive import code_mask, code_number, code_symbols
from nbcompress.artifact.coder import Coder, Writer

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


__all__ = ["DENSE", "FLAT", "MATRIX", "best_layout", "code_layout", "code_nonzero", "matrix_shape"]
