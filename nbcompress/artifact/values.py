"""A plain value in a file, without pickle: the value that a trial keeps.

A value is a number, text, None, tensor, array or module, or a list, tuple or dict of these. Its structure is stored as
JSON of tagged nodes. The bytes of tensors and arrays follow the JSON, and so do modules, as packed models.
"""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nbcompress.artifact.container import Part, checked_contents, file_parts
from nbcompress.artifact.file import (
    bytes_text,
    check_packed,
    load_contents,
    read_file,
    warn_of_broken,
    write_atomically,
)
from nbcompress.artifact.header import DTYPES, ByteReader, ByteWriter, bytes_of, dtype_name, tensor_of
from nbcompress.artifact.packed import pack, parse_contents
from nbcompress.compressors.modes import outside_inference
from nbcompress.compressors.torch_masks import without_torch_masks
from nbcompress.errors import ArtifactError, option

VALUE_KEY = "value"
# Deeper nesting is a mistake, such as a list that contains itself.
_MAX_DEPTH = 100
_ARRAY_KINDS = "biufc"
# What `dtype.str` is for these kinds. NumPy reads a text with commas by Python's parser.
_DTYPE_TEXT = re.compile(rf"[<>=|][{_ARRAY_KINDS}][0-9]{{1,2}}")
_MAX_AXES = 64  # as in NumPy
_DTYPE_BY_NAME = {dtype_name(dtype): dtype for dtype in DTYPES}

Node = list[Any]


@dataclass(frozen=True, eq=False)
class Handle:
    """A kept module for which there is no instance to fill yet.

    Attributes:
        class_name: Name of the class that was saved.
        contents: The packed model.
    """

    class_name: str
    contents: bytes

    def load(self, into: nn.Module) -> nn.Module:
        """Fill a fresh instance of the class that was saved, and return it.

        Args:
            into: The instance; it is filled in place.

        Raises:
            ArtifactError: The instance is of another class, or has other shapes. It is then unchanged.
        """
        load_contents(memoryview(self.contents), into)
        return into

    def __repr__(self) -> str:
        size = bytes_text(len(self.contents))
        return f"<a kept {self.class_name}, {size}: .load(into={self.class_name}()) fills a fresh instance>"


def save_value(value: object, path: str | os.PathLike[str]) -> Path:
    """Write a plain value to `path` and return the path.

    Raises:
        ArtifactError: The value holds something that cannot be kept; names its type and where it is.
    """
    builder = _NodeBuilder()
    node = builder.node(value, "the value", 0)
    start = ByteWriter()
    start.text(json.dumps(node, separators=(",", ":")))
    return write_atomically(Path(path), file_parts(VALUE_KEY, [bytes(start.data), *builder.blobs]))


@outside_inference
def load_value(path: str | os.PathLike[str], into: nn.Module | None = None) -> Any:
    """Return the value that `save_value` wrote, with tensors on the CPU.

    Args:
        path: Of the file.
        into: A fresh instance for the one module in the value. Without it a module is returned as a `Handle`.

    Raises:
        ArtifactError: The file is not one of nbcompress, is damaged or of a newer version, `into` does not fit, or
            `into` is given and the value does not hold exactly one module.
    """
    where = Path(path)
    data = ByteReader(checked_contents(read_file(where), VALUE_KEY, where))
    try:
        node = json.loads(data.text())
        parser = _NodeParser(data)
        value = parser.value(node, 0)
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError) as err:
        raise ArtifactError(f"{where} is damaged: its structure cannot be read ({err})") from err
    if len(data.left):
        raise ArtifactError(f"{where} is damaged: {len(data.left)} bytes are left over")
    if into is None:
        return value
    if len(parser.handles) != 1:
        raise ArtifactError(
            f"{option('into=')} needs a value with one module in it, but {where} holds {len(parser.handles)}"
        )
    return _replace_handle(value, parser.handles[0].load(into))


