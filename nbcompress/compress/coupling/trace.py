"""The operators that a model runs, as a graph."""

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

from nbcompress.errors import CompressionError, DataError


@dataclass(frozen=True)
class Inputs:
    """What a model is called with."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __call__(self, model: nn.Module) -> Any:
        """Run the model."""
        return model(*self.args, **self.kwargs)


@dataclass(frozen=True)
class Trace:
    """The graph of a model in evaluation mode.

    Attributes:
        graph: One node an operator, in order; `meta["val"]` holds shapes.
        tensors: Name in the model of each parameter and buffer that the graph reads, by node. A tensor of several
            names has the first one only.
        constants: Tensors that the code makes of numbers, by node.
        inputs: The nodes of what the model is called with, as `pytree` orders it.
    """

    graph: fx.Graph
    tensors: Mapping[fx.Node, str]
    constants: Mapping[fx.Node, Tensor]
    inputs: tuple[fx.Node, ...]


def as_inputs(example: object) -> Inputs:
    """Read `example` as a tensor, a tuple of positional or a dict of keyword inputs.

    Raises:
        DataError: It is something else, or holds no tensor.
    """
    if isinstance(example, Tensor):
        return Inputs((example,), {})
    if isinstance(example, (tuple, list)) and _holds_tensors(tuple(example)):
        return Inputs(tuple(example), {})
    if isinstance(example, Mapping) and _holds_tensors(dict(example)):
        return Inputs((), {str(name): value for name, value in example.items()})
    if example is None:
        raise DataError("channels are found by running the model, so an example is needed: pass example=, or data=")
    raise DataError(
        f"example must be a tensor, a tuple of positional or a dict of keyword inputs, got {type(example).__name__}"
    )


def _holds_tensors(example: object) -> bool:
    """Whether there is a tensor among what the model is called with, also in a list or a dict that is one input."""
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(example))


def trace(model: nn.Module, inputs: Inputs) -> Trace:
    """Trace `model`, which must be in evaluation mode; nothing about it changes.

    Raises:
        CompressionError: It cannot be traced, as when its code branches on the data, or computes without its
            parameters.
    """
    # Only the tensors: an object of a class that the tracer does not know, such as a cache, would stop it.
    flat = model.register_forward_hook(lambda _, __, result: tensors_of(result))
    try:
        with _quiet():
            exported = torch.export.export(model, inputs.args, dict(inputs.kwargs), strict=False)
    except Exception as err:  # tracing runs the user's code, which may raise anything
        cause = f"its code branches on the data{_line_of(err)}" if _is_by_data(err) else first_line(err)
        raise CompressionError(f"channels cannot be cut because the model cannot be traced: {cause}") from err
    finally:
        flat.remove()
    # What no output needs holds nothing together.
    exported.graph.eliminate_dead_code()
    tensors, constants = _what_it_reads(model, exported)
    if not tensors and any(True for _ in model.parameters()):
        raise CompressionError("channels cannot be cut because the model computes without any of its own parameters")
    given = {spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT}
    holders = exported.graph.find_nodes(op="placeholder")
    return Trace(exported.graph, tensors, constants, tuple(node for node in holders if node.name in given))


def _what_it_reads(model: nn.Module, exported: ExportedProgram) -> tuple[dict[fx.Node, str], dict[fx.Node, Tensor]]:
    """Names of the parameters and buffers that the graph reads, and its constants, by node.

    What code reads through an object that is no torch module, as layers of Keras read their variables, is a constant
    to the tracer: which parameter it is shows by its memory.
    """
    canonical = first_names(model)
    held = {name: one for name, one in named_tensors(model).items() if _is_dense(one)}
    by_memory = {_memory(tensor): canonical[name] for name, tensor in held.items() if tensor.numel()}
    tensors: dict[fx.Node, str] = {}
    constants: dict[fx.Node, Tensor] = {}
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    for node in exported.graph.find_nodes(op="placeholder"):
        spec = specs[node.name]
        # Parameters that nothing reads are inputs of the graph as well.
        if not node.users or spec.target is None:
            continue
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            tensors[node] = canonical[spec.target]
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            constant = exported.constants[spec.target]
            name = by_memory.get(_memory(constant)) if _is_dense(constant) else None
            if name is None:
                constants[node] = constant
            else:
                tensors[node] = name
    return tensors, constants


def _is_dense(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _memory(tensor: Tensor) -> object:
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def tensors_of(result: Any) -> list[Tensor]:
    """Every tensor in what a model returned, in order.

    Looked for in lists, tuples, mappings, dataclasses, and in the attributes of `result` itself if it is of a class
    of its own. Other objects inside of it, as a cache of keys and values, are a state rather than an output.
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


def first_names(model: nn.Module) -> dict[str, str]:
    """The first name of each parameter and buffer, by each of its names."""
    seen: dict[int, str] = {}
    return {name: seen.setdefault(id(tensor), name) for name, tensor in named_tensors(model).items()}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under every name it has."""
    parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def first_line(err: BaseException) -> str:
    """The first line of an error's text that says something, with its type."""
    line = next((line.strip() for line in str(err).splitlines() if line.strip()), "")
    return f"{type(err).__name__}: {line}" if line else type(err).__name__


def _is_by_data(err: BaseException) -> bool:
    """Whether tracing stopped because code made a number, or took a branch, of what a tensor holds."""
    return "DataDependent" in type(err).__name__


def _line_of(err: BaseException) -> str:
    """The line of the user's code that raised `err`, in brackets; empty if there is none."""
    frames = [one for one in extract_tb(err.__traceback__) if _OURS_AND_TORCH.isdisjoint(Path(one.filename).parts)]
    return f" ({frames[-1].name}, line {frames[-1].lineno}: {frames[-1].line})" if frames and frames[-1].line else ""


_OURS_AND_TORCH = {"torch", "nbcompress"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings, log lines and graphs that the tracer prints, which speak of its internals."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


__all__ = ["Inputs", "Trace", "as_inputs", "first_line", "first_names", "named_tensors", "tensors_of", "trace"]
