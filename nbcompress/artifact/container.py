"""The outer format of a file: `safetensors` with one byte tensor, a version, and a checksum over everything.

    8 bytes   length of the JSON header that follows
    header    {"__metadata__": {"nbcompress": "4"}, "model": {"dtype": "U8", "shape": [n], "data_offsets": [0, n]}}
    n bytes   contents; the last 8 of them are the BLAKE2b hash of every byte of the file before them

Every reader of safetensors can list the file, and a change of any byte is detected, also in the header. The checksum
detects damage. It is no signature, so the contents are still parsed without trust.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from nbcompress.errors import ArtifactError

# 2: the header may be compressed with a preset dictionary. 3: symmetric grids of 2 to 7 bits have 2^bits codes.
# 4: steps of surgery name the units that were kept, and blocks can be removed; grids of fixed scales, weights in half
# precision beside a grid, codebooks of several tensors.
# Files of older versions stay readable.
VERSION = 4
_KEY = "nbcompress"
_CHECKSUM_BYTES = 8
# Our JSON headers are shorter than this; those of other safetensors files may be longer.
_MAX_HEADER_BYTES = 4096
_CHECKSUM_MISMATCH = "was changed after it was written, or damaged: its checksum does not agree"
Part = bytes | memoryview

# The first bytes of formats that users confuse with ours.
_FOREIGN_MAGIC = (
    (b"PK\x03\x04", "a zip archive, such as torch.save writes: load it with torch.load(path, weights_only=True)"),
    (b"\x80", "a pickle, such as older versions of torch.save write: load it with torch.load(path, weights_only=True)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "an array of NumPy: load it with numpy.load"),
    (b"\x08", "perhaps an ONNX model"),
)


def file_length(key: str, n_contents: int) -> int:
    """Return the length in bytes of the file with contents of `n_contents` bytes."""
    return len(_safetensors_header(key, n_contents)) + n_contents + _CHECKSUM_BYTES


def file_parts(key: str, contents: Sequence[Part]) -> list[Part]:
    """Return the whole file, header and checksum included, as parts to write one after the other.

    Args:
        key: Name of the byte tensor: `model` or `value`.
        contents: The contents in parts.
    """
    parts = [_safetensors_header(key, sum(len(part) for part in contents)), *contents]
    checksum = blake2b(digest_size=_CHECKSUM_BYTES)
    for part in parts:
        checksum.update(part)
    return [*parts, checksum.digest()]


def checked_contents(data: bytes | memoryview, key: str, path: Path) -> memoryview:
    """Check the outer format of a file and return its contents, not copied.

    Args:
        data: All bytes of the file.
        key: Name of the byte tensor that the file must hold.
        path: Of the file, for error messages.

    Raises:
        ArtifactError: Not a file of nbcompress, without `key`, of a newer version, truncated, or changed.
    """
    whole = memoryview(data)
    header = _read_metadata(whole, path)
    entry = header.get(key)
    start = 8 + int.from_bytes(whole[:8], "little")
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int:
        kinds = ", ".join(sorted(str(name) for name in header if name != "__metadata__"))
        raise _unreadable(whole, path, f"must hold a {key}, but it holds {kinds or 'nothing'}: {_right_reader(key)}")
    n = shape[0]
    if len(whole) - start < n or n < _CHECKSUM_BYTES:
        raise ArtifactError(
            f"{path} is truncated: it should have {start + n} bytes, but has {len(whole)}: copy it again"
        )
    if not _checksum_matches(whole):
        raise ArtifactError(f"{path} {_CHECKSUM_MISMATCH}")
    return whole[start:-_CHECKSUM_BYTES]


def _safetensors_header(key: str, n_contents: int) -> bytes:
    """Length and JSON header for contents of `n_contents` bytes; the checksum is counted on top of them."""
    n = n_contents + _CHECKSUM_BYTES
    text = json.dumps(
        {"__metadata__": {_KEY: str(VERSION)}, key: {"dtype": "U8", "shape": [n], "data_offsets": [0, n]}},
        separators=(",", ":"),
    ).encode()
    text += b" " * (-len(text) % 8)  # safetensors aligns the tensor to 8 bytes
    return len(text).to_bytes(8, "little") + text


def _checksum_matches(whole: memoryview) -> bool:
    """Whether the last bytes are the checksum of all bytes before them."""
    checksum = blake2b(whole[:-_CHECKSUM_BYTES], digest_size=_CHECKSUM_BYTES)
    return checksum.digest() == bytes(whole[-_CHECKSUM_BYTES:])


def _unreadable(whole: memoryview, path: Path, reason: str) -> ArtifactError:
    """The error for a header that cannot be used: of a changed file of ours the checksum, else `reason`."""
    is_ours = _KEY.encode() in bytes(whole[:_MAX_HEADER_BYTES])
    return ArtifactError(f"{path} {_CHECKSUM_MISMATCH if is_ours and not _checksum_matches(whole) else reason}")


def _right_reader(key: str) -> str:
    return "read kept values with load_value(path)" if key == "model" else "read a model with load(path, model)"


def _read_metadata(whole: memoryview, path: Path) -> dict[str, object]:
    """Parse the JSON header of a file of ours and check its version."""
    for magic, what in _FOREIGN_MAGIC:
        if bytes(whole[: len(magic)]) == magic and bytes(whole[8:9]) != b"{":
            raise ArtifactError(f"{path} is not a file of nbcompress, but {what}")
    length = int.from_bytes(whole[:8], "little")
    if len(whole) < 9 or whole[8] != ord("{"):
        what = f"is not a file of nbcompress (it has {len(whole)} bytes)" if len(whole) else "is empty"
        raise _unreadable(whole, path, f"{what}: save(model, path) writes such files")
    head = bytes(whole[8 : 8 + min(length, _MAX_HEADER_BYTES)])
    if len(whole) < 8 + length and length <= _MAX_HEADER_BYTES:
        raise ArtifactError(f"{path} is truncated: it ends within its first {8 + length} bytes: copy it again")
    if length > _MAX_HEADER_BYTES:
        raise _unreadable(whole, path, "is not a file of nbcompress, though it may be safetensors of other tensors")
    try:
        header = json.loads(head)
        version = header["__metadata__"][_KEY]
    except (KeyError, TypeError):
        reason = "is a safetensors file, but not of nbcompress: load it with safetensors.torch.load_file"
        raise _unreadable(whole, path, reason) from None
    except (ValueError, RecursionError):
        raise _unreadable(whole, path, "is damaged: its header cannot be read") from None
    if not isinstance(version, str) or not version.isascii() or not version.isdigit() or len(version) > 9:
        raise _unreadable(whole, path, f"is damaged: its version is {version!r:.40}")
    if int(version) > VERSION:
        raise ArtifactError(
            f"{path} has version {version}, and this nbcompress reads up to version {VERSION}: update nbcompress"
        )
    checked: dict[str, object] = header
    return checked


__all__ = ["VERSION", "Part", "checked_contents", "file_length", "file_parts"]