class _NodeBuilder:
    """Turns a value into tagged nodes. Bytes of tensors, arrays and modules go to `blobs`, in the order of nodes."""

    def __init__(self) -> None:
        self.blobs: list[Part] = []

    def node(self, value: object, where: str, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise ArtifactError(f"{where[:80]}... is nested more than {_MAX_DEPTH} deep, or holds itself")
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
            inner = [self.node(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
            return [type(value).__name__, inner]
        if isinstance(value, dict) and type(value) in (dict, OrderedDict):
            return ["dict", [self._item(key, item, where, depth) for key, item in value.items()]]
        raise _cannot_keep(value, where)

    def _item(self, key: object, value: object, where: str, depth: int) -> list[Node]:
        if type(key) not in (str, int, float, bool, type(None)):
            raise _cannot_keep(key, f"a key of {where}")
        return [self.node(key, where, depth + 1), self.node(value, f"{where}[{key!r}]", depth + 1)]

    def _module(self, module: nn.Module) -> Node:
        module = without_torch_masks(module)
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


def _cannot_keep(value: object, where: str) -> ArtifactError:
    return ArtifactError(
        f"{where} is a {type(value).__name__}, which cannot be kept: keep modules, tensors, arrays, numbers, "
        "strings, None, and lists, tuples and dicts of these"
    )


class _NodeParser:
    """Turns tagged nodes back into values, without trust: nothing that it makes is larger than the file."""

    def __init__(self, data: ByteReader) -> None:
        self._data = data
        self.handles: list[Handle] = []
        self._parsers: dict[str, Callable[..., Any]] = {
            "int": lambda text: int(text, 16),
            "float": float.fromhex,
            "module": self._module,
            "tensor": self._tensor,
            "array": self._array,
            "scalar": lambda dtype, shape: self._array(dtype, shape)[()],
        }

    def value(self, node: Node, depth: int) -> Any:
        kind, *details = node
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deep")
        if kind == "=":
            (plain,) = details
            if plain is not None and type(plain) not in (bool, str):
                raise ValueError(f"unknown plain value {plain!r:.40}")
            return plain
        if kind in ("list", "tuple"):
            inner = [self.value(detail, depth + 1) for detail in details[0]]
            return inner if kind == "list" else tuple(inner)
        if kind == "dict":
            return {self.value(key, depth + 1): self.value(item, depth + 1) for key, item in details[0]}
        return self._parsers[kind](*details)

    def _module(self, n: int) -> Handle:
        contents = bytes(self._data.take(_count(n)))
        handle = Handle(parse_contents(memoryview(contents)).header.class_name, contents)
        self.handles.append(handle)
        return handle

    def _tensor(self, name: str, shape: list[int]) -> Tensor:
        dtype, sizes = _DTYPE_BY_NAME[name], _sizes(shape)
        width = dtype.itemsize
        data = np.frombuffer(self._data.take(prod(sizes) * width), dtype=np.uint8)
        return tensor_of(data.reshape(-1, width), sizes, dtype)

    def _array(self, name: str, shape: list[int]) -> np.ndarray[Any, Any]:
        if not _DTYPE_TEXT.fullmatch(name):
            raise ValueError(f"unknown dtype {name!r:.40}")
        dtype, sizes = np.dtype(name), _sizes(shape)
        data = self._data.take(prod(sizes) * dtype.itemsize)
        return np.frombuffer(data, dtype=dtype).reshape(sizes).copy()


def _count(number: object) -> int:
    if type(number) is not int or not 0 <= number < 1 << 62:
        raise ValueError(f"{number!r:.40} is not a count")
    return number


def _sizes(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, list) or len(shape) > _MAX_AXES:
        raise ValueError("a shape is not a short list of counts")
    return tuple(map(_count, shape))


def _replace_handle(value: Any, module: nn.Module) -> Any:
    """Return `value` with its one handle replaced by `module`."""
    if isinstance(value, Handle):
        return module
    if isinstance(value, (list, tuple)):
        return type(value)(_replace_handle(item, module) for item in value)
    if isinstance(value, dict):
        return {key: _replace_handle(item, module) for key, item in value.items()}
    return value


__all__ = ["Handle", "load_value", "save_value"]
