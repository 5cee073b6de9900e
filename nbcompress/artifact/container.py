"""The shell of a file: `safetensors` with one byte tensor, a version, and a checksum over everything.

    8 bytes   length of the text that follows
    text      {"__metadata__": {"nbcompress": "3"}, "model": {"dtype": "U8", "shape": [n], "data_offsets": [0, n]}}
    n bytes   contents, of which the last 8 are BLAKE2b over every byte of the file before them

So every reader of safetensors lists the file, and a change of any byte is found, also in the text. The checksum
finds damage; it is no signature, so contents are read without trust all the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from nbcompress.errors import ArtifactError

# 2: a header may begin from what headers often say. 3: symmetric grids of 2 to 7 bits have 2^bits codes.
# Files of older versions are read as ever.
VERSION = 3
_KEY = "nbcompress"
_N_CHECK = 8
# Our texts are shorter than this; those of other safetensors files may be longer.
_LONGEST_TEXT = 4096
_CHANGED = "was changed after it was written, or damaged: its checksum does not agree"
Part = bytes | memoryview

_FOREIGN = (
    (b"PK\x03\x04", "a zip archive, such as torch.save writes: load it with torch.load(path, weights_only=True)"),
    (b"\x80", "a pickle, such as older versions of torch.save write: load it with torch.load(path, weights_only=True)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "an array of NumPy: load it with numpy.load"),
    (b"\x08", "perhaps an ONNX model"),
)


def prefix(name: str, n_contents: int) -> bytes:
    """What stands before the contents of `n_contents` bytes; the checksum comes on top of them."""
    n = n_contents + _N_CHECK
    text = json.dumps(
        {"__metadata__": {_KEY: str(VERSION)}, name: {"dtype": "U8", "shape": [n], "data_offsets": [0, n]}},
        separators=(",", ":"),
    ).encode()
    text += b" " * (-len(text) % 8)  # the tensor begins at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text


def n_file(name: str, n_contents: int) -> int:
    """Length of the file with contents of `n_contents` bytes."""
    return len(prefix(name, n_contents)) + n_contents + _N_CHECK


def sealed(name: str, contents: Sequence[Part]) -> list[Part]:
    """The whole file as parts to be written one after the other."""
    parts = [prefix(name, sum(len(part) for part in contents)), *contents]
    check = blake2b(digest_size=_N_CHECK)
    for part in parts:
        check.update(part)
    return [*parts, check.digest()]


def opened(data: bytes | memoryview, name: str, path: Path) -> memoryview:
    """The contents of the file with bytes `data`, after every check that needs no knowledge of them.

    Raises:
        ArtifactError: Not a file of ours, of another kind than `name`, of a newer version, truncated, or changed.
    """
    whole = memoryview(data)
    text = _text(whole, path)
    entry = text.get(name)
    start = 8 + int.from_bytes(whole[:8], "little")
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int:
        kinds = ", ".join(sorted(str(key) for key in text if key != "__metadata__"))
        raise _refusal(whole, path, f"must hold a {name}, but it holds {kinds or 'nothing'}: {_hint(name)}")
    n = shape[0]
    if len(whole) - start < n or n < _N_CHECK:
        raise ArtifactError(
            f"{path} is truncated: it should have {start + n} bytes, but has {len(whole)}: copy it again"
        )
    if not _agrees(whole):
        raise ArtifactError(f"{path} {_CHANGED}")
    return whole[start:-_N_CHECK]


def _agrees(whole: memoryview) -> bool:
    """Whether the end is the checksum of everything before it."""
    return blake2b(whole[:-_N_CHECK], digest_size=_N_CHECK).digest() == bytes(whole[-_N_CHECK:])


def _refusal(whole: memoryview, path: Path, why: str) -> ArtifactError:
    """What to say of a text that makes no sense: of one of ours whose checksum does not agree, that it was changed."""
    is_ours = _KEY.encode() in bytes(whole[:_LONGEST_TEXT])
    return ArtifactError(f"{path} {_CHANGED if is_ours and not _agrees(whole) else why}")


def _hint(name: str) -> str:
    return "read kept values with load_value(path)" if name == "model" else "read a model with load(path, model)"


def _text(whole: memoryview, path: Path) -> dict[str, object]:
    """The JSON text of a file of ours, its version checked."""
    for magic, what in _FOREIGN:
        if bytes(whole[: len(magic)]) == magic and bytes(whole[8:9]) != b"{":
            raise ArtifactError(f"{path} is not a file of nbcompress, but {what}")
    length = int.from_bytes(whole[:8], "little")
    if len(whole) < 9 or whole[8] != ord("{"):
        what = f"is not a file of nbcompress (it has {len(whole)} bytes)" if len(whole) else "is empty"
        raise _refusal(whole, path, f"{what}: save(model, path) writes such files")
    head = bytes(whole[8 : 8 + min(length, _LONGEST_TEXT)])
    if len(whole) < 8 + length and length <= _LONGEST_TEXT:
        raise ArtifactError(f"{path} is truncated: it ends within its first {8 + length} bytes: copy it again")
    if length > _LONGEST_TEXT:
        raise _refusal(whole, path, "is not a file of nbcompress, though it may be safetensors of other tensors")
    try:
        text = json.loads(head)
        version = text["__metadata__"][_KEY]
    except (KeyError, TypeError):
        why = "is a safetensors file, but not of nbcompress: load it with safetensors.torch.load_file"
        raise _refusal(whole, path, why) from None
    except (ValueError, RecursionError):
        raise _refusal(whole, path, "is damaged: its first text cannot be read") from None
    if not isinstance(version, str) or not version.isascii() or not version.isdigit() or len(version) > 9:
        raise _refusal(whole, path, f"is damaged: its version is {version!r:.40}")
    if int(version) > VERSION:
        raise ArtifactError(
            f"{path} has version {version}, and this nbcompress reads up to version {VERSION}: update nbcompress"
        )
    found: dict[str, object] = text
    return found


__all__ = ["VERSION", "Part", "n_file", "opened", "sealed"]
