"""A model in a file: `save`, `load`, and `size_bytes`, the length of that file.

`load` fills an instance only if it is the same model as the one in the file, and names the first difference if not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from nbcompress.artifact.container import Part, checked_contents, file_length, file_parts
from nbcompress.artifact.header import Header, TensorEntry, bytes_of, dtype_name, hash_of_name, hash_of_names
from nbcompress.artifact.packed import PackedModel, Slot, pack, parse_contents, read_tensors, slots_of
from nbcompress.compressors.buffers import cut_buffers, is_expanded, materialize_buffers_
from nbcompress.compressors.copying import deep_copy
from nbcompress.compressors.keras import recompute_shapes_
from nbcompress.compressors.modes import outside_inference, with_progress
from nbcompress.compressors.pretrained import guard_save_pretrained_
from nbcompress.compressors.record import Record, TensorRecord, attach_, record_of
from nbcompress.compressors.surgery import replay_surgery_
from nbcompress.compressors.torch_masks import without_torch_masks
from nbcompress.errors import ArtifactError, CompressionError, warn

Module = TypeVar("Module", bound=nn.Module)

# Name of the byte tensor in a file that holds a model.
MODEL_KEY = "model"

# Surgery makes a model smaller, except that a factorized layer of full rank is at most twice as large.
_MAX_GROWTH = 2


def save(model: nn.Module, path: str | os.PathLike[str], *, progress: bool = True) -> Path:
    """Write `model` to a file, exactly and in as few bytes as possible.

    Weights that `quantize`, `cluster` or `prune` put on a grid, into a codebook or to zero are stored as codes. Every
    other number is stored bit for bit. Buffers outside the state dict are stored only if pruning cut them, because a
    fresh instance computes them at their full size.

    Args:
        model: Any module, compressed or not. It does not change.
        path: Of the file. It appears whole or not at all; an existing file is replaced.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        The path.

    Raises:
        ArtifactError: The state dict holds what a file cannot, such as an object or a sparse tensor, or the file
            cannot be written.

    Warns:
        NbcompressWarning: A weight left its grid or codebook or lost pruned zeros, because it was trained without
            `nc.finetune`. It is stored in full.

    Example:
        >>> import tempfile, torch, nbcompress as nc
        >>> small = nc.quantize(torch.nn.Linear(100, 10), bits=4)
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = nc.save(small, f"{folder.name}/small.nbz")
        >>> path.stat().st_size == nc.size_bytes(small)
        True
        >>> loaded = nc.load(path, torch.nn.Linear(100, 10))
        >>> torch.equal(loaded.weight, small.weight)
        True
        >>> folder.cleanup()
    """
    model = without_torch_masks(model)
    with with_progress(progress):
        packed = pack(model)
    warn_of_broken(packed)
    check_packed(packed, model)
    return write_atomically(Path(path), file_parts(MODEL_KEY, packed.parts))


def load(path: str | os.PathLike[str], model: Module, *, progress: bool = True) -> Module:
    """Fill a fresh instance from a file that `save` wrote.

    The structure of the instance is first cut or factorized as that of the saved model was. Grids, codebooks and
    pruned zeros are recorded on it, so `nc.finetune` keeps them.

    Args:
        path: Of the file. It is parsed without trust: nothing in it is executed.
        model: A fresh instance of the class that was saved, with the same arguments, on any device. It is filled in
            place.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        The same instance. A fresh one is in training mode: call `eval()` before you use its outputs.

    Raises:
        ArtifactError: The file is not one of nbcompress, is truncated, changed or of a newer version, or holds
            another model; the message names the first difference. The instance is then unchanged.

    Example:
        >>> import tempfile, torch, nbcompress as nc
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = nc.save(torch.nn.Linear(8, 4), f"{folder.name}/model.nbz")
        >>> nc.load(path, torch.nn.Linear(8, 4))
        Linear(in_features=8, out_features=4, bias=True)
        >>> nc.load(path, torch.nn.Linear(8, 5))
        Traceback (most recent call last):
        ...
        nbcompress.errors.ArtifactError: 'weight' has shape (4, 8) in the file and (5, 8) in this Linear
        >>> folder.cleanup()
    """
    where = Path(path)
    with with_progress(progress):
        load_contents(checked_contents(read_file(where), MODEL_KEY, where), model)
    return model


def size_bytes(model: nn.Module, *, progress: bool = True) -> int:
    """Return the length of the file that `save` writes for `model`, without writing it.

    Args:
        model: Any module, compressed or not. It does not change.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        Bytes, everything in the file counted; tied tensors count once.

    Raises:
        ArtifactError: The state dict holds what a file cannot.

    Warns:
        NbcompressWarning: A weight left its grid or codebook, or lost pruned zeros, and is stored in full.

    Example:
        >>> import torch, nbcompress as nc
        >>> model = torch.nn.Linear(100, 10)
        >>> nc.size_bytes(nc.quantize(model, bits=4)) < nc.size_bytes(model) / 4
        True
    """
    with with_progress(progress):
        packed = pack(model)
    warn_of_broken(packed)
    return file_length(MODEL_KEY, packed.n_contents)


def size_by_tensor(model: nn.Module) -> dict[str, int]:
    """Return the bytes of the file for each tensor; the sum is `size_bytes(model)`.

    Tied tensors count under their first name. The empty name stands for what the file adds to the tensors.
    """
    packed = pack(model)
    n_rest = file_length(MODEL_KEY, packed.n_contents) - sum(packed.by_tensor.values())
    return {**packed.by_tensor, "": n_rest}


def bytes_text(n_bytes: int) -> str:
    """`17 B`, `3.4 kB` (of 1000 bytes), `8.0 MB`, `1.2 GB`."""
    if n_bytes < 1000:
        return f"{n_bytes} B"
    # 999,960 bytes are 1.0 MB, since they would be rounded to 1000.0 kB.
    for unit, name in ((10**3, "kB"), (10**6, "MB")):
        if round(n_bytes / unit, 1) < 1000:
            return f"{n_bytes / unit:.1f} {name}"
    return f"{n_bytes / 10**9:.1f} GB"


def warn_of_broken(packed: PackedModel) -> None:
    """Warn, in one line, of tensors that left their grid or codebook, or lost pruned zeros."""
    if packed.broken:
        names = list(packed.broken)
        listed = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        warn(f"{listed}: stored in full. {packed.broken[names[0]]}", stacklevel=3)


def check_packed(packed: PackedModel, model: nn.Module) -> None:
    """Decode the packed model again and compare, if a cut went through buffers outside its state dict.

    Raises:
        ArtifactError: It does not give the tensors of `model` back.
    """
    if not cut_buffers(model, record_of(model).surgery):
        return
    undecoded = parse_contents(memoryview(b"".join(packed.parts)))
    slots = check_tensors(undecoded.header, model)
    tensors = resolve_ties(undecoded.header, read_tensors(undecoded)[0])
    wrong = [slot.name for slot, tensor in zip(slots, tensors, strict=True) if not bitwise_equal(slot.tensor, tensor)]
    if wrong:
        raise ArtifactError(f"{wrong[0]!r} could not be read back as it is: nothing was written, report this as a bug")


# ---- Filling an instance ----


def load_contents(contents: memoryview, model: nn.Module) -> None:
    """Fill `model` from the contents of a file, or leave it unchanged and raise an ArtifactError."""
    # Tensors made under `torch.inference_mode` can be filled in that mode only.
    fill = _load_contents if _has_inference_tensors(model) else outside_inference(_load_contents)
    fill(contents, model)


def _has_inference_tensors(model: object) -> bool:
    if not isinstance(model, nn.Module):
        return False
    return any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))


def _load_contents(contents: memoryview, model: nn.Module) -> None:
    undecoded = parse_contents(contents)
    header = undecoded.header
    check_class(header, model)
    # Everything is tried on a copy, so that the instance stays unchanged if the file is refused.
    trial = deep_copy(model) if header.surgery else model
    _replay_surgery(header, trial)
    check_tensors(header, trial)
    decoded, records = read_tensors(undecoded)
    tensors = resolve_ties(header, decoded)
    if trial is not model:
        _replay_surgery(header, model)
    materialize_buffers_(model)
    slots = check_tensors(header, model)
    check_memory(slots, tensors, model)
    _fill(slots, tensors)
    attach_(model, _record(header, slots, records))
    guard_save_pretrained_(model, header.surgery)


def _replay_surgery(header: Header, model: nn.Module) -> None:
    if not header.surgery:
        return
    check_surgery(header, model)
    try:
        for step in header.surgery:
            replay_surgery_(model, step)
        recompute_shapes_(model)
    except CompressionError as err:
        raise ArtifactError(f"the model in the file was cut, but this {type(model).__name__} cannot be: {err}") from err


@torch.no_grad()
def _fill(slots: list[Slot], tensors: Iterable[Tensor]) -> None:
    for slot, tensor in zip(slots, tensors, strict=True):
        slot.tensor.copy_(tensor)


def _record(header: Header, slots: list[Slot], records: dict[int, TensorRecord]) -> Record:
    by_name = {slots[index].name: record for index, record in records.items()}
    return Record(by_name, header.surgery, header.rest, header.left_out, header.activations)


def resolve_ties(header: Header, tensors: list[Tensor | None]) -> list[Tensor]:
    """Return `tensors` with each None replaced by the earlier tensor that it is tied to."""
    resolved: list[Tensor] = []
    for entry, tensor in zip(header.entries, tensors, strict=True):
        resolved.append(resolved[entry.tied_to or 0] if tensor is None else tensor)
    return resolved


# ---- Whether the instance is the model in the file ----


def check_class(header: Header, model: nn.Module) -> None:
    """Raise an ArtifactError if `model` is of another class than the saved one."""
    class_name = type(model).__name__
    if class_name != header.class_name:
        raise ArtifactError(
            f"the file holds a {header.class_name:.200} and the instance is a {class_name}: "
            f"give load() a fresh {header.class_name:.200}"
        )


def check_surgery(header: Header, model: nn.Module) -> None:
    """Raise an ArtifactError if the recorded shapes would allocate more than surgery can."""
    n_before = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    n_after = sum(prod(shape) for step in header.surgery for shape in step.shapes.values())
    # Each step names shapes of existing tensors only, so the number of steps bounds all of them together.
    if n_after > _MAX_GROWTH * n_before * max(1, len(header.surgery)):
        raise ArtifactError(f"the file is damaged: its surgery has {n_after} numbers, the instance only {n_before}")


def check_tensors(header: Header, model: nn.Module) -> list[Slot]:
    """Return the slots of `model` if they agree with the file in number, names, shapes, dtypes and ties.

    Raises:
        ArtifactError: They do not; names the first difference.
    """
    slots, instance = slots_of(model, header.surgery), f"this {type(model).__name__}"
    for index, (entry, slot) in enumerate(zip(header.entries, slots, strict=False)):
        _check_tensor(entry, slot, index, instance, header.entries)
    if len(slots) != len(header.entries):
        extra = f"; {slots[len(header.entries)].name!r} is not in the file" if len(slots) > len(header.entries) else ""
        raise ArtifactError(f"the file has {len(header.entries)} tensors and {instance} has {len(slots)}{extra}")
    if hash_of_names(slot.name for slot in slots) != header.names_hash:
        raise ArtifactError(f"the file's tensors have other names than those of {instance}, though the same shapes")
    return slots


def _check_tensor(entry: TensorEntry, slot: Slot, index: int, instance: str, entries: tuple[TensorEntry, ...]) -> None:
    stored = entries[entry.tied_to] if entry.tied_to is not None else entry
    shape, dtype = tuple(slot.tensor.shape), slot.tensor.dtype
    if entry.name_hash != hash_of_name(slot.name):
        raise ArtifactError(
            f"tensor {index} of the file, of shape {stored.shape}, is not the {slot.name!r} of {instance}, "
            f"of shape {shape}"
        )
    if stored.shape != shape:
        raise ArtifactError(f"{slot.name!r} has shape {stored.shape} in the file and {shape} in {instance}")
    if stored.dtype != dtype:
        expected = dtype_name(stored.dtype)
        raise ArtifactError(
            f"{slot.name!r} is {expected} in the file and {dtype_name(dtype)} in {instance}: a file is loaded exactly, "
            f"so make the instance .to(torch.{expected}) first and convert it afterwards"
        )
    tied_to = index if entry.tied_to is None else entry.tied_to
    if slot.first not in (index, tied_to):
        raise ArtifactError(
            f"{slot.name!r} shares its values with an earlier tensor in {instance}, "
            "but has values of its own in the file"
        )


def check_memory(slots: list[Slot], tensors: list[Tensor], model: nn.Module) -> None:
    """Raise an ArtifactError if numbers that differ in the file share memory in the instance."""
    by_memory: dict[object, list[tuple[Slot, Tensor]]] = {}
    for index, (slot, tensor) in enumerate(zip(slots, tensors, strict=True)):
        if slot.first == index and slot.tensor.numel():
            memory = (slot.tensor.device, slot.tensor.untyped_storage().data_ptr(), slot.tensor.dtype)
            by_memory.setdefault(memory, []).append((slot, tensor))
    for group in by_memory.values():
        conflict = next((slot for slot, _ in group if is_expanded(slot.tensor)), None)
        if conflict is None and len(group) > 1:
            conflict = _first_overwritten(group)
        if conflict is not None:
            raise ArtifactError(
                f"{conflict.name!r} of this {type(model).__name__} shares memory between numbers that differ in the "
                "file: make it a tensor of its own with clone() before you load"
            )


def _first_overwritten(group: list[tuple[Slot, Tensor]]) -> Slot | None:
    """The first slot that would not hold its numbers after all views of one memory were filled; tried on a copy."""
    first = group[0][0].tensor
    memory = torch.zeros(first.untyped_storage().nbytes() // first.element_size(), dtype=first.dtype, device="cpu")
    views = [
        memory.as_strided(slot.tensor.shape, slot.tensor.stride(), slot.tensor.storage_offset()) for slot, _ in group
    ]
    for view, (_, tensor) in zip(views, group, strict=True):
        view.copy_(tensor)
    filled = zip(views, group, strict=True)
    return next((slot for view, (slot, tensor) in filled if not bitwise_equal(view, tensor)), None)


def bitwise_equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same bytes; a NaN equals itself."""
    return np.array_equal(bytes_of(first), bytes_of(second))


