"""A plain value in a file, without pickle: what a trial keeps.

Numbers, texts, None, tensors, arrays and modules, and lists, tuples and dicts of these. The structure is JSON of
tagged nodes; tensors and arrays stand behind it byte for byte, modules as packed models.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nbcompress.artifact.binary import Row, RowReader
from nbcompress.artifact.container import Part, opened, sealed
from nbcompress.artifact.dtypes import DTYPES, bytes_of, dtype_name, tensor_of
from nbcompress.artifact.files import check_packed, load_contents, read_whole, warn_of_broken, write_whole
from nbcompress.artifact.packed import pack, unpack
from nbcompress.compress.modes import outside_inference
from nbcompress.errors import ArtifactError

VALUE = "value"
# Deeper nesting is a mistake, such as a list that holds itself.
_DEEPEST = 100
_ARRAY_KINDS = "biufc"
_DTYPE_BY_NAME = {dtype_name(dtype): dtype for dtype in DTYPES}

Node = list[Any]


@dataclass(frozen=True, eq=False)
class Handle:
    """A module in a file, before there is an instance to fill.

    Attributes:
        class_name: The class that was saved.
        contents: The packed model.
    """

    class_name: str
    contents: bytes

    def load(self, into: nn.Module) -> nn.Module:
        """Fill `into`, a fresh instance of the class that was saved, and return it.

        Raises:
            ArtifactError: It is another class, or has other shapes; it is then unchanged.
        """
        load_contents(memoryview(self.contents), into)
        return into

    def __repr__(self) -> str:
        size = f"{len(self.contents) / 1024:.1f} kB"
        return f"<a kept {self.class_name}, {size}: .load(into={self.class_name}()) fills a fresh instance>"


def save_value(value: object, path: str | os.PathLike[str]) -> Path:
    """Write a plain value to `path` and return the path.

    Raises:
        ArtifactError: The value holds something that cannot be kept; names its type and where it is.
    """
    writer = _ValueWriter()
    node = writer.node(value, "the value", 0)
    row = Row()
    row.text(json.dumps(node, separators=(",", ":")))
    return write_whole(Path(path), sealed(VALUE, [bytes(row.data), *writer.blobs]))


@outside_inference
def load_value(path: str | os.PathLike[str], into: nn.Module | None = None) -> Any:
    """Read what `save_value` wrote; tensors on the CPU.

    Args:
        path: The file.
        into: A fresh instance for the one module in the value. Without it a module comes back as a `Handle`.

    Raises:
        ArtifactError: The file is not one of ours, damaged or newer, `into` does not fit, or the value does not
            hold exactly one module though `into` is given.
    """
    where = Path(path)
    row = RowReader(opened(read_whole(where), VALUE, where))
    try:
        node = json.loads(row.text())
        reader = _ValueReader(row)
        value = reader.value(node, 0)
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError) as err:
        raise ArtifactError(f"{where} is damaged: its structure cannot be read ({err})") from err
    if len(row.left):
        raise ArtifactError(f"{where} is damaged: {len(row.left)} bytes are left over")
    if into is None:
        return value
    if len(reader.handles) != 1:
        raise ArtifactError(f"into= needs a value with one module in it, but {where} holds {len(reader.handles)}")
    return _filled(value, reader.handles[0].load(into))


class _ValueWriter:
    """Turns a value into tagged nodes; what is not text goes to `blobs`, in the order of the nodes."""

    def __init__(self) -> None:
        self.blobs: list[Part] = []

    def node(self, value: object, where: str, depth: int) -> Node:
        if depth > _DEEPEST:
            raise ArtifactError(f"{where[:80]}... is nested more than {_DEEPEST} deep, or holds itself")
        if value is None or type(value) in (bool, str):
            return ["=", value]
        if type(value) is int:
            return ["int", f"{value:x}"]
        if type(value) is float:
            return ["float", value.hex()]
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Tensor):
            return self._tensor(value, where)
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(value, where)
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            inner = [self.node(one, f"{where}[{place}]", depth + 1) for place, one in enumerate(value)]
            return [type(value).__name__, inner]
        if isinstance(value, dict) and type(value) in (dict, OrderedDict):
            return ["dict", [self._item(key, one, where, depth) for key, one in value.items()]]
        raise _not_kept(value, where)

    def _item(self, key: object, value: object, where: str, depth: int) -> list[Node]:
        if type(key) not in (str, int, float, bool, type(None)):
            raise _not_kept(key, f"a key of {where}")
        return [self.node(key, where, depth + 1), self.node(value, f"{where}[{key!r}]", depth + 1)]

    def _module(self, module: nn.Module) -> Node:
        packed = pack(module)
        warn_of_broken(packed)
        check_packed(packed, module)
        self.blobs += packed.parts
        return ["module", packed.n_contents]

    def _tensor(self, tensor: Tensor, where: str) -> Node:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.dtype not in DTYPES:
            raise ArtifactError(
                f"{where} is a tensor that cannot be kept ({tensor.layout}, {dtype_name(tensor.dtype)})"
            )
        self.blobs.append(np.ascontiguousarray(bytes_of(tensor)).reshape(-1).data)
        return ["tensor", dtype_name(tensor.dtype), list(tensor.shape)]

    def _array(self, array: np.ndarray[Any, Any] | np.generic, where: str) -> Node:
        if array.dtype.kind not in _ARRAY_KINDS:
            raise ArtifactError(f"{where} is an array of {array.dtype}; arrays of numbers and booleans can be kept")
        flat = np.array(array, dtype=array.dtype.newbyteorder("<"), order="C").reshape(-1)
        self.blobs.append(flat.view(np.uint8).data)
        return ["array" if isinstance(array, np.ndarray) else "scalar", flat.dtype.str, list(array.shape)]


def _not_kept(value: object, where: str) -> ArtifactError:
    return ArtifactError(
        f"{where} is a {type(value).__name__}, which cannot be kept: keep modules, tensors, arrays, numbers, "
        "strings, None, and lists, tuples and dicts of these"
    )


class _ValueReader:
    """Turns tagged nodes back into values, without trust: nothing is larger than the file."""

    def __init__(self, row: RowReader) -> None:
        self._row = row
        self.handles: list[Handle] = []
        self._readers: dict[str, Callable[..., Any]] = {
            "int": lambda text: int(text, 16),
            "float": float.fromhex,
            "module": self._module,
            "tensor": self._tensor,
            "array": self._array,
            "scalar": lambda dtype, shape: self._array(dtype, shape)[()],
        }

    def value(self, node: Node, depth: int) -> Any:
        kind, *details = node
        if depth > _DEEPEST:
            raise ValueError("it is nested too deep")
        if kind == "=":
            (plain,) = details
            if plain is not None and type(plain) not in (bool, str):
                raise ValueError(f"unknown plain value {plain!r:.40}")
            return plain
        if kind in ("list", "tuple"):
            inner = [self.value(one, depth + 1) for one in details[0]]
            return inner if kind == "list" else tuple(inner)
        if kind == "dict":
            return {self.value(key, depth + 1): self.value(one, depth + 1) for key, one in details[0]}
        return self._readers[kind](*details)

    def _module(self, n: int) -> Handle:
        contents = bytes(self._row.take(_count(n)))
        handle = Handle(unpack(memoryview(contents)).header.class_name, contents)
        self.handles.append(handle)
        return handle

    def _tensor(self, name: str, shape: list[int]) -> Tensor:
        dtype, sizes = _DTYPE_BY_NAME[name], tuple(map(_count, shape))
        width = dtype.itemsize
        data = np.frombuffer(self._row.take(prod(sizes) * width), dtype=np.uint8)
        return tensor_of(data.reshape(-1, width), sizes, dtype)

    def _array(self, name: str, shape: list[int]) -> np.ndarray[Any, Any]:
        dtype, sizes = np.dtype(name), tuple(map(_count, shape))
        if dtype.kind not in _ARRAY_KINDS:
            raise ValueError(f"unknown dtype {name!r:.40}")
        data = self._row.take(prod(sizes) * dtype.itemsize)
        return np.frombuffer(data, dtype=dtype).reshape(sizes).copy()


def _count(number: object) -> int:
    if type(number) is not int or not 0 <= number < 1 << 62:
        raise ValueError(f"{number!r:.40} is not a count")
    return number


def _filled(value: Any, module: nn.Module) -> Any:
    """`value` with its one handle replaced by `module`."""
    if isinstance(value, Handle):
        return module
    if isinstance(value, (list, tuple)):
        return type(value)(_filled(one, module) for one in value)
    if isinstance(value, dict):
        return {key: _filled(one, module) for key, one in value.items()}
    return value


__all__ = ["Handle", "load_value", "save_value"]
