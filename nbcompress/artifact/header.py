"""The header of a file: which model it holds, how that model was compressed, and what each tensor is.

Names are not stored, because small files count: a fresh instance of the class has the same names in the same order.
One byte of a hash for each name finds the first difference; four bytes over all names confirm the whole list.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nbcompress.artifact.entropy import Bytes
from nbcompress.compressors.record import ActivationRange, Activations, Surgery, n_codes_of
from nbcompress.errors import ArtifactError, CompressionError

# ---- Tensors as bytes ----

# The file stores the index in this tuple: append, never insert.
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
    """Return the bytes of `tensor`, shape `(n, width)`, for any device and strides; a view where possible."""
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    if flat.is_complex():
        return torch.view_as_real(flat).reshape(-1).view(torch.uint8).numpy().reshape(len(flat), -1)
    width = flat.element_size()
    return flat.view(torch.uint8).numpy().reshape(len(flat), width)


def tensor_of(data: Bytes, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return the tensor whose bytes are `data`, on the CPU, in memory of its own."""
    tensor = torch.empty(shape, dtype=dtype, device="cpu")
    if data.size:
        flat = torch.from_numpy(np.array(data, dtype=np.uint8, order="C").reshape(-1))
        # A complex tensor cannot be viewed as bytes, but bytes can be viewed as complex numbers.
        tensor.copy_(flat.view(dtype).reshape(shape))
    return tensor


# ---- Reading and writing bytes ----

# No dimension, count or length in a file is larger; this also bounds the loop that reads a number.
_MAX_BITS = 63


class ByteWriter:
    """Numbers, byte strings and texts, appended to `data`."""

    def __init__(self) -> None:
        self.data = bytearray()

    def number(self, value: int) -> None:
        """Append a whole number from 0, as a varint: 7 bits a byte, lowest first."""
        while value > 127:
            self.data.append(value & 127 | 128)
            value >>= 7
        self.data.append(value)

    def block(self, data: bytes) -> None:
        """Append the length of a byte string, then the byte string."""
        self.number(len(data))
        self.data += data

    def text(self, text: str) -> None:
        """Append a text as a block of UTF-8."""
        self.block(text.encode("utf-8", "surrogatepass"))


