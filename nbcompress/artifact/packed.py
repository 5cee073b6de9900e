"""A model as one byte string, the contents of its file, and back.

    contents = length of header | header | length of coded part | coded part | raw part

The header says what each tensor is. The coded part is one range-coded stream for all tensors together, so that small
tensors do not pay for a stream end each. The raw part holds the bytes that no model can shorten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from nbcompress.artifact.container import Part
from nbcompress.artifact.entropy import EntropyDecoder, EntropyEncoder
from nbcompress.artifact.header import (
    DTYPES,
    ByteReader,
    ByteWriter,
    Header,
    TensorEntry,
    dtype_name,
    hash_of_name,
    hash_of_names,
    read_header,
    write_header,
)
from nbcompress.artifact.tensors import (
    Codes,
    grid_header,
    n_codes,
    read_codes,
    read_encoding,
    read_half_,
    read_values,
    write_codes,
    write_encoding,
    write_half,
    write_values,
)
from nbcompress.compressors.buffers import cut_buffers
from nbcompress.compressors.codes import codes_of
from nbcompress.compressors.record import Codebook, Record, Surgery, TensorRecord, record_of, zeros_lost
from nbcompress.compressors.torch_masks import without_torch_masks
from nbcompress.errors import ArtifactError, CompressionError
from nbcompress.progress import progress_bar


@dataclass(frozen=True)
class PackedModel:
    """A model as bytes.

    Attributes:
        parts: The contents, to write one after the other.
        by_tensor: Bytes of each tensor by its first name, in the order of the state dict. Small tensors share words of
            4 bytes, so a tensor can have 0.
        broken: By name of a tensor, why it no longer has its grid, codebook or zeros. Such a tensor is stored in full.
    """

    parts: tuple[Part, ...]
    by_tensor: Mapping[str, int]
    broken: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_contents(self) -> int:
        """Length of the contents in bytes."""
        return sum(len(part) for part in self.parts)


@dataclass(frozen=True)
class Slot:
    """One name of a state dict.

    Attributes:
        name: The name.
        tensor: Its tensor.
        first: Index of the first slot with the same tensor; its own index if it is not tied to an earlier one.
    """

    name: str
    tensor: Tensor
    first: int


def slots_of(model: nn.Module, surgery: Iterable[Surgery] | None = None) -> list[Slot]:
    """Return what a file of `model` holds: the tensors of its state dict in order, then other buffers that were cut.

    Args:
        model: Any module.
        surgery: The cuts that decide which other buffers are stored; those of the record of `model` if None.

    Raises:
        ArtifactError: Something in the state dict is not a tensor of plain numbers in memory.
    """
    if not isinstance(model, nn.Module):
        raise ArtifactError(f"only a torch.nn.Module can be saved or filled, got {type(model).__name__}")
    state = _in_class_order(model, model.state_dict(keep_vars=True))
    steps = record_of(model).surgery if surgery is None else surgery
    state = {**state, **{name: buffer for name, buffer in cut_buffers(model, steps).items() if name not in state}}
    slots: list[Slot] = []
    seen: dict[object, int] = {}
    for name, tensor in state.items():
        _check_storable(name, tensor, type(model).__name__)
        memory = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        key: object = memory if tensor.numel() and tensor.data_ptr() else id(tensor)
        slots.append(Slot(name, tensor, seen.setdefault(key, len(slots))))
    return slots


def _in_class_order(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict with the weight of each layer before its bias, as classes of torch register them.

    `torch.nn.utils.prune.remove` registers the weight again, after the bias. A fresh instance has another order.
    """
    names = list(state)
    for path, module in model.named_modules():
        own = [name for name in module._parameters if name in ("weight", "bias")]
        if own == ["bias", "weight"] and type(module).__module__.startswith("torch.nn."):
            bias, weight = (f"{path}.{name}".removeprefix(".") for name in own)
            if bias in state and weight in state:
                i, j = names.index(bias), names.index(weight)
                names[i], names[j] = weight, bias
    return {name: state[name] for name in names}


