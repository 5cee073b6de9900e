"""A card: plain data that is shown as text, as HTML without style sheets or scripts, and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from nbcompress.measure.table import text_table
from nbcompress.panels.drawing import Picture, drawn
from nbcompress.panels.html import Markup, details, join, table, tag, user
from nbcompress.panels.text import cut

# The most characters of a name, and of a sentence.
NAME = 60
SENTENCE = 300
# The most rows of a folded table in HTML, and in the text form, where nothing folds.
MOST_ROWS = 300
MOST_LINES = 40
WIDTH = 720


@dataclass(frozen=True)
class Folded:
    """A table that a reader may open.

    Attributes:
        title: What it lists.
        head: Its columns; the first holds names.
        rows: The rows that are shown when it is open.
        is_text: Whether the text form, where nothing folds, has it too.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_text: bool = True


@dataclass(frozen=True)
class Drawing:
    """What draws a picture, and the words for who cannot see it."""

    draw: Callable[[], Figure]
    alt: str


@dataclass(frozen=True)
class Card:
    """What a card shows.

    Attributes:
        title: Its first line.
        head: The columns of the table; the first holds names.
        rows: The table.
        notes: Sentences below it.
        folded: Tables below these.
        drawing: The picture, if there is something to draw.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    folded: tuple[Folded, ...] = ()
    drawing: Drawing | None = None

    def bundle(self) -> dict[str, Any]:
        """Return the mime bundle: text, HTML, and a picture if there is one."""
        picture = drawn(self.drawing.draw, dpi=130) if self.drawing else None
        bundle = {"text/plain": self.text(), "text/html": str(self._html(picture))}
        return bundle | ({"image/png": picture.png} if picture and picture.png else {})

    def text(self) -> str:
        """Return the whole card as lines."""
        parts = [cut(self.title, SENTENCE), text_table(*_cut_table(self.head, self.rows))]
        parts += ["\n".join(cut(one, SENTENCE) for one in self.notes)] if self.notes else []
        for one in self.folded:
            if one.is_text:
                more = len(one.rows) - MOST_LINES
                rest = [f"... and {more} more"] if more > 0 else []
                parts.append("\n".join([one.title, text_table(*_cut_table(one.head, one.rows[:MOST_LINES])), *rest]))
        return "\n\n".join(parts)

    def _html(self, picture: Picture | None) -> Markup:
        return tag(
            "div",
            tag("div", user(cut(self.title, SENTENCE)), style="font-weight:600"),
            _table(self.head, self.rows),
            picture.html(cut(self.drawing.alt, 600), WIDTH) if picture and self.drawing else None,
            join(tag("div", user(cut(one, SENTENCE)), style="opacity:.8") for one in self.notes),
            [_folded(one) for one in self.folded],
            dir="ltr",
            style="line-height:1.4;max-width:1000px;overflow-wrap:anywhere",
        )


def _cut_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    return [cut(one, NAME) for one in head], [[cut(one, NAME) for one in row] for row in rows]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    heads, texts = _cut_table(head, rows)
    return table(heads, [[user(cell) for cell in row] for row in texts], texts=frozenset({0}))


def _folded(one: Folded) -> Markup:
    more = len(one.rows) - MOST_ROWS
    rest = tag("div", f"and {more} more, which the result holds") if more > 0 else None
    return details(cut(one.title, NAME), _table(one.head, one.rows[:MOST_ROWS]), rest)
