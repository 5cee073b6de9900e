"""A model as one stream of bytes, and back.

    contents = length of header | header | length of coded part | coded part | plain part

The header says what each tensor is; the coded part is one range-coded row of numbers for all tensors together,
so that small tensors do not pay for an end each; the plain part holds the bytes that no model shortens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from nbcompress.artifact.binary import Row, RowReader
from nbcompress.artifact.coder import Reader, Writer
from nbcompress.artifact.container import Part
from nbcompress.artifact.dtypes import DTYPES, dtype_name
from nbcompress.artifact.header import Entry, Header, check_of_name, check_of_names, read_header, write_header
from nbcompress.artifact.promises import grid_head, read_promise, write_promise
from nbcompress.artifact.tensors import Codes, n_codes, read_codes, read_values, write_codes, write_values
from nbcompress.compress.buffers import cut_buffers
from nbcompress.compress.codes import codes_of
from nbcompress.compress.record import Codebook, Record, Surgery, TensorRecord, record_of
from nbcompress.errors import ArtifactError, CompressionError


@dataclass(frozen=True)
class Packed:
    """A model in bytes.

    Attributes:
        parts: The contents, to be written one after the other.
        by_tensor: Bytes of each tensor by its first name, in the state dict's order; small tensors share words of
            4 bytes, so one of them can read 0.
        broken: Why a promise does not hold any more, by tensor name; such a tensor is stored in full.
    """

    parts: tuple[Part, ...]
    by_tensor: Mapping[str, int]
    broken: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_contents(self) -> int:
        return sum(len(part) for part in self.parts)


@dataclass(frozen=True)
class Slot:
    """One name of a state dict and the place of the first name of the same tensor."""

    name: str
    tensor: Tensor
    first: int


def slots_of(model: nn.Module, surgery: Iterable[Surgery] | None = None) -> list[Slot]:
    """What a file of `model` holds: the tensors of its state dict, in order, then other buffers that `surgery` cut.

    Without `surgery`, that of the model's own record counts.

    Raises:
        ArtifactError: Something in the state dict is not a tensor of plain numbers in memory.
    """
    if not isinstance(model, nn.Module):
        raise ArtifactError(f"only a torch.nn.Module can be saved or filled, got {type(model).__name__}")
    slots: list[Slot] = []
    seen: dict[object, int] = {}
    held = model.state_dict(keep_vars=True)
    steps = record_of(model).surgery if surgery is None else surgery
    held = {**held, **{name: one for name, one in cut_buffers(model, steps).items() if name not in held}}
    for name, tensor in held.items():
        _check(name, tensor, type(model).__name__)
        memory = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        key: object = memory if tensor.numel() and tensor.data_ptr() else id(tensor)
        slots.append(Slot(name, tensor, seen.setdefault(key, len(slots))))
    return slots


def _check(name: str, tensor: object, who: str) -> None:
    if not isinstance(tensor, Tensor):
        way_on = (
            "let get_extra_state return a tensor"
            if name.rpartition(".")[2] == "_extra_state"
            else f"save an instance of a subclass of {who} with `state_dict = torch.nn.Module.state_dict`"
        )
        raise ArtifactError(
            f"a state dict must hold tensors, but {name!r} in that of {who} is a {type(tensor).__name__}: {way_on}"
        )
    if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
        raise ArtifactError(f"{name!r} has no shape yet: run the model once on an example")
    if tensor.is_meta:
        raise ArtifactError(f"{name!r} is on the meta device, so it has no values")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in DTYPES:
        kind = dtype_name(tensor.dtype) if tensor.layout == torch.strided else str(tensor.layout)
        raise ArtifactError(f"{name!r} is {kind}, which the file cannot hold: make it a plain dense tensor")


@torch.no_grad()
def pack(model: nn.Module) -> Packed:
    """The contents of the file of `model`, in memory.

    Raises:
        ArtifactError: The state dict holds what a file cannot.
    """
    slots, record = slots_of(model), record_of(model)
    promises = _promises_by_place(slots, record)
    writer = Writer()
    entries: list[Entry] = []
    by_tensor: dict[str, int] = {}
    broken: dict[str, str] = {}
    for place, slot in enumerate(slots):
        if slot.first != place:
            entries.append(Entry(check_of_name(slot.name), tied_to=slot.first))
            continue
        before = writer.n_bytes
        promise, codes = _kept_promise(slot, promises.get(place), broken)
        entries.append(_entry(slot, promise))
        _write_tensor(writer, slot.tensor, promise, codes)
        by_tensor[slot.name] = writer.n_bytes - before
    names = [slot.name for slot in slots]
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    broken.update({name: "the model has no such parameter" for name in record.tensors if name not in known})
    header = Header(
        type(model).__name__,
        check_of_names(names),
        tuple(entries),
        record.rest,
        record.surgery,
        record.left_out,
        record.activations,
    )
    row = Row()
    row.block(write_header(header))
    coded = writer.coded()
    row.number(len(coded))
    parts: list[Part] = [bytes(row.data), coded]
    parts += [np.ascontiguousarray(part).data for part in writer.plain_parts]
    return Packed(tuple(parts), by_tensor, broken)


def _promises_by_place(slots: list[Slot], record: Record) -> dict[int, TensorRecord]:
    """The record's promises, each at the place of the first name of its tensor."""
    return {slot.first: record.tensors[slot.name] for slot in slots if slot.name in record.tensors}


