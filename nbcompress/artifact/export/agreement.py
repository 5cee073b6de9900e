"""Example inputs for an export, and the check that the exported model computes the same as the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nbcompress.compressors.data import Batches
from nbcompress.compressors.inputs import Inputs
from nbcompress.compressors.modes import seeded
from nbcompress.errors import ArtifactError, NbcompressError, first_line, option

# ---- Example inputs ----


@dataclass(frozen=True)
class ExampleInputs(Inputs):
    """Arguments of one call, on the CPU, floating-point ones in float32."""

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors in order, also those inside of lists and dicts."""
        return [leaf for leaf in pytree.tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Tensor)]

    @property
    def batch_size(self) -> int:
        """Length of the first axis of the first tensor that has one."""
        return next(len(tensor) for tensor in self.tensors if tensor.ndim)

    @property
    def batched(self) -> list[Tensor]:
        """The tensors whose first axis counts examples: it is as long as that of the first tensor."""
        return [tensor for tensor in self.tensors if tensor.ndim and len(tensor) == self.batch_size]

    def resized(self, n: int) -> ExampleInputs:
        """Return the same call with `n` examples, repeated from the first on where there are fewer."""
        rows = torch.arange(n, device="cpu") % self.batch_size
        batched = {id(tensor) for tensor in self.batched}

        def take_rows(leaf: Any) -> Any:
            return leaf[rows] if isinstance(leaf, Tensor) and id(leaf) in batched else leaf

        args, kwargs = pytree.tree_map(take_rows, (self.args, dict(self.kwargs)))
        return ExampleInputs(args, kwargs)

    def outputs(self, model: nn.Module) -> list[Tensor]:
        """Return the tensors that `model` returns in order, also those inside of lists and dicts.

        Raises:
            ArtifactError: The model fails on this input, or returns no tensor.
        """
        try:
            with torch.no_grad():
                returned = self(model)
        except Exception as err:
            raise ArtifactError(
                f"{type(model).__name__} must run on {examples_text(self.batch_size)} like the given ones ({self}) "
                f"to be exported with free dimensions, but {failure_text(err)}"
            ) from err
        leaves = pytree.tree_leaves(plain_structure(returned))
        tensors = [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]
        if not tensors:
            raise ArtifactError(
                f"{type(model).__name__} must return tensors to be exported, got {type(returned).__name__}"
            )
        return tensors


