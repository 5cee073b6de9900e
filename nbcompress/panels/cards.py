"""Cards: results of compressors and measurements as text, as HTML without style sheets and scripts, and as a picture.

`comparison_card` compares a model before and after compression, `footprint_card` shows the costs of models, and
`sensitivity_card` shows the loss of accuracy per compressed layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from nbcompress.measure.costs import LAYER_HEADER, ROOT_NAME, footprint_notes
from nbcompress.measure.footprint import FootprintTable, align_layers, layer_table
from nbcompress.measure.removed import REMOVED_HEADER
from nbcompress.measure.text import share_text, size_text, text_table
from nbcompress.panels.card_figures import compression_figure, dots_figure, weights_figure
from nbcompress.panels.figures import render
from nbcompress.panels.html import Markup, Picture, details, join, table, tag, user_text
from nbcompress.panels.text import format_value, shorten

if TYPE_CHECKING:
    from nbcompress.artifact.contents import ModelContents
    from nbcompress.compressors import TrainingLog
    from nbcompress.measure import AccuracyChange, Comparison, Footprint, Sensitivity
    from nbcompress.measure.accuracy import EvaluationScores
    from nbcompress.measure.distribution import WeightTable


# The most characters of a name, and of a sentence.
MAX_NAME = 60
MAX_SENTENCE = 300
# The most rows of a folded table in HTML, and as text, where nothing can be folded.
MAX_ROWS = 300
MAX_TEXT_ROWS = 40
PICTURE_WIDTH = 720


@dataclass(frozen=True)
class FoldedTable:
    """A table that the reader can open.

    Attributes:
        title: What it lists.
        head: Its columns; the first holds names.
        rows: Its rows.
        is_text: Whether the text form, where nothing can be folded, has it too.
        drawing: A picture below the table, or None.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_text: bool = True
    drawing: Drawing | None = None


@dataclass(frozen=True)
class Drawing:
    """How to draw the picture of a card.

    Attributes:
        draw: Returns the figure.
        alt: Alternative text of the picture.
    """

    draw: Callable[[], Figure]
    alt: str


