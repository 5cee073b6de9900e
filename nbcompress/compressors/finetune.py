"""Fine-tuning: training that keeps the constraints of a compressed model."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Literal

from torch import nn

from nbcompress.compressors.data import Batches
from nbcompress.compressors.layers import check_model
from nbcompress.compressors.losses import LossFunction, LossSpec
from nbcompress.compressors.modes import outside_inference
from nbcompress.compressors.optimizers import OptimizerChoice, OptimizerSpec
from nbcompress.compressors.outputs import OutputKey
from nbcompress.compressors.training import OnEpoch, TrainingOptions, train_
from nbcompress.errors import CompressionError, option
from nbcompress.progress import bars_shown


@outside_inference
def finetune(
    model: nn.Module,
    data: object,
    epochs: int = 3,
    lr: float = 1e-3,
    optimizer: OptimizerChoice = "adam",
    batch_size: int = 64,
    loss: LossFunction | None = None,
    output: OutputKey | None = None,
    on_epoch: Callable[..., object] | None = None,
    seed: int = 0,
    *,
    momentum: float | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    weight_decay: float = 0.0,
    schedule: Literal["constant", "cosine"] = "constant",
    valid: object = None,
    patience: int | None = None,
    progress: bool | Callable[[float], object] | None = True,
) -> nn.Module:
    """Train `model` in place. Pruned zeros, grids, codebooks and the half-precision rest are kept.

    Args:
        model: Any module. It comes back in the mode it came in. A part in evaluation mode of a model in training mode
            stays in it, and batch norms of which no parameter requires a gradient keep their statistics.
        data: A `DataLoader`, a data set, or a pair of tensors (inputs, targets).
        epochs: Passes over the data; 0 changes nothing.
        lr: Step size.
        optimizer: `adam`, `adamw`, `sgd` (without momentum), `momentum` (SGD with momentum), `gd` (one step for each
            epoch, with the gradient of all of the data), or a function from the list of parameters to a
            `torch.optim.Optimizer`, which sets its own step size.
        batch_size: Examples in a batch, for data that is not in batches yet.
        loss: A function from what the model returns (the output that `output` names, if it is given) and the target to
            a scalar. If its third argument is called `inputs`, it also gets the inputs of the batch, such as the
            lengths of sequences. The target may be a tuple, such as labels and their lengths. The default is: the
            model's own `.loss` of a batch with labels; binary cross-entropy for one logit or several and targets of 0
            and 1, of probabilities if the model ends in a sigmoid; cross-entropy for integer targets, of the next token
            if they are the inputs of a causal model; squared error for other numbers. If it is not clear which of these
            is meant, an error asks for `loss`.
        output: Index or key of the prediction, where the model returns several tensors.
        on_epoch: Called after every epoch with the epoch, counted from 1, or with the epoch and its mean loss if it
            takes two arguments (a second one with a default must be called `loss`). The model satisfies its constraints
            and is in the mode it came in, so it can be measured: the place for `report(..., step=epoch)`.
        seed: Seed of the order of the data and of the model's own randomness. Equal seeds give equal results. Global
            random state is restored afterwards.
        momentum: Of `momentum` (default 0.9), `sgd` and `gd` (default 0).
        betas: Decay rates of the averages of `adam` and `adamw`; the default is (0.9, 0.999).
        eps: Added to the denominator of `adam` and `adamw`; the default is 1e-8.
        weight_decay: Weight decay of the optimizer.
        schedule: `constant`, or `cosine`: the step size falls from `lr` towards zero, epoch by epoch.
        valid: Data on which the loss is measured before training and after every epoch. The model ends in the state
            with the lowest loss, which may be the one before training.
        patience: Epochs without a lower loss on `valid` after which training stops.
        progress: Whether a bar shows how far it is, from two seconds on. Or a function in place of the bar: it is
            called with the share of the training that is done, up to 1, after every batch if their number is known,
            else after every epoch.

    Returns:
        `model`. Scales of grids and shared values are trained too, and its record holds the new ones. Weights of a
        pruned tensor that were rounded to zero on a grid count as pruned. `nc.record_of(model).training[-1]` has the
        losses of every step and epoch.

    Raises:
        CompressionError: An option makes no sense, or the loss becomes NaN or infinite; names the epoch. The model is
            then what it was before.
        DataError: The data does not fit the model.

    Example:
        >>> import torch, nbcompress as nc
        >>> small = nc.prune(torch.nn.Linear(4, 3), amount=0.5)
        >>> inputs, labels = torch.randn(32, 4), torch.randint(0, 3, (32,))
        >>> losses = []
        >>> small = nc.finetune(small, (inputs, labels), epochs=2, on_epoch=lambda epoch, loss: losses.append(loss))
        >>> len(losses), int((small.weight == 0).sum())
        (2, 6)

    References:
        Bengio, Léonard and Courville (2013), "Estimating or Propagating Gradients Through Stochastic Neurons for
        Conditional Computation" (training of weights on a grid).
    """
    spec = OptimizerSpec(optimizer, momentum, betas, eps, weight_decay)
    options = TrainingOptions(epochs, lr, spec, batch_size, seed, schedule, patience)
    if (valid is None) != (patience is None):
        given, missing = ("patience", "valid") if valid is None else ("valid", "patience")
        raise CompressionError(
            f"{option(f'{given}=')} stops training early and needs {option(f'{missing}=')} too: pass both, or neither"
        )
    if valid is not None:
        Batches(valid)
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise CompressionError(
            f"{option('progress')} must be True, False or a function of the share that is done, "
            f"got {type(progress).__name__}"
        )
    loss_spec = LossSpec(loss, output)
    check_model(model)
    call = progress if callable(progress) else None
    with bars_shown(progress is not False and call is None):
        train_(model, data, options, spec=loss_spec, on_epoch=_with_two_arguments(on_epoch), valid=valid, progress=call)
    return model


def _with_two_arguments(call: Callable[..., object] | None) -> OnEpoch | None:
    """Wrap `call` as a function of epoch and loss, by the arguments that it declares."""
    if call is None:
        return None
    if not callable(call):
        raise CompressionError(f"{option('on_epoch')} must be a function of the epoch, got {type(call).__name__}")
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = list(signature(call).parameters.values())
    except ValueError:
        # Some functions written in C do not declare their arguments.
        return lambda epoch, _loss: call(epoch)
    positional = [parameter for parameter in parameters if parameter.kind in kinds]
    required = [parameter for parameter in positional if parameter.default is Parameter.empty]
    takes_all = any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in parameters)
    if len(required) > 2 or not (positional or takes_all):
        raise CompressionError(
            f"{option('on_epoch')} is called with the epoch, or the epoch and the loss, but takes {len(required)}"
        )
    if len(required) == 2 or (len(positional) > 1 and positional[1].name == "loss"):
        return lambda epoch, loss: call(epoch, loss)
    return lambda epoch, _loss: call(epoch)


__all__ = ["finetune"]