def plain_structure(value: Any) -> Any:
    """Return what a model returned with plain dicts and tuples in place of classes that a program cannot hold.

    These are dataclasses, named tuples and mappings whose class is not registered with PyTorch. Fields of None are left
    out.
    """
    if type(value) in pytree.SUPPORTED_NODES and not isinstance(value, (tuple, list, Mapping)):
        return value
    if isinstance(value, Mapping) and (type(value) not in pytree.SUPPORTED_NODES or type(value) is dict):
        return {name: plain_structure(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)) and (type(value) in (tuple, list) or hasattr(value, "_fields")):
        items = [plain_structure(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if is_dataclass(value) and not isinstance(value, type) and type(value) not in pytree.SUPPORTED_NODES:
        found = {field.name: plain_structure(getattr(value, field.name)) for field in fields(value)}
        return {name: item for name, item in found.items() if item is not None}
    return value


def call_arguments(example: object, error: type[NbcompressError]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of a call from what the user gave as `example`.

    Args:
        example: A tensor, a tuple of positional or a dict of keyword inputs.
        error: Class of the error.

    Raises:
        NbcompressError: As `error`; the example has another form.
    """
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, Mapping) and all(isinstance(name, str) for name in example):
        return (), dict(example)
    raise error(
        f"{option('example')} must be a tensor, a tuple of positional inputs or a dict of keyword inputs, "
        f"got {type(example).__name__}"
    )


def example_inputs(example: object) -> ExampleInputs:
    """Return what the user gave as an example of the inputs.

    Args:
        example: A tensor, a tuple of positional or a dict of keyword inputs.

    Raises:
        ArtifactError: There is none, it has another form, or no tensor in it has examples along a first axis.
    """
    if example is None:
        raise ArtifactError(f"to export a model as a program, give an input that it runs on: {option('example=x')}")
    inputs = on_cpu(*call_arguments(example, ArtifactError))
    if not any(tensor.ndim and len(tensor) for tensor in inputs.tensors):
        raise ArtifactError(f"{option('example')} must hold a tensor with one or more examples along its first axis")
    return inputs


def batch_inputs(data: object, model: nn.Module, n_batches: int) -> list[ExampleInputs]:
    """Return the inputs of the first batches of `data`, the same at every call; random states are restored.

    Raises:
        DataError: The data has another form or is empty.
    """
    batches = Batches(data)
    with seeded(0, *batches.generators):
        return [on_cpu(*batch.arguments_for(model)) for batch in islice(batches.for_model(model), n_batches)]


def on_cpu(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ExampleInputs:
    """Return these arguments with tensors on the CPU, floating-point ones in float32."""

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.detach().to("cpu", torch.float32 if leaf.is_floating_point() else None)

    return ExampleInputs(*pytree.tree_map(moved, (args, dict(kwargs))))


# ---- Texts ----

# Some errors of the exporter and of ONNX Runtime are very long.
_MAX_FAILURE_LENGTH = 300


def examples_text(n_examples: int) -> str:
    """`1 example`, `2 examples`."""
    return f"{n_examples} example" + "s" * (n_examples != 1)


def failure_text(err: BaseException) -> str:
    """`it raised ValueError: ` and the first line of its text, cut to a readable length."""
    return f"it raised {first_line(err)[:_MAX_FAILURE_LENGTH]}"


# ---- Agreement of outputs ----

# Largest error of floating-point outputs. Another order of summation changes a float32 result by far less, and a lost
# bias by far more.
FLOAT_TOLERANCE = 1e-3
# Largest error of outputs with 8-bit activations: a cosine of .955. Heuristic, see
# benchmarks.md#constants-of-the-export.
INTEGER_TOLERANCE = 0.3
# Largest error for which a matrix product may round its input to 8 bits without being asked to, and the largest share
# of predictions that may change clearly. Heuristics, see benchmarks.md#matrix-products-in-few-bits.
ROUNDING_TOLERANCE = 0.05
CHANGED_TOLERANCE = 0.01
# Two scores of a row are a near tie if they differ by less than this share of the standard deviation of the row.
_NEAR_TIE = 0.05


@dataclass(frozen=True)
class Agreement:
    """How far outputs are from those of the model, in the output where the distance is largest.

    Attributes:
        error: Length of the difference over length of the expected output; for integers and booleans the share of
            elements that differ. Infinite if the shapes differ, or a finite number became NaN or infinite.
        cosine: Cosine of the angle between the two.
    """

    error: float
    cosine: float

    def worse(self, other: Agreement) -> Agreement:
        """Return the one of the two with the larger error."""
        return self if self.error >= other.error else other


def agreement(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> Agreement:
    """Compare outputs pair by pair and return the worst agreement."""
    if len(expected) != len(actual):
        return Agreement(float("inf"), 0.0)
    worst = Agreement(0.0, 1.0)
    for expected_output, actual_output in zip(expected, actual, strict=True):
        worst = worst.worse(_agreement(expected_output, actual_output))
    return worst


def changed_predictions(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """Return the share of rows whose largest value moved to another place, in the output where it is largest.

    A row is what lies along the last axis of a floating-point output. A near tie does not count: the two places must
    differ, in the expected output, by 5 % of the standard deviation of the row.
    """
    shares = [0.0]
    for first, second in zip(expected, actual, strict=True):
        if not first.is_floating_point() or first.ndim < 2 or first.shape[-1] < 2 or first.shape != second.shape:
            continue
        scores = first.reshape(-1, first.shape[-1])
        if not scores.numel():
            continue
        best = scores.max(dim=1).values
        chosen = scores.gather(1, second.reshape(scores.shape).argmax(1, keepdim=True)).squeeze(1)
        is_clear = best - chosen > _NEAR_TIE * scores.std(dim=1)
        shares.append(float(is_clear.double().mean()))
    return max(shares)


def check_agreement(name: str, what: str, measured: Agreement, tolerance: float) -> None:
    """Raise an ArtifactError with the error if the outputs are too far from those of the model.

    Args:
        name: Class of the model.
        what: What was run, and on what.
        measured: Agreement of its outputs.
        tolerance: The largest error that is allowed.
    """
    if not measured.error <= tolerance:
        raise ArtifactError(
            f"the exported model must agree with {name}, but {what} gives outputs that are off by {measured.error:.3g} "
            f"of their length (cosine {measured.cosine:.3f}), and {option('tolerance', tolerance)} is allowed: "
            "nothing was written"
        )


def _agreement(expected: Tensor, actual: Tensor) -> Agreement:
    if expected.shape != actual.shape:
        return Agreement(float("inf"), 0.0)
    if not (expected.is_floating_point() or expected.is_complex()):
        differing = float((expected != actual).double().mean()) if expected.numel() else 0.0
        return Agreement(differing, 1 - differing)
    a, b = expected.double().flatten(), actual.double().flatten()
    finite = a.isfinite() & b.isfinite()
    # Infinities and NaN must be the same in both.
    if not bool((finite | (a == b) | (a.isnan() & b.isnan())).all()):
        return Agreement(float("inf"), 0.0)
    a, b = a[finite], b[finite]
    length = float(a.norm())
    error = float((a - b).norm())
    lengths = length * float(b.norm())
    cosine = float(a @ b) / lengths if lengths else float(not error)
    return Agreement(error / length if length else error, cosine)
