"""Tables as plain text, and numbers as a reader likes them."""

from __future__ import annotations

from collections.abc import Sequence

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


__all__ = [
    "count_text",
    "milliseconds_text",
    "points_text",
    "ratio_text",
    "share_text",
    "size_text",
    "text_table",
    "times_text",
]
