"""The costs of several models side by side, in all and layer by layer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from nbcompress.measure.costs import THE_MODEL, Footprint, footprint_notes, latency_text
from nbcompress.measure.table import count_text, size_text, text_table

# Bytes and multiply-accumulates of a layer.
Cost = tuple[int, int | None]


@dataclass(frozen=True, repr=False)
class Footprints(Sequence[Footprint]):
    """Footprints of several models, measured in turn."""

    models: tuple[Footprint, ...]

    @overload
    def __getitem__(self, place: int) -> Footprint: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Footprint, ...]: ...
    def __getitem__(self, place: int | slice) -> Footprint | tuple[Footprint, ...]:
        return self.models[place]

    def __len__(self) -> int:
        return len(self.models)

    def __iter__(self) -> Iterator[Footprint]:
        return iter(self.models)

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, texts and numbers."""
        return {"models": [one.to_json() for one in self.models]}

    def rows(self) -> list[list[str]]:
        """What each model costs in all: the name of the cost, then one text for each model."""
        models = self.models
        return [
            ["size", *(size_text(one.size_bytes) for one in models)],
            ["parameters", *(count_text(one.parameters) for one in models)],
            ["non-zeros", *(count_text(one.nonzeros) for one in models)],
            ["MACs", *(count_text(one.macs) for one in models)],
            ["peak memory", *(size_text(one.memory_bytes) for one in models)],
            ["ms a call", *(latency_text(one.latency) for one in models)],
        ]

    def __str__(self) -> str:
        summary = text_table(["", *(one.name for one in self.models)], self.rows())
        return "\n".join([summary, "", text_table(*layer_table(self.models)), "", *footprint_notes(self.models)])

    def __repr__(self) -> str:
        return f"<Footprints of {', '.join(one.name for one in self.models)}>"


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


__all__ = ["Footprints", "layer_table", "layers_side_by_side"]
