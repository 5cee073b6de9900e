"""Texts and numbers as every view shows them, and how much of a study a view holds.

`format.ts` of the front end formats numbers by the same rules.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ViewLimits:
    """The most characters of each text of a view, and the most trials.

    Attributes:
        trials: Trials; the front, the best and the latest are kept.
        name: The name of a parameter, a metric or the study.
        value: An option of a choice, or one text in the record.
        message: The message of a failure, a reason, a warning.
        traceback: The traceback of a failure.
        printed: What a trial printed.
        source: The source of the cell in the record.
        reports: Whether the view holds intermediate values.
    """

    trials: int = 10_000
    name: int = 120
    value: int = 300
    message: int = 500
    traceback: int = 6_000
    printed: int = 4_000
    source: int = 20_000
    reports: bool = True


LIVE_LIMITS = ViewLimits()
# From the widest to the tightest: the saved bundle takes the first that keeps it below its size limit.
SAVED_LIMITS = (
    ViewLimits(trials=1_000, traceback=2_000, printed=1_000),
    ViewLimits(trials=1_000, name=80, value=120, message=240, traceback=600, printed=200, source=8_000, reports=False),
    ViewLimits(trials=400, name=60, value=60, message=120, traceback=160, printed=80, source=4_000, reports=False),
    ViewLimits(trials=200, name=40, value=30, message=60, traceback=60, printed=30, source=2_000, reports=False),
    # Texts are shortened before trials are left out: a table that lacks trials misleads more than short names do.
    *(
        ViewLimits(trials=rows, name=24, value=16, message=20, traceback=20, printed=10, source=400, reports=False)
        for rows in (200, 150, 100, 60)
    ),
)


ELLIPSIS = "…"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
# Control characters and lone surrogates can neither be shown nor saved as UTF-8.
_UNSHOWABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def clean(text: str) -> str:
    """Return `text` without terminal colours; characters that cannot be shown become U+FFFD."""
    if text.isascii() and text.isprintable():  # most texts are, and a view has very many
        return text
    return _UNSHOWABLE.sub("\ufffd", _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


def shorten(text: object, limit: int) -> str:
    """Return `text` cleaned and at most `limit` characters long; an ellipsis marks that it was shortened."""
    # A text of many megabytes is not cleaned as a whole.
    shown = clean(str(text)[: 4 * limit + 64])
    return shown if len(shown) <= limit else shown[: max(0, limit - 1)] + ELLIPSIS


def shorten_middle(text: str, limit: int) -> str:
    """Shorten `text` in its middle: a quarter of the start is kept and three quarters of the end.

    The last lines of a traceback are the most important ones.
    """
    shown = clean(text if len(text) <= 8 * limit + 128 else text[: 4 * limit] + text[-4 * limit - 64 :])
    if len(shown) <= limit:
        return shown
    head = limit // 4
    return f"{shown[:head]}\n{ELLIPSIS}\n{shown[len(shown) - max(0, limit - head - 3) :]}"[: limit + 3]


def finite(value: Any) -> float | None:
    """Return a number rounded to 7 significant digits, or None if it is not finite or not a number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return number if number.is_integer() and abs(number) < 1e15 else float(f"{number:.7g}")


def scalar(value: Any, limit: int) -> Any:
    """Return the value of a parameter as JSON: a number, a bool, None or a text of at most `limit` characters."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return shorten(value, limit)
    return finite(value)


# The same as in `labextension/src/format.ts`.
_LOOKS_LIKE_ANOTHER = re.compile(
    r"\s.*|.*\s||None|True|False|\?|[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII | re.DOTALL
)


def format_value(value: Any) -> str:
    """Return a number, a choice or a missing value as a short text.

    A string is in quotes if it would look like another value: `""` like an empty cell, `"None"` like None, and `"8"`
    like 8.
    """
    if value is None:
        return "None"
    if isinstance(value, str):
        return f'"{value}"' if _LOOKS_LIKE_ANOTHER.fullmatch(value) else value
    if isinstance(value, bool):
        return str(value)
    number = finite(value)
    if number is None:
        return "?"
    if isinstance(value, int) or (number.is_integer() and abs(number) < 1e6):
        return f"{int(number)}"
    return f"{number:.4g}"


def format_duration(seconds: float | None) -> str:
    """Return a duration as text: `0.12 s`, `48 s`, `3 min 20 s`, `2 h 5 min`."""
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
