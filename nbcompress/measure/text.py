"""How the weights of models are spread, on one axis.

Tables as plain text, and numbers as a reader likes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nbcompress.compressors.layers import FLOATS, unique_parameters
from nbcompress.measure.interval import Interval

_MISSING = "-"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in columns two spaces apart: the first to the left, the others to the right, a line under the header."""
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, rows)])


def count_text(number: int | None) -> str:
    """`1,234,567`; a dash for what was not measured."""
    return _MISSING if number is None else f"{number:,}"


def size_text(n_bytes: int | None) -> str:
    """`17 B`, `3.4 kB` (of 1024 bytes), `8.0 MB`."""
    if n_bytes is None:
        return _MISSING
    if n_bytes < 1024:
        return f"{n_bytes} B"
    kilo = n_bytes / 1024
    return f"{kilo:.1f} kB" if kilo < 1000 else f"{kilo / 1024:.1f} MB"


def milliseconds_text(milliseconds: float) -> str:
    """Three significant digits, without an exponent."""
    digits = 3 if milliseconds < 1 else 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:.{digits}f}"


def ratio_text(ratio: float) -> str:
    """`12.3x`."""
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def times_text(before: int | None, after: int | None) -> str:
    """How many times less `after` is: `12.3x`, `the same`, or `all` if nothing is left."""
    if before is None or after is None:
        return _MISSING
    if before == after:
        return "the same"
    return ratio_text(before / after) if after else "all"


def share_text(interval: Interval) -> str:
    """`96.9 % (94.6 to 98.3)`."""
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def points_text(interval: Interval) -> str:
    """A difference of shares in percentage points: `-1.9 points (-3.1 to -0.7)`."""
    return f"{100 * interval.value:+.1f} points ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


# Odd, so that zero is the middle of a bin.
_BINS = 81
# The counts of one piece are float32, which is exact that far.
_PIECE = 2**22


@dataclass(frozen=True)
class WeightHistogram:
    """Counts of weights in equal bins: of every parameter with two axes or more, so without biases and norms.

    Attributes:
        edges: Ends of the bins, one more than there are bins; symmetric around zero.
        counts: For each model, by name, the weights in each bin. All weights of a model are in some bin.
        zeros: For each model, by name, how many weights are exactly zero. They are in `counts` too.
    """

    edges: tuple[float, ...]
    counts: Mapping[str, tuple[int, ...]]
    zeros: Mapping[str, int]


@torch.no_grad()
def weight_histogram(models: Mapping[str, nn.Module], bins: int = _BINS) -> WeightHistogram | None:
    """Count the weights of models in bins that are the same for all; None if there are no finite weights."""
    weights = {name: _weights(model) for name, model in models.items()}
    widest = max((float(part.abs().max()) for parts in weights.values() for part in parts), default=0.0)
    if not 0 < widest < float("inf"):
        return None
    step = 2 * widest / bins
    return WeightHistogram(
        tuple(-widest + step * place for place in range(bins + 1)),
        {name: _counts(parts, bins, widest) for name, parts in weights.items()},
        {name: sum(int((part == 0).sum()) for part in parts) for name, parts in weights.items()},
    )


def _counts(parts: list[Tensor], bins: int, widest: float) -> tuple[int, ...]:
    total = torch.zeros(bins, dtype=torch.int64, device="cpu")
    for part in parts:
        for piece in torch.split(part, _PIECE):
            total += torch.histc(piece, bins, -widest, widest).long()
    return tuple(total.tolist())


def _weights(model: nn.Module) -> list[Tensor]:
    found = [one for _, one in unique_parameters(model) if one.ndim >= 2 and one.dtype in FLOATS and one.numel()]
    return [item.detach().float().cpu().flatten() for item in found]
