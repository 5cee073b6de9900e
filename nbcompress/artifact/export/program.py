"""A model as a program of `torch.export`, as a simplified ONNX graph of that program, and as a plain state dict."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import wraps
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
    plain_structure,
)
from nbcompress.artifact.export.dynamic import FreeAxes
from nbcompress.compressors.copying import deep_copy, without_shape
from nbcompress.errors import ArtifactError, NbcompressWarning, option

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch.export import ExportedProgram


# The first operator set with 4-bit integers and with scales by block.
_OPSET = 21
# These loggers repeat what the error says, or speak of packages that are not installed.
_NOISY_LOGGERS = ("torch.onnx._internal.exporter._registration", "torch.fx.experimental.symbolic_shapes")


def copy_to_trace(model: nn.Module) -> nn.Module:
    """Return a copy that shares the parameters of `model`, and whose outputs are plain tuples and dicts.

    Make it before the model runs: some models keep what depends on the shape of their last input, and a trace of such a
    model would hold that shape.
    """
    new = deep_copy(model, {id(parameter): parameter for parameter in model.parameters()})
    forward = new.forward

    @wraps(forward)
    def plain_forward(*args: Any, **kwargs: Any) -> Any:
        return plain_structure(forward(*args, **kwargs))

    new.forward = plain_forward
    return new


def trace_program(
    model: nn.Module, example: ExampleInputs, axes: FreeAxes
) -> tuple[ExportedProgram, dict[str, dict[str, int]]]:
    """Trace `model`, a `copy_to_trace` in evaluation mode, with a free first dimension.

    Args:
        model: The copy.
        example: The inputs.
        axes: Further axes whose lengths are free.

    Returns:
        The program, and by name of a free axis (`batch` for the first) the lengths that it takes if the model branches
        on them: `min`, `max`, both or none.

    Raises:
        ArtifactError: It cannot be traced, or works with one length only.
    """
    # The tracer would take a batch size of 1 for a constant.
    example = example.resized(max(2, example.batch_size))
    names = ["batch", *axes.lengths(example)]
    limits: dict[str, dict[str, int]] = {name: {} for name in names}
    name = type(model).__name__
    for is_last in (False, True):
        try:
            program = _traced(model, example, axes, limits)
            break
        except Exception as err:
            _check_free(name, names, err)
            # What the exporter suggests where the model branches on a length.
            found = {free: _limits_in(free, str(err)) for free in names}
            if is_last or not any(found.values()):
                what = "first dimension" if len(names) == 1 else f"first dimension and {', '.join(names[1:])}"
                raise ArtifactError(
                    f"torch.export must be able to trace {name} with a free {what}, but {failure_text(err)}"
                ) from err
            limits = found
    return program, limits


def _check_free(name: str, names: Sequence[str], err: Exception) -> None:
    """Raise an ArtifactError if the exporter found that a free axis has one length only."""
    for free in names:
        fixed = re.search(rf"^\s*{free} = (\d+)\s*$", str(err), re.MULTILINE)
        if fixed and free == "batch":
            raise ArtifactError(
                f"the first dimension of the inputs must be free, but {name} works with {fixed[1]} only. It must "
                "count the examples: wrap a model that takes the steps of a sequence first in a module that "
                "transposes its inputs, and set to None what the model kept of the shape of an earlier input"
            ) from err
        if fixed:
            raise ArtifactError(
                f"an axis of {option('dynamic')} must be free, but {name} works with {fixed[1]} steps along {free!r} "
                "only: leave it out, or compute what depends on it from the shape of the input"
            ) from err


def _limits_in(free: str, text: str) -> dict[str, int]:
    found = re.search(rf"^\s*{free} = Dim\('{free}', (.*)\)\s*$", text, re.MULTILINE)
    return {key: int(value) for key, value in re.findall(r"(min|max)=(\d+)", found[1])} if found else {}


def _warn_of_limits(model: nn.Module, limits: Mapping[str, int]) -> None:
    if limits:
        bounds = " and ".join(f"at {'least' if key == 'min' else 'most'} {value}" for key, value in limits.items())
        warnings.warn(
            f"the exported program takes {bounds} examples at a time, because {type(model).__name__} branches on "
            "their number",
            NbcompressWarning,
            stacklevel=4,
        )


def _traced(
    model: nn.Module, example: ExampleInputs, axes: FreeAxes, limits: Mapping[str, Mapping[str, int]]
) -> ExportedProgram:
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    free = {name: torch.export.Dim(name, **bounds) for name, bounds in limits.items()}
    batched = {id(tensor) for tensor in example.batched}
    for index, tensor in enumerate(example.tensors):
        of_tensor = {0: free["batch"]} if id(tensor) in batched else {}
        of_tensor |= {axis: free[name] for axis, name in axes.names.get(index, {}).items()}
        if of_tensor:
            shapes[tensor] = of_tensor
    with _quiet_exporter(), torch.random.fork_rng(devices=[]):
        return torch.export.export(model, example.args, dict(example.kwargs), dynamic_shapes=shapes)


def onnx_graph(program: ExportedProgram, inputs: Collection[str], axes: FreeAxes) -> ir.Model:
    """Convert `program` to an ONNX model, fold its constants, and drop what it does not use.

    Args:
        program: The traced model.
        inputs: Names of weights that become inputs after those of the model, so that they are not folded or merged.
        axes: The free axes beside the first.

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
    _name_free_dimensions(converted.model, axes)
    return converted.model