class ByteReader:
    """Reads what a `ByteWriter` wrote.

    Raises:
        ArtifactError: From every method, where the bytes end early or cannot be what was asked for.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self.position = 0

    @property
    def left(self) -> memoryview:
        """The bytes that were not read yet."""
        return self._data[self.position :]

    def take(self, n: int) -> memoryview:
        """Return the next `n` bytes, not copied."""
        if n > len(self._data) - self.position:
            raise ArtifactError(f"the file is damaged: {n} bytes should follow, {len(self.left)} do")
        self.position += n
        return self._data[self.position - n : self.position]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        value = 0
        for shift in range(0, _MAX_BITS, 7):
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


# ---- The header ----

# Preset dictionary of zlib: text that headers often contain. Files are read with it, so it must never change.
_DICTIONARY = (
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
# The header of a model with 100,000 tensors takes a few megabytes; anything that inflates to more is refused.
_MAX_BYTES = 1 << 26
# Limits in proportion to the length of the file, so that a small file cannot cost much time and memory. Names, shapes
# and reasons deflate to less than a hundredth only if somebody means them to.
_MAX_INFLATION, _SPARE_BYTES = 256, 1 << 16
# The hashes of names are random bytes and hardly deflate, so that each entry takes about a byte.
_ENTRIES_PER_BYTE, _SPARE_ENTRIES = 2, 256
# As many axes as a tensor of torch can have.
_MAX_AXES = 64
# Flags of the header.
_REST_IS_HALF, _DEFLATED, _WITH_DICTIONARY = 1, 2, 4
# First byte of an entry: an index into `DTYPES` with flags, or this value for a tied tensor.
_TIED = 31
_IS_PRUNED, _HAS_GRID, _HAS_CODEBOOK = 32, 64, 128
_GROUP_KINDS = ("tensor", "channel")
# Flags of a grid.
_IS_AFFINE, _HAS_SIDES, _IS_FIXED, _HAS_HALF, _IS_TURNED = 8, 64, 128, 256, 512

Group = Literal["tensor", "channel"] | int
Scheme = Literal["symmetric", "affine"]


@dataclass(frozen=True)
class GridHeader:
    """A grid without its scales and zeros, which are in the coded part.

    Attributes:
        bits: See `Grid`.
        scheme: See `Grid`.
        group: See `Grid`.
        is_balanced: Whether this is a symmetric grid of 2 to 7 bits from a file of version 1 or 2. Such a grid has as
            many codes below zero as above: the last code and the zeros are not in the coded part.
        is_fixed: See `Grid`.
        n_in_half: How many weights are in half precision.
        is_turned: See `Grid`.
    """

    bits: int
    scheme: Scheme
    group: Group
    is_balanced: bool = False
    is_fixed: bool = False
    n_in_half: int = 0
    is_turned: bool = False

    @property
    def has_sides(self) -> bool:
        """Whether the coded part says for each group on which side of zero the extra code is."""
        return self.scheme == "symmetric" and self.n_codes % 2 == 0

    @property
    def n_codes(self) -> int:
        """How many codes the coded part distinguishes."""
        return n_codes_of(self.bits, self.scheme) - self.is_balanced


@dataclass(frozen=True)
class TensorEntry:
    """One name of the state dict.

    Attributes:
        name_hash: One byte of a hash of the name.
        tied_to: Index of the earlier entry that is the same tensor, or None. A tied entry has no other fields.
        shape: Of the tensor.
        dtype: Of the tensor.
        is_pruned: Whether its zeros must stay zero.
        grid: Grid of its values, or of the values of its codebook if it has one; None without a grid.
        n_values: Size of its codebook, 0 without a codebook.
        codebook_of: Index of the earlier entry whose codebook it shares, or None.
    """

    name_hash: int
    tied_to: int | None = None
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    is_pruned: bool = False
    grid: GridHeader | None = None
    n_values: int = 0
    codebook_of: int | None = None


@dataclass(frozen=True)
class Header:
    """Everything about a model but its numbers.

    Attributes:
        class_name: Class of the model.
        names_hash: Four bytes of a hash of all names.
        entries: One for each name of the state dict, in order.
        rest: See `Record`.
        surgery: See `Record`.
        left_out: See `Record`.
        activations: See `Record`.
    """

    class_name: str
    names_hash: bytes
    entries: tuple[TensorEntry, ...]
    rest: Literal["float16", "float32"] = "float32"
    surgery: tuple[Surgery, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    activations: Activations = field(default_factory=dict)


def hash_of_name(name: str) -> int:
    """One byte; two names rarely share it."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0]


def hash_of_names(names: Iterable[str]) -> bytes:
    """Four bytes; two lists of names do not share them by chance."""
    return blake2b("\0".join(names).encode("utf-8", "surrogatepass"), digest_size=4).digest()


def write_header(header: Header) -> bytes:
    """Return the header as bytes: one byte of flags, then the body in the shortest of three forms.

    The forms are plain, deflated, and deflated with the preset dictionary.
    """
    writer = ByteWriter()
    writer.text(header.class_name)
    writer.data += header.names_hash
    writer.number(len(header.entries))
    for entry in header.entries:
        _write_entry(writer, entry)
    if header.surgery or header.left_out or header.activations:
        surgery = [_written_surgery(step) for step in header.surgery]
        extras: list[Any] = [surgery, dict(header.left_out)]
        if header.activations:
            ranges = {
                name: activation if isinstance(activation, str) else [activation.low, activation.high]
                for name, activation in header.activations.items()
            }
            extras.append(ranges)
        writer.text(json.dumps(extras, separators=(",", ":")))
    body = bytes(writer.data)
    forms = {0: body, _DEFLATED: _deflated(body, b""), _DEFLATED | _WITH_DICTIONARY: _deflated(body, _DICTIONARY)}
    readable = {form for form, data in forms.items() if not form or _is_plausible(body, len(header.entries), data)}
    form = min(readable, key=lambda form: len(forms[form]))
    return bytes([form | (_REST_IS_HALF if header.rest == "float16" else 0)]) + forms[form]


def _is_plausible(body: bytes, n_entries: int, data: bytes) -> bool:
    """Whether `read_header` reads `body` from the deflated `data`."""
    return len(body) < _max_inflated(len(data)) and n_entries <= _max_entries(len(data))


def _max_inflated(n_bytes: int) -> int:
    return min(_MAX_BYTES, _MAX_INFLATION * n_bytes + _SPARE_BYTES)


def _max_entries(n_bytes: int) -> int:
    return _ENTRIES_PER_BYTE * n_bytes + _SPARE_ENTRIES


def _deflated(body: bytes, dictionary: bytes) -> bytes:
    deflater = zlib.compressobj(9, wbits=-15, zdict=dictionary)
    return deflater.compress(body) + deflater.flush()


