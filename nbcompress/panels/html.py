"""HTML elements as values: every text is escaped unless it was built here.

Viewers of saved notebooks strip style sheets, scripts and inline SVG, so each element carries its own style. The styles
use only lines and shades that show on dark and on light paper; text keeps the colour of the page.
"""

from __future__ import annotations

import re
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


# A line feed with nothing but spaces up to the next one.
_BEFORE_BLANK = re.compile(r"\n(?=[^\S\n]*(?:\n|\Z))")


def escaped(text: str) -> str:
    """Return a text as HTML without blank lines, since Markdown takes one for the end of the HTML around it."""
    return _BEFORE_BLANK.sub("&#10;", escape(text, quote=True))


class Markup(str):
    """A text that is HTML already."""

    __slots__ = ()


Child: TypeAlias = "str | Markup | Iterable[str | Markup] | None"


def tag(name: str, *children: Child, **attributes: str | None) -> Markup:
    """Return `<name attributes>children</name>`; children that are not `Markup` are escaped."""
    written = "".join(f' {key}="{escaped(value)}"' for key, value in attributes.items() if value is not None)
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
            parts.append(child if isinstance(child, Markup) else escaped(child))
        else:
            parts.append(join(child))
    return Markup("".join(parts))


def user_text(text: str) -> Markup:
    """Return a text of the user, isolated from the text direction around it."""
    return Markup(escaped(text)) if text.isascii() else tag("bdi", text)


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

    # One line for each row, so that a comparison of two versions of the notebook shows which rows differ.
    body = []
    for row in rows:
        rest = len(head) - len(row) + 1
        last = len(row) - 1
        body.append(tag("tr", (cell("td", i, content, rest if i == last else 1) for i, content in enumerate(row))))
        body.append(Markup("\n"))
    # A header without a text would be read out as an empty one.
    heads = (cell("th", i, column, scope="col") if column else cell("td", i, column) for i, column in enumerate(head))
    heading = tag("thead", tag("tr", heads))
    parts = (Markup("\n"), heading, Markup("\n"), tag("tbody", Markup("\n"), body), Markup("\n"))
    whole = tag("table", *parts, cellpadding="4", rules="rows", style=TABLE_STYLE)
    return join([tag("div", whole, style="overflow-x:auto"), Markup("\n")])


def details(summary: str | Markup, *children: Child, level: int | None = None) -> Markup:
    """Return a part that is folded until the reader opens it.

    Args:
        summary: What stands there while it is folded.
        children: The part.
        level: Of the heading that the summary is; None makes no heading.
    """
    text = summary if level is None else heading(level, summary, style="display:inline;font-size:1em;margin:0")
    head = tag("summary", text, style="cursor:pointer;font-weight:600;margin:6px 0")
    return join([tag("details", head, *children), Markup("\n")])


def heading(level: int, *children: Child, style: str) -> Markup:
    """Return a heading that looks as `style` says, whatever the page makes of headings.

    Args:
        level: 1 is the highest.
        children: Its text.
        style: Its size and margins.
    """
    return tag(f"h{level}", *children, style=f"font-weight:600;{style}")


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
        style = f"width:{width}px;max-width:100%;height:auto"
        return tag("img", src=f"data:image/png;base64,{self.png}", alt=alt, style=style)
