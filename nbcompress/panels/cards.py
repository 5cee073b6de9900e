"""The card of what each layer bears.

A card: plain data that is shown as text, as HTML without style sheets or scripts, and as a picture.

What several models keep in each layer, as a picture shows it.

What the user's own functions gave, as rows of a card.

The card of a compressor: before and after.

The card of what one or several models cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from nbcompress.measure.costs import LAYER_HEADER, ROOT_NAME, footprint_notes
from nbcompress.measure.footprint import FootprintTable, align_layers, layer_table
from nbcompress.measure.text import share_text, size_text, text_table
from nbcompress.panels.card_figures import bars_figure, compression_figure, dots_figure
from nbcompress.panels.drawing import Markup, Picture, details, drawn, join, table, tag, user
from nbcompress.panels.text import cut, spell

if TYPE_CHECKING:
    from nbcompress.measure import AccuracyChange, Comparison, Footprint, Sensitivity
    from nbcompress.measure.accuracy import EvaluationScores as Measured


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
        parts += ["\n".join(cut(note, SENTENCE) for note in self.notes)] if self.notes else []
        for section in self.folded:
            if section.is_text:
                more = len(section.rows) - MOST_LINES
                rest = [f"... and {more} more"] if more > 0 else []
                parts.append(
                    "\n".join([section.title, text_table(*_cut_table(section.head, section.rows[:MOST_LINES])), *rest])
                )
        return "\n\n".join(parts)

    def _html(self, picture: Picture | None) -> Markup:
        return tag(
            "div",
            tag("div", user(cut(self.title, SENTENCE)), style="font-weight:600"),
            _table(self.head, self.rows),
            picture.html(cut(self.drawing.alt, 600), WIDTH) if picture and self.drawing else None,
            join(tag("div", user(cut(note, SENTENCE)), style="opacity:.8") for note in self.notes),
            [_folded(section) for section in self.folded],
            dir="ltr",
            style="line-height:1.4;max-width:1000px;overflow-wrap:anywhere",
        )


def _cut_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    return [cut(column, NAME) for column in head], [[cut(cell, NAME) for cell in row] for row in rows]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    heads, texts = _cut_table(head, rows)
    return table(heads, [[user(cell) for cell in row] for row in texts], texts=frozenset({0}))


def _folded(one: Folded) -> Markup:
    more = len(one.rows) - MOST_ROWS
    rest = tag("div", f"and {more} more, which the result holds") if more > 0 else None
    return details(cut(one.title, NAME), _table(one.head, one.rows[:MOST_ROWS]), rest)


Sizes = tuple[tuple[str, tuple[float | None, ...]], ...]


def layer_sizes(models: Sequence[tuple[str, Footprint]]) -> tuple[tuple[str, ...], Sizes]:
    """Return the layers of all models in order, and for each model the kilobytes of each; None where there is none."""
    found = align_layers([one for _, one in models])
    shown = {name: costs for name, costs in found.items() if any(cost is not None and cost[0] for cost in costs)}
    series = [
        (label, tuple(None if (cost := costs[place]) is None else cost[0] / 1024 for costs in shown.values()))
        for place, (label, _) in enumerate(models)
    ]
    return tuple(cut(name or ROOT_NAME, NAME) for name in shown), tuple(series)


def sizes_alt(models: Sequence[tuple[str, Footprint]]) -> str:
    """Return in words which layer of each model takes the most bytes."""
    parts = []
    for label, one in models:
        largest = max(one.layers, key=lambda layer: layer.size_bytes, default=None)
        if largest is not None:
            parts.append(f"{label} {size_text(one.size_bytes)}, most in {cut(largest.name or ROOT_NAME, NAME)}")
    return "Bars: kilobytes of each layer in the file; " + "; ".join(parts) + "."


# Numbers by the name of the function that gave them, then by the model's.
Scores = Mapping[str, Mapping[str, float]]


def score_rows(scores: Scores | None, models: Iterable[str]) -> list[tuple[str, ...]]:
    """Return a row for each function: its name and its number for each model."""
    names = list(models)
    return [
        (function, *(spell(values[name]) if name in values else "-" for name in names))
        for function, values in (scores or {}).items()
    ]


# More reasons than these fold away.
_REASONS = 3


def comparison_card(
    title: str,
    comparison: Comparison,
    *,
    scores: Scores | None = None,
    left_out: Mapping[str, str] | None = None,
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the card of a compressor: before and after, where the bytes went, and which examples flipped.

    Args:
        title: Such as `%prune model --amount 0.8`.
        comparison: Both models, measured in turn.
        scores: What the user's functions gave for `before` and `after`.
        left_out: Why a tensor that one might expect was not compressed, by name.
        remarks: Further sentences below the table.
    """
    rows = [tuple(row) for row in comparison.rows() if set(row[1:3]) != {"-"}]
    for row in score_rows(scores, ("before", "after")):
        values = (scores or {})[row[0]]
        rows.append((*row, f"{values['after'] - values['before']:+.4g}"))
    notes = [*remarks, *comparison.notes()]
    folded = [Folded("Layers", *_frozen(*comparison.layer_table()))]
    classes = comparison.class_table()
    if classes is not None and comparison.accuracy is not None:
        folded.append(Folded("Accuracy of each class", *_frozen(*classes)))
        folded += _flips(comparison.accuracy)
    reasons = tuple((left_out or {}).items())
    if len(reasons) > _REASONS:
        folded.append(Folded(f"Left out ({len(reasons)})", ("parameter", "because"), reasons))
    else:
        notes += [f"left out: {name}, {why}" for name, why in reasons]
    card = Card(title, ("", "before", "after", "gain"), tuple(rows), tuple(notes), tuple(folded), _drawing(comparison))
    return card.bundle()


