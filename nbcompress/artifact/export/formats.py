"""`export`: one call for each form that others can run, chosen by the ending of the file's name."""

from __future__ import annotations

import os
from math import isfinite
from pathlib import Path

from torch import nn

from nbcompress.artifact.export.agreement import Example, example_of, examples_of
from nbcompress.artifact.export.onnx_file import onnx_bytes
from nbcompress.artifact.export.program import pickled_state_bytes, program_bytes, state_bytes
from nbcompress.artifact.file import check_writable, write_atomically
from nbcompress.compressors.layers import copied
from nbcompress.errors import ArtifactError, did_you_mean

_FORMATS = {".onnx": "onnx", ".pt2": "pt2", ".safetensors": "safetensors", ".pt": "pt", ".pth": "pt"}
_BATCHES = 4


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    example: object = None,
    format: str | None = None,
    tolerance: float | None = None,
    data: object = None,
) -> Path:
    """Write `model` in a form that others can run, check it, and return the path.

    | format | file | what it holds |
    | --- | --- | --- |
    | `onnx` | `.onnx` | one ONNX file for ONNX Runtime and others (see below) |
    | `pt2` | `.pt2` | a program for `torch.export.load`, in floating point |
    | `safetensors` | `.safetensors` | the plain state dict, for `safetensors.torch.load_model`; tied tensors once |
    | `pt` | `.pt`, `.pth` | the plain state dict, for `torch.load` |

    In the programs the first dimension of the inputs is free, and the model computes in float32 in evaluation mode,
    whatever it is in. In ONNX, a weight on a grid (`quantize`) is stored by our integers, 4 bits each where that is
    enough, else 8. What becomes of the layer depends on `quantize(activations=...)`:

    | activations | linear layers and convolutions compute | gives |
    | --- | --- | --- |
    | none | in floating point, from decoded integers | size, not speed |
    | dynamic | in 8 bits, the grid of activations found at every run; made for transformers | size and speed |
    | static | in 8 bits on the recorded grids; made for convolutions | size and most speed |

    Embeddings read single rows of integers. Weights that are pruned, or clustered without a grid, are in float32. A
    layer that was to compute in integers and cannot is named by a warning. Processors without 8-bit dot products
    (x86 before AVX-512 VNNI or AVX-VNNI) may saturate in integer kernels of ONNX Runtime: check there.

    Args:
        model: Any module that `torch.export` can trace; it stays as it is.
        path: Of the file. It appears whole or not at all.
        example: A tensor, a tuple of positional or a dict of keyword inputs; state dicts need none.
        format: One of the table, if the ending of the path does not say it.
        tolerance: The largest error that an output may have against the model: length of the difference over length
            of the output. Without it 0.001 in floating point, and 0.3 (a cosine of .955) with 8-bit activations.
        data: A `DataLoader`, a data set, or a pair of tensors: its first batches are checked, too, and calibrate the
            sums and outputs that a static layer does not read. Give it where the example is small.

    Raises:
        ArtifactError: The format is unknown, the model fails on the example or cannot be traced, the file cannot be
            written, or it does not do what the model does; says how far it is off.
        MissingPart: The packages for ONNX are not installed.
        CompressionError: The model cannot be copied.
        DataError: The data has another form.
    """
    where = Path(path)
    kind = _format_of(where, format)
    if not isinstance(model, nn.Module):
        raise ArtifactError(f"what is exported must be a torch.nn.Module, got {type(model).__name__}")
    if tolerance is not None and not (isfinite(tolerance) and tolerance > 0):
        raise ArtifactError(f"tolerance must be a number above zero, got {tolerance!r}")
    check_writable(where)
    if kind in ("safetensors", "pt"):
        return write_atomically(where, [state_bytes(model) if kind == "safetensors" else pickled_state_bytes(model)])
    copy = copied(model).eval().cpu().float()
    examples = _examples(copy, example, data)
    if kind == "pt2":
        return write_atomically(where, [program_bytes(copy, examples, tolerance)])
    return write_atomically(where, [onnx_bytes(model, copy, examples, tolerance)])


def _format_of(path: Path, format: str | None) -> str:
    known = dict.fromkeys(_FORMATS.values())
    if format is not None:
        if format not in known:
            raise ArtifactError(f"format must be {', '.join(known)}, got {format!r}.{did_you_mean(format, known)}")
        return format
    if path.suffix not in _FORMATS:
        endings = ", ".join(_FORMATS)
        raise ArtifactError(
            f"the file's name must end in {endings}, or format= must say what it is, got {path.name!r}."
            + did_you_mean(path.suffix, _FORMATS)
        )
    return _FORMATS[path.suffix]


def _examples(copy: nn.Module, example: object, data: object) -> list[Example]:
    """The example, the same with another number of rows, and the first batches of the data."""
    first = example_of(example) if example is not None or data is None else None
    found = [] if data is None else examples_of(data, copy, _BATCHES)
    first = found[0] if first is None else first
    return [first, first.resized(first.batch_size + 1), *found]


__all__ = ["export"]