@dataclass(frozen=True)
class Card:
    """The data of a card.

    Attributes:
        title: Its first line.
        head: The columns of the table; the first holds names.
        rows: The table.
        notes: Sentences below the table.
        folded: Folded tables below the notes.
        drawing: The picture, or None.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    folded: tuple[FoldedTable, ...] = ()
    drawing: Drawing | None = None

    def bundle(self) -> dict[str, Any]:
        """Return the mime bundle: text, HTML, and a picture if there is one."""
        picture = render(self.drawing.draw, dpi=130) if self.drawing else None
        bundle = {"text/plain": self.text(), "text/html": str(self._html(picture))}
        return bundle | ({"image/png": picture.png} if picture and picture.png else {})

    def text(self) -> str:
        """Return the card as plain text."""
        parts = [shorten(self.title, MAX_SENTENCE), text_table(*_shortened(self.head, self.rows))]
        parts += ["\n".join(shorten(note, MAX_SENTENCE) for note in self.notes)] if self.notes else []
        for section in self.folded:
            if section.is_text:
                more = len(section.rows) - MAX_TEXT_ROWS
                rest = [f"... and {more} more"] if more > 0 else []
                table_text = text_table(*_shortened(section.head, section.rows[:MAX_TEXT_ROWS]))
                parts.append("\n".join([section.title, table_text, *rest]))
        return "\n\n".join(parts)

    def _html(self, picture: Picture | None) -> Markup:
        return tag(
            "div",
            tag("div", user_text(shorten(self.title, MAX_SENTENCE)), style="font-weight:600"),
            _table(self.head, self.rows),
            picture.html(shorten(self.drawing.alt, 600), PICTURE_WIDTH) if picture and self.drawing else None,
            join(tag("div", user_text(shorten(note, MAX_SENTENCE)), style="opacity:.8") for note in self.notes),
            [_folded(section) for section in self.folded],
            dir="ltr",
            style="line-height:1.4;max-width:1000px;overflow-wrap:break-word",
        )


def _shortened(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    return [shorten(column, MAX_NAME) for column in head], [[shorten(cell, MAX_NAME) for cell in row] for row in rows]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    heads, texts = _shortened(head, rows)
    return table(heads, [[user_text(cell) for cell in row] for row in texts], text_columns=frozenset({0}))


def _folded(section: FoldedTable) -> Markup:
    more = len(section.rows) - MAX_ROWS
    rest = tag("div", f"and {more} more, which are in the result") if more > 0 else None
    below = None
    if section.drawing is not None and (picture := render(section.drawing.draw, dpi=110)) is not None:
        below = picture.html(shorten(section.drawing.alt, 600), PICTURE_WIDTH)
    return details(shorten(section.title, MAX_NAME), _table(section.head, section.rows[:MAX_ROWS]), rest, below)


Sizes = tuple[tuple[str, tuple[float | None, ...]], ...]


def layer_sizes(models: Sequence[tuple[str, Footprint]]) -> tuple[tuple[str, ...], Sizes]:
    """Return the kilobytes of layers.

    Returns:
        The layers of all models that have weights, in order, and for each model its name and the kilobytes of each
        layer; None where the model lacks the layer.
    """
    layers = align_layers([footprint for _, footprint in models])
    shown = {name: costs for name, costs in layers.items() if any(cost is not None and cost[0] for cost in costs)}
    series = [
        (label, tuple(None if (cost := costs[i]) is None else cost[0] / 1000 for costs in shown.values()))
        for i, (label, _) in enumerate(models)
    ]
    return tuple(shorten(name or ROOT_NAME, MAX_NAME) for name in shown), tuple(series)


def sizes_alt(models: Sequence[tuple[str, Footprint]]) -> str:
    """Return in words which layer of each model takes the most bytes."""
    parts = []
    for label, footprint in models:
        largest = max(footprint.layers, key=lambda layer: layer.size_bytes, default=None)
        if largest is not None:
            name = shorten(largest.name or ROOT_NAME, MAX_NAME)
            parts.append(f"{label} {size_text(footprint.size_bytes)}, most in {name}")
    return "Bars: kilobytes of each layer in the file; " + "; ".join(parts) + "."


# Results of the user's functions, by the name of the function, then by the name of the model.
FunctionScores = Mapping[str, Mapping[str, float]]


def score_rows(scores: FunctionScores | None, models: Iterable[str]) -> list[tuple[str, ...]]:
    """Return a row for each function: its name and its number for each model."""
    names = list(models)
    return [
        (function, *(format_value(values[name]) if name in values else "-" for name in names))
        for function, values in (scores or {}).items()
    ]


# More reasons than this are folded.
_MAX_LISTED_REASONS = 3


def comparison_card(
    title: str,
    comparison: Comparison,
    *,
    scores: FunctionScores | None = None,
    left_out: Mapping[str, str] | None = None,
    training: Sequence[TrainingLog] = (),
    removed: Sequence[tuple[str, ...]] = (),
    explained: Sequence[FoldedTable] = (),
    remarks: Sequence[str] = (),
    names: tuple[str, str] = ("before", "after"),
) -> dict[str, Any]:
    """Return the card of a compressor: before and after, where the bytes went, and which examples flipped.

    Args:
        title: Such as `%prune model --amount 0.8`.
        comparison: Both models, measured in turn.
        scores: Results of the user's functions, by `names`.
        left_out: Why tensors were not compressed, by name.
        training: The losses of each training in between.
        removed: What pruning removed from each layer, see `removed_rows`.
        explained: Which inputs decided for examples that flipped.
        remarks: Further sentences below the table.
        names: Of the two models.
    """
    rows = [tuple(row) for row in comparison.rows() if set(row[1:3]) != {"-"}]
    for row in score_rows(scores, names):
        values = (scores or {})[row[0]]
        rows.append((*row, f"{values[names[1]] - values[names[0]]:+.4g}"))
    notes = [*remarks, *comparison.notes()]
    folded = [FoldedTable("Removed", REMOVED_HEADER, tuple(removed))] if removed else []
    folded.append(FoldedTable("Layers", *_frozen(*comparison.layer_table(names))))
    classes = comparison.class_table(names)
    if classes is not None and comparison.accuracy is not None:
        folded.append(FoldedTable("Accuracy of each class", *_frozen(*classes)))
        folded += [*_flips(comparison.accuracy), *explained]
    series = _training_series({"training": training})
    notes += _training_notes(series)
    folded += _epoch_tables(series)
    reasons = tuple((left_out or {}).items())
    if len(reasons) > _MAX_LISTED_REASONS:
        folded.append(FoldedTable(f"Left out ({len(reasons)})", ("parameter", "because"), reasons))
    else:
        notes += [f"left out: {name}, {why}" for name, why in reasons]
    card = Card(
        title, ("", *names, "gain"), tuple(rows), tuple(notes), tuple(folded), _drawing(comparison, series, names)
    )
    return card.bundle()


def _training_series(training: Mapping[str, Sequence[TrainingLog]] | None) -> list[tuple[str, TrainingLog]]:
    """Return a name for each training that has losses; several of one model are numbered."""
    found = []
    for label, logs in (training or {}).items():
        logs = [log for log in logs if log.epoch_losses]
        found += [(f"{label} {i + 1}" if len(logs) > 1 else label, log) for i, log in enumerate(logs)]
    return found


def _training_notes(series: Sequence[tuple[str, TrainingLog]]) -> list[str]:
    notes = []
    for label, log in series:
        first, last = log.epoch_losses[0], log.epoch_losses[-1]
        epochs = f"{len(log.epoch_losses)} epoch{'s' * (len(log.epoch_losses) > 1)} of {log.optimizer}"
        notes.append(f"{label}: loss {first:.4g} to {last:.4g} in {epochs} ({len(log.step_losses):,} steps)")
    return notes


def _epoch_tables(series: Sequence[tuple[str, TrainingLog]]) -> list[FoldedTable]:
    """Return a table of the loss of each epoch for each training."""
    tables = []
    for label, log in series:
        columns: list[Sequence[object]] = [
            range(1, len(log.epoch_losses) + 1),
            log.epoch_ends,
            [f"{loss:.5g}" for loss in log.epoch_losses],
        ]
        head: tuple[str, ...] = ("epoch", "steps", "loss")
        if log.valid_losses:
            columns.append([f"{loss:.5g}" for loss in log.valid_losses])
            head = (*head, "loss on validation data")
        rows = tuple(tuple(map(str, row)) for row in zip(*columns, strict=False))
        tables.append(FoldedTable(f"Loss by epoch, {label}", head, rows, is_text=False))
    return tables


def _training_alt(series: Sequence[tuple[str, TrainingLog]]) -> list[str]:
    return [f"Lines: {note}." for note in _training_notes(series)]


def _drawing(
    comparison: Comparison, training: Sequence[tuple[str, TrainingLog]], names: tuple[str, str]
) -> Drawing | None:
    first, second = (shorten(name, MAX_NAME) for name in names)
    models = [(first, comparison.before), (second, comparison.after)]
    labels, sizes = layer_sizes(models)
    if not labels:
        return None
    alt = []
    weights, accuracy = comparison.weights, comparison.accuracy
    if weights is not None:
        # A file of another program shows no weights.
        known = {
            name: (counts, weights.zeros[key])
            for name, (key, counts) in zip((first, second), weights.counts.items(), strict=True)
            if any(counts)
        }
        weights = replace(
            weights,
            counts={name: counts for name, (counts, _) in known.items()},
            zeros={name: zeros for name, (_, zeros) in known.items()},
        )
        zeros = ", ".join(f"{n:,} of {sum(counts):,} {name}" for name, (counts, n) in known.items())
        alt.append(f"Histogram: values of the weights, zero are {zeros}.")
    if accuracy is not None:
        before, after = float(accuracy.before), float(accuracy.after)
        shares = f"{before:.1%} {first} and {after:.1%} {second}"
        alt.append(f"Dots: accuracy by class with 95 % intervals, in all {shares}.")
    alt += [*_training_alt(training), sizes_alt(models)]
    return Drawing(lambda: compression_figure(labels, sizes, weights, accuracy, training), " ".join(alt))


def _flips(change: AccuracyChange) -> list[FoldedTable]:
    """Return tables of the examples whose prediction became wrong or right, with label and predictions."""
    tables = []
    kinds = (("Right before, wrong after", change.broken), ("Wrong before, right after", change.mended))
    columns = (change.before.labels, change.before.predictions, change.after.predictions)
    for title, examples in kinds:
        rows = tuple((str(i), *(str(int(column[i])) for column in columns)) for i in examples)
        if rows:
            tables.append(
                FoldedTable(f"{title} ({len(rows)})", ("example", "label", "before", "after"), rows, is_text=False)
            )
    return tables


def _frozen(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    return tuple(head), tuple(tuple(row) for row in rows)


def footprint_card(
    footprints: Footprint | FootprintTable,
    *,
    title: str = "%footprint",
    scores: FunctionScores | None = None,
    measured: EvaluationScores | None = None,
    training: Mapping[str, Sequence[TrainingLog]] | None = None,
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the card of the costs of one or several models, with their layers.

    Args:
        footprints: Of one model, or of several that were measured in turn.
        title: Its first line.
        scores: Results of the user's functions, by the names of the models.
        measured: Accuracy, or loss and perplexity of language models, on the same data.
        training: The losses of trainings, by the names of the models.
        remarks: Further sentences below the table.
    """
    models = footprints if isinstance(footprints, FootprintTable) else FootprintTable((footprints,))
    names = [model.name for model in models]
    rows = [tuple(row) for row in models.rows() if set(row[1:]) != {"-"}]
    if measured is not None and measured.accuracy:
        known = [measured.accuracy.get(name) for name in names]
        rows.append(("accuracy", *("-" if accuracy is None else share_text(accuracy.interval) for accuracy in known)))
    if measured is not None and measured.language:
        losses = [measured.language.get(name) for name in names]
        rows.append(("loss", *("-" if loss is None else f"{loss.loss:.4g}" for loss in losses)))
        rows.append(("perplexity", *("-" if loss is None else f"{loss.perplexity:.4g}" for loss in losses)))
    rows += score_rows(scores, names)
    pairs = [(shorten(model.name, MAX_NAME), model) for model in models]
    labels, sizes = layer_sizes(pairs)
    series = _training_series(training)
    alt = " ".join([*_training_alt(series), sizes_alt(pairs)])
    drawing = Drawing(lambda: compression_figure(labels, sizes, training=series), alt) if labels else None
    notes = (*remarks, *_training_notes(series), *footprint_notes(list(models)))
    folded = (*_layers(models), *_epoch_tables(series))
    return Card(title, ("", *names), tuple(rows), notes, folded, drawing).bundle()