def _drawing(comparison: Comparison) -> Drawing | None:
    models = [("before", comparison.before), ("after", comparison.after)]
    labels, sizes = layer_sizes(models)
    if not labels:
        return None
    alt = []
    weights, accuracy = comparison.weights, comparison.accuracy
    if weights is not None:
        zeros = ", ".join(
            f"{weights.zeros[name]:,} of {sum(counts):,} {name}" for name, counts in weights.counts.items()
        )
        alt.append(f"Histogram: values of the weights, zero are {zeros}.")
    if accuracy is not None:
        before, after = float(accuracy.before), float(accuracy.after)
        alt.append(f"Dots: accuracy by class with 95 % intervals, in all {before:.1%} before and {after:.1%} after.")
    alt.append(sizes_alt(models))
    return Drawing(lambda: compression_figure(labels, sizes, weights, accuracy), " ".join(alt))


def _flips(found: AccuracyChange) -> list[Folded]:
    """Every example that flipped, with its label and what was said of it."""
    tables = []
    kinds = (("Right before, wrong after", found.broken), ("Wrong before, right after", found.mended))
    for title, places in kinds:
        rows = tuple((str(place), *(str(int(one[place])) for one in _told(found))) for place in places)
        if rows:
            tables.append(
                Folded(f"{title} ({len(rows)})", ("example", "label", "before", "after"), rows, is_text=False)
            )
    return tables


def _told(found: AccuracyChange) -> tuple[Any, Any, Any]:
    return found.before.labels, found.before.predictions, found.after.predictions


def _frozen(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    return tuple(head), tuple(tuple(row) for row in rows)


def footprint_card(
    footprints: Footprint | FootprintTable,
    *,
    title: str = "%footprint",
    scores: Scores | None = None,
    measured: Measured | None = None,
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the card of what one or several models cost, with their layers.

    Args:
        footprints: Of one model, or of several that were measured in turn.
        title: Its first line.
        scores: What the user's functions gave, by the models' names.
        measured: Accuracy, or loss and perplexity of language models, on the same data.
        remarks: Further sentences below the table.
    """
    models = footprints if isinstance(footprints, FootprintTable) else FootprintTable((footprints,))
    names = [model.name for model in models]
    rows = [tuple(row) for row in models.rows() if set(row[1:]) != {"-"}]
    if measured is not None and measured.accuracy:
        known = [measured.accuracy.get(name) for name in names]
        rows.append(("accuracy", *("-" if trial is None else share_text(trial.interval) for trial in known)))
    if measured is not None and measured.language:
        losses = [measured.language.get(name) for name in names]
        rows.append(("loss", *("-" if loss is None else f"{loss.loss:.4g}" for loss in losses)))
        rows.append(("perplexity", *("-" if loss is None else f"{loss.perplexity:.4g}" for loss in losses)))
    rows += score_rows(scores, names)
    pairs = [(cut(model.name, NAME), model) for model in models]
    labels, sizes = layer_sizes(pairs)
    drawing = Drawing(lambda: bars_figure(labels, sizes, "kB in the file"), sizes_alt(pairs)) if labels else None
    notes = (*remarks, *footprint_notes(list(models)))
    return Card(title, ("", *names), tuple(rows), notes, _layers(models), drawing).bundle()


def _layers(models: FootprintTable) -> tuple[Folded, ...]:
    """Side by side, which is all that the text form has room for, and each model's own table."""
    side_by_side = []
    if len(models) > 1:
        head, rows = layer_table(list(models))
        side_by_side = [Folded("Layers side by side", tuple(head), tuple(tuple(row) for row in rows))]
    own = [
        Folded(f"Layers of {model.name}", LAYER_HEADER, tuple(map(tuple, model.layer_rows())), is_text=len(models) == 1)
        for model in models
    ]
    return (*side_by_side, *own)


def sensitivity_card(found: Sensitivity, *, title: str = "%sensitivity") -> dict[str, Any]:
    """Return the card of what each layer bears: the change of the evaluation at every level."""
    layers = tuple(dict.fromkeys(row.layer for row in found.rows))
    cells = {(row.layer, row.level): row for row in found.rows}
    levels = [f"{found.compressor} {level:g}" for level in found.levels]
    rows = []
    for layer in layers:
        changes = [cells[layer, level].change for level in found.levels]
        weights = f"{cells[layer, found.levels[0]].parameters:,}"
        rows.append((layer, weights, *("failed" if change is None else f"{change:+.4g}" for change in changes)))
    series = [
        (name, [cells[layer, level].change for layer in layers])
        for name, level in zip(levels, found.levels, strict=True)
    ]
    notes = [f"change of the evaluation, {found.baseline:.4g} without compression"]
    notes += [f"{row.layer} at {row.level:g} failed: {row.error}" for row in found.rows if row.error]
    notes += [f"left out: {name}, {why}" for name, why in found.left_out.items()]
    labels = [cut(layer, NAME) for layer in layers]
    drawing = Drawing(lambda: dots_figure(labels, series, "change of the evaluation"), _alt(found)) if labels else None
    return Card(title, ("layer", "weights", *levels), tuple(rows), tuple(notes), (), drawing).bundle()


def _alt(found: Sensitivity) -> str:
    known = [(row.change, row) for row in found.rows if row.change is not None]
    text = f"Dots: change of the evaluation for each layer and each level of {found.compressor}."
    if not known:
        return f"{text} All of them failed."
    change, row = max(known, key=lambda pair: abs(pair[0]))
    return f"{text} The largest is {change:+.4g}, of {cut(row.layer, NAME)} at {row.level:g}."
