"""Draws a figure in one style, whatever the notebook's is, and gives up a picture rather than what it belongs to."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from nbcompress.panels.figures import png
from nbcompress.panels.html import Markup, picture, tag, user
from nbcompress.panels.text import cut

# Settings that say where and when to draw, not how it looks.
_NO_STYLE = (
    "backend", "date.epoch", "docstring.", "figure.max_open_warning", "figure.raise_window", "interactive", "keymap.",
    "savefig.", "timezone", "tk.", "toolbar", "webagg.",
)  # fmt: skip
# The settings are the whole process's.
_LOCK = threading.RLock()


@dataclass(frozen=True)
class Picture:
    """A picture, or why there is none.

    Attributes:
        png: The picture in base64, or None.
        problem: A sentence where it could not be drawn, else empty.
    """

    png: str | None
    problem: str = ""

    def html(self, alt: str, width: int) -> Markup:
        """Return the image with its description, or the sentence in its place."""
        return picture(self.png, alt, width) if self.png else tag("div", user(self.problem))


def drawn(draw: Callable[[], Figure | None], dpi: int = 110) -> Picture | None:
    """Draw and return a picture; None where there is nothing to draw.

    Args:
        draw: Builds the figure; it is called in the fixed style, since artists take the style that they are made in.
        dpi: Dots an inch.
    """
    try:
        with fixed_style():
            figure = draw()
            return Picture(png(figure, dpi)) if figure is not None else None
    except Exception as error:  # noqa: BLE001 - whatever matplotlib and its fonts may raise
        reason = (str(error).strip().splitlines() or [""])[0]
        text = f"The picture could not be drawn: {type(error).__name__}: {cut(reason, 200)}".rstrip(": ")
        return Picture(None, f"{text}.")


@contextmanager
def fixed_style() -> Iterator[None]:
    """A `with` block in which matplotlib looks as it does by itself.

    Only what differs is set, and only what still is as it was set here is put back: another thread of the notebook may
    choose a style meanwhile.
    """
    with _LOCK:
        now: Any = mpl.rcParams
        ours: dict[str, Any] = {}
        theirs: dict[str, Any] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", mpl.MatplotlibDeprecationWarning)
            for key, value in mpl.rcParamsDefault.items():
                if not key.startswith(_NO_STYLE) and now[key] != value:
                    ours[key], theirs[key] = value, now[key]
            now.update(ours)
        try:
            yield
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", mpl.MatplotlibDeprecationWarning)
                now.update({key: one for key, one in theirs.items() if now[key] == ours[key]})
