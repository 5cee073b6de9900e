"""The input that a model is traced and checked with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nbcompress.compress.data import Batches
from nbcompress.compress.seeding import seeded
from nbcompress.errors import ArtifactError


@dataclass(frozen=True)
class Example:
    """Arguments of one call, on the CPU, floating ones in float32.

    Attributes:
        args: Positional ones.
        kwargs: Keyword ones.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor, in order, however deep it lies."""
        return [one for one in pytree.tree_leaves((self.args, dict(self.kwargs))) if isinstance(one, Tensor)]

    @property
    def batch_size(self) -> int:
        """Length of the first axis of the first tensor that has one."""
        return next(len(one) for one in self.tensors if one.ndim)

    @property
    def batched(self) -> list[Tensor]:
        """The tensors whose first axis counts examples: it is as long as that of the first tensor."""
        return [one for one in self.tensors if one.ndim and len(one) == self.batch_size]

    def resized(self, n: int) -> Example:
        """The same call with `n` examples: the first ones, and these again where there are too few."""
        rows = torch.arange(n, device="cpu") % self.batch_size
        batched = {id(one) for one in self.batched}

        def picked(one: Any) -> Any:
            return one[rows] if isinstance(one, Tensor) and id(one) in batched else one

        args, kwargs = pytree.tree_map(picked, (self.args, dict(self.kwargs)))
        return Example(args, kwargs)

    def outputs(self, model: nn.Module) -> list[Tensor]:
        """The tensors that `model` returns, in order, however deep they lie.

        Raises:
            ArtifactError: The model fails on this input, or returns no tensor.
        """
        try:
            with torch.no_grad():
                returned = model(*self.args, **self.kwargs)
        except Exception as err:
            raise ArtifactError(
                f"{type(model).__name__} must run on {counted(self.batch_size)} like the given to be exported with a "
                f"free first dimension, but {reason(err)}"
            ) from err
        found = [one.detach() for one in pytree.tree_leaves(returned) if isinstance(one, Tensor)]
        if not found:
            raise ArtifactError(
                f"{type(model).__name__} must return tensors to be exported, got {type(returned).__name__}"
            )
        return found


def example_of(example: object) -> Example:
    """What the user gave as an example.

    Args:
        example: A tensor, a tuple of positional or a dict of keyword inputs.

    Raises:
        ArtifactError: There is none, it has another form, or no tensor in it has examples along a first axis.
    """
    if example is None:
        raise ArtifactError("to export a model as a program, give an input that it runs on: example=x")
    if isinstance(example, Tensor):
        found = on_cpu((example,), {})
    elif isinstance(example, tuple):
        found = on_cpu(example, {})
    elif isinstance(example, Mapping) and all(isinstance(name, str) for name in example):
        found = on_cpu((), example)
    else:
        raise ArtifactError(
            "example must be a tensor, a tuple of positional inputs or a dict of keyword inputs, "
            f"got {type(example).__name__}"
        )
    if not any(one.ndim and len(one) for one in found.tensors):
        raise ArtifactError("example must hold a tensor with one or more examples along its first axis")
    return found


def examples_of(data: object, model: nn.Module, n_batches: int) -> list[Example]:
    """The inputs of the first batches of `data`, the same at every call; all random numbers are put back.

    Raises:
        DataError: The data has another form or is empty.
    """
    batches = Batches(data)
    with seeded(0, *batches.generators):
        return [on_cpu(batch.args, batch.kwargs) for batch in islice(batches.for_model(model), n_batches)]


def counted(n_examples: int) -> str:
    """`1 example`, `2 examples`."""
    return f"{n_examples} example" + "s" * (n_examples != 1)


def reason(err: BaseException) -> str:
    """`it raised ValueError: its first line`, not longer than a line."""
    lines = str(err).strip().splitlines()
    return f"it raised {type(err).__name__}" + (f": {lines[0][:200]}" if lines else "")


def on_cpu(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Example:
    """These arguments, on the CPU, floating ones in float32."""

    def moved(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        return one.detach().to("cpu", torch.float32 if one.is_floating_point() else None)

    found = pytree.tree_map(moved, (args, dict(kwargs)))
    return Example(*found)


__all__ = ["Example", "counted", "example_of", "examples_of", "on_cpu", "reason"]