def _name_free_dimensions(model: ir.Model, axes: FreeAxes) -> None:
    """Give the free dimensions their names in the shapes of inputs and outputs: `batch` unless they have another."""
    import onnx_ir as ir

    inputs, outputs = model.graph.inputs, model.graph.outputs
    free = {str(dim.value): "batch" for value in inputs for dim in value.shape or () if isinstance(dim, ir.SymbolicDim)}
    for index, by_axis in axes.names.items():
        for axis, name in by_axis.items():
            shape = inputs[index].shape if index < len(inputs) else None
            dim = None if shape is None else shape[axis]
            if isinstance(dim, ir.SymbolicDim):
                free[str(dim.value)] = name
    for value in (*inputs, *outputs):
        dims = [dim.value if isinstance(dim, ir.SymbolicDim) else dim for dim in value.shape or ()]
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, free) if isinstance(dim, str) else dim for dim in dims])


def _renamed(dim: str, names: Mapping[str, str]) -> str:
    """`dim`, which can be a formula such as `2*s0`, with the names of the free dimensions."""
    return re.sub(r"\b\w+\b", lambda found: names.get(found[0], found[0]), dim)


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


def program_bytes(
    copy: nn.Module, examples: Sequence[ExampleInputs], axes: FreeAxes, tolerance: float | None = None
) -> bytes:
    """Return what `torch.export.save` writes for `copy`, after loading it and checking its outputs.

    Args:
        copy: The model in evaluation mode, in float32 on the CPU.
        examples: The first is traced; all are checked.
        axes: Further axes whose lengths are free.
        tolerance: The largest error of an output, see `Agreement`; `FLOAT_TOLERANCE` if None.

    Raises:
        ArtifactError: The model cannot be traced, or the program computes something else.
    """
    to_trace = copy_to_trace(copy)
    expected = [example.outputs(copy) for example in examples]
    program, all_limits = trace_program(to_trace, examples[0], axes)
    limits = all_limits["batch"]
    _warn_of_limits(copy, limits)
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter warns about its own parts.
        warnings.simplefilter("ignore")
        try:
            torch.export.save(program, file)
            file.seek(0)
            loaded = torch.export.load(file).module()
        except Exception as err:
            raise ArtifactError(
                f"torch.export must be able to save the program of {type(copy).__name__}, but {failure_text(err)} "
                "(inputs are tensors, and plain tuples, lists and dicts of tensors)"
            ) from err
    for example, outputs in zip(examples, expected, strict=True):
        if not limits.get("min", 0) <= example.batch_size <= limits.get("max", example.batch_size):
            continue
        measured = agreement(outputs, example.outputs(loaded))
        what = f"the loaded program on {examples_text(example.batch_size)}"
        check_agreement(type(copy).__name__, what, measured, FLOAT_TOLERANCE if tolerance is None else tolerance)
    return file.getvalue()


def state_bytes(model: nn.Module) -> bytes:
    """Return the state dict of `model` as a safetensors file for `safetensors.torch.load_model`, tied tensors once.

    Raises:
        ArtifactError: The state dict holds something that is not a tensor, or a tensor without a shape.
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
    if missing := without_shape(model):
        raise ArtifactError(missing)
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ArtifactError(
                f"a state dict is exported if it holds tensors only, but {name!r} is {type(value).__name__}"
            )
    return dict(state)
