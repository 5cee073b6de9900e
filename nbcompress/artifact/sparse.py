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

# Layouts are tried on this many entries; more do not change which one wins.
_TRIED = 1 << 17
# With fewer zeros than this no layout but the dense one is tried.
_FEW_ZEROS = 0.15
# A matrix is coded in rows + columns steps of some 20 microseconds each, so a long thin one must be small.
_SMALL = 1 << 15
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


def best_layout(nonzero: Mask, shape: tuple[int, ...], write: Callable[[Coder, int, int], None]) -> int:
    """The layout that writes a tensor of `shape` in the fewest bytes.

    Args:
        nonzero: Where the tensor is not zero, flat.
        shape: Of the tensor.
        write: Called with a coder, a layout and a number of first rows: writes these rows in that layout.
    """
    n_rows, n_columns = matrix_shape(shape)
    n_zeros = nonzero.size - int(np.count_nonzero(nonzero))
    if n_zeros == 0 or n_zeros < _FEW_ZEROS * nonzero.size:
        return DENSE
    layouts = [DENSE, FLAT]
    is_thin = nonzero.size > _SMALL and nonzero.size < _ENTRIES_PER_STEP * (n_rows + n_columns)
    if min(n_rows, n_columns) > 1 and not is_thin:
        layouts.append(MATRIX)
    tried_rows = min(n_rows, max(1, _TRIED // n_columns))
    costs = []
    for layout in layouts:
        trial = Writer()
        write(trial, layout, tried_rows)
        costs.append(trial.n_bytes)
    return layouts[costs.index(min(costs))]


__all__ = ["DENSE", "FLAT", "MATRIX", "best_layout", "code_layout", "code_nonzero", "matrix_shape"]
