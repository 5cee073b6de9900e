"""Whether a file and the instance that it should fill are the same model, and what differs first."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from nbcompress.artifact.dtypes import bytes_of, dtype_name
from nbcompress.artifact.header import Entry, Header, check_of_name, check_of_names
from nbcompress.artifact.packed import Slot, slots_of
from nbcompress.compress.buffers import is_spread
from nbcompress.errors import ArtifactError

# Surgery makes a model smaller; a factorized layer of full rank is at most twice as large.
_MOST_GROWTH = 2


def check_class(header: Header, model: nn.Module) -> None:
    """Refuse an instance of another class than the one that was saved."""
    found = type(model).__name__
    if found != header.class_name:
        raise ArtifactError(
            f"the file holds a {header.class_name:.200} and the instance is a {found}: "
            f"give load() a fresh {header.class_name:.200}"
        )


def check_surgery(header: Header, model: nn.Module) -> None:
    """Refuse recorded shapes that would allocate more than surgery can."""
    n_before = sum(parameter.numel() for parameter in model.parameters()) + sum(b.numel() for b in model.buffers())
    n_after = sum(prod(shape) for step in header.surgery for shape in step.shapes.values())
    # Every step tells shapes of what is there, so all steps together are bounded by their number.
    if n_after > _MOST_GROWTH * n_before * max(1, len(header.surgery)):
        raise ArtifactError(f"the file is damaged: its surgery has {n_after} numbers, the instance only {n_before}")


def check_tensors(header: Header, model: nn.Module) -> list[Slot]:
    """The tensors of `model`, which agree with the file in number, names, shapes, dtypes and ties.

    Raises:
        ArtifactError: They do not; names the first difference.
    """
    slots, who = slots_of(model, header.surgery), f"this {type(model).__name__}"
    for place, (entry, slot) in enumerate(zip(header.entries, slots, strict=False)):
        _check_tensor(entry, slot, place, who, header.entries)
    if len(slots) != len(header.entries):
        extra = f"; {slots[len(header.entries)].name!r} is not in the file" if len(slots) > len(header.entries) else ""
        raise ArtifactError(f"the file has {len(header.entries)} tensors and {who} has {len(slots)}{extra}")
    if check_of_names(slot.name for slot in slots) != header.names_check:
        raise ArtifactError(f"the file's tensors have other names than those of {who}, though the same shapes")
    return slots


def _check_tensor(entry: Entry, slot: Slot, place: int, who: str, entries: tuple[Entry, ...]) -> None:
    described = entries[entry.tied_to] if entry.tied_to is not None else entry
    shape, dtype = tuple(slot.tensor.shape), slot.tensor.dtype
    if entry.check != check_of_name(slot.name):
        raise ArtifactError(
            f"tensor {place} of the file, of shape {described.shape}, is not the {slot.name!r} of {who}, "
            f"of shape {shape}"
        )
    if described.shape != shape:
        raise ArtifactError(f"{slot.name!r} has shape {described.shape} in the file and {shape} in {who}")
    if described.dtype != dtype:
        asked = dtype_name(described.dtype)
        raise ArtifactError(
            f"{slot.name!r} is {asked} in the file and {dtype_name(dtype)} in {who}: a file is loaded exactly, so "
            f"make the instance .to(torch.{asked}) first and convert it afterwards"
        )
    tied_to = place if entry.tied_to is None else entry.tied_to
    if slot.first not in (place, tied_to):
        raise ArtifactError(
            f"{slot.name!r} shares its values with an earlier tensor in {who}, but has values of its own in the file"
        )


def check_memory(slots: list[Slot], tensors: list[Tensor], model: nn.Module) -> None:
    """Refuse to fill an instance in which numbers that differ in the file lie in one place in memory."""
    by_memory: dict[object, list[tuple[Slot, Tensor]]] = {}
    for place, (slot, tensor) in enumerate(zip(slots, tensors, strict=True)):
        if slot.first == place and slot.tensor.numel():
            memory = (slot.tensor.device, slot.tensor.untyped_storage().data_ptr(), slot.tensor.dtype)
            by_memory.setdefault(memory, []).append((slot, tensor))
    for together in by_memory.values():
        stale = next((slot for slot, _ in together if is_spread(slot.tensor)), None)
        if stale is None and len(together) > 1:
            stale = _not_as_filled(together)
        if stale is not None:
            raise ArtifactError(
                f"{stale.name!r} of this {type(model).__name__} has numbers that lie in one place in memory and differ "
                "in the file: make it a tensor of its own with clone() before you load"
            )


def _not_as_filled(together: list[tuple[Slot, Tensor]]) -> Slot | None:
    """A tensor that would not hold its numbers once all views of one memory were filled; tried beside it."""
    first = together[0][0].tensor
    memory = torch.zeros(first.untyped_storage().nbytes() // first.element_size(), dtype=first.dtype, device="cpu")
    views = [
        memory.as_strided(one.tensor.shape, one.tensor.stride(), one.tensor.storage_offset()) for one, _ in together
    ]
    for view, (_, tensor) in zip(views, together, strict=True):
        view.copy_(tensor)
    filled = zip(views, together, strict=True)
    return next((slot for view, (slot, tensor) in filled if not are_equal(view, tensor)), None)


def are_equal(one: Tensor, other: Tensor) -> bool:
    """Bit for bit."""
    return np.array_equal(bytes_of(one), bytes_of(other))


def ties_resolved(header: Header, tensors: list[Tensor | None]) -> list[Tensor]:
    """The tensors with those that are tied to earlier ones filled in."""
    found: list[Tensor] = []
    for entry, tensor in zip(header.entries, tensors, strict=True):
        found.append(found[entry.tied_to or 0] if tensor is None else tensor)
    return found


__all__ = ["are_equal", "check_class", "check_memory", "check_surgery", "check_tensors", "ties_resolved"]