def read_header(data: memoryview) -> Header:
    """Read what `write_header` wrote.

    Raises:
        ArtifactError: The bytes cannot be a header.
    """
    reader = ByteReader(data)
    flags = reader.byte()
    if flags & ~(_REST_IS_HALF | _DEFLATED | _WITH_DICTIONARY) or (flags & _WITH_DICTIONARY and not flags & _DEFLATED):
        raise ArtifactError(f"the file is damaged: its header has unknown flags {flags}")
    if flags & _DEFLATED:
        reader = ByteReader(_inflated(reader.left, _DICTIONARY if flags & _WITH_DICTIONARY else b""))
    class_name = reader.text()
    names_hash = bytes(reader.take(4))
    n_entries = reader.number()
    if n_entries > min(len(reader.left), _max_entries(len(data))):
        raise ArtifactError(f"the file is damaged: its header has no room for {n_entries} tensors")
    entries = tuple(_read_entry(reader, index) for index in range(n_entries))
    surgery, left_out, activations = _read_extras(reader.text()) if len(reader.left) else ((), {}, {})
    if len(reader.left):
        raise ArtifactError(f"the file is damaged: {len(reader.left)} bytes follow its header")
    rest: Literal["float16", "float32"] = "float16" if flags & _REST_IS_HALF else "float32"
    return Header(class_name, names_hash, entries, rest, surgery, left_out, activations)


def _inflated(data: memoryview, dictionary: bytes) -> bytes:
    inflater = zlib.decompressobj(wbits=-15, zdict=dictionary)
    try:
        body = inflater.decompress(data, _max_inflated(len(data)))
    except zlib.error as err:
        raise ArtifactError(f"the file is damaged: its header does not unpack ({err})") from err
    if not inflater.eof or inflater.unused_data:
        raise ArtifactError("the file is damaged: its header does not unpack to its end")
    return body


def _write_entry(writer: ByteWriter, entry: TensorEntry) -> None:
    if entry.tied_to is not None:
        writer.data += bytes([_TIED, entry.name_hash])
        writer.number(entry.tied_to)
        return
    kind, has_codebook = DTYPES.index(entry.dtype), entry.n_values > 0 or entry.codebook_of is not None
    kind |= entry.is_pruned * _IS_PRUNED | (entry.grid is not None) * _HAS_GRID | has_codebook * _HAS_CODEBOOK
    writer.data += bytes([kind, entry.name_hash])
    writer.number(len(entry.shape))
    for length in entry.shape:
        writer.number(length)
    if entry.codebook_of is not None:
        # No codebook has 0 values: this one is that of an earlier tensor.
        writer.number(0)
        writer.number(entry.codebook_of)
        return
    if entry.n_values:
        writer.number(entry.n_values)
    if entry.grid is not None:
        group = entry.grid.group
        group_kind = _GROUP_KINDS.index(group) if isinstance(group, str) else 2
        flags = (entry.grid.scheme == "affine") * _IS_AFFINE | entry.grid.has_sides * _HAS_SIDES
        flags |= entry.grid.is_fixed * _IS_FIXED | (entry.grid.n_in_half > 0) * _HAS_HALF
        flags |= entry.grid.is_turned * _IS_TURNED
        writer.number(entry.grid.bits - 1 | flags | group_kind << 4)
        if isinstance(group, int):
            writer.number(group)
        if entry.grid.n_in_half:
            writer.number(entry.grid.n_in_half)


def _read_entry(reader: ByteReader, index: int) -> TensorEntry:
    kind, name_hash = reader.byte(), reader.byte()
    if kind == _TIED:
        tied_to = reader.number()
        if tied_to >= index:
            raise ArtifactError(f"the file is damaged: its tensor {index} is tied to a later one, {tied_to}")
        return TensorEntry(name_hash, tied_to)
    if kind % 32 >= len(DTYPES):
        raise ArtifactError(f"the file is damaged: its tensor {index} is of an unknown dtype, {kind % 32}")
    n_axes = reader.number()
    if n_axes > _MAX_AXES:
        raise ArtifactError(f"the file is damaged: its tensor {index} has {n_axes} axes")
    shape = tuple(reader.number() for _ in range(n_axes))
    n_values = reader.number() if kind & _HAS_CODEBOOK else 0
    if kind & _HAS_CODEBOOK and not n_values:
        codebook_of = reader.number()
        if codebook_of >= index:
            raise ArtifactError(f"the file is damaged: its tensor {index} has the codebook of a later one")
        return TensorEntry(name_hash, None, shape, DTYPES[kind % 32], bool(kind & _IS_PRUNED), codebook_of=codebook_of)
    if n_values > 65536:
        raise ArtifactError(f"the file is damaged: its tensor {index} has {n_values} shared values")
    grid = _read_grid(reader, index) if kind & _HAS_GRID else None
    if grid is not None and grid.n_in_half > (0 if n_values else prod(shape)):
        raise ArtifactError(f"the file is damaged: its tensor {index} has {grid.n_in_half} weights in half precision")
    if grid is not None and grid.is_turned and (n_axes != 2 or n_values or grid.n_in_half):
        raise ArtifactError(f"the file is damaged: its tensor {index} has the grid of a transposed matrix")
    return TensorEntry(name_hash, None, shape, DTYPES[kind % 32], bool(kind & _IS_PRUNED), grid, n_values)


