"""The card of a compressor: before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbcompress.panels.cards.card import Card, Drawing, Folded
from nbcompress.panels.cards.figures import compression_figure
from nbcompress.panels.cards.layers import layer_sizes, sizes_alt
from nbcompress.panels.cards.scores import Scores, score_rows

if TYPE_CHECKING:
    from nbcompress.measure import AccuracyChange, Comparison

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
