"""The card of what one or several models cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbcompress.measure.costs import LAYER_HEAD, footprint_notes
from nbcompress.measure.side_by_side import Footprints, layer_table
from nbcompress.measure.table import share_text
from nbcompress.panels.cards.card import NAME, Card, Drawing, Folded
from nbcompress.panels.cards.figures import bars_figure
from nbcompress.panels.cards.layers import layer_sizes, sizes_alt
from nbcompress.panels.cards.scores import Scores, score_rows
from nbcompress.panels.text import cut

if TYPE_CHECKING:
    from nbcompress.measure import Footprint
    from nbcompress.measure.scores import Scores as Measured


def footprint_card(
    footprints: Footprint | Footprints,
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
    models = footprints if isinstance(footprints, Footprints) else Footprints((footprints,))
    names = [one.name for one in models]
    rows = [tuple(row) for row in models.rows() if set(row[1:]) != {"-"}]
    if measured is not None and measured.accuracy:
        known = [measured.accuracy.get(name) for name in names]
        rows.append(("accuracy", *("-" if one is None else share_text(one.interval) for one in known)))
    if measured is not None and measured.language:
        losses = [measured.language.get(name) for name in names]
        rows.append(("loss", *("-" if one is None else f"{one.loss:.4g}" for one in losses)))
        rows.append(("perplexity", *("-" if one is None else f"{one.perplexity:.4g}" for one in losses)))
    rows += score_rows(scores, names)
    pairs = [(cut(one.name, NAME), one) for one in models]
    labels, sizes = layer_sizes(pairs)
    drawing = Drawing(lambda: bars_figure(labels, sizes, "kB in the file"), sizes_alt(pairs)) if labels else None
    notes = (*remarks, *footprint_notes(list(models)))
    return Card(title, ("", *names), tuple(rows), notes, _layers(models), drawing).bundle()


def _layers(models: Footprints) -> tuple[Folded, ...]:
    """Side by side, which is all that the text form has room for, and each model's own table."""
    side_by_side = []
    if len(models) > 1:
        head, rows = layer_table(list(models))
        side_by_side = [Folded("Layers side by side", tuple(head), tuple(tuple(row) for row in rows))]
    own = [
        Folded(f"Layers of {one.name}", LAYER_HEAD, tuple(map(tuple, one.layer_rows())), is_text=len(models) == 1)
        for one in models
    ]
    return (*side_by_side, *own)
