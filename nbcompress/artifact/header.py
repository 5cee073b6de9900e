"""What stands before the weights: which model this is, what was done to it, and what each tensor is.

Small files count, so names are not stored: a fresh instance of the class has them in the same order. One byte of
a hash per name finds the first difference, and four bytes over all names make sure.

The kinds of numbers that a file can hold, and tensors as bytes.

Small numbers, texts and byte strings in a row, and reading them back without trust.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nbcompress.artifact.entropy import Bytes
from nbcompress.compressors.record import ActivationRange, Activations, Surgery, n_codes_of
from nbcompress.errors import ArtifactError, CompressionError

# The place in this row is what the file stores: append, never insert.
DTYPES: tuple[torch.dtype, ...] = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def bytes_of(tensor: Tensor) -> Bytes:
    """The bytes of `tensor`, on any device and of any strides, shape `(n, width)`; a view where possible."""
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    if flat.is_complex():
        return torch.view_as_real(flat).reshape(-1).view(torch.uint8).numpy().reshape(len(flat), -1)
    width = flat.element_size()
    return flat.view(torch.uint8).numpy().reshape(len(flat), width)


def tensor_of(data: Bytes, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor whose bytes are `data`, on the CPU, in memory of its own."""
    found = torch.empty(shape, dtype=dtype, device="cpu")
    if data.size:
        flat = torch.from_numpy(np.array(data, dtype=np.uint8, order="C").reshape(-1))
        # A complex tensor has no view as bytes, but bytes have one as complex numbers.
        found.copy_(flat.view(dtype).reshape(shape))
    return found


# No dimension, count or length in a file is larger; also bounds the loop that reads one.
_MOST_BITS = 63


class Row:
    """Bytes that grow."""

    def __init__(self) -> None:
        self.data = bytearray()

    def number(self, value: int) -> None:
        """A whole number from 0, 7 bits a byte, lowest first."""
        while value > 127:
            self.data.append(value & 127 | 128)
            value >>= 7
        self.data.append(value)

    def block(self, data: bytes) -> None:
        """A byte string with its length before it."""
        self.number(len(data))
        self.data += data

    def text(self, text: str) -> None:
        """A text in UTF-8 with its length before it."""
        self.block(text.encode("utf-8", "surrogatepass"))


class RowReader:
    """Reads what a `Row` holds.

    Raises:
        ArtifactError: From every method, where the bytes end early or cannot be what was asked for.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self.position = 0

    @property
    def left(self) -> memoryview:
        """What was not read yet."""
        return self._data[self.position :]

    def take(self, n: int) -> memoryview:
        """The next `n` bytes, not copied."""
        if n > len(self._data) - self.position:
            raise ArtifactError(f"the file is damaged: {n} bytes should follow, {len(self.left)} do")
        self.position += n
        return self._data[self.position - n : self.position]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        value = 0
        for shift in range(0, _MOST_BITS, 7):
            part = self.byte()
            value |= (part & 127) << shift
            if part < 128:
                return value
        raise ArtifactError("the file is damaged: a number in its header has no end")

    def block(self) -> memoryview:
        return self.take(self.number())

    def text(self) -> str:
        try:
            return bytes(self.block()).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as err:
            raise ArtifactError("the file is damaged: a name in its header is not text") from err


# What headers often say, so that a short one need not say it in full. Files are read by it: it must stay as it is.
_USUAL = (
    b'stays in float32: half precision would overflow, or make a variance zero","dynamic","a buffer, not a parameter"'
    b'["factorize","",{"0.weight":[],"1.weight":[],"1.bias":[]},{"rank":64}],'
    b'"embedding_dim":"normalized_shape":[],"num_heads":"groups":"running_mean":[],"running_var":[]},'
    b'{"weight":[64,3,3,3]},{"out_channels":64}],["cut","layers.0.norm",{"weight":[],"bias":[]},{"num_features":'
    b'{"in_channels":,"out_channels":128}],["cut","conv1",{"weight":[32,1,5,5],"bias":[32]},{"out_channels":32}],'
    b'["cut","fc1",{"weight":[512,256],"bias":[512]},{"in_features":256,"out_features":512}],'
    b'["cut","4",{"weight":[10,100]},{"in_features":100}]],{'
    b'"4.weight":"it is an output of the model, and outputs keep their shape"}]],{}]'
    b'\nSequential[[["cut","0",{"weight":['
)
# A header of a model with 100,000 tensors takes some megabytes; what unpacks to more is not one of ours.
_MOST_BYTES = 1 << 26
_HALF, _DEFLATED, _AFTER_USUAL = 1, 2, 4
_TIED = 31
_PRUNED, _GRID, _CODEBOOK = 32, 64, 128
_GROUP_KINDS = ("tensor", "channel")
_AFFINE, _SIDES = 8, 64

Group = Literal["tensor", "channel"] | int
Scheme = Literal["symmetric", "affine"]


@dataclass(frozen=True)
class GridHead:
    """A grid without its scales and zeros, which stand in the stream.

    Attributes:
        bits: See `Grid`.
        scheme: See `Grid`.
        group: See `Grid`.
        is_balanced: A symmetric grid of 2 to 7 bits as in files of versions 1 and 2, with as many codes below zero as
            above: the last code and the zeros are not in the stream.
    """

    bits: int
    scheme: Scheme
    group: Group
    is_balanced: bool = False

    @property
    def has_sides(self) -> bool:
        """Whether the stream says for each group on which side of zero there is one code more."""
        return self.scheme == "symmetric" and self.n_codes % 2 == 0

    @property
    def n_codes(self) -> int:
        """How many codes the stream tells apart."""
        return n_codes_of(self.bits, self.scheme) - self.is_balanced


@dataclass(frozen=True)
class Entry:
    """One name of the state dict.

    Attributes:
        check: One byte of a hash of the name.
        tied_to: Place of the earlier entry that is the same tensor; the other fields are then empty.
        is_pruned: Its zeros stay zeros.
        grid: Of its values, or of its codebook's values if it has a codebook.
        n_values: Size of its codebook, 0 if it has none.
    """

    check: int
    tied_to: int | None = None
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    is_pruned: bool = False
    grid: GridHead | None = None
    n_values: int = 0


@dataclass(frozen=True)
class Header:
    """Everything but the numbers."""

    class_name: str
    names_check: bytes
    entries: tuple[Entry, ...]
    rest: Literal["float16", "float32"] = "float32"
    surgery: tuple[Surgery, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    activations: Activations = field(default_factory=dict)


def check_of_name(name: str) -> int:
    """One byte that two names seldom share."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0]


