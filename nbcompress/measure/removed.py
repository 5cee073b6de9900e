"""What pruning removed from each layer, as rows of a table."""

from __future__ import annotations

import torch
from torch import nn

from nbcompress.compressors.blocks import is_container, name_before_removal
from nbcompress.compressors.record import Record, record_of, unit_axis
from nbcompress.measure.costs import Footprint
from nbcompress.measure.text import size_text

REMOVED_HEADER = ("layer", "units before", "after", "removed", "bytes before", "after", "scores")


def removed_rows(before: nn.Module, after: nn.Module, costs: tuple[Footprint, Footprint]) -> list[tuple[str, ...]]:
    """Return a row for each layer that lost units, weights or blocks.

    Units of a layer are its outputs, those of a list of layers its items, and those of a pruned tensor its weights that
    are not zero.

    Args:
        before: The model that was pruned.
        after: The pruned model, with the record of what was done.
        costs: Footprints of both.
    """
    record, steps_before = record_of(after), len(record_of(before).surgery)
    rows = []
    for name, indices in record.kept_indices.items():
        old_name = _name_before(record, steps_before, name)
        n_before = _n_units(before, old_name)
        if n_before is not None and (n_before > len(indices) or _lost_inputs(before, after, old_name, name)):
            rows.append(_row(name, n_before, len(indices), _bytes(costs[0], old_name), _bytes(costs[1], name), record))
    parameters = dict(before.named_parameters(remove_duplicate=False))
    kept = dict(after.named_parameters(remove_duplicate=False))
    for name, tensor in record.tensors.items():
        old = parameters.get(_name_before(record, steps_before, name))
        new = kept.get(name)
        if not tensor.is_pruned or old is None or new is None or old.shape != new.shape:
            continue
        n_before, n_after = (int(torch.count_nonzero(values.detach())) for values in (old, new))
        if n_before > n_after:
            old_name = _name_before(record, steps_before, name)
            sizes = _bytes(costs[0], old_name.rpartition(".")[0]), _bytes(costs[1], name.rpartition(".")[0])
            rows.append(_row(name.removesuffix(".weight"), n_before, n_after, *sizes, record))
    return rows


def _row(
    name: str, n_before: int, n_after: int, bytes_before: int, bytes_after: int, record: Record
) -> tuple[str, ...]:
    scores = record.scores.get(name)
    return (
        name or "(model)",
        f"{n_before:,}",
        f"{n_after:,}",
        f"{1 - n_after / n_before:.0%}" if n_before else "-",
        size_text(bytes_before),
        size_text(bytes_after),
        "-" if scores is None else f"{scores[0]:.3g} to {scores[1]:.3g}",
    )


def _name_before(record: Record, n_steps: int, name: str) -> str:
    """The name that a layer had before the steps from `n_steps` on."""
    for step in reversed(record.surgery[n_steps:]):
        if step.kind == "remove" and name != step.module:
            name = name_before_removal(name, step.module, step.positions)
    return name


def _n_units(model: nn.Module, name: str) -> int | None:
    """Outputs of the layer, or of the weight, or items of the list that has this name."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    weight = tensors.get(name)
    if weight is not None:
        return int(weight.shape[0])
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return None
    own = getattr(module, "weight", None)
    if isinstance(own, torch.Tensor):
        return int(own.shape[unit_axis(module)])
    return len(module._modules) if is_container(module) else None


def _lost_inputs(before: nn.Module, after: nn.Module, old_name: str, name: str) -> bool:
    try:
        old, new = before.get_submodule(old_name), after.get_submodule(name)
    except AttributeError:
        return False
    shapes = [getattr(getattr(module, "weight", None), "shape", None) for module in (old, new)]
    return shapes[0] != shapes[1]


def _bytes(costs: Footprint, name: str) -> int:
    """Bytes of a layer with everything inside of it."""
    start = f"{name}." if name else ""
    return sum(layer.size_bytes for layer in costs.layers if layer.name == name or layer.name.startswith(start))


__all__ = ["REMOVED_HEADER", "removed_rows"]
