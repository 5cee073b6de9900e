"""Draws a figure in one style, whatever the notebook's is, and gives up a picture rather than what it belongs to.

Elements of HTML as values: every text is escaped unless it was built here.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any, TypeAlias

import matplotlib as mpl
from matplotlib.figure import Figure

from nbcompress.panels.figures import png
from nbcompress.panels.text import cut

# Viewers of saved notebooks strip style sheets, scripts and inline SVG, so each element carries its own style.
# Only lines and shades that show on dark and on light paper; the text keeps the page's colour.
TABLE = "border-collapse:collapse;margin:6px 0;text-align:right;font-variant-numeric:tabular-nums"
PRE = (
    "white-space:pre-wrap;overflow-wrap:anywhere;text-align:left;"
    "margin:4px 0;padding:4px 8px;border-left:3px solid rgba(128,128,128,.45)"
)
LEFT = "text-align:left"
VOID = frozenset({"img", "br"})


class Markup(str):
    """A text that is HTML already."""

    __slots__ = ()


Child: TypeAlias = "str | Markup | Iterable[str | Markup] | None"


def tag(name: str, *children: Child, **attributes: str | None) -> Markup:
    """Return `<name attributes>children</name>`; children that are not `Markup` are escaped."""
    written = "".join(f' {key}="{escape(value, quote=True)}"' for key, value in attributes.items() if value is not None)
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Return the children one after another, escaped where they need it."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            parts.append(child if isinstance(child, Markup) else escape(child, quote=True))
        else:
            parts.append(join(child))
    return Markup("".join(parts))


def user(text: str) -> Markup:
    """Return a text of the user's, kept apart from the direction of the text around it."""
    return Markup(escape(text, quote=True)) if text.isascii() else tag("bdi", text)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str | Markup]], *, texts: frozenset[int] = frozenset()
) -> Markup:
    """Return a table whose cells are numbers, except in the columns `texts`.

    A row with fewer cells than the head lets its last cell span the rest. Cells carry almost no style of their own:
    a study has thousands of them.
    """

    def cell(kind: str, i: int, one: str | Markup, span: int = 1, **attributes: str) -> Markup:
        style = LEFT if i in texts or span > 1 else None
        return tag(kind, one, style=style, colspan=str(span) if span > 1 else None, **attributes)

    body = []
    for row in rows:
        rest = len(head) - len(row) + 1
        body.append(tag("tr", (cell("td", i, one, rest if i == len(row) - 1 else 1) for i, one in enumerate(row))))
    caption = tag("tr", (cell("th", i, user(column), scope="col") for i, column in enumerate(head)))
    whole = tag("table", tag("thead", caption), tag("tbody", body), cellpadding="4", rules="rows", style=TABLE)
    return tag("div", whole, style="overflow-x:auto")


def details(summary: str | Markup, *children: Child, is_open: bool = False) -> Markup:
    """Return a part that the reader can fold."""
    head = tag("summary", summary, style="cursor:pointer;font-weight:600;margin:6px 0")
    return tag("details", head, *children, open="open" if is_open else None)


def picture(png_base64: str, alt: str, width: int) -> Markup:
    """Return an image that carries its data and its description."""
    style = f"width:{width}px;max-width:100%;height:auto;background:#fff"
    return tag("img", src=f"data:image/png;base64,{png_base64}", alt=alt, style=style)


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
                now.update({key: their for key, their in theirs.items() if now[key] == ours[key]})
