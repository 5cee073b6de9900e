"""A model as a program of `torch.export`, and that as a simplified ONNX graph."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nbcompress.artifact.export.example import Example, reason
from nbcompress.errors import ArtifactError

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch.export import ExportedProgram

# The first set of operators with 4-bit and with blocked integers.
_OPSET = 21
# What they say is in the error, or is about packages that are not installed.
_TALKATIVE = ("torch.onnx._internal.exporter._registration", "torch.fx.experimental.symbolic_shapes")


def traced(model: nn.Module, example: Example) -> ExportedProgram:
    """Trace `model`, in evaluation mode, with a first dimension that is free.

    Raises:
        ArtifactError: It cannot be traced, or works with one batch size only.
    """
    # One example would be taken for a constant.
    example = example.resized(max(2, example.batch_size))
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for one in example.batched:
        shapes[one] = {0: torch.export.Dim("batch")}
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            return torch.export.export(model, example.args, dict(example.kwargs), dynamic_shapes=shapes)
    except Exception as err:
        raise ArtifactError(
            f"torch.export must be able to trace {type(model).__name__} with a free first dimension, but {reason(err)}"
        ) from err


def onnx_graph(program: ExportedProgram, inputs: Collection[str]) -> ir.Model:
    """Turn `program` into an ONNX model, fold what is constant in it, and drop what it does not use.

    Args:
        program: The traced model.
        inputs: Names of weights that become inputs, after those of the model, so that nothing folds or merges them.

    Raises:
        ArtifactError: An operator has no counterpart in ONNX.
    """
    try:
        with _quiet():
            converted = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False, opset_version=_OPSET)
            assert converted is not None  # it is None only where a file is written
            graph = converted.model.graph
            for name in inputs:
                if name in graph.initializers:
                    weight = graph.initializers.pop(name)
                    weight.const_value = None
                    graph.inputs.append(weight)
            converted.optimize()
    except Exception as err:
        raise ArtifactError(f"every operator of the model must have a counterpart in ONNX, but {reason(err)}") from err
    _name_batch(converted.model)
    return converted.model


def _name_batch(model: ir.Model) -> None:
    """Call the free dimension `batch` in the inputs and outputs."""
    import onnx_ir as ir

    ends = [*model.graph.inputs, *model.graph.outputs]
    free = {str(dim.value) for one in model.graph.inputs for dim in one.shape or () if isinstance(dim, ir.SymbolicDim)}
    for value in ends:
        dims = [dim.value if isinstance(dim, ir.SymbolicDim) else dim for dim in value.shape or ()]
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, free) if isinstance(dim, str) else dim for dim in dims])


def _renamed(dim: str, free: Collection[str]) -> str:
    for one in free:
        dim = re.sub(rf"\b{re.escape(one)}\b", "batch", dim)
    return dim


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on its own parts, and without the graph that it prints when it fails."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


__all__ = ["onnx_graph", "traced"]
