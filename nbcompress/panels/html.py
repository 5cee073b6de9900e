"""HTML elements as values: every text is escaped unless it was built here.

Viewers of saved notebooks strip style sheets, scripts and inline SVG, so each element carries its own style. The styles
use only lines and shades that show on dark and on light paper; text keeps the colour of the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

TABLE_STYLE = "border-collapse:collapse;margin:6px 0;text-align:right;font-variant-numeric:tabular-nums"
PRE_STYLE = (
    "white-space:pre-wrap;overflow-wrap:anywhere;text-align:left;"
    "margin:4px 0;padding:4px 8px;border-left:3px solid rgba(128,128,128,.45)"
)
TEXT_CELL_STYLE = "text-align:left"
VOID_TAGS = frozenset({"img", "br"})


class Markup(str):
    """A text that is HTML already."""

    __slots__ = ()


Child: TypeAlias = "str | Markup | Iterable[str | Markup] | None"


def tag(name: str, *children: Child, **attributes: str | None) -> Markup:
    """Return `<name attributes>children</name>`; children that are not `Markup` are escaped."""
    written = "".join(f' {key}="{escape(value, quote=True)}"' for key, value in attributes.items() if value is not None)
    if name in VOID_TAGS:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Return the children one after another; those that are not `Markup` are escaped."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            parts.append(child if isinstance(child, Markup) else escape(child, quote=True))
        else:
            parts.append(join(child))
    return Markup("".join(parts))


def user_text(text: str) -> Markup:
    """Return a text of the user, isolated from the text direction around it."""
    return Markup(escape(text, quote=True)) if text.isascii() else tag("bdi", text)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str | Markup]], *, text_columns: frozenset[int] = frozenset()
) -> Markup:
    """Return a table.

    Cells carry almost no style of their own, since a study has thousands of them.

    Args:
        head: Names of the columns.
        rows: The cells. The last cell of a row that has fewer cells than the head spans the other columns.
        text_columns: Indices of the columns that hold text; the others hold numbers.
    """

    def cell(kind: str, i: int, content: str | Markup, span: int = 1, **attributes: str) -> Markup:
        style = TEXT_CELL_STYLE if i in text_columns or span > 1 else None
        return tag(kind, content, style=style, colspan=str(span) if span > 1 else None, **attributes)

    body = []
    for row in rows:
        rest = len(head) - len(row) + 1
        last = len(row) - 1
        body.append(tag("tr", (cell("td", i, content, rest if i == last else 1) for i, content in enumerate(row))))
    heading = tag("tr", (cell("th", i, column, scope="col") for i, column in enumerate(head)))
    whole = tag("table", tag("thead", heading), tag("tbody", body), cellpadding="4", rules="rows", style=TABLE_STYLE)
    return tag("div", whole, style="overflow-x:auto")


def details(summary: str | Markup, *children: Child) -> Markup:
    """Return a part that is folded until the reader opens it."""
    head = tag("summary", summary, style="cursor:pointer;font-weight:600;margin:6px 0")
    return tag("details", head, *children)


@dataclass(frozen=True)
class Picture:
    """A picture, or why it could not be drawn.

    Attributes:
        png: The picture as a PNG in base64, or None.
        error: A sentence if it could not be drawn, else an empty string.
    """

    png: str | None
    error: str = ""

    def html(self, alt: str, width: int) -> Markup:
        """Return the image, or the sentence in its place.

        Args:
            alt: What the picture shows, in words.
            width: Its width in pixels.
        """
        if not self.png:
            return tag("div", user_text(self.error))
        style = f"width:{width}px;max-width:100%;height:auto;background:#fff"
        return tag("img", src=f"data:image/png;base64,{self.png}", alt=alt, style=style)
