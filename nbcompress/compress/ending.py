"""How does the computation of a tensor end? Read off the graph that autograd keeps of it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from nbcompress.compress.observing import evaluating


class Ending(Enum):
    """The last operation that computes, behind those that only move values."""

    SIGMOID = "a sigmoid"
    SOFTMAX = "a softmax"
    # A product or a sum, or logarithms of probabilities: any number can come out.
    OPEN = "a product or a sum"
    OTHER = "another operation"


# Autograd calls a node after its operation: `SigmoidBackward0`. These hand values on as they are.
_MOVES = (
    *("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Permute", "Transpose", "T", "Expand", "Select"),
    *("Slice", "Index", "Clone", "Alias", "ToCopy", "AsStrided", "Flatten", "Unflatten", "Movedim", "Contiguous"),
    *("UnsafeReshape", "Narrow", "Detach"),
)
_OPEN = (
    *("Addmm", "Mm", "Bmm", "Baddbmm", "Addmv", "Mv", "Addbmm", "Linear", "MkldnnLinear", "Convolution", "LogSoftmax"),
    *("MkldnnConvolution", "CudnnConvolution", "NativeBatchNorm", "CudnnBatchNorm", "NativeLayerNorm", "LogSigmoid"),
    *("Dot",),
)
_OPEN_IF_A_PART_IS = ("Add", "Sub", "Mul", "Div", "Neg", "Mean", "Sum")


def ending_of(model: nn.Module, run: Callable[[nn.Module], Tensor]) -> Ending:
    """How the computation of what `run` takes from `model` ends, in evaluation mode; nothing about the model changes.

    A model whose computation autograd does not follow ends in another operation.
    """
    parameters = list(model.parameters())
    needed = [one.requires_grad for one in parameters]
    try:
        for one in parameters:
            if one.is_floating_point():
                one.requires_grad_(True)
        with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
            return _ending(run(model).grad_fn)
    finally:
        for one, was_needed in zip(parameters, needed, strict=True):
            one.requires_grad_(was_needed)


def _ending(node: Any) -> Ending:
    while node is not None:
        name = type(node).__name__.partition("Backward")[0]
        before = [one for one, _ in node.next_functions if one is not None]
        if name in _MOVES and before:
            node = before[0]
            continue
        if name == "Sigmoid":
            return Ending.SIGMOID
        if name == "Softmax":
            return Ending.SOFTMAX
        if name in ("Cat", "Stack"):
            kinds = {_ending(one) for one in before}
            return kinds.pop() if len(kinds) == 1 else Ending.OTHER
        is_open = name in _OPEN or (name in _OPEN_IF_A_PART_IS and any(_ending(one) is Ending.OPEN for one in before))
        return Ending.OPEN if is_open else Ending.OTHER
    return Ending.OTHER


__all__ = ["Ending", "ending_of"]
