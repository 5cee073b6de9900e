"""A model as a program of `torch.export`, as a simplified ONNX graph of that program, and as a plain state dict."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nbcompress.artifact.export.agreement import (
    FLOAT_TOLERANCE,
    ExampleInputs,
    agreement,
    check_agreement,
    examples_text,
    failure_text,
)
from nbcompress.errors import ArtifactError

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch.export import ExportedProgram


# The first operator set with 4-bit integers and with scales by block.
_OPSET = 21
# These loggers repeat what the error says, or speak of packages that are not installed.
_NOISY_LOGGERS = ("torch.onnx._internal.exporter._registration", "torch.fx.experimental.symbolic_shapes")


def trace_program(model: nn.Module, example: ExampleInputs) -> ExportedProgram:
    """Trace `model`, which is in evaluation mode, with a free first dimension.

    Raises:
        ArtifactError: It cannot be traced, or works with one batch size only.
    """
    # The tracer would take a batch size of 1 for a constant.
    example = example.resized(max(2, example.batch_size))
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in example.batched:
        shapes[tensor] = {0: torch.export.Dim("batch")}
    try:
        with _quiet_exporter(), torch.random.fork_rng(devices=[]):
            return torch.export.export(model, example.args, dict(example.kwargs), dynamic_shapes=shapes)
    except Exception as err:
        raise ArtifactError(
            f"torch.export must be able to trace {type(model).__name__} with a free first dimension, "
            f"but {failure_text(err)}"
        ) from err


def onnx_graph(program: ExportedProgram, inputs: Collection[str]) -> ir.Model:
    """Convert `program` to an ONNX model, fold its constants, and drop what it does not use.

    Args:
        program: The traced model.
        inputs: Names of weights that become inputs after those of the model, so that they are not folded or merged.

    Raises:
        ArtifactError: An operator has no counterpart in ONNX.
    """
    try:
        with _quiet_exporter():
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
        raise ArtifactError(
            f"every operator of the model must have a counterpart in ONNX, but {failure_text(err)}"
        ) from err
    _name_batch_dimension(converted.model)
    return converted.model


def _name_batch_dimension(model: ir.Model) -> None:
    """Call the free dimension `batch` in the shapes of inputs and outputs."""
    import onnx_ir as ir

    inputs, outputs = model.graph.inputs, model.graph.outputs
    free = {str(dim.value) for value in inputs for dim in value.shape or () if isinstance(dim, ir.SymbolicDim)}
    for value in (*inputs, *outputs):
        dims = [dim.value if isinstance(dim, ir.SymbolicDim) else dim for dim in value.shape or ()]
        if value.shape is not None:
            value.shape = ir.Shape([_as_batch(dim, free) if isinstance(dim, str) else dim for dim in dims])


def _as_batch(dim: str, free: Collection[str]) -> str:
    """`dim`, which can be a formula such as `2*s0`, with the free dimensions named `batch`."""
    for symbol in free:
        dim = re.sub(rf"\b{re.escape(symbol)}\b", "batch", dim)
    return dim


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide the log lines of the exporter, and the graph that it prints when it fails."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def program_bytes(copy: nn.Module, examples: Sequence[ExampleInputs], tolerance: float | None = None) -> bytes:
    """Return what `torch.export.save` writes for `copy`, after loading it and checking its outputs.

    Args:
        copy: The model in evaluation mode, in float32 on the CPU.
        examples: The first is traced; all are checked.
        tolerance: The largest error of an output, see `Agreement`; `FLOAT_TOLERANCE` if None.

    Raises:
        ArtifactError: The model cannot be traced, or the program computes something else.
    """
    expected = [example.outputs(copy) for example in examples]
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter warns about its own parts.
        warnings.simplefilter("ignore")
        torch.export.save(trace_program(copy, examples[0]), file)
        file.seek(0)
        loaded = torch.export.load(file).module()
    for example, outputs in zip(examples, expected, strict=True):
        measured = agreement(outputs, example.outputs(loaded))
        what = f"the loaded program on {examples_text(example.batch_size)}"
        check_agreement(type(copy).__name__, what, measured, FLOAT_TOLERANCE if tolerance is None else tolerance)
    return file.getvalue()


def state_bytes(model: nn.Module) -> bytes:
    """Return the state dict of `model` as a safetensors file for `safetensors.torch.load_model`, tied tensors once.

    Raises:
        ArtifactError: The state dict holds something that is not a tensor.
    """
    from safetensors.torch import save

    state = _state(model)
    kept: dict[str, Tensor] = {}
    first: dict[object, str] = {}
    other_names: dict[str, str] = {}
    for name, tensor in state.items():
        memory = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        key = memory if tensor.numel() and tensor.data_ptr() else name
        if key in first:
            # This is how safetensors records a name that it dropped.
            other_names[name] = first[key]
            continue
        first[key] = name
        # Views of shared memory are written as tensors of their own.
        kept[name] = tensor.detach().cpu().contiguous().clone()
    written: bytes = save(kept, {"format": "pt", **other_names})
    return written


def pickled_state_bytes(model: nn.Module) -> bytes:
    """Return the state dict of `model` as `torch.save` writes it; `torch.load(weights_only=True)` reads it."""
    file = io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in _state(model).items()}, file)
    return file.getvalue()


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ArtifactError(
                f"a state dict is exported if it holds tensors only, but {name!r} is {type(value).__name__}"
            )
    return dict(state)
