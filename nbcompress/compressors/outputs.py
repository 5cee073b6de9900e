"""What a model returns: which tensor is its prediction, and which operation computes it.

The final operation (a sigmoid, a softmax, ...) is read from autograd's graph. It tells probabilities from scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from nbcompress.compressors.modes import evaluating, requiring_grad
from nbcompress.errors import DataError, option

# The label that torch's cross-entropy skips.
IGNORED = -100

# The index of a tuple, or a key or attribute.
OutputKey = int | str

# ---------------------------------------------------------------------------------------------------------------------
# Predictions

# The names that libraries give to losses, states, caches and intermediate results.
_NO_PREDICTION = frozenset(
    {
        *(
            "loss",
            "aux_loss",
            "router_logits",
            "router_probs",
            "hidden_states",
            "attentions",
            "past_key_values",
            "mems",
        ),
        *("last_hidden_state", "pooler_output", "cross_attentions", "decoder_hidden_states", "decoder_attentions"),
        *("encoder_last_hidden_state", "encoder_hidden_states", "encoder_attentions", "state", "rope_deltas"),
        *("cache_params", "image_hidden_states", "hidden_state", "hidden", "cache"),
    }
)


def prediction_of(result: Any, output: OutputKey | None = None, n_rows: int | None = None) -> Tensor:
    """Return the prediction among what a model returned.

    Args:
        result: What a model returned. A single tensor is the prediction, whatever `output` says.
        output: Index or key of the prediction. If it is None, only one tensor may be a possible prediction.
        n_rows: Examples in the batch, if known.

    Raises:
        DataError: There is no possible prediction, there are several, or `output` names no tensor.
    """
    if output is not None:
        return _named(result, output)
    candidates = predictions_of(result, n_rows)
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    if not candidates:
        raise DataError(
            f"the model must return a tensor that can be its prediction, got {_listed(result)}: pass "
            f"{option('output=')}, its index or key, or {option('loss=')}, a function of what the model returns "
            "and the target"
        )
    first = next(iter(candidates))
    raise DataError(
        f"the model returns several tensors, {_describe(candidates)}: say which one is the prediction with "
        f"{option('output=')}, such as {option('output', first)}, or pass {option('loss=')}, a function of what "
        "the model returns and the target"
    )


def predictions_of(result: Any, n_rows: int | None = None) -> dict[OutputKey, Tensor]:
    """Return every tensor that could be a prediction, by index or key.

    These are no predictions: hidden states, caches and losses by their usual names; tensors in tuples of tuples;
    integers; single numbers; and, if another tensor has a row for each example, tensors that have not.

    Args:
        result: What a model returned.
        n_rows: Examples in the batch, if known.
    """
    if isinstance(result, Tensor):
        return {0: result}
    candidates = {
        key: value
        for key, value in _parts(result).items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim and key not in _NO_PREDICTION
    }
    by_example = {key: value for key, value in candidates.items() if n_rows is not None and len(value) == n_rows}
    return by_example or candidates


def model_loss_of(result: Any) -> Tensor | None:
    """Return the loss that a model computed from labels among its inputs, or None.

    It is the part called `loss`, or the only single number in a tuple.
    """
    parts = _parts(result)
    named = parts.get("loss")
    if isinstance(named, Tensor):
        return named.reshape(()) if named.numel() == 1 else None
    single = [
        part for part in parts.values() if isinstance(part, Tensor) and part.is_floating_point() and not part.ndim
    ]
    return single[0] if isinstance(result, (tuple, list)) and len(single) == 1 else None


def _parts(result: Any) -> dict[OutputKey, Any]:
    """The parts of what a model returned, by index or key. A named tuple has keys."""
    if isinstance(result, Mapping):
        return dict(result)
    if isinstance(result, (tuple, list)):
        names = getattr(result, "_fields", range(len(result)))
        return dict(zip(names, result, strict=True))
    if is_dataclass(result):
        return {field.name: getattr(result, field.name) for field in fields(result)}
    return dict(getattr(result, "__dict__", {}))


def _named(result: Any, output: OutputKey) -> Tensor:
    if isinstance(result, Tensor):
        # Some models return a tuple in training and its first tensor in evaluation. A student may return one tensor
        # while its teacher returns several.
        return result
    parts = _parts(result)
    value = parts.get(output)
    if isinstance(output, int) and output not in parts:
        listed = list(parts.values())
        value = listed[output] if -len(listed) <= output < len(listed) else None
    if not isinstance(value, Tensor):
        raise DataError(
            f"{option('output', output)} must name a tensor among what the model returns, which is {_listed(result)}"
        )
    return value


def _describe(tensors: Mapping[OutputKey, Tensor]) -> str:
    return ", ".join(f"{key!r} of shape {tuple(value.shape)}" for key, value in tensors.items())


def _listed(result: Any) -> str:
    parts = _parts(result)
    inside = ", ".join(
        f"{key!r} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{key!r} ({type(value).__name__})"
        for key, value in list(parts.items())[:8]
    )
    return type(result).__name__ + (f" with {inside}" if inside else "")


# ---------------------------------------------------------------------------------------------------------------------
# Final operations


class FinalOperation(Enum):
    """The last operation that computes values; operations that only move values are passed over."""

    SIGMOID = "a sigmoid"
    SOFTMAX = "a softmax"
    # A product, a sum, or the logarithm of probabilities: its values are not bounded to [0, 1].
    UNBOUNDED = "a product or a sum"
    OTHER = "another operation"


# Autograd names a node after its operation, such as `SigmoidBackward0`. These operations move values unchanged.
_MOVES = (
    *("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Permute", "Transpose", "T", "Expand", "Select"),
    *("Slice", "Index", "Clone", "Alias", "ToCopy", "AsStrided", "Flatten", "Unflatten", "Movedim", "Contiguous"),
    *("UnsafeReshape", "Narrow", "Detach"),
)
_UNBOUNDED = (
    *("Addmm", "Mm", "Bmm", "Baddbmm", "Addmv", "Mv", "Addbmm", "Linear", "MkldnnLinear", "Convolution", "LogSoftmax"),
    *("MkldnnConvolution", "CudnnConvolution", "NativeBatchNorm", "CudnnBatchNorm", "NativeLayerNorm", "LogSigmoid"),
    *("Dot",),
)
_UNBOUNDED_IF_AN_INPUT_IS = ("Add", "Sub", "Mul", "Div", "Neg", "Mean", "Sum")


def final_operation_of(model: nn.Module, run: Callable[[nn.Module], Tensor]) -> FinalOperation:
    """Return the operation that computes an output of `model` in evaluation mode.

    Args:
        model: Comes back as it was.
        run: Runs the model and returns the output.

    Returns:
        `OTHER` if autograd does not follow the computation.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    with (
        requiring_grad(parameters, True),
        torch.inference_mode(False),
        torch.enable_grad(),
        evaluating(model),
    ):
        return _final_operation(run(model).grad_fn)


