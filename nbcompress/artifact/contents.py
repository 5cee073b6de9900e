"""What a file of a compressed model holds, read without the class of the model: nothing is unpickled or run.

A file does not store the names of its tensors, since an instance of the class has them. So tensors have numbers here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from nbcompress.artifact.container import checked_contents
from nbcompress.artifact.file import MODEL_KEY, bytes_text, read_file
from nbcompress.artifact.header import Header, TensorEntry, dtype_name
from nbcompress.artifact.packed import Slot, parse_contents, read_tensors, written_bytes
from nbcompress.compressors.record import Surgery
from nbcompress.errors import ArtifactError

# Without an instance to compare with, only the length of the file bounds what its shapes may ask for. No model that
# `quantize` and `prune` make has more numbers for a byte, beyond the first ones.
MAX_NUMBERS_PER_BYTE = 4_096
MIN_NUMBERS = 1_000_000


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file.

    Attributes:
        index: Its place in the state dict of the model.
        shape: Its shape.
        dtype: Its type in the model, such as `float32`.
        encoding: How its values are stored, in words.
        n_bytes: What it takes in the file; 0 if it is the same tensor as an earlier one.
        n_zeros: How many of its numbers are zero.
        tied_to: The number of the earlier tensor that it is the same as, or None.
    """

    index: int
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    n_bytes: int
    n_zeros: int
    tied_to: int | None = None

    @property
    def n_numbers(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)


@dataclass(frozen=True)
class ModelContents:
    """What a file holds.

    Attributes:
        name: Of the file.
        class_name: The class of the model, as the file says.
        n_bytes: The length of the file.
        tensors: In the order of the state dict.
        rest: To what precision everything without a grid or a codebook was rounded.
        changes: The structural changes: a sentence for each module.
        left_out: Reasons why tensors were not compressed, by name.
        activations: How the inputs of layers are quantized, by layer: `dynamic` or a range.
    """

    name: str
    class_name: str
    n_bytes: int
    tensors: tuple[StoredTensor, ...]
    rest: str
    changes: tuple[str, ...]
    left_out: Mapping[str, str]
    activations: Mapping[str, str]

    def __repr__(self) -> str:
        plural = "" if len(self.tensors) == 1 else "s"
        return f"<{self.class_name} in {self.name}: {len(self.tensors)} tensor{plural}, {bytes_text(self.n_bytes)}>"

    @property
    def columns(self) -> tuple[str, ...]:
        """The head of `rows`."""
        return ("tensor", "shape", "stored as", "zeros", "bytes", "bits per number")

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """A row of texts for each tensor."""
        return tuple(map(_row, self.tensors))

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What the file is as a whole, as pairs of texts."""
        own = [tensor for tensor in self.tensors if tensor.tied_to is None]
        n_numbers = sum(tensor.n_numbers for tensor in own)
        zeros = sum(tensor.n_zeros for tensor in own)
        share = f" ({zeros / n_numbers:.1%})" if n_numbers else ""
        bits = f"{8 * self.n_bytes / n_numbers:.3g}" if n_numbers else "-"
        facts = [
            ("class", self.class_name),
            ("file", f"{bytes_text(self.n_bytes)} ({self.n_bytes:,} bytes)"),
            ("numbers", f"{n_numbers:,}"),
            ("zeros", f"{zeros:,}{share}"),
            ("bits per number", bits),
            ("other tensors", self.rest),
        ]
        if self.activations:
            facts.append(("activations", "; ".join(f"{name}: {how}" for name, how in self.activations.items())))
        return tuple(facts)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed and left out, a sentence each."""
        out = (f"{name} was not compressed: {reason}." for name, reason in self.left_out.items())
        return (*self.changes, *out, "A file does not store names: tensors are numbered as in the model's state dict.")

    def __str__(self) -> str:
        return "\n".join([self.name, *(f"{name}: {value}" for name, value in self.facts)])


