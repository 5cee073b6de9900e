"""`export`: one function for all formats; the suffix of the file name selects the format."""

from __future__ import annotations

import os
from math import isfinite
from pathlib import Path
from typing import Literal

from torch import nn

from nbcompress.artifact.export.agreement import ExampleInputs, batch_inputs, example_inputs
from nbcompress.artifact.export.dynamic import free_axes
from nbcompress.artifact.export.program import pickled_state_bytes, program_bytes, state_bytes
from nbcompress.artifact.export.report import ExportedFile, ExportReport
from nbcompress.artifact.file import check_writable, write_atomically
from nbcompress.compressors.layers import copied
from nbcompress.compressors.modes import with_progress
from nbcompress.compressors.torch_masks import without_torch_masks
from nbcompress.errors import ArtifactError, check_installed, did_you_mean, option

_FORMATS = {".onnx": "onnx", ".pt2": "pt2", ".safetensors": "safetensors", ".pt": "pt", ".pth": "pt"}
# Batches of the data that are checked.
_N_BATCHES = 4


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    example: object = None,
    format: Literal["onnx", "pt2", "safetensors", "pt"] | None = None,
    tolerance: float | None = None,
    data: object = None,
    dynamic: object = None,
    progress: bool = True,
) -> ExportedFile:
    """Write `model` in a format that other programs can run or load, and check it before the file appears.

    | format | suffix | contents |
    | --- | --- | --- |
    | `onnx` | `.onnx` | one ONNX file for ONNX Runtime and others (see below) |
    | `pt2` | `.pt2` | a program for `torch.export.load`, in floating point |
    | `safetensors` | `.safetensors` | the plain state dict, for `safetensors.torch.load_model`; tied tensors once |
    | `pt` | `.pt`, `.pth` | the plain state dict, for `torch.load` |

    In `onnx` and `pt2` the first dimension of the inputs is free, and the exported model computes in float32 in
    evaluation mode. In ONNX, a weight on a grid (`quantize`) is stored as integers, of 2 or 4 bits if they fit, else of
    8. How the layer computes depends on `quantize(activations=...)`:

    | activations | linear layers and convolutions compute | gain |
    | --- | --- | --- |
    | none | linear layers from weights of 2, 4 or 8 bits; others in floating point | size; speed of linear layers |
    | dynamic | in 8 bits, the range of activations found at every run; made for transformers | size and speed |
    | static | in 8 bits on the recorded ranges; made for convolutions | size and most speed |

    ONNX Runtime's `MatMulNBits` reads the packed weights. It is fast if it may round its input to 8 bits, block by
    block (`accuracy_level` 4). The export measures on the example and the data whether it may: outputs must not be off
    by more than 5 % of their length (or `tolerance`, if that is less), and at most 1 % of the predictions may change
    clearly, which means to another place than that of a near tie. Otherwise products are computed in floating point
    (`accuracy_level` 1 in 4 bits; other bits are decoded). `report` of the returned path says which, why, and which
    layers are slower than in float32 (small ones can be). In the same way, LSTM layers with 8-bit weights and a scale
    per channel or tensor become `DynamicQuantizeLSTM`.

    Embeddings read single rows of integers, and share them with a head of the same weight. Weights that are pruned,
    clustered without a grid, or partly in half precision (`share`), are in float32. A warning names each layer that
    asked for integers and cannot compute in them. Processors without 8-bit dot products (x86 before AVX-512 VNNI or
    AVX-VNNI) may saturate in integer kernels of ONNX Runtime: check the accuracy there.

    An ONNX file holds up to 2 GB. Where the weights take more, they are written to a second file beside it, whose name
    ends in `.onnx.data`.

    Args:
        model: Any module that `torch.export` can trace; it stays unchanged.
        path: Of the file. It appears whole or not at all; an existing file is replaced.
        example: A tensor, a tuple of positional or a dict of keyword inputs, with one or more examples along the first
            axis. State dicts need none.
        format: A format of the first table; chosen by the suffix of the path if None.
        tolerance: The largest error of an output: length of the difference over length of the output of the model. If
            None, 0.001 in floating point and 0.3 (a cosine of .955) with 8-bit activations.
        data: A `DataLoader`, a data set, or a pair of tensors. Its first batches are checked as well, and calibrate
            what `quantize` did not measure (sums, and outputs of convolutions). Give it if the example is small.
        dynamic: Axes beside the first whose lengths are free, such as that of a sequence: an axis or a tuple of axes of
            all inputs (`1`), or a dict from the name of an input to its axes (`{"tokens": 1}`), or to names of axes
            (`{"tokens": {1: "steps"}}`). Axes of one name have one length. The example has 2 steps or more there.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        The path. Its attribute `report` says how the file agrees with the model and how it computes; `print` shows it.

    Raises:
        ArtifactError: The format is unknown, the model fails on the example or cannot be traced, its outputs differ
            from those of the exported model by more than `tolerance`, or the file cannot be written.
        MissingPart: The packages for ONNX are not installed.
        CompressionError: The model cannot be copied.
        DataError: The data has another form.

    Example:
        >>> import tempfile, torch, nbcompress as nc
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = nc.export(model, f"{folder.name}/model.pt2", example=torch.randn(3, 8))
        >>> program = torch.export.load(path).module()
        >>> x = torch.randn(5, 8)
        >>> torch.allclose(program(x), model(x), atol=1e-6)
        True
        >>> folder.cleanup()
    """
    where = Path(path)
    name = _format_of(where, format)
    if not isinstance(model, nn.Module):
        raise ArtifactError(f"only a torch.nn.Module can be exported, got {type(model).__name__}")
    if tolerance is not None and not (isfinite(tolerance) and tolerance > 0):
        raise ArtifactError(f"{option('tolerance')} must be a number above zero, got {tolerance!r}")
    check_writable(where)
    if dynamic is not None and name in ("safetensors", "pt"):
        raise ArtifactError(f"{option('dynamic=')} belongs to programs (onnx, pt2): a state dict has no inputs")
    if name == "onnx":
        check_installed("onnx")
    model = without_torch_masks(model)
    if name in ("safetensors", "pt"):
        write_atomically(where, [state_bytes(model) if name == "safetensors" else pickled_state_bytes(model)])
        return ExportedFile.of(where, ExportReport(name, (where,)))
    copy = copied(model, shares_weights=True).eval().cpu().float()
    examples = _examples(copy, example, data)
    axes = free_axes(dynamic, examples[0], copy)
    for free, n in axes.lengths(examples[0]).items():
        examples.insert(2, axes.resized(examples[0], free, n - 1 if n > 2 else n + 1))
    if name == "pt2":
        write_atomically(where, [program_bytes(copy, examples, axes, tolerance)])
        return ExportedFile.of(where, ExportReport(name, (where,)))
    from nbcompress.artifact.export.onnx_file import write_onnx

    with with_progress(progress):
        return ExportedFile.of(where, write_onnx(model, copy, examples, where, tolerance, axes))


def _format_of(path: Path, format: str | None) -> str:
    known = dict.fromkeys(_FORMATS.values())
    if format is not None:
        if format not in known:
            raise ArtifactError(
                f"{option('format')} must be {', '.join(known)}, got {format!r}.{did_you_mean(format, known)}"
            )
        return format
    if path.suffix not in _FORMATS:
        suffixes = ", ".join(_FORMATS)
        raise ArtifactError(
            f"the file's name must end in {suffixes}, or {option('format=')} must say what it is, got {path.name!r}."
            + did_you_mean(path.suffix, _FORMATS)
        )
    return _FORMATS[path.suffix]


def _examples(copy: nn.Module, example: object, data: object) -> list[ExampleInputs]:
    """The example, the example with another batch size, and the first batches of the data."""
    first = example_inputs(example) if example is not None or data is None else None
    batches = [] if data is None else batch_inputs(data, copy, _N_BATCHES)
    first = batches[0] if first is None else first
    return [first, first.resized(first.batch_size + 1), *batches]


__all__ = ["export"]