def _check_storable(name: str, tensor: object, model_name: str) -> None:
    if not isinstance(tensor, Tensor):
        hint = (
            "let get_extra_state return a tensor"
            if name.rpartition(".")[2] == "_extra_state"
            else f"save an instance of a subclass of {model_name} with `state_dict = torch.nn.Module.state_dict`"
        )
        raise ArtifactError(
            f"a state dict must hold tensors, but {name!r} in that of {model_name} is a {type(tensor).__name__}: {hint}"
        )
    if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
        raise ArtifactError(f"{name!r} has no shape yet: run the model once on an example")
    if tensor.is_meta:
        raise ArtifactError(f"{name!r} is on the meta device, so it has no values")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in DTYPES:
        kind = dtype_name(tensor.dtype) if tensor.layout == torch.strided else str(tensor.layout)
        raise ArtifactError(f"{name!r} is {kind}, which the file cannot hold: make it a plain dense tensor")


# ---- Writing ----

# By the identity of each codebook: the index of the first tensor that has it, and the codebook, which stays alive.
Owners = dict[int, tuple[int, Codebook]]


@torch.no_grad()
def pack(model: nn.Module) -> PackedModel:
    """Return the contents of the file of `model`, in memory.

    Raises:
        ArtifactError: The state dict holds what a file cannot.
    """
    model = without_torch_masks(model)
    slots, record = slots_of(model), record_of(model)
    records = _records_by_index(slots, record)
    encoder = EntropyEncoder()
    entries: list[TensorEntry] = []
    by_tensor: dict[str, int] = {}
    broken: dict[str, str] = {}
    owners: Owners = {}
    with progress_bar("encode", len(slots), "tensor") as advance:
        for index, slot in enumerate(slots):
            if slot.first != index:
                entries.append(TensorEntry(hash_of_name(slot.name), tied_to=slot.first))
            else:
                n_before = encoder.n_bytes
                entries.append(_write_slot(encoder, slots, index, records.get(index), owners, broken))
                by_tensor[slot.name] = encoder.n_bytes - n_before
            advance(1)
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    broken.update({name: "the model has no such parameter" for name in record.tensors if name not in known})
    header = Header(
        type(model).__name__,
        hash_of_names(slot.name for slot in slots),
        tuple(entries),
        record.rest,
        record.surgery,
        record.left_out,
        record.activations,
    )
    start = ByteWriter()
    start.block(write_header(header))
    coded = encoder.coded()
    start.number(len(coded))
    parts: list[Part] = [bytes(start.data), coded]
    parts += [np.ascontiguousarray(part).data for part in encoder.raw_parts]
    return PackedModel(tuple(parts), by_tensor, broken)


def written_bytes(slots: list[Slot], records: Mapping[int, TensorRecord]) -> dict[str, int]:
    """Return what each tensor takes in a file, by name.

    Args:
        slots: As of `slots_of`; one that is tied to an earlier one takes nothing and is left out.
        records: The constraint of a tensor, by the index of its slot.
    """
    encoder = EntropyEncoder()
    by_tensor: dict[str, int] = {}
    owners: Owners = {}
    for index, slot in enumerate(slots):
        if slot.first == index:
            n_before = encoder.n_bytes
            _write_slot(encoder, slots, index, records.get(index), owners, {})
            by_tensor[slot.name] = encoder.n_bytes - n_before
    return by_tensor


def _write_slot(
    encoder: EntropyEncoder,
    slots: list[Slot],
    index: int,
    record: TensorRecord | None,
    owners: Owners,
    broken: dict[str, str],
) -> TensorEntry:
    """Write the tensor of a slot, and return its entry in the header. The first tensor with a codebook owns it."""
    slot = slots[index]
    record, codes = _valid_encoding(slot, record, broken)
    codebook = None if record is None else record.codebook
    owner = index if codebook is None else owners.setdefault(id(codebook), (index, codebook))[0]
    _write_tensor(encoder, slot.tensor, record, codes, is_owner=owner == index)
    return _entry(slot, record, None if owner == index else owner)


def _records_by_index(slots: list[Slot], record: Record) -> dict[int, TensorRecord]:
    """The record of each tensor, by the index of the first slot of that tensor."""
    return {slot.first: record.tensors[slot.name] for slot in slots if slot.name in record.tensors}


def _valid_encoding(
    slot: Slot, record: TensorRecord | None, broken: dict[str, str]
) -> tuple[TensorRecord | None, Codes | None]:
    """The part of `record` that the tensor still satisfies, and its codes if it has any; reasons go to `broken`."""
    if record is None or (record.grid is None and record.codebook is None):
        lost = "" if record is None else zeros_lost(slot.tensor, record, slot.name)
        if lost:
            broken[slot.name] = lost
        return record, None
    try:
        codes = codes_of(slot.tensor.detach(), record, slot.name)
    except CompressionError as err:
        broken[slot.name] = str(err)
        return (TensorRecord(is_pruned=True) if record.is_pruned else None), None
    codebook = record.codebook
    if codebook is not None and codebook.grid is not None:
        try:
            codes_of(codebook.values.to(slot.tensor.dtype), TensorRecord(grid=codebook.grid), slot.name)
        except CompressionError as err:
            broken[slot.name] = str(err)
            record = replace(record, codebook=Codebook(codebook.values))
    if n_codes(record) <= 256:
        codes = codes.to(torch.uint8)
    return record, codes.cpu().contiguous().reshape(-1).numpy()