# ---- Files ----


def read_file(path: Path) -> bytes:
    """Return the bytes of a file; an ArtifactError says why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as err:
        raise ArtifactError(f"{path} cannot be read: {err.strerror or err}") from err


def write_atomically(path: Path, parts: Iterable[Part]) -> Path:
    """Write a file so that it appears whole or not at all: first under another name beside it, then renamed.

    A symbolic link keeps its target, and the target is replaced.

    Raises:
        ArtifactError: The file cannot be written; says why.
    """
    check_writable(path)
    try:
        target = path.resolve()
        partial = target.with_name(f".{token_hex(8)}.part")
        try:
            with open(partial, "xb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as err:
        raise ArtifactError(f"{path} cannot be written: {err.strerror or err}") from err
    return path


@contextmanager
def written_together(path: Path) -> Iterator[Path]:
    """Let a block write a file, and others beside it, that appear only when the block ends without an error.

    A symbolic link keeps its target, and the target is replaced.

    Yields:
        The path to write to: of the same name, in a folder for the time being beside the file.

    Raises:
        ArtifactError: The files cannot be written; says why.
    """
    check_writable(path)
    target = path.resolve()
    folder = target.with_name(f".{token_hex(8)}.part")
    try:
        folder.mkdir()
        try:
            yield folder / target.name
            # The file itself comes last: those beside it are there when it appears.
            for file in sorted(folder.iterdir(), key=lambda file: file.name == target.name):
                with open(file, "rb+") as opened:
                    os.fsync(opened.fileno())
                os.replace(file, target.with_name(file.name))
        finally:
            rmtree(folder, ignore_errors=True)
    except OSError as err:
        raise ArtifactError(f"{path} cannot be written: {err.strerror or err}") from err


def check_writable(path: Path) -> None:
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