def check_of_names(names: Iterable[str]) -> bytes:
    """Four bytes that two lists of names never share by chance."""
    return blake2b("\0".join(names).encode("utf-8", "surrogatepass"), digest_size=4).digest()


def write_header(header: Header) -> bytes:
    """The header in bytes: one byte of flags, then the rest in the shortest of three ways.

    As it is, deflated, or deflated after what headers often say.
    """
    row = Row()
    row.text(header.class_name)
    row.data += header.names_check
    row.number(len(header.entries))
    for entry in header.entries:
        _write_entry(row, entry)
    if header.surgery or header.left_out or header.activations:
        surgery = [[cut.kind, cut.module, dict(cut.shapes), dict(cut.attributes)] for cut in header.surgery]
        extras: list[Any] = [surgery, dict(header.left_out)]
        if header.activations:
            ranges = {
                name: activation if isinstance(activation, str) else [activation.low, activation.high]
                for name, activation in header.activations.items()
            }
            extras.append(ranges)
        row.text(json.dumps(extras, separators=(",", ":")))
    body = bytes(row.data)
    ways = {0: body, _DEFLATED: _deflated(body, b""), _DEFLATED | _AFTER_USUAL: _deflated(body, _USUAL)}
    way = min(ways, key=lambda way: len(ways[way]))
    return bytes([way | (_HALF if header.rest == "float16" else 0)]) + ways[way]


def _deflated(body: bytes, known: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15, zdict=known)
    return packer.compress(body) + packer.flush()


def read_header(data: memoryview) -> Header:
    """Read what `write_header` wrote.

    Raises:
        ArtifactError: The bytes cannot be a header.
    """
    row = RowReader(data)
    flags = row.byte()
    if flags & ~(_HALF | _DEFLATED | _AFTER_USUAL) or (flags & _AFTER_USUAL and not flags & _DEFLATED):
        raise ArtifactError(f"the file is damaged: its header has unknown flags {flags}")
    if flags & _DEFLATED:
        row = RowReader(_inflated(row.left, _USUAL if flags & _AFTER_USUAL else b""))
    class_name = row.text()
    names_check = bytes(row.take(4))
    n_entries = row.number()
    if n_entries > len(row.left):  # each takes two bytes or more
        raise ArtifactError(f"the file is damaged: its header has no room for {n_entries} tensors")
    entries = tuple(_read_entry(row, place) for place in range(n_entries))
    surgery, left_out, activations = _read_extras(row.text()) if len(row.left) else ((), {}, {})
    if len(row.left):
        raise ArtifactError(f"the file is damaged: {len(row.left)} bytes follow its header")
    rest: Literal["float16", "float32"] = "float16" if flags & _HALF else "float32"
    return Header(class_name, names_check, entries, rest, surgery, left_out, activations)


def _inflated(data: memoryview, known: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=-15, zdict=known)
    try:
        body = unpacker.decompress(data, _MOST_BYTES)
    except zlib.error as err:
        raise ArtifactError(f"the file is damaged: its header does not unpack ({err})") from err
    if not unpacker.eof or unpacker.unused_data:
        raise ArtifactError("the file is damaged: its header does not unpack to its end")
    return body