def read_contents(path: str | os.PathLike[str]) -> ModelContents:
    """Read what a file of `save` holds, without a model.

    Args:
        path: Of the file. It is parsed without trust.

    Raises:
        ArtifactError: It is no such file, it is damaged, or it claims far more numbers than its length can hold.

    Example:
        >>> import tempfile, torch, nbcompress as nc
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = nc.save(nc.quantize(torch.nn.Linear(8, 4), bits=4), f"{folder.name}/model.nbz")
        >>> [tensor.encoding for tensor in read_contents(path).tensors]
        ['4 bits, symmetric, by channel', 'float32 values']
        >>> folder.cleanup()
    """
    where = Path(path)
    data = read_file(where)
    undecoded = parse_contents(checked_contents(data, MODEL_KEY, where))
    header = undecoded.header
    n_numbers = sum(prod(entry.shape) for entry in header.entries if entry.tied_to is None)
    limit = max(MIN_NUMBERS, MAX_NUMBERS_PER_BYTE * len(data))
    if n_numbers > limit:
        raise ArtifactError(
            f"{where} is not read without its model: it claims {n_numbers} numbers in {len(data)} bytes, more than "
            f"{limit}. Load it into the model: nc.load(path, Net())"
        )
    tensors, records = read_tensors(undecoded)
    slots = [
        Slot(str(index), _same(tensors, header, index), _first(header.entries, index))
        for index in range(len(header.entries))
    ]
    sizes = written_bytes(slots, records)
    stored = [
        StoredTensor(
            index,
            tuple(slot.tensor.shape),
            dtype_name(slot.tensor.dtype),
            _encoding(header, index),
            sizes.get(slot.name, 0),
            int(slot.tensor.numel() - torch.count_nonzero(slot.tensor)),
            header.entries[index].tied_to,
        )
        for index, slot in enumerate(slots)
    ]
    return ModelContents(
        where.name,
        header.class_name,
        len(data),
        tuple(stored),
        header.rest,
        tuple(_change(step) for step in header.surgery),
        dict(header.left_out),
        {name: how if isinstance(how, str) else str(how) for name, how in header.activations.items()},
    )


def file_json(path: str | os.PathLike[str]) -> str:
    """Return `read_contents` as the JSON that JupyterLab shows; all of it is text."""
    contents = read_contents(path)
    data = {
        "title": contents.name,
        "facts": contents.facts,
        "columns": contents.columns,
        "rows": contents.rows,
        "notes": contents.notes,
    }
    return json.dumps(data)


def _first(entries: tuple[TensorEntry, ...], index: int) -> int:
    tied_to = entries[index].tied_to
    return index if tied_to is None else tied_to


def _same(tensors: list[torch.Tensor | None], header: Header, index: int) -> torch.Tensor:
    tensor = tensors[_first(header.entries, index)]
    if tensor is None:
        raise ArtifactError(f"the file is damaged: its tensor {index} is tied to one that is tied itself")
    return tensor


def _encoding(header: Header, index: int) -> str:
    entry = header.entries[index]
    if entry.tied_to is not None:
        return f"same as {entry.tied_to}"
    grid = ""
    if entry.grid is not None:
        group = entry.grid.group
        by = f"groups of {group}" if isinstance(group, int) else f"by {group}"
        by += " of the transposed matrix" * entry.grid.is_turned
        grid = f"{entry.grid.bits} bit{'s' * (entry.grid.bits > 1)}, {entry.grid.scheme}, {by}"
    pruned = ", pruned" if entry.is_pruned else ""
    if entry.n_values:
        return f"codebook of {entry.n_values}{f' ({grid})' if grid else ''}{pruned}"
    return f"{grid or dtype_name(entry.dtype) + ' values'}{pruned}"


def _change(step: Surgery) -> str:
    sizes = ", ".join(f"{name} {tuple(shape)}" for name, shape in step.shapes.items())
    numbers = ", ".join(f"{name} {value}" for name, value in step.attributes.items())
    module = step.module or "the model"
    return f"{module}: {step.kind}" + (f" to {sizes}" if sizes else "") + (f"; {numbers}" if numbers else "")


def _row(tensor: StoredTensor) -> tuple[str, ...]:
    n = tensor.n_numbers
    shape = " x ".join(map(str, tensor.shape)) or "one number"
    if tensor.tied_to is not None:
        return (str(tensor.index), shape, tensor.encoding, "-", "-", "-")
    zeros = f"{tensor.n_zeros / n:.1%}" if n else "-"
    bits = f"{8 * tensor.n_bytes / n:.3g}" if n else "-"
    return (str(tensor.index), shape, tensor.encoding, zeros, f"{tensor.n_bytes:,}", bits)


__all__ = ["ModelContents", "StoredTensor", "file_json", "read_contents"]
