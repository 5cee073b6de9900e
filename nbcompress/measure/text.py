"""Tables and numbers as plain text, and a histogram of the weights of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nbcompress.artifact.file import bytes_text
from nbcompress.compressors.layers import FLOATS, unique_parameters
from nbcompress.measure.interval import Interval

# ---- Text ----

# Stands for a number that was not measured.
_MISSING = "-"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table: the first column aligned left, the others right, two spaces apart, a rule under the header."""
    widths = [max(len(row[index]) for row in (header, *rows)) for index in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if not index else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, rows)])


def count_text(number: int | None) -> str:
    """`1,234,567`; a dash for None."""
    return _MISSING if number is None else f"{number:,}"


def size_text(n_bytes: int | None) -> str:
    """`17 B`, `3.4 kB` (of 1000 bytes), `8.0 MB`; a dash for None."""
    return _MISSING if n_bytes is None else bytes_text(n_bytes)


def milliseconds_text(milliseconds: float) -> str:
    """Three significant digits, without an exponent."""
    digits = 3 if milliseconds < 1 else 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:.{digits}f}"


def ratio_text(ratio: float) -> str:
    """`12.3x`."""
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def reduction_text(before: int | None, after: int | None) -> str:
    """How many times smaller `after` is: `12.3x`, `the same`, `all` if nothing is left, a dash for None."""
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


# ---- Histogram ----

# An odd number, so that zero is in the middle of a bin.
_N_BINS = 81
# `histc` counts in float32, which is exact for so many weights.
_CHUNK = 2**22


@dataclass(frozen=True)
class WeightHistogram:
    """Counts of weights in equal bins, of parameters with two axes or more, so without biases and norms.

    Attributes:
        edges: Ends of the bins, one more than there are bins; symmetric around zero.
        counts: By name of the model, the weights in each bin. Every weight is in a bin.
        zeros: By name of the model, how many weights are exactly zero. They are in `counts` too.
    """

    edges: tuple[float, ...]
    counts: Mapping[str, tuple[int, ...]]
    zeros: Mapping[str, int]


@torch.no_grad()
def weight_histogram(models: Mapping[str, nn.Module], bins: int = _N_BINS) -> WeightHistogram | None:
    """Count the weights of models in the same bins for all models; None if there are no finite weights."""
    weights = {name: _weights(model) for name, model in models.items()}
    limit = max((float(weight.abs().max()) for parts in weights.values() for weight in parts), default=0.0)
    if not 0 < limit < float("inf"):
        return None
    step = 2 * limit / bins
    return WeightHistogram(
        tuple(-limit + step * index for index in range(bins + 1)),
        {name: _counts(parts, bins, limit) for name, parts in weights.items()},
        {name: sum(int((weight == 0).sum()) for weight in parts) for name, parts in weights.items()},
    )


def _counts(parts: list[Tensor], bins: int, limit: float) -> tuple[int, ...]:
    total = torch.zeros(bins, dtype=torch.int64, device="cpu")
    for part in parts:
        for chunk in torch.split(part, _CHUNK):
            total += torch.histc(chunk, bins, -limit, limit).long()
    return tuple(total.tolist())


def _weights(model: nn.Module) -> list[Tensor]:
    weights = (parameter for _, parameter in unique_parameters(model))
    chosen = [weight for weight in weights if weight.ndim >= 2 and weight.dtype in FLOATS and weight.numel()]
    return [weight.detach().float().cpu().flatten() for weight in chosen]
