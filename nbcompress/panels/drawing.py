"""Draws figures as PNG pictures, in matplotlib's own style whatever style the notebook has set.

A figure that cannot be drawn is replaced by a sentence, so that the output around it is still shown.
"""

from __future__ import annotations

import io
import threading
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from nbcompress.panels.html import Picture
from nbcompress.panels.text import shorten

# Settings that say where and when to draw, not how it looks.
_NO_STYLE = (
    "backend", "date.epoch", "docstring.", "figure.max_open_warning", "figure.raise_window", "interactive", "keymap.",
    "savefig.", "timezone", "tk.", "toolbar", "webagg.",
)  # fmt: skip
# The settings belong to the whole process.
_LOCK = threading.RLock()


def render(draw: Callable[[], Figure | None], dpi: int = 110) -> Picture | None:
    """Draw a figure.

    Args:
        draw: Builds the figure, or returns None if there is nothing to draw. It is called in the default style, since
            artists take the style that they are made in.
        dpi: Dots per inch.

    Returns:
        The picture, or None if there is nothing to draw.
    """
    try:
        with default_style():
            figure = draw()
            return Picture(png(figure, dpi)) if figure is not None else None
    except Exception as error:  # noqa: BLE001 - whatever matplotlib and its fonts may raise
        reason = (str(error).strip().splitlines() or [""])[0]
        text = f"The picture could not be drawn: {type(error).__name__}: {shorten(reason, 200)}".rstrip(": ")
        return Picture(None, f"{text}.")


def png(figure: Figure, dpi: int = 110) -> str:
    """Return the figure as a PNG in base64, with 64 colours so that it stays small."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box; the table holds the true text.
        warnings.filterwarnings("ignore", message=r".*[Gg]lyph.*")
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    image = Image.fromarray(pixels).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return b64encode(stream.getvalue()).decode("ascii")


@contextmanager
def default_style() -> Iterator[None]:
    """Set matplotlib's default style inside the `with` block.

    Only settings that differ are set. Afterwards a setting is restored only if it still is as it was set here, since
    another thread of the notebook may choose a style meanwhile.
    """
    with _LOCK:
        current: Any = mpl.rcParams
        defaults: dict[str, Any] = {}
        replaced: dict[str, Any] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", mpl.MatplotlibDeprecationWarning)
            for key, value in mpl.rcParamsDefault.items():
                if not key.startswith(_NO_STYLE) and current[key] != value:
                    defaults[key], replaced[key] = value, current[key]
            current.update(defaults)
        try:
            yield
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", mpl.MatplotlibDeprecationWarning)
                current.update({key: value for key, value in replaced.items() if current[key] == defaults[key]})
