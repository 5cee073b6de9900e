"""The card of what each layer bears."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbcompress.panels.cards.card import NAME, Card, Drawing
from nbcompress.panels.cards.figures import dots_figure
from nbcompress.panels.text import cut

if TYPE_CHECKING:
    from nbcompress.measure import Sensitivity


def sensitivity_card(found: Sensitivity, *, title: str = "%sensitivity") -> dict[str, Any]:
    """Return the card of what each layer bears: the change of the evaluation at every level."""
    layers = tuple(dict.fromkeys(row.layer for row in found.rows))
    cells = {(row.layer, row.level): row for row in found.rows}
    levels = [f"{found.compressor} {level:g}" for level in found.levels]
    rows = []
    for layer in layers:
        changes = [cells[layer, level].change for level in found.levels]
        weights = f"{cells[layer, found.levels[0]].parameters:,}"
        rows.append((layer, weights, *("failed" if one is None else f"{one:+.4g}" for one in changes)))
    series = [
        (name, [cells[layer, level].change for layer in layers])
        for name, level in zip(levels, found.levels, strict=True)
    ]
    notes = [f"change of the evaluation, {found.baseline:.4g} without compression"]
    notes += [f"{row.layer} at {row.level:g} failed: {row.error}" for row in found.rows if row.error]
    notes += [f"left out: {name}, {why}" for name, why in found.left_out.items()]
    labels = [cut(one, NAME) for one in layers]
    drawing = Drawing(lambda: dots_figure(labels, series, "change of the evaluation"), _alt(found)) if labels else None
    return Card(title, ("layer", "weights", *levels), tuple(rows), tuple(notes), (), drawing).bundle()


def _alt(found: Sensitivity) -> str:
    known = [(row.change, row) for row in found.rows if row.change is not None]
    text = f"Dots: change of the evaluation for each layer and each level of {found.compressor}."
    if not known:
        return f"{text} All of them failed."
    change, row = max(known, key=lambda pair: abs(pair[0]))
    return f"{text} The largest is {change:+.4g}, of {cut(row.layer, NAME)} at {row.level:g}."
