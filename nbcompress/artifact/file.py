"""A model in a file: `save`, `load`, and `size_bytes`, which is the length of that file.

Whether a file and the instance that it should fill are the same model, and what differs first.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from math import prod
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from nbcompress.artifact.container import Part, n_file, opened, sealed
from nbcompress.artifact.header import Entry, Header, bytes_of, check_of_name, check_of_names, dtype_name
from nbcompress.artifact.packed import Packed, Slot, pack, read_tensors, slots_of, unpack
from nbcompress.compressors.buffers import cut_buffers, is_expanded, materialize_buffers_
from nbcompress.compressors.copying import deep_copy
from nbcompress.compressors.keras import recompute_shapes_
from nbcompress.compressors.modes import outside_inference
from nbcompress.compressors.record import Record, TensorRecord, attach_, record_of
from nbcompress.compressors.surgery import replay_surgery_
from nbcompress.errors import ArtifactError, CompressionError, NbcompressWarning

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
        stale = next((slot for slot, _ in together if is_expanded(slot.tensor)), None)
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


Module = TypeVar("Module", bound=nn.Module)

MODEL = "model"


def save(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write `model` to `path`, in as few bytes as hold it exactly, and return the path.

    What compressors promised (zeros, grids, codebooks) is stored by codes. Every other number is stored bit for
    bit. Of buffers that are not in the state dict, those that a cut went through are stored, since a fresh instance
    computes them whole. A tensor that broke its promise, because it was trained on by other means than `finetune`, is
    stored in full, and a warning names it. The file appears whole or not at all.

    Raises:
        ArtifactError: The model's state dict holds what a file cannot, or the file cannot be written.
    """
    packed = pack(model)
    warn_of_broken(packed)
    check_packed(packed, model)
    return write_whole(Path(path), sealed(MODEL, packed.parts))


def size_bytes(model: nn.Module) -> int:
    """Length of the file that `save` writes for `model`, in bytes, without writing it.

    Raises:
        ArtifactError: The model's state dict holds what a file cannot.
    """
    packed = pack(model)
    warn_of_broken(packed)
    return n_file(MODEL, packed.n_contents)


def size_by_tensor(model: nn.Module) -> dict[str, int]:
    """Bytes of the file by tensor, tied ones under their first name; under an empty name what the file adds.

    The sum is `size_bytes(model)`.
    """
    packed = pack(model)
    n_rest = n_file(MODEL, packed.n_contents) - sum(packed.by_tensor.values())
    return {**packed.by_tensor, "": n_rest}


def load(path: str | os.PathLike[str], model: Module) -> Module:
    """Fill `model` from the file at `path` and return it.

    Args:
        path: A file that `save` wrote.
        model: A fresh instance of the class that was saved, on any device. It is cut to the recorded shapes
            first. What was promised of its tensors is recorded on it, so `finetune` goes on keeping it.

    Raises:
        ArtifactError: The file is not one of ours, truncated, changed or of a newer version, or holds another
            model; names the first difference. The instance is then unchanged.
    """
    where = Path(path)
    load_contents(opened(read_whole(where), MODEL, where), model)
    return model


def load_contents(contents: memoryview, model: nn.Module) -> None:
    """Fill `model` from the contents of a file, or leave it as it is and raise an ArtifactError."""
    # What was made under `torch.inference_mode` can be filled in that mode only.
    fill = _load_contents if _is_of_inference(model) else outside_inference(_load_contents)
    fill(contents, model)


def _is_of_inference(model: object) -> bool:
    if not isinstance(model, nn.Module):
        return False
    return any(parameter.is_inference() for parameter in (*model.parameters(), *model.buffers()))


def _load_contents(contents: memoryview, model: nn.Module) -> None:
    unread = unpack(contents)
    header = unread.header
    check_class(header, model)
    # Tried on a copy, so that a refusal leaves the instance as it came.
    fitted = deep_copy(model) if header.surgery else model
    _operate(header, fitted)
    check_tensors(header, fitted)
    found, promises = read_tensors(unread)
    tensors = ties_resolved(header, found)
    if fitted is not model:
        _operate(header, model)
    materialize_buffers_(model)
    slots = check_tensors(header, model)
    check_memory(slots, tensors, model)
    _fill(slots, tensors)
    attach_(model, _record(header, slots, promises))


def _operate(header: Header, model: nn.Module) -> None:
    if not header.surgery:
        return
    check_surgery(header, model)
    try:
        for step in header.surgery:
            replay_surgery_(model, step)
        recompute_shapes_(model)
    except CompressionError as err:
        raise ArtifactError(f"the file's model was cut, and this {type(model).__name__} cannot be: {err}") from err


@torch.no_grad()
def _fill(slots: list[Slot], tensors: Iterable[Tensor]) -> None:
    for slot, tensor in zip(slots, tensors, strict=True):
        slot.tensor.copy_(tensor)


def _record(header: Header, slots: list[Slot], promises: dict[int, TensorRecord]) -> Record:
    by_name = {slots[place].name: promise for place, promise in promises.items()}
    return Record(by_name, header.surgery, header.rest, header.left_out, header.activations)


def check_packed(packed: Packed, model: nn.Module) -> None:
    """Read what was packed of `model` again, if a cut went through buffers that its state dict does not hold.

    Raises:
        ArtifactError: It does not give the tensors of `model` back.
    """
    if not cut_buffers(model, record_of(model).surgery):
        return
    unread = unpack(memoryview(b"".join(packed.parts)))
    slots = check_tensors(unread.header, model)
    tensors = ties_resolved(unread.header, read_tensors(unread)[0])
    wrong = [slot.name for slot, tensor in zip(slots, tensors, strict=True) if not are_equal(slot.tensor, tensor)]
    if wrong:
        raise ArtifactError(f"{wrong[0]!r} could not be read back as it is: nothing was written, report this as a bug")


def warn_of_broken(packed: Packed) -> None:
    """Warn, in one line, of tensors that broke their promise."""
    if packed.broken:
        names = list(packed.broken)
        listed = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        warnings.warn(f"{listed}: stored in full. {packed.broken[names[0]]}", NbcompressWarning, stacklevel=3)


def read_whole(path: Path) -> bytes:
    """The bytes of a file."""
    try:
        return path.read_bytes()
    except OSError as err:
        raise ArtifactError(f"{path} cannot be read: {err.strerror or err}") from err


def write_whole(path: Path, parts: Iterable[Part]) -> Path:
    """Write a file so that it appears whole or not at all: first beside its place, then moved there.

    A link goes on pointing where it points.
    """
    check_place(path)
    try:
        place = path.resolve()
        beside = place.with_name(f".{token_hex(8)}.part")
        try:
            with open(beside, "xb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, place)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as err:
        raise ArtifactError(f"{path} cannot be written: {err.strerror or err}") from err
    return path


def check_place(path: Path) -> None:
    """Raise an ArtifactError if there can be no file at `path`."""
    try:
        kind = "a folder" if path.is_dir() else "a device or a pipe" if path.exists() and not path.is_file() else ""
        has_folder = path.parent.is_dir()
    except OSError as err:
        raise ArtifactError(f"{path} cannot be written: {err.strerror or err}") from err
    if not has_folder:
        raise ArtifactError(f"{path} cannot be written: there is no folder {path.parent}")
    if kind:
        raise ArtifactError(f"{path} cannot be written: it is {kind}, give the path of a file")
