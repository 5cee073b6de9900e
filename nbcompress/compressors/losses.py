"""What fine-tuning makes small, when nobody says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbcompress.compressors.data import NO_TARGET, Batch, output_of
from nbcompress.errors import DataError

BatchLoss = Callable[[nn.Module, Batch], Tensor]

# What torch's cross-entropy skips.
IGNORED = -100


def default_loss(result: Any, target: Any) -> Tensor:
    """Cross-entropy for integer targets, mean squared error for float ones.

    Args:
        result: What the model returned; a tensor is found in it by `output_of`.
        target: Integer labels: outputs have one axis more, the classes, last or second. Float values: of the shape
            of the outputs, up to axes of length one at the end.

    Raises:
        DataError: Shapes do not fit, a label is not among the classes, or the target is missing or no tensor.
    """
    output = output_of(result)
    if target is None:
        raise DataError(NO_TARGET)
    if not isinstance(target, Tensor) or target.dtype == torch.bool or target.is_complex():
        kind = str(target.dtype) if isinstance(target, Tensor) else type(target).__name__
        raise DataError(f"targets must be integer labels or float values, got {kind}: convert them, or pass loss=")
    if target.is_floating_point():
        return functional.mse_loss(output.float(), _fitted(target, output).float())
    scores, labels = class_scores(output, target)
    return functional.cross_entropy(scores.float(), labels)


def class_scores(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs as `(examples, classes)` beside labels as `(examples,)`; a label of -100 says that it does not count.

    Raises:
        DataError: Shapes do not fit, or a label is not among the classes.
    """
    scores, labels = _in_rows(output, target)
    low, high = _ends(labels)
    if low == IGNORED:
        low, high = _ends(labels[labels != IGNORED])
    if low < 0 or high >= scores.shape[1]:
        raise DataError(
            f"labels must be 0 to {scores.shape[1] - 1} for a model with {scores.shape[1]} outputs, "
            f"but they run from {low} to {high}"
        )
    if scores.shape[1] == 1:
        raise DataError("cross-entropy needs at least two classes, but the model has one output: use float targets")
    return scores, labels


def _ends(labels: Tensor) -> tuple[int, int]:
    """The least and the largest label, 0 where there is none."""
    if not len(labels):
        return 0, 0
    low, high = labels.aminmax()
    return int(low), int(high)


def _in_rows(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    labels = target
    if labels.ndim == output.ndim and labels.shape[-1] == 1:
        labels = labels.squeeze(-1)
    if output.ndim >= 2 and output.shape[:-1] == labels.shape:
        scores = output.reshape(-1, output.shape[-1])
    elif output.ndim >= 3 and (output.shape[0], *output.shape[2:]) == tuple(labels.shape):
        scores = output.movedim(1, -1).reshape(-1, output.shape[1])
    else:
        raise DataError(
            f"integer targets need outputs with one axis more, the classes; got targets {tuple(target.shape)} and "
            f"outputs {tuple(output.shape)}: pass loss=, or float targets for squared error"
        )
    return scores, labels.reshape(-1).long()


def _fitted(target: Tensor, output: Tensor) -> Tensor:
    def trimmed(shape: torch.Size) -> tuple[int, ...]:
        sizes = list(shape)
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes.pop()
        return tuple(sizes)

    if trimmed(target.shape) != trimmed(output.shape):
        raise DataError(
            f"float targets must have the shape of the outputs, got targets {tuple(target.shape)} and "
            f"outputs {tuple(output.shape)}"
        )
    return target.reshape(output.shape)


__all__ = ["IGNORED", "BatchLoss", "class_scores", "default_loss"]
