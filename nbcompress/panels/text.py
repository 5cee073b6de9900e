"""Words and numbers as a reader sees them: cut, cleaned and rounded, the same in every view."""

from __future__ import annotations

import math
import re
from typing import Any

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
