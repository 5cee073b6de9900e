"""A model as a program of `torch.export`, and as a plain state dict. Both hold weights in floating point.

A model as a program of `torch.export`, and that as a simplified ONNX graph.
"""

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

from nbcompress.artifact.export.agreement import FLOAT_TOLERANCE, Example, agreement, check, counted, reason
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
    for size in example.batched:
        shapes[size] = {0: torch.export.Dim("batch")}
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
    free = {
        str(dim.value) for input_ in model.graph.inputs for dim in input_.shape or () if isinstance(dim, ir.SymbolicDim)
    }
    for value in ends:
        dims = [dim.value if isinstance(dim, ir.SymbolicDim) else dim for dim in value.shape or ()]
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, free) if isinstance(dim, str) else dim for dim in dims])


def _renamed(dim: str, free: Collection[str]) -> str:
    for size in free:
        dim = re.sub(rf"\b{re.escape(size)}\b", "batch", dim)
    return dim


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on its own parts, and without the graph that it prints when it fails."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
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


def program_bytes(copy: nn.Module, examples: Sequence[Example], tolerance: float | None = None) -> bytes:
    """What `torch.export.save` writes for `copy`, after it was loaded and run and agreed.

    Args:
        copy: The model in evaluation mode, in float32 on the CPU.
        examples: The first is traced; all are checked.
        tolerance: The largest error of an output, see `Agreement`.

    Raises:
        ArtifactError: The model cannot be traced, or the program does something else.
    """
    expected = [example.outputs(copy) for example in examples]
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Notes of the exporter on its own parts.
        warnings.simplefilter("ignore")
        torch.export.save(traced(copy, examples[0]), file)
        file.seek(0)
        loaded = torch.export.load(file).module()
    for example, outputs in zip(examples, expected, strict=True):
        found = agreement(outputs, example.outputs(loaded))
        what = f"the loaded program on {counted(example.batch_size)}"
        check(type(copy).__name__, what, found, FLOAT_TOLERANCE if tolerance is None else tolerance)
    return file.getvalue()


def state_bytes(model: nn.Module) -> bytes:
    """The state dict of `model` as a safetensors file, tied tensors once: `safetensors.torch.load_model` reads it.

    Raises:
        ArtifactError: The state dict holds what is no tensor.
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
            # The words in which safetensors notes a name that it dropped.
            other_names[name] = first[key]
            continue
        first[key] = name
        # Views of one memory are written as what they are: tensors.
        kept[name] = tensor.detach().cpu().contiguous().clone()
    written: bytes = save(kept, {"format": "pt", **other_names})
    return written


def pickled_state_bytes(model: nn.Module) -> bytes:
    """The state dict of `model` as `torch.save` writes it: `torch.load` reads it with `weights_only=True`."""
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
