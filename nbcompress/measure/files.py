"""Files in the place of models: an ONNX file runs in ONNX Runtime, one of `nc.save` fills an instance of its class."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nbcompress.artifact.export.agreement import on_cpu
from nbcompress.artifact.file import load
from nbcompress.compressors.copying import deep_copy
from nbcompress.errors import MeasureError, check_installed, option
from nbcompress.measure.inputs import ModelInputs

ModelOrFile = nn.Module | str | os.PathLike[str]
# Where the name of a tensor in a file ends the name of its layer.
_OF_LAYER = re.compile(r"(?:^|\.)(?:weight|bias|in_proj_weight)(?:_\w+)?(?:\.|$)")


class OnnxModel(nn.Module):
    """An ONNX model in ONNX Runtime, called like the module that it was exported from.

    Args:
        model: Bytes of the model, or the path of its file.
        threads: Threads of ONNX Runtime.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
        MissingPart: ONNX Runtime is not installed.
    """

    def __init__(self, model: bytes | str, threads: int = 1) -> None:
        super().__init__()
        self.path = Path(model) if isinstance(model, str) else None
        check_installed("onnx")
        from nbcompress.artifact.export.onnx_graph import OnnxSession

        self._session = OnnxSession(model, threads)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxModel:
        # A session has no state that a call changes.
        return self

    def forward(self, *args: object, **kwargs: object) -> Tensor | list[Tensor]:
        """Return the output, or the outputs in order.

        Args:
            args: Tensors in the order of the inputs.
            kwargs: Tensors by the names of the inputs; without these names, in the order of the inputs.
        """
        names = self._session.inputs
        by_name = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
        given = [arg for arg in args if isinstance(arg, Tensor)]
        if set(names[len(given) :]) <= set(by_name):
            tensors = [*given, *(by_name[name] for name in names[len(given) :])]
        else:
            tensors = [*given, *by_name.values()]
        from nbcompress.artifact.export.onnx_graph import tensors_of

        outputs = tensors_of(self._session(tensors))
        return outputs[0] if len(outputs) == 1 else outputs


def as_module(model: object, into: nn.Module | None = None, threads: int = 1) -> nn.Module:
    """Return a module as it is, and a file as a module.

    Args:
        model: A module, or the path of an ONNX file or of one that `nc.save` wrote.
        into: For the latter, an instance of its class; a copy of it is filled.
        threads: Threads of ONNX Runtime.

    Raises:
        MeasureError: It is neither, or `into` is missing.
        ArtifactError: The file cannot be read, or holds another model than `into`.
        MissingPart: ONNX Runtime is not installed.
    """
    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, (str, os.PathLike)):
        raise MeasureError(
            f"only a torch.nn.Module can be measured, got {type(model).__name__} (or a file, .onnx or .nbz)"
        )
    path = Path(model)
    if path.suffix not in (".onnx", ".nbz"):
        raise MeasureError(
            f"only a torch.nn.Module can be measured, got {type(model).__name__} {str(path)!r}: "
            "files end in .onnx or .nbz"
        )
    if not path.is_file():
        raise MeasureError(f"there is no file {str(path)!r}")
    if path.suffix == ".onnx":
        return OnnxModel(str(path), threads)
    if into is None:
        raise MeasureError(
            f"{path.name!r} holds weights and no code: pass {option('into=')}, a fresh instance of the model's class"
        )
    return load(path, deep_copy(into))


def as_modules(models: Mapping[str, object], into: nn.Module | None = None, threads: int = 1) -> dict[str, nn.Module]:
    """As `as_module`, for several models; the first module among them is `into` if none is given."""
    first = next((model for model in models.values() if isinstance(model, nn.Module)), None)
    return {name: as_module(model, first if into is None else into, threads) for name, model in models.items()}


def name_of(model: object) -> str:
    """Return the class of a module, or the name of a file."""
    return Path(model).name if isinstance(model, (str, os.PathLike)) else type(model).__name__


def for_onnx(inputs: ModelInputs) -> ModelInputs:
    """Return inputs as ONNX Runtime takes them: on the CPU, floats in float32."""
    example = on_cpu(inputs.args, inputs.kwargs)
    return ModelInputs(example.args, example.kwargs)


def onnx_sizes(path: Path) -> tuple[int, dict[str, int]]:
    """Return the bytes of an ONNX file with the files beside it, and those of each layer by its name.

    What belongs to no layer is not among the latter.
    """
    import onnx

    proto = onnx.load(path, load_external_data=False)
    total, others, layers = path.stat().st_size, set(), dict[str, int]()
    for tensor in proto.graph.initializer:
        others |= {entry.value for entry in tensor.external_data if entry.key == "location"}
        lengths = {entry.key: entry.value for entry in tensor.external_data}
        n_bytes = int(lengths.get("length", 0)) or tensor.ByteSize()
        found = _OF_LAYER.search(tensor.name)
        if found:
            layer = tensor.name[: found.start()]
            layers[layer] = layers.get(layer, 0) + n_bytes
    return total + sum((path.parent / name).stat().st_size for name in others), layers


__all__ = ["ModelOrFile", "OnnxModel", "as_module", "as_modules", "for_onnx", "name_of", "onnx_sizes"]
