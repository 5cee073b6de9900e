"""Train a compressed model on, without breaking what was promised of it."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Literal

from torch import nn

from nbcompress.compress.data import Batches
from nbcompress.compress.layers import check_model
from nbcompress.compress.losses import LossFunction, LossSpec
from nbcompress.compress.modes import outside_inference
from nbcompress.compress.outputs import Output
from nbcompress.compress.training import OnEpoch, Plan, train_
from nbcompress.errors import CompressionError


@outside_inference
def finetune(
    model: nn.Module,
    data: object,
    epochs: int = 3,
    lr: float = 1e-3,
    optimizer: str = "adam",
    batch_size: int = 64,
    loss: LossFunction | None = None,
    output: Output | None = None,
    on_epoch: Callable[..., object] | None = None,
    seed: int = 0,
    *,
    momentum: float | None = None,
    weight_decay: float = 0.0,
    schedule: Literal["constant", "cosine"] = "constant",
    valid: object = None,
    patience: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> nn.Module:
    """Train `model` in place; zeros of pruned tensors, grids, codebooks and the half-precision rest are kept.

    Args:
        model: Any module. It comes back in the mode it came in. A part in evaluation mode of a model in training
            mode stays in it, and batch norms of which no parameter requires a gradient keep their statistics.
        data: A `DataLoader`, a data set, or a pair of tensors (inputs, targets).
        epochs: Passes over the data; 0 changes nothing.
        lr: Step size.
        optimizer: `adam`, `adamw` or `sgd`.
        batch_size: Of data that is not in batches yet.
        loss: From what the model returns (the output that `output` names, if it is given) and the target to a scalar.
            By default the model's own `.loss` of a batch with labels; binary cross-entropy for one logit or several
            and targets of 0 and 1, of probabilities where the model ends in a sigmoid; cross-entropy for integer
            targets, of the next token where they are the inputs of a causal model; squared error for other numbers.
            What is unclear is an error.
        output: Index or key of the prediction, where the model returns several tensors.
        on_epoch: Called after every epoch with the epoch, counted from 1, or with the epoch and its mean loss if
            it takes two arguments (a second one with a default must be called `loss`). The model keeps its
            promises and is in the mode it came in, so it can be measured: the place for `report(..., step=epoch)`.
        seed: Equal seeds give equal results; global randomness is put back afterwards.
        momentum: Of `sgd`, 0.9 if not given.
        weight_decay: Of the optimizer.
        schedule: `constant`, or `cosine`: the step size falls from `lr` towards zero, epoch by epoch.
        valid: Data on which the loss is measured before training and after every epoch. The model ends in the state
            in which it was lowest, which may be the one at the start.
        patience: Epochs without a lower loss on `valid` after which training stops.
        progress: Called with the share of the training that is done, up to 1: after every batch if their number is
            known, else after every epoch.

    Returns:
        `model`. Scales of grids and shared values are trained along, and its record says the new ones. Weights that
        were rounded to zero on a grid of a pruned tensor count as pruned.

    Raises:
        CompressionError: An option makes no sense, or the loss stops being finite; says in which epoch. The model
            is then what it was before.
        DataError: The data does not fit the model.
    """
    plan = Plan(epochs, lr, optimizer, batch_size, seed, momentum, weight_decay, schedule, patience)
    if (valid is None) != (patience is None):
        one, other = ("patience", "valid") if valid is None else ("valid", "patience")
        raise CompressionError(f"{one}= stops training early and needs {other}= too: pass both, or neither")
    if valid is not None:
        Batches(valid)
    if progress is not None and not callable(progress):
        raise CompressionError(f"progress must be a function of the share that is done, got {type(progress).__name__}")
    spec = LossSpec(loss, output)
    check_model(model)
    call = _with_two_arguments(on_epoch)
    train_(model, data, plan, spec=spec, on_epoch=call, valid=valid, progress=progress)
    return model


def _with_two_arguments(call: Callable[..., object] | None) -> OnEpoch | None:
    """`call` as a function of epoch and loss, by what it declares to take."""
    if call is None or not callable(call):
        if call is not None:
            raise CompressionError(f"on_epoch must be a function of the epoch, got {type(call).__name__}")
        return None
    places = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = list(signature(call).parameters.values())
    except ValueError:
        # Some functions written in C do not say what they take.
        return lambda epoch, _loss: call(epoch)
    positional = [one for one in parameters if one.kind in places]
    required = [one for one in positional if one.default is Parameter.empty]
    takes_all = any(one.kind is Parameter.VAR_POSITIONAL for one in parameters)
    if len(required) > 2 or not (positional or takes_all):
        raise CompressionError(
            f"on_epoch is called with the epoch, or the epoch and the loss, but takes {len(required)}"
        )
    if len(required) == 2 or (len(positional) > 1 and positional[1].name == "loss"):
        return lambda epoch, loss: call(epoch, loss)
    return lambda epoch, _loss: call(epoch)


__all__ = ["finetune"]
