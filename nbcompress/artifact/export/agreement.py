"""Whether what was exported does what the model does.

The input that a model is traced and checked with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nbcompress.compressors.data import Batches
from nbcompress.compressors.modes import seeded
from nbcompress.errors import ArtifactError, option


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
        return [leaf for leaf in pytree.tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Tensor)]

    @property
    def batch_size(self) -> int:
        """Length of the first axis of the first tensor that has one."""
        return next(len(tensor) for tensor in self.tensors if tensor.ndim)

    @property
    def batched(self) -> list[Tensor]:
        """The tensors whose first axis counts examples: it is as long as that of the first tensor."""
        return [tensor for tensor in self.tensors if tensor.ndim and len(tensor) == self.batch_size]

    def resized(self, n: int) -> Example:
        """The same call with `n` examples: the first ones, and these again where there are too few."""
        rows = torch.arange(n, device="cpu") % self.batch_size
        batched = {id(size) for size in self.batched}

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
        found = [leaf.detach() for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]
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
        raise ArtifactError(f"to export a model as a program, give an input that it runs on: {option('example=x')}")
    if isinstance(example, Tensor):
        found = on_cpu((example,), {})
    elif isinstance(example, tuple):
        found = on_cpu(example, {})
    elif isinstance(example, Mapping) and all(isinstance(name, str) for name in example):
        found = on_cpu((), example)
    else:
        raise ArtifactError(
            f"{option('example')} must be a tensor, a tuple of positional inputs or a dict of keyword inputs, "
            f"got {type(example).__name__}"
        )
    if not any(tensor.ndim and len(tensor) for tensor in found.tensors):
        raise ArtifactError(f"{option('example')} must hold a tensor with one or more examples along its first axis")
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


# Sums in another order move a float32 result by far less, and a forgotten bias by far more.
FLOAT_TOLERANCE = 1e-3
# A cosine of .955. Networks that bear 8 bits stay below .15; one that does not is beyond .9.
INTEGER_TOLERANCE = 0.3


@dataclass(frozen=True)
class Agreement:
    """How far outputs are from those of the model, in the output where that is farthest.

    Attributes:
        error: Length of the difference over length of the expected output; for integers and truth values the share
            that differs. Infinite if the shapes differ or a finite number became none.
        cosine: Of the angle between the two.
    """

    error: float
    cosine: float

    def worse(self, other: Agreement) -> Agreement:
        return self if self.error >= other.error else other


def agreement(expected: Sequence[Tensor], found: Sequence[Tensor]) -> Agreement:
    """Compare outputs one by one."""
    if len(expected) != len(found):
        return Agreement(float("inf"), 0.0)
    worst = Agreement(0.0, 1.0)
    for one, two in zip(expected, found, strict=True):
        worst = worst.worse(_agreement(one, two))
    return worst


def check(name: str, what: str, found: Agreement, tolerance: float) -> None:
    """Raise an ArtifactError with the figure if the outputs are too far from those of the model.

    Args:
        name: Of the model's class.
        what: Was run, and on what.
        found: How far they are.
        tolerance: How far they may be.
    """
    if not found.error <= tolerance:
        raise ArtifactError(
            f"what is exported must agree with {name}, but {what} gives outputs that are off by {found.error:.3g} of "
            f"their length (cosine {found.cosine:.3f}), and tolerance={tolerance:g} is allowed: nothing was written"
        )


def _agreement(expected: Tensor, found: Tensor) -> Agreement:
    if expected.shape != found.shape:
        return Agreement(float("inf"), 0.0)
    if not (expected.is_floating_point() or expected.is_complex()):
        differs = float((expected != found).double().mean()) if expected.numel() else 0.0
        return Agreement(differs, 1 - differs)
    one, two = expected.double().flatten(), found.double().flatten()
    same = one.isfinite() & two.isfinite()
    if not bool((same | (one == two) | (one.isnan() & two.isnan())).all()):
        return Agreement(float("inf"), 0.0)
    one, two = one[same], two[same]
    length = float(one.norm())
    error = float((one - two).norm())
    lengths = length * float(two.norm())
    cosine = float(one @ two) / lengths if lengths else float(not error)
    return Agreement(error / length if length else error, cosine)
