"""Trace a model with `torch.export`: the graph of operators, and which parameters and buffers it reads."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, is_dataclass
from io import StringIO
from pathlib import Path
from traceback import extract_tb
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from nbcompress.compressors.inputs import Inputs
from nbcompress.errors import CompressionError, first_line


@dataclass(frozen=True)
class Trace:
    """The graph of a model in evaluation mode.

    Attributes:
        graph: One node for each operator call, in order. `meta["val"]` of a node holds the shape of its result.
        tensors: For each node that stands for a parameter or buffer, its name in the model. A tensor with several names
            has the first one here.
        constants: For each node that stands for a constant tensor of the code, its value.
        inputs: The nodes of the model's inputs, in the order of `pytree`.
    """

    graph: fx.Graph
    tensors: Mapping[fx.Node, str]
    constants: Mapping[fx.Node, Tensor]
    inputs: tuple[fx.Node, ...]


def trace(model: nn.Module, inputs: Inputs) -> Trace:
    """Trace `model`, which must be in evaluation mode. The model does not change.

    Raises:
        CompressionError: The model cannot be traced, for example because its code branches on the data, or it computes
            its outputs without its parameters.
    """
    # The tracer fails on output objects of unknown classes, such as a cache, so it is shown the tensors only.
    output_hook = model.register_forward_hook(lambda _, __, result: tensors_of(result))
    try:
        with _quiet_tracer():
            exported = torch.export.export(model, inputs.args, dict(inputs.kwargs), strict=False)
    except Exception as err:  # tracing runs the user's code, which may raise anything
        cause = f"its code branches on the data{_user_line(err)}" if _is_data_dependent(err) else first_line(err)
        raise CompressionError(f"channels cannot be cut because the model cannot be traced: {cause}") from err
    finally:
        output_hook.remove()
    # A call whose result no output needs would tie channels for nothing.
    exported.graph.eliminate_dead_code()
    tensors, constants = _tensors_read(model, exported)
    if not tensors and any(True for _ in model.parameters()):
        raise CompressionError("channels cannot be cut because the model computes without any of its own parameters")
    input_names = {spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT}
    placeholders = exported.graph.find_nodes(op="placeholder")
    return Trace(exported.graph, tensors, constants, tuple(node for node in placeholders if node.name in input_names))


def _tensors_read(model: nn.Module, exported: ExportedProgram) -> tuple[dict[fx.Node, str], dict[fx.Node, Tensor]]:
    """Names of the parameters and buffers that the graph reads, and its constants, by node.

    Layers of Keras read their parameters through objects that are no torch modules. The tracer takes these parameters
    for constants, so they are recognised by their memory.
    """
    canonical = canonical_names(model)
    dense = {name: tensor for name, tensor in named_tensors(model).items() if _is_dense(tensor)}
    name_by_memory = {_memory_key(tensor): canonical[name] for name, tensor in dense.items() if tensor.numel()}
    tensors: dict[fx.Node, str] = {}
    constants: dict[fx.Node, Tensor] = {}
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    for node in exported.graph.find_nodes(op="placeholder"):
        spec = specs[node.name]
        # The graph also has placeholders for parameters that nothing reads.
        if not node.users or spec.target is None:
            continue
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            tensors[node] = canonical[spec.target]
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            constant = exported.constants[spec.target]
            name = name_by_memory.get(_memory_key(constant)) if _is_dense(constant) else None
            if name is None:
                constants[node] = constant
            else:
                tensors[node] = name
    return tensors, constants


def _is_dense(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _memory_key(tensor: Tensor) -> object:
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def tensors_of(result: Any) -> list[Tensor]:
    """Return every tensor in the output of a model, in order.

    Lists, tuples, mappings and dataclasses are searched, and the attributes of `result` itself if it has a class of its
    own. Other objects inside it, such as a cache of keys and values, are state and not an output.
    """
    if not isinstance(result, (Tensor, Mapping, list, tuple)) and hasattr(result, "__dict__"):
        result = vars(result)
    if isinstance(result, Mapping):
        result = dict(result)
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif is_dataclass(leaf) or isinstance(leaf, Mapping):
            found.extend(tensors_of(vars(leaf) if is_dataclass(leaf) else leaf))
    return found


def canonical_names(model: nn.Module) -> dict[str, str]:
    """For each name of a parameter or buffer, the first name of the same tensor."""
    seen: dict[int, str] = {}
    return {name: seen.setdefault(id(tensor), name) for name, tensor in named_tensors(model).items()}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, under each of its names."""
    parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def _is_data_dependent(err: BaseException) -> bool:
    """Whether tracing failed because the code turns values of a tensor into a number or a branch."""
    return "DataDependent" in type(err).__name__


def _user_line(err: BaseException) -> str:
    """The line of the user's code that raised `err`, in brackets; empty if there is none."""
    frames = [frame for frame in extract_tb(err.__traceback__) if _PACKAGES.isdisjoint(Path(frame.filename).parts)]
    return f" ({frames[-1].name}, line {frames[-1].lineno}: {frames[-1].line})" if frames and frames[-1].line else ""


_PACKAGES = {"torch", "nbcompress"}


@contextmanager
def _quiet_tracer() -> Iterator[None]:
    """Silence the warnings, log lines and graphs that the tracer prints about its internals."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


__all__ = ["Trace", "canonical_names", "named_tensors", "tensors_of", "trace"]