def _kept_promise(
    slot: Slot, promise: TensorRecord | None, broken: dict[str, str]
) -> tuple[TensorRecord | None, Codes | None]:
    """The promise as far as the tensor keeps it, and its codes if it has any."""
    if promise is None or (promise.grid is None and promise.codebook is None):
        return promise, None
    try:
        codes = codes_of(slot.tensor.detach(), promise, slot.name)
    except CompressionError as err:
        broken[slot.name] = str(err)
        return (TensorRecord(is_pruned=True) if promise.is_pruned else None), None
    codebook = promise.codebook
    if codebook is not None and codebook.grid is not None:
        try:
            codes_of(codebook.values.to(slot.tensor.dtype), TensorRecord(grid=codebook.grid), slot.name)
        except CompressionError as err:
            broken[slot.name] = str(err)
            promise = replace(promise, codebook=Codebook(codebook.values))
    narrow = codes.to(torch.uint8) if n_codes(promise) <= 256 else codes
    return promise, narrow.cpu().contiguous().reshape(-1).numpy()


def _entry(slot: Slot, promise: TensorRecord | None) -> Entry:
    promise = promise or TensorRecord()
    codebook = promise.codebook
    grid = promise.grid if codebook is None else codebook.grid
    return Entry(
        check_of_name(slot.name),
        None,
        tuple(slot.tensor.shape),
        slot.tensor.dtype,
        promise.is_pruned,
        None if grid is None else grid_head(grid),
        0 if codebook is None else len(codebook.values),
    )


def _write_tensor(writer: Writer, tensor: Tensor, promise: TensorRecord | None, codes: Codes | None) -> None:
    if promise is None or codes is None:
        write_values(writer, tensor)
        return
    write_promise(writer, promise, tensor.dtype)
    write_codes(writer, codes, tuple(tensor.shape), promise)


@dataclass(frozen=True)
class Unread:
    """Contents whose header was read, and whose numbers were not."""

    header: Header
    coded: memoryview
    plain: memoryview


def unpack(contents: memoryview) -> Unread:
    """Read the header of what `pack` made.

    Raises:
        ArtifactError: The contents cannot be those of a model.
    """
    row = RowReader(contents)
    header = read_header(row.block())
    coded = row.block()
    return Unread(header, coded, row.left)


def read_tensors(unread: Unread) -> tuple[list[Tensor | None], dict[int, TensorRecord]]:
    """The tensors in the state dict's order, None where one is tied to an earlier one, and promises by place.

    Call it only after the shapes in the header were checked against an instance: they bound what is allocated.

    Raises:
        ArtifactError: The numbers cannot be read, or are more than the tensors.
    """
    reader = Reader(unread.coded, unread.plain)
    tensors: list[Tensor | None] = []
    promises: dict[int, TensorRecord] = {}
    for place, entry in enumerate(unread.header.entries):
        if entry.tied_to is not None:
            tensors.append(None)
        elif entry.grid is None and not entry.n_values:
            tensors.append(read_values(reader, entry.shape, entry.dtype))
            if entry.is_pruned:
                promises[place] = TensorRecord(is_pruned=True)
        else:
            promises[place] = read_promise(reader, entry)
            is_balanced = entry.grid is not None and entry.grid.is_balanced and not entry.n_values
            tensors.append(read_codes(reader, entry.shape, entry.dtype, promises[place], is_balanced=is_balanced))
    reader.check_end()
    return tensors, promises


__all__ = ["Packed", "Slot", "Unread", "pack", "read_tensors", "slots_of", "unpack"]