def final_operation_beside(model: nn.Module, output: Tensor, run: Callable[[nn.Module], Tensor]) -> FinalOperation:
    """As `final_operation_of`, but run the model only if all values of `output`, from an earlier run, are in [0, 1]."""
    if bool(((output < 0) | (output > 1)).any()):
        return FinalOperation.UNBOUNDED
    return final_operation_of(model, run)


def _final_operation(node: Any) -> FinalOperation:
    while node is not None:
        name = type(node).__name__.partition("Backward")[0]
        inputs = [function for function, _ in node.next_functions if function is not None]
        if name in _MOVES and inputs:
            node = inputs[0]
            continue
        if name == "Sigmoid":
            return FinalOperation.SIGMOID
        if name == "Softmax":
            return FinalOperation.SOFTMAX
        if name in ("Cat", "Stack"):
            kinds = {_final_operation(function) for function in inputs}
            return kinds.pop() if len(kinds) == 1 else FinalOperation.OTHER
        is_unbounded = name in _UNBOUNDED or (
            name in _UNBOUNDED_IF_AN_INPUT_IS
            and any(_final_operation(function) is FinalOperation.UNBOUNDED for function in inputs)
        )
        return FinalOperation.UNBOUNDED if is_unbounded else FinalOperation.OTHER
    return FinalOperation.OTHER


# ---------------------------------------------------------------------------------------------------------------------
# Shapes of outputs and targets


def class_scores(output: Tensor, target: Tensor, ignored: int = IGNORED) -> tuple[Tensor, Tensor]:
    """Reshape outputs to `(examples, classes)` and labels to `(examples,)`.

    Args:
        output: Scores, with the classes along the last axis or the second.
        target: Integer labels, one for each example or position.
        ignored: The label that does not count, and need not be a class.

    Raises:
        DataError: Shapes do not fit, or a label is not among the classes.
    """
    scores, labels = _in_rows(output, target)
    low, high = limits_of(labels[labels != ignored])
    if low < 0 or high >= scores.shape[1]:
        hint = (
            f"; if {high:g} stands for no label, pass "
            f"{option(f'loss=torch.nn.CrossEntropyLoss(ignore_index={high:g})')}"
            if high == 255
            else ""
        )
        raise DataError(
            f"labels must be 0 to {scores.shape[1] - 1} for a model with {scores.shape[1]} outputs, "
            f"but they run from {low:g} to {high:g}{hint}"
        )
    return scores, labels


def _in_rows(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs as `(examples, classes)` and labels as `(examples,)`."""
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
            f"outputs {tuple(output.shape)}: pass {option('loss=')}, or float targets for squared error"
        )
    return scores, labels.reshape(-1).long()


def in_shape_of(output: Tensor, target: Tensor) -> Tensor:
    """The target in the shape of the output."""
    if without_unit_axes(target.shape) != without_unit_axes(output.shape):
        raise DataError(
            f"float targets must have the shape of the outputs, got targets {tuple(target.shape)} and "
            f"outputs {tuple(output.shape)}"
        )
    return target.reshape(output.shape)


def without_unit_axes(shape: torch.Size) -> torch.Size:
    """A shape without the axes of length one after the first axis."""
    return torch.Size([*shape[:1], *(size for size in shape[1:] if size != 1)])


def limits_of(values: Tensor) -> tuple[float, float]:
    """The least and the largest value; 0 and 0 if there is none."""
    if not values.numel():
        return 0, 0
    low, high = values.aminmax()
    return float(low), float(high)