def _entry(slot: Slot, record: TensorRecord | None, codebook_of: int | None) -> TensorEntry:
    record = record or TensorRecord()
    codebook = None if codebook_of is not None else record.codebook
    grid = record.grid if codebook is None else codebook.grid
    return TensorEntry(
        hash_of_name(slot.name),
        None,
        tuple(slot.tensor.shape),
        slot.tensor.dtype,
        record.is_pruned,
        None if grid is None else grid_header(grid),
        0 if codebook is None else len(codebook.values),
        codebook_of,
    )


def _write_tensor(
    encoder: EntropyEncoder, tensor: Tensor, record: TensorRecord | None, codes: Codes | None, *, is_owner: bool
) -> None:
    if record is None or codes is None:
        write_values(encoder, tensor)
        return
    if is_owner:
        write_encoding(encoder, record, tensor.dtype, tensor.numel())
    write_codes(encoder, codes, tuple(tensor.shape), record)
    if record.grid is not None and record.grid.in_half is not None:
        write_half(encoder, tensor, record.grid.in_half)


# ---- Reading ----


@dataclass(frozen=True)
class UndecodedModel:
    """Contents whose header is parsed and whose numbers are not decoded yet."""

    header: Header
    coded: memoryview
    raw: memoryview


def parse_contents(contents: memoryview) -> UndecodedModel:
    """Parse the header of what `pack` made.

    Raises:
        ArtifactError: The contents cannot be those of a model.
    """
    reader = ByteReader(contents)
    header = read_header(reader.block())
    coded = reader.block()
    return UndecodedModel(header, coded, reader.left)


def read_tensors(undecoded: UndecodedModel) -> tuple[list[Tensor | None], dict[int, TensorRecord]]:
    """Decode the tensors.

    Call it only after the shapes in the header were checked against an instance: they bound what is allocated.

    Returns:
        The tensors in the order of the header, None where one is tied to an earlier one; and records by index.

    Raises:
        ArtifactError: The numbers cannot be read, or are more than the tensors.
    """
    decoder = EntropyDecoder(undecoded.coded, undecoded.raw)
    tensors: list[Tensor | None] = []
    records: dict[int, TensorRecord] = {}
    with progress_bar("decode", len(undecoded.header.entries), "tensor") as advance:
        for index, entry in enumerate(undecoded.header.entries):
            tensors.append(_read_tensor(decoder, index, entry, records))
            advance(1)
    decoder.check_end()
    return tensors, records


def _read_tensor(
    decoder: EntropyDecoder, index: int, entry: TensorEntry, records: dict[int, TensorRecord]
) -> Tensor | None:
    """Read the tensor at `index` and add its record to `records`; None if it is tied to an earlier one."""
    if entry.tied_to is not None:
        return None
    if entry.codebook_of is not None:
        owner = records.get(entry.codebook_of, TensorRecord())
        if owner.codebook is None:
            raise ArtifactError(f"the file is damaged: its tensor {index} has a codebook of a tensor without one")
        records[index] = TensorRecord(entry.is_pruned, None, owner.codebook)
        return read_codes(decoder, entry.shape, entry.dtype, records[index])
    if entry.grid is None and not entry.n_values:
        if entry.is_pruned:
            records[index] = TensorRecord(is_pruned=True)
        return read_values(decoder, entry.shape, entry.dtype)
    records[index] = read_encoding(decoder, entry)
    is_balanced = entry.grid is not None and entry.grid.is_balanced and not entry.n_values
    tensor = read_codes(decoder, entry.shape, entry.dtype, records[index], is_balanced=is_balanced)
    grid = records[index].grid
    if grid is not None and grid.in_half is not None:
        read_half_(decoder, tensor, grid.in_half)
    return tensor


__all__ = [
    "PackedModel",
    "Slot",
    "UndecodedModel",
    "pack",
    "parse_contents",
    "read_tensors",
    "slots_of",
    "written_bytes",
]
