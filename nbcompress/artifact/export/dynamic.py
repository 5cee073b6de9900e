"""Axes beside the first whose lengths are free in an exported program, such as that of a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nbcompress.artifact.export.agreement import ExampleInputs
from nbcompress.compressors.data import forward_parameters
from nbcompress.errors import ArtifactError, did_you_mean, option

_FORMS = "an axis, a tuple of axes, or a dict from the name of an input to its axes"


@dataclass(frozen=True)
class FreeAxes:
    """Free axes of the inputs of a program.

    Attributes:
        names: By position among the tensors of the example: the name of each free axis. Axes of one name have the same
            length.
    """

    names: Mapping[int, Mapping[int, str]]

    def lengths(self, example: ExampleInputs) -> dict[str, int]:
        """Return the length of each name in an example."""
        return {
            name: example.tensors[index].shape[axis]
            for index, axes in self.names.items()
            for axis, name in axes.items()
        }

    def resized(self, example: ExampleInputs, name: str, n: int) -> ExampleInputs:
        """Return the same call with `n` steps along the axes of a name, repeated from the first on."""
        tensors = example.tensors

        def resize(leaf: Any) -> Any:
            index = next((index for index, tensor in enumerate(tensors) if tensor is leaf), -1)
            for axis, other in self.names.get(index, {}).items():
                if other == name:
                    leaf = leaf.index_select(axis, _steps(leaf, axis, n))
            return leaf

        args, kwargs = pytree.tree_map(resize, (example.args, dict(example.kwargs)))
        return ExampleInputs(args, kwargs)


def _steps(tensor: Tensor, axis: int, n: int) -> Tensor:
    return torch.arange(n, device="cpu") % tensor.shape[axis]


def free_axes(dynamic: object, example: ExampleInputs, model: nn.Module) -> FreeAxes:
    """Return the free axes that a user gave as `dynamic`.

    Args:
        dynamic: None; an axis or a tuple of axes, counted from 1, of every input that has as many steps there as the
            first that has the axis; or a dict from the name of an input to an axis, a tuple of axes, or a dict from
            axis to a name of its own. Axes of one number share a length unless they are named.
        example: A call.
        model: Names the inputs by its `forward`.

    Raises:
        ArtifactError: There is no such input or axis, or lengths that must be equal differ.
    """
    found: dict[int, dict[int, str]] = {}
    for index, axis, name in _wanted(dynamic, example, model):
        found.setdefault(index, {})[axis] = name
    axes = FreeAxes(found)
    for name, n in axes.lengths(example).items():
        others = {
            example.tensors[index].shape[axis]
            for index, by_axis in found.items()
            for axis in by_axis
            if by_axis[axis] == name
        }
        if len(others) > 1:
            raise ArtifactError(
                f"free axes of one name have one length, but {name!r} has {' and '.join(map(str, sorted(others)))} in "
                f"the example: give them names of their own, such as {option('dynamic')}={{'x': {{1: 'steps'}}}}"
            )
        if n < 2:
            # The tracer would take a length of 1 for a constant.
            raise ArtifactError(f"the example must have 2 steps or more along a free axis, but {name!r} has {n}")
    return axes


def _wanted(dynamic: object, example: ExampleInputs, model: nn.Module) -> Iterator[tuple[int, int, str]]:
    """Yield the position of a tensor, an axis of it, and the name of that axis."""
    tensors = example.tensors
    if dynamic is None:
        return
    if not isinstance(dynamic, Mapping):
        for axis in _axes(dynamic):
            having = [index for index, tensor in enumerate(tensors) if tensor.ndim > axis]
            if not having:
                raise ArtifactError(f"{option('dynamic')} names axis {axis}, but no input of the example has it")
            length = tensors[having[0]].shape[axis]
            yield from ((index, axis, f"length_{axis}") for index in having if tensors[index].shape[axis] == length)
        return
    places = _places(example, model)
    for name, axes in dynamic.items():
        if name not in places:
            near = did_you_mean(str(name), places)
            raise ArtifactError(f"{option('dynamic')} names the input {name!r}, which is not in the example.{near}")
        named = axes if isinstance(axes, Mapping) else {axis: f"length_{axis}" for axis in _axes(axes)}
        for axis in _axes(tuple(named)):
            if axis >= tensors[places[name]].ndim:
                n_axes = tensors[places[name]].ndim
                raise ArtifactError(f"{option('dynamic')} names axis {axis} of {name!r}, which has {n_axes} axes")
            if not isinstance(named[axis], str) or not named[axis].isidentifier() or named[axis] == "batch":
                raise ArtifactError(
                    f"an axis is named by a word that is not 'batch', such as 'steps', got {named[axis]!r}"
                )
            yield places[name], axis, named[axis]


def _axes(given: object) -> tuple[int, ...]:
    axes = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    if not axes or any(isinstance(axis, bool) or not isinstance(axis, int) or axis < 1 for axis in axes):
        raise ArtifactError(
            f"{option('dynamic')} must be {_FORMS}, counted from 1 (axis 0 is free already), got {given!r}"
        )
    return axes


def _places(example: ExampleInputs, model: nn.Module) -> dict[str, int]:
    """The position of each input that is a tensor, by its name."""
    parameters = forward_parameters(model) or {}
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, item in parameters.items() if item.kind in kinds]
    named = {**dict(zip(names, example.args, strict=False)), **example.kwargs}
    tensors = example.tensors
    return {
        name: index
        for name, value in named.items()
        for index, tensor in enumerate(tensors)
        if isinstance(value, Tensor) and tensor is value
    }


__all__ = ["FreeAxes", "free_axes"]
