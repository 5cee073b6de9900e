"""Models that run elsewhere than in torch, timed in turn with those that do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from nbcompress.artifact.export.example import Example, on_cpu
from nbcompress.artifact.export.onnx_file import onnx_bytes
from nbcompress.artifact.export.session import Session, tensors_of
from nbcompress.errors import MeasureError
from nbcompress.measure.inputs import Inputs, inputs_of
from nbcompress.measure.latency import Latency, measure_latency
from nbcompress.measure.undisturbed import measured_copy


class OnnxModel(nn.Module):
    """An ONNX model in ONNX Runtime, called as the module that it was exported from.

    Args:
        model: Bytes of the model, or the path of its file.
        threads: That ONNX Runtime computes on.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
        MissingPart: ONNX Runtime is not installed.
    """

    def __init__(self, model: bytes | str, threads: int = 1) -> None:
        super().__init__()
        self._session = Session(model, threads)

    def forward(self, *args: object, **kwargs: object) -> list[Tensor]:
        """The outputs in order; inputs are tensors, in the order of the model's."""
        given = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
        return tensors_of(self._session(given))


def in_onnx(model: nn.Module, inputs: Inputs, threads: int) -> tuple[OnnxModel, Inputs]:
    """`model`, exported to ONNX as `export` does and checked, and its inputs as that takes them.

    Raises:
        ArtifactError: It cannot be exported, or does not do the same.
        MissingPart: The packages for ONNX are not installed.
    """
    given = _for_onnx(inputs)
    example = Example(given.args, given.kwargs)
    exported = onnx_bytes(model, measured_copy(model).cpu().float(), [example])
    return OnnxModel(exported, threads), given


def latencies(
    models: Mapping[str, nn.Module | str | os.PathLike[str]],
    example: object,
    *,
    threads: int = 1,
    repeats: int = 30,
) -> dict[str, Latency]:
    """Time models in turn: modules in torch, and ONNX files, which are given by their path, in ONNX Runtime.

    Args:
        models: By the name to show.
        example: A tensor, a tuple of positional or a dict of keyword inputs, on the models' device.
        threads: Threads that either computes on.
        repeats: Timed samples of each; they alternate between models.

    Raises:
        MeasureError: A model fails on the example, or an argument has another form.
        ArtifactError: ONNX Runtime cannot load or run a file.
        MissingPart: ONNX Runtime is not installed.
    """
    if not models:
        raise MeasureError("latencies needs at least one model, got none")
    timed: list[nn.Module] = []
    given: list[Inputs] = []
    for model in models.values():
        in_torch = isinstance(model, nn.Module)
        timed.append(measured_copy(model) if isinstance(model, nn.Module) else OnnxModel(str(Path(model)), threads))
        inputs = inputs_of(timed[-1], example, None)
        if inputs is None:
            raise MeasureError("to time a model, give an input that it runs on: example=x")
        given.append(inputs if in_torch else _for_onnx(inputs))
    found = measure_latency(timed, given, threads=threads, repeats=repeats)
    return {
        name: replace(one, runtime="onnx" if isinstance(model, OnnxModel) else "torch")
        for name, one, model in zip(models, found, timed, strict=True)
    }


def _for_onnx(inputs: Inputs) -> Inputs:
    example = on_cpu(inputs.args, inputs.kwargs)
    return Inputs(example.args, example.kwargs)


__all__ = ["OnnxModel", "in_onnx", "latencies"]