def _read_grid(reader: ByteReader, index: int) -> GridHeader:
    packed = reader.number()
    bits, group_kind = (packed & 7) + 1, packed >> 4 & 3
    scheme: Scheme = "affine" if packed & _IS_AFFINE else "symmetric"
    can_have_sides = scheme == "symmetric" and n_codes_of(bits, scheme) % 2 == 0
    if packed >= 2 * _IS_TURNED or group_kind > 2 or (packed & _HAS_SIDES and not can_have_sides):
        raise ArtifactError(f"the file is damaged: its tensor {index} has an unknown grid, {packed}")
    group: Group = reader.number() if group_kind == 2 else ("channel" if group_kind else "tensor")
    if group == 0:
        raise ArtifactError(f"the file is damaged: its tensor {index} has a grid of empty groups")
    n_in_half = reader.number() if packed & _HAS_HALF else 0
    is_balanced = can_have_sides and not packed & _HAS_SIDES
    is_turned = bool(packed & _IS_TURNED)
    return GridHeader(bits, scheme, group, is_balanced, bool(packed & _IS_FIXED), n_in_half, is_turned)


def _read_extras(text: str) -> tuple[tuple[Surgery, ...], dict[str, str], Activations]:
    try:
        surgery, left_out, *more = json.loads(text)
        steps = tuple(_surgery(*cut) for cut in surgery)
        if not all(isinstance(item, str) for pair in left_out.items() for item in pair):
            raise ValueError("a reason is not text")
        if len(more) > 1:
            raise ValueError(f"{len(more) - 1} unknown parts follow")
        activations = {name: _activation(value) for name, value in more[0].items()} if more else {}
    except (ValueError, TypeError, AttributeError, RecursionError, CompressionError) as err:
        raise ArtifactError(f"the file is damaged: the surgery in its header cannot be read ({err})") from err
    return steps, left_out, activations


def _activation(value: Any) -> ActivationRange | Literal["dynamic"]:
    if value == "dynamic":
        return "dynamic"
    low, high = value
    if type(low) is not float or type(high) is not float:
        raise ValueError("an activation range is not two numbers")
    return ActivationRange(low, high)


_STEPS = ("cut", "factorize", "remove", "bypass", "resize")


def _written_surgery(step: Surgery) -> list[Any]:
    fields: list[Any] = [step.kind, step.module, dict(step.shapes), dict(step.attributes)]
    if step.kept:
        fields.append({name: kept if isinstance(kept, int) else kept.hex() for name, kept in step.kept.items()})
    return fields


def _read_indices(written: Any) -> int | bytes:
    return bytes.fromhex(written) if isinstance(written, str) else _size(written)


def _surgery(kind: Any, module: Any, shapes: Any, attributes: Any, kept: Any = None) -> Surgery:
    if kind not in _STEPS or not isinstance(module, str):
        raise ValueError(f"unknown step {kind!r} on {module!r}")
    indices = {str(name): _read_indices(written) for name, written in (kept or {}).items()}
    new_shapes = {str(name): _sizes(shape) for name, shape in shapes.items()}
    new_attributes = {
        str(name): _sizes(attribute) if isinstance(attribute, list) else _size(attribute)
        for name, attribute in attributes.items()
    }
    return Surgery(kind, module, new_shapes, new_attributes, indices)


def _sizes(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, list) or len(numbers) > 64:
        raise ValueError("a shape is not a short list of counts")
    return tuple(_size(number) for number in numbers)


def _size(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 1 << 62:
        raise ValueError("a size is not a count")
    return number
