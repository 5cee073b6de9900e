"""The layers of several models, side by side by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from nbcompress.measure.table import count_text, size_text

if TYPE_CHECKING:
    from nbcompress.measure.footprint import Footprint

# What stands for the name of the outermost module.
THE_MODEL = "(the model)"

# Bytes and multiply-accumulates of a layer.
Cost = tuple[int, int | None]


def layers_side_by_side(models: Sequence[Footprint]) -> dict[str, list[Cost | None]]:
    """Return what each layer costs in each model, in order; None where a model lacks it.

    What a compressor put in the place of a layer, such as the two layers inside a low-rank one, counts for that layer.
    """
    first = {layer.name for layer in models[0].layers}
    found: dict[str, list[Cost | None]] = {}
    for place, model in enumerate(models):
        for layer in model.layers:
            costs = found.setdefault(_name_in(first, layer.name), [None] * len(models))
            size, macs = costs[place] or (0, None)
            costs[place] = (size + layer.size_bytes, layer.macs if macs is None else macs + (layer.macs or 0))
    return found


def layer_table(models: Sequence[Footprint]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what each layer costs; a dash where a model lacks a layer."""
    head = ["layer", *(f"size, {one.name}" for one in models)]
    has_macs = any(one.macs is not None for one in models)
    if has_macs:
        head += [f"MACs, {one.name}" for one in models]
    rows = []
    for name, costs in layers_side_by_side(models).items():
        row = [name or THE_MODEL, *(size_text(None if one is None else one[0]) for one in costs)]
        rows.append(row + [count_text(None if one is None else one[1]) for one in costs] * has_macs)
    return head, rows


def _name_in(known: Collection[str], name: str) -> str:
    """`name` itself, or the layer of the first model that it stands in the place of."""
    around = name
    while around and around not in known:
        around = around.rpartition(".")[0]
    return around or name


__all__ = ["THE_MODEL", "layer_table", "layers_side_by_side"]