def _write_entry(row: Row, entry: Entry) -> None:
    if entry.tied_to is not None:
        row.data += bytes([_TIED, entry.check])
        row.number(entry.tied_to)
        return
    kind = DTYPES.index(entry.dtype)
    kind |= entry.is_pruned * _PRUNED | (entry.grid is not None) * _GRID | (entry.n_values > 0) * _CODEBOOK
    row.data += bytes([kind, entry.check])
    row.number(len(entry.shape))
    for length in entry.shape:
        row.number(length)
    if entry.n_values:
        row.number(entry.n_values)
    if entry.grid is not None:
        group = entry.grid.group
        group_kind = _GROUP_KINDS.index(group) if isinstance(group, str) else 2
        flags = (entry.grid.scheme == "affine") * _AFFINE | entry.grid.has_sides * _SIDES
        row.number(entry.grid.bits - 1 | flags | group_kind << 4)
        if isinstance(group, int):
            row.number(group)


def _read_entry(row: RowReader, place: int) -> Entry:
    kind, check = row.byte(), row.byte()
    if kind == _TIED:
        tied_to = row.number()
        if tied_to >= place:
            raise ArtifactError(f"the file is damaged: its tensor {place} is tied to a later one, {tied_to}")
        return Entry(check, tied_to)
    if kind % 32 >= len(DTYPES):
        raise ArtifactError(f"the file is damaged: its tensor {place} is of an unknown dtype, {kind % 32}")
    n_axes = row.number()
    if n_axes > len(row.left):
        raise ArtifactError(f"the file is damaged: its tensor {place} has {n_axes} axes")
    shape = tuple(row.number() for _ in range(n_axes))
    n_values = row.number() if kind & _CODEBOOK else 0
    if n_values > 65536 or (kind & _CODEBOOK and not n_values):
        raise ArtifactError(f"the file is damaged: its tensor {place} has {n_values} shared values")
    grid = _read_grid(row, place) if kind & _GRID else None
    return Entry(check, None, shape, DTYPES[kind % 32], bool(kind & _PRUNED), grid, n_values)


def _read_grid(row: RowReader, place: int) -> GridHead:
    packed = row.number()
    bits, group_kind = (packed & 7) + 1, packed >> 4 & 3
    scheme: Scheme = "affine" if packed & _AFFINE else "symmetric"
    can_have_sides = scheme == "symmetric" and n_codes_of(bits, scheme) % 2 == 0
    if packed >= 2 * _SIDES or group_kind > 2 or (packed & _SIDES and not can_have_sides):
        raise ArtifactError(f"the file is damaged: its tensor {place} has an unknown grid, {packed}")
    group: Group = row.number() if group_kind == 2 else ("channel" if group_kind else "tensor")
    if group == 0:
        raise ArtifactError(f"the file is damaged: its tensor {place} has a grid of empty groups")
    return GridHead(bits, scheme, group, can_have_sides and not packed & _SIDES)


def _read_extras(text: str) -> tuple[tuple[Surgery, ...], dict[str, str], Activations]:
    try:
        surgery, left_out, *more = json.loads(text)
        steps = tuple(_surgery(*cut) for cut in surgery)
        if not all(isinstance(item, str) for pair in left_out.items() for item in pair):
            raise ValueError("a reason is not text")
        if len(more) > 1:
            raise ValueError(f"{len(more) - 1} unknown parts follow")
        activations = {name: _activation(one) for name, one in more[0].items()} if more else {}
    except (ValueError, TypeError, AttributeError, RecursionError, CompressionError) as err:
        raise ArtifactError(f"the file is damaged: the surgery in its header cannot be read ({err})") from err
    return steps, left_out, activations


def _activation(given: Any) -> ActivationRange | Literal["dynamic"]:
    if given == "dynamic":
        return "dynamic"
    low, high = given
    if type(low) is not float or type(high) is not float:
        raise ValueError("an activation range is not two numbers")
    return ActivationRange(low, high)


def _surgery(kind: Any, module: Any, shapes: Any, attributes: Any) -> Surgery:
    if kind not in ("cut", "factorize") or not isinstance(module, str):
        raise ValueError(f"unknown step {kind!r} on {module!r}")
    found_shapes = {str(name): _counts(shape) for name, shape in shapes.items()}
    numbers = {
        str(name): _counts(attribute) if isinstance(attribute, list) else _count(attribute)
        for name, attribute in attributes.items()
    }
    return Surgery(kind, module, found_shapes, numbers)


def _counts(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, list) or len(numbers) > 64:
        raise ValueError("a shape is not a short list of counts")
    return tuple(_count(number) for number in numbers)


def _count(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 1 << 62:
        raise ValueError("a size is not a count")
    return number
