"""A model in a file: `save`, `load`, and `size_bytes`, which is the length of that file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

import torch
from torch import Tensor, nn

from nbcompress.artifact.container import Part, n_file, opened, sealed
from nbcompress.artifact.fitting import (
    are_equal,
    check_class,
    check_memory,
    check_surgery,
    check_tensors,
    ties_resolved,
)
from nbcompress.artifact.header import Header
from nbcompress.artifact.packed import Packed, Slot, pack, read_tensors, unpack
from nbcompress.compress.buffers import cut_buffers, own_buffers_
from nbcompress.compress.copying import deep_copy
from nbcompress.compress.keras_layers import restate_
from nbcompress.compress.modes import outside_inference
from nbcompress.compress.record import Record, TensorRecord, attach_, record_of
from nbcompress.compress.surgery import replay_surgery_
from nbcompress.errors import ArtifactError, CompressionError, NbcompressWarning

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
    return any(one.is_inference() for one in (*model.parameters(), *model.buffers()))


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
    own_buffers_(model)
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
        restate_(model)
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
    wrong = [slot.name for slot, one in zip(slots, tensors, strict=True) if not are_equal(slot.tensor, one)]
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


__all__ = [
    "MODEL",
    "check_packed",
    "check_place",
    "load",
    "load_contents",
    "read_whole",
    "save",
    "size_by_tensor",
    "size_bytes",
    "warn_of_broken",
    "write_whole",
]