def contents_card(contents: ModelContents, *, title: str = "%footprint") -> dict[str, Any]:
    """Return the card of what a file of a model holds."""
    tensors = FoldedTable("Tensors", contents.columns, contents.rows)
    own = [tensor for tensor in contents.tensors if tensor.n_bytes]
    labels = [f"{tensor.index}: {' x '.join(map(str, tensor.shape))}" for tensor in own]
    sizes = [(contents.name, [tensor.n_bytes / 1000 for tensor in own])]
    drawing = Drawing(lambda: compression_figure(labels, sizes), "Bytes of each tensor") if labels else None
    return Card(title, ("", contents.name), contents.facts, contents.notes, (tensors,), drawing).bundle()


def _layers(models: FootprintTable) -> tuple[FoldedTable, ...]:
    """Return the layers of all models side by side, and a table for each model; as text only the former fits."""
    side_by_side = []
    if len(models) > 1:
        head, rows = layer_table(list(models))
        side_by_side = [FoldedTable("Layers side by side", tuple(head), tuple(tuple(row) for row in rows))]
    is_alone = len(models) == 1
    per_model = [
        FoldedTable(f"Layers of {model.name}", LAYER_HEADER, tuple(map(tuple, model.layer_rows())), is_text=is_alone)
        for model in models
    ]
    return (*side_by_side, *per_model)


