"""Words and numbers as a reader sees them: cut, cleaned and rounded, the same in every view.

How much of a study goes into its data: generous while it runs, tight enough to be saved.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """The most characters of each text, and the most trials.

    Attributes:
        trials: Trials in the data; the front, the best and the latest are kept.
        name: A parameter's, metric's or study's name.
        value: A choice, or one text in the record.
        message: A failure's message, a reason, a warning.
        traceback: A failure's traceback.
        printed: What a trial printed.
        source: The cell's source in the record.
        reports: Whether intermediate values are part of the data.
    """

    trials: int = 10_000
    name: int = 120
    value: int = 300
    message: int = 500
    traceback: int = 6_000
    printed: int = 4_000
    source: int = 20_000
    reports: bool = True


LIVE = Limits()
# From the richest to the poorest: the saved bundle takes the first that keeps it below its bound.
SAVED = (
    Limits(trials=1_000, traceback=2_000, printed=1_000),
    Limits(trials=1_000, name=80, value=120, message=240, traceback=600, printed=200, source=8_000, reports=False),
    Limits(trials=400, name=60, value=60, message=120, traceback=160, printed=80, source=4_000, reports=False),
    Limits(trials=200, name=40, value=30, message=60, traceback=60, printed=30, source=2_000, reports=False),
    # Texts go before rows: a table without a trial misleads more than one with short names.
    *(
        Limits(trials=rows, name=24, value=16, message=20, traceback=20, printed=10, source=400, reports=False)
        for rows in (200, 150, 100, 60)
    ),
)


MARK = "…"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
# Control characters and lone surrogates can neither be shown nor saved as UTF-8.
_UNSHOWABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def clean(text: str) -> str:
    """Return `text` without terminal colours and with a replacement for what cannot be shown."""
    return _UNSHOWABLE.sub("\ufffd", _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


def cut(text: object, limit: int) -> str:
    """Return `text` cleaned and at most `limit` characters long, with a mark where it was cut."""
    # Cleaning a text of many megabytes to show its first line would be waste.
    shown = clean(str(text)[: 4 * limit + 64])
    return shown if len(shown) <= limit else shown[: max(0, limit - 1)] + MARK


def cut_middle(text: str, limit: int) -> str:
    """Like `cut`, but keep the start and, mostly, the end: the last lines of a traceback say what happened."""
    shown = clean(text if len(text) <= 8 * limit + 128 else text[: 4 * limit] + text[-4 * limit - 64 :])
    if len(shown) <= limit:
        return shown
    head = limit // 4
    return f"{shown[:head]}\n{MARK}\n{shown[len(shown) - max(0, limit - head - 3) :]}"[: limit + 3]


def finite(value: Any) -> float | None:
    """Return a plain finite number or None. Rounded to 7 digits, which no picture can tell apart."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return number if number.is_integer() and abs(number) < 1e15 else float(f"{number:.7g}")


def scalar(value: Any, limit: int) -> Any:
    """Return a parameter's value as JSON: a number, a bool, None or a text of at most `limit` characters."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return cut(value, limit)
    return finite(value)


def spell(value: Any) -> str:
    """Return a number, a choice or a missing value as a short text."""
    if value is None:
        return "None"
    if isinstance(value, bool | str):
        return str(value)
    number = finite(value)
    if number is None:
        return "?"
    if isinstance(value, int) or (number.is_integer() and abs(number) < 1e6):
        return f"{int(number)}"
    return f"{number:.4g}"


def duration(seconds: float | None) -> str:
    """Return `seconds` as a reader says it: `0.12 s`, `48 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return "?"
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 0.001 else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(n_bytes: float) -> str:
    """Return a number of bytes as a reader says it (1 kB is 1024 bytes, as in `size_bytes(model) / 1024`)."""
    if n_bytes < 1024:
        return f"{int(n_bytes)} B"
    if n_bytes < 1024**2:
        return f"{n_bytes / 1024:.1f} kB"
    return f"{n_bytes / 1024**2:.2f} MB"
