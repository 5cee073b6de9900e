"""What several models keep in each layer, as a picture shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbcompress.measure.costs import THE_MODEL
from nbcompress.measure.side_by_side import layers_side_by_side
from nbcompress.measure.table import size_text
from nbcompress.panels.cards.card import NAME
from nbcompress.panels.text import cut

if TYPE_CHECKING:
    from nbcompress.measure import Footprint

Sizes = tuple[tuple[str, tuple[float | None, ...]], ...]


def layer_sizes(models: Sequence[tuple[str, Footprint]]) -> tuple[tuple[str, ...], Sizes]:
    """Return the layers of all models in order, and for each model the kilobytes of each; None where there is none."""
    found = layers_side_by_side([one for _, one in models])
    shown = {name: costs for name, costs in found.items() if any(one is not None and one[0] for one in costs)}
    series = [
        (label, tuple(None if (cost := costs[place]) is None else cost[0] / 1024 for costs in shown.values()))
        for place, (label, _) in enumerate(models)
    ]
    return tuple(cut(name or THE_MODEL, NAME) for name in shown), tuple(series)


def sizes_alt(models: Sequence[tuple[str, Footprint]]) -> str:
    """Return in words which layer of each model takes the most bytes."""
    parts = []
    for label, one in models:
        largest = max(one.layers, key=lambda layer: layer.size_bytes, default=None)
        if largest is not None:
            parts.append(f"{label} {size_text(one.size_bytes)}, most in {cut(largest.name or THE_MODEL, NAME)}")
    return "Bars: kilobytes of each layer in the file; " + "; ".join(parts) + "."