def sensitivity_card(sensitivity: Sensitivity, *, title: str = "%sensitivity") -> dict[str, Any]:
    """Return the card of the sensitivity of layers: how the evaluation changes at every level of compression."""
    layers = tuple(dict.fromkeys(row.layer for row in sensitivity.rows))
    cells = {(row.layer, row.level): row for row in sensitivity.rows}
    levels = [f"{sensitivity.compressor} {level:g}" for level in sensitivity.levels]
    rows = []
    for layer in layers:
        changes = [cells[layer, level].change for level in sensitivity.levels]
        weights = f"{cells[layer, sensitivity.levels[0]].parameters:,}"
        rows.append((layer, weights, *("failed" if change is None else f"{change:+.4g}" for change in changes)))
    series = [
        (name, [cells[layer, level].change for layer in layers])
        for name, level in zip(levels, sensitivity.levels, strict=True)
    ]
    notes = [f"change of the evaluation, {sensitivity.baseline:.4g} without compression"]
    notes += [f"{row.layer} at {row.level:g} failed: {row.error}" for row in sensitivity.rows if row.error]
    notes += [f"left out: {name}, {why}" for name, why in sensitivity.left_out.items()]
    labels = [shorten(layer, MAX_NAME) for layer in layers]
    drawing = (
        Drawing(lambda: dots_figure(labels, series, "change of the evaluation"), _alt(sensitivity)) if labels else None
    )
    return Card(title, ("layer", "weights", *levels), tuple(rows), tuple(notes), (), drawing).bundle()


def weights_card(weights: WeightTable, *, title: str = "%weights") -> dict[str, Any]:
    """Return the card of the weights of each layer: their distribution, and the errors of grids and codebooks."""
    notes = [*weights.notes(), *(f"left out: {name}, {why}" for name, why in weights.left_out.items())]
    largest = max(weights.layers, key=lambda layer: layer.errors[4])
    alt = (
        "Histograms: weights of the layers, above the values of grids of 2 to 8 bits and of 16 shared values. With 4 "
        f"bits {shorten(largest.name, MAX_NAME)} changes most, by {largest.errors[4]:.1%}."
    )
    drawing = Drawing(lambda: weights_figure(weights.layers), alt)
    rows = tuple(tuple(row) for row in weights.rows())
    return Card(title, weights.header, rows, tuple(notes), (), drawing).bundle()


def _alt(sensitivity: Sensitivity) -> str:
    known = [(row.change, row) for row in sensitivity.rows if row.change is not None]
    text = f"Dots: change of the evaluation for each layer and each level of {sensitivity.compressor}."
    if not known:
        return f"{text} All of them failed."
    change, row = max(known, key=lambda pair: abs(pair[0]))
    return f"{text} The largest is {change:+.4g}, of {shorten(row.layer, MAX_NAME)} at {row.level:g}."
