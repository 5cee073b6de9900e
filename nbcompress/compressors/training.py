"""The training loop of fine-tuning, of retraining after pruning, and of distillation.

`train_` trains a model in place and keeps the constraints of its record. `EarlyStopping` decides when to stop and which
state to keep. `each_gradient` gives the gradients of every batch, for scores of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import cos, isfinite, pi

import torch
from torch import Tensor, nn

from nbcompress.compressors.buffers import materialize_buffers_
from nbcompress.compressors.calibration import with_activation_ranges
from nbcompress.compressors.constraints import (
    FreeParameter,
    LatentParameter,
    SharedParameter,
    constrain,
    record_constraints_,
    rest_tensors,
    round_to_half_,
)
from nbcompress.compressors.data import Batch, Batches
from nbcompress.compressors.layers import check_choice, check_seed, fill_, unique_parameters
from nbcompress.compressors.losses import NO_LABELS_LEFT, BatchLoss, LossSpec
from nbcompress.compressors.modes import (
    TrainingFlags,
    default_device_cpu,
    evaluating,
    requiring_grad,
    seeded,
    set_training_flags_,
    training_flags,
    training_flags_restored,
)
from nbcompress.compressors.optimizers import DEFAULT_LR, OptimizerSpec
from nbcompress.compressors.record import TensorRecord, TrainingLog, attach_, record_of
from nbcompress.compressors.torch_masks import refresh_masked_, warn_of_free_zeros
from nbcompress.errors import CompressionError, DataError, check_integer, option
from nbcompress.progress import Advance, progress_bar

# ---------------------------------------------------------------------------------------------------------------------
# Gradients


def each_gradient(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    data: object,
    seed: int,
    spec: LossSpec,
    on_gradients: Callable[[Sequence[Tensor | None]], None],
) -> int:
    """Compute the gradients of the loss of every batch, in evaluation mode.

    Args:
        model: Comes back as it was.
        parameters: The parameters of the model whose gradients are computed.
        data: See `Batches`.
        seed: Seed of the order of the data and of the model's own randomness.
        spec: The loss.
        on_gradients: Called after each batch with a gradient for each parameter; None where the loss does not depend
            on the parameter.

    Returns:
        The number of batches.

    Raises:
        DataError: The data does not fit, or no label counts.
    """
    batches = Batches(data)
    loss_of = spec.resolve(model, batches, seed)
    n_batches = 0
    # cuDNN cannot run a recurrent layer backward in evaluation mode.
    without_cudnn = torch.backends.cudnn.flags(enabled=False)
    with (
        progress_bar("gradients", batches.n_batches, "batch") as advance,
        requiring_grad(parameters, True),
        evaluating(model),
        seeded(seed, *batches.generators),
        torch.enable_grad(),
        without_cudnn,
    ):
        for batch in batches.for_model(model):
            loss = loss_of(model, batch)
            if loss is None:
                continue
            on_gradients(torch.autograd.grad(loss, list(parameters), allow_unused=True))
            n_batches += 1
            advance(1)
    if not n_batches:
        raise DataError(NO_LABELS_LEFT)
    return n_batches


def check_gradients(totals: Sequence[Tensor], purpose: str) -> None:
    """Refuse sums of gradients that hold NaN or infinity; `purpose` is for the text of the error."""
    if not all(bool(torch.isfinite(total).all()) for total in totals):
        raise CompressionError(f"gradients must be finite for {purpose}, but the loss gave NaN or infinity")


# ---------------------------------------------------------------------------------------------------------------------
# Early stopping


class EarlyStopping:
    """Stops training by the loss on validation data, and keeps the state with the lowest loss.

    The state before training is one of the states.

    Args:
        model: The model in training.
        batches: Validation data.
        loss_of: The loss of a batch.
        patience: Epochs without a lower loss after which training stops.
        seed: Seed of the order of the data and of the model's own randomness.

    Attributes:
        loss: The last loss.

    Raises:
        DataError: The loss is NaN or infinite before training.
    """

    def __init__(self, model: nn.Module, batches: Batches, loss_of: BatchLoss, patience: int, seed: int) -> None:
        self._model, self._batches, self._loss_of = model, batches, loss_of
        self._patience, self._seed = patience, seed
        self._n_waited = 0
        self._lowest = self.loss = self._loss()
        if not isfinite(self._lowest):
            raise DataError(f"the loss on {option('valid=')} must be finite before training, got {self._lowest}")
        self._save()

    def should_stop(self) -> bool:
        """Measure the loss after an epoch, and return whether training should stop."""
        loss = self.loss = self._loss()
        if loss < self._lowest:
            self._lowest, self._n_waited = loss, 0
            self._save()
        else:
            self._n_waited += 1
        return self._n_waited >= self._patience

    def restore_(self) -> None:
        """Restore the model and its record to the state with the lowest loss."""
        for tensor, values in zip(_tensors(self._model), self._values, strict=True):
            fill_(tensor, values)
        attach_(self._model, self._record)

    def _save(self) -> None:
        self._values = [tensor.detach().clone() for tensor in _tensors(self._model)]
        self._record = record_of(self._model)

    def _loss(self) -> float:
        """The mean over batches, in evaluation mode."""
        with evaluating(self._model), seeded(self._seed, *self._batches.generators), torch.no_grad():
            losses = [self._loss_of(self._model, batch) for batch in self._batches.for_model(self._model)]
        counted = [float(loss) for loss in losses if loss is not None]
        if not counted:
            raise DataError(NO_LABELS_LEFT)
        return sum(counted) / len(counted)


# ---------------------------------------------------------------------------------------------------------------------
# Options

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        epochs: Passes over the data, from 0.
        lr: Step size.
        optimizer: Which optimizer.
        batch_size: Examples in a batch, for data that is not in batches yet.
        seed: Seed of the order of the data and of the model's own randomness.
        schedule: `constant`, or `cosine`: the step size falls from its start towards zero, epoch by epoch.
        patience: With validation data, epochs without a lower loss on it after which training stops.

    Raises:
        CompressionError: An option is out of range.
    """

    epochs: int
    lr: float = DEFAULT_LR
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    batch_size: int = 64
    seed: int = 0
    schedule: str = "constant"
    patience: int | None = None

    def __post_init__(self) -> None:
        # Integers of NumPy become those of Python, since some functions of torch refuse them.
        object.__setattr__(self, "epochs", check_integer("epochs", self.epochs, 0, error=CompressionError))
        self.optimizer.check_lr(self.lr)
        object.__setattr__(self, "batch_size", check_integer("batch_size", self.batch_size, 1, error=CompressionError))
        object.__setattr__(self, "seed", check_seed(self.seed))
        check_choice("schedule", self.schedule, SCHEDULES)
        if self.patience is not None:
            check_integer("patience", self.patience, 1, error=CompressionError)

    def share_of_lr(self, epoch: int) -> float:
        """Return the share of the first step size that an epoch has, counted from 1."""
        if self.schedule == "constant":
            return 1.0
        # Loshchilov and Hutter (2017), "SGDR", equation 5, without restarts and down to zero.
        return 0.5 * (1 + cos(pi * (epoch - 1) / self.epochs))


# ---------------------------------------------------------------------------------------------------------------------
# Training under constraints


class Trainer:
    """A model in training with the constraints of its parameters.

    Args:
        model: Changed in place.
        options: How to train.
        latents: Values at which latent parameters start, by name.
        learned_along: Parameters outside the model that the loss depends on.

    Raises:
        CompressionError: No parameter of the model requires a gradient.
    """

    def __init__(
        self,
        model: nn.Module,
        options: TrainingOptions,
        latents: Mapping[str, Tensor],
        learned_along: Sequence[nn.Parameter] = (),
    ) -> None:
        self.model = model
        self._learned_along = list(learned_along)
        record = record_of(model)
        self._is_half = record.rest == "float16"
        self._parameters: dict[str, FreeParameter | LatentParameter | SharedParameter] = {}
        # By identity of the codebook: the first tensor that has it.
        owners: dict[int, SharedParameter] = {}
        for names, parameter in unique_parameters(model):
            if not parameter.requires_grad:
                continue
            constraint = next((record.tensors[name] for name in names if name in record.tensors), TensorRecord())
            constrained = self._parameters[names[0]] = constrain(
                parameter,
                constraint,
                is_half=self._is_half,
                is_mean=not options.optimizer.is_scale_free,
                start=latents.get(names[0]),
                owner=owners.get(id(constraint.codebook)),
            )
            if isinstance(constrained, SharedParameter) and constrained.owner is None:
                owners[id(constraint.codebook)] = constrained
        if not self._parameters:
            raise CompressionError("nothing can be trained: no parameter of the model requires a gradient")
        self.is_full_batch = options.optimizer.is_full_batch
        self._own = [item for item in self._parameters.values() if getattr(item, "owner", None) is None]
        moved = [*(item.latent for item in self._own), *learned_along]
        self._optimizer = options.optimizer.make(moved, options.lr)
        # The step sizes that the user's function set can differ from group to group.
        self._first_lrs = [group["lr"] for group in self._optimizer.param_groups]
        self._logs_before, self._log = record.training, TrainingLog(options.optimizer.name)

    def step(self, loss: Tensor) -> None:
        """Make one step down the gradient of `loss`, then project the parameters onto their constraints.

        Raises:
            CompressionError: A weight became NaN or infinite.
        """
        self.clear()
        self.add(loss)
        self.advance()

    def clear(self) -> None:
        """Forget the gradients."""
        self.model.zero_grad(set_to_none=True)
        for parameter in self._learned_along:
            parameter.grad = None

    def add(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to those that were added before."""
        loss.backward()  # type: ignore[no-untyped-call]

    def advance(self, weight: float | None = None) -> None:
        """Make one step down the gradients that were added, divided by `weight` if it is given, and project.

        Raises:
            CompressionError: A weight became NaN or infinite.
        """
        if weight is not None:
            for parameter in (*self.model.parameters(), *self._learned_along):
                if parameter.grad is not None:
                    parameter.grad.div_(weight)
        for constrained in self._parameters.values():
            constrained.pass_gradient()
        with default_device_cpu():
            self._optimizer.step()
        # A sum is NaN or infinite if one of its numbers is.
        if not isfinite(sum(_total(constrained.latent.detach()) for constrained in self._own)):
            raise CompressionError(f"training diverged: a weight became NaN or infinite; use a smaller {option('lr')}")
        self.project()

    def scale_lr(self, share: float) -> None:
        """Set the step size to a share of the first one."""
        for group, lr in zip(self._optimizer.param_groups, self._first_lrs, strict=True):
            group["lr"] = lr * share

    def log_epoch(self, step_losses: Sequence[float], epoch_loss: float) -> None:
        """Add the losses of an epoch to the log in the model's record."""
        self._set_log(self._log.with_epoch(step_losses, epoch_loss))

    def log_valid(self, loss: float) -> None:
        """Add the loss on validation data after an epoch to the log in the model's record."""
        self._set_log(self._log.with_valid(loss))

    def keep_log(self) -> None:
        """Put the log into the model's record again, after an earlier record was restored."""
        self._set_log(self._log)

    def _set_log(self, log: TrainingLog) -> None:
        self._log = log
        attach_(self.model, replace(record_of(self.model), training=(*self._logs_before, log)))

    def project(self) -> None:
        """Set the model's parameters to the latent ones, projected onto their constraints."""
        for constrained in self._parameters.values():
            constrained.project()

    def set_constraint(self, name: str, constraint: TensorRecord) -> None:
        """Change the constraint of a parameter that satisfies it already, as after pruning between epochs.

        Raises:
            CompressionError: The parameter has no constraint that can change, such as one with a codebook.
        """
        constrained = self._parameters.get(name)
        if isinstance(constrained, LatentParameter):
            constrained.set_constraint(constraint)
        elif constrained is not None:
            raise CompressionError(f"the constraint of {name!r} cannot change in training")

    def update_record(self) -> None:
        """Write the constraints into the model's record. Round stored buffers to half precision if the rest is."""
        record = record_constraints_(self.model, self._parameters.values())
        if self._is_half:
            rest = rest_tensors(self.model, record)
            round_to_half_((name, tensor) for name, tensor in rest if not isinstance(tensor, nn.Parameter))


# How much the loss of a batch counts in the mean over all of the data.
BatchWeight = Callable[[Batch], float]
BeforeEpoch = Callable[[int, Trainer], None]
OnEpoch = Callable[[int, float], object]
Progress = Callable[[float], object]


def train_(
    model: nn.Module,
    data: object,
    options: TrainingOptions,
    *,
    spec: LossSpec | None = None,
    batch_loss: BatchLoss | None = None,
    batch_weight: BatchWeight | None = None,
    latents: Mapping[str, Tensor] | None = None,
    learned_along: Sequence[nn.Parameter] = (),
    before_epoch: BeforeEpoch | None = None,
    on_epoch: OnEpoch | None = None,
    valid: object = None,
    progress: Progress | None = None,
) -> None:
    """Train `model` in place and keep the constraints of its record.

    Args:
        model: Comes back in the mode it came in, without gradients. Frozen parts (see `_train_mode_`) stay frozen.
        data: See `Batches`.
        options: How to train.
        spec: The loss and the output that the user chose.
        batch_loss: Replaces `spec`: a function from the model and a batch to the loss; None if no label counts.
        batch_weight: Beside `batch_loss`: how many labels that count a batch has; its examples if None.
        latents: Values before rounding, by parameter name, at which training starts.
        learned_along: Parameters outside the model that the loss depends on.
        before_epoch: Called with the epoch, counted from 1, and the trainer.
        on_epoch: Called with the epoch, counted from 1, and its mean loss, in the mode the model came in.
        valid: Data for early stopping, if `options.patience` is given. The model ends in the state with the lowest loss
            on it.
        progress: Called with the share of the training that is done: after every batch if their number is known, else
            after every epoch; at the end with 1.

    Raises:
        CompressionError: The loss became NaN or infinite. Model and record are restored.
        DataError: The data does not fit. Model and record are restored.
    """
    batches = Batches(data, options.batch_size)
    _check_trainable(model)
    materialize_buffers_(model)
    trainer = Trainer(model, options, latents or {}, learned_along)
    flags = training_flags(model)
    reporter = _ProgressReporter(progress, options.epochs, batches.n_batches)
    if not options.epochs:
        reporter.end()
        return
    warn_of_free_zeros(model)
    with (
        seeded(options.seed, *batches.generators),
        torch.enable_grad(),
        _consistent_at_end(trainer),
        progress_bar("train", reporter.n_steps, reporter.unit) as reporter.advance,
    ):
        loss_of, weight_of = batch_loss, batch_weight
        if loss_of is None:
            loss_of = (spec or LossSpec()).resolve(model, batches, options.seed)
            weight_of = loss_of.n_counted
        early_stopping = None
        if options.patience is not None:
            valid_batches = Batches(valid, options.batch_size)
            early_stopping = EarlyStopping(model, valid_batches, loss_of, options.patience, options.seed)
        for epoch in range(1, options.epochs + 1):
            trainer.scale_lr(options.share_of_lr(epoch))
            if before_epoch is not None:
                before_epoch(epoch, trainer)
            _train_mode_(model, flags)
            step_losses, loss = _run_epoch(trainer, batches, loss_of, weight_of, epoch, reporter)
            set_training_flags_(flags)
            trainer.update_record()
            trainer.log_epoch(step_losses, loss)
            if on_epoch is not None:
                on_epoch(epoch, loss)
            if early_stopping is not None:
                should_stop = early_stopping.should_stop()
                trainer.log_valid(early_stopping.loss)
                if should_stop:
                    break
        if early_stopping is not None:
            early_stopping.restore_()
            trainer.keep_log()
        # Other weights give other activations.
        attach_(model, with_activation_ranges(model, record_of(model), data, options.seed))
    refresh_masked_(model)
    reporter.end()


class _ProgressReporter:
    """Reports the share of the training that is done. It never falls."""

    def __init__(self, progress: Progress | None, n_epochs: int, n_batches: int | None) -> None:
        self._progress, self._n_epochs, self._n_batches = progress, n_epochs, n_batches
        self._last, self._n_done = 0.0, 0
        # Of the bar: batches if their number is known, else epochs.
        self.n_steps, self.unit = n_epochs * (n_batches or 1), "batch" if n_batches else "epoch"
        self.advance: Advance | None = None

    def batch(self, epoch: int, number: int) -> None:
        if self._n_batches:
            self._report((epoch - 1 + min(number / self._n_batches, 1.0)) / self._n_epochs)

    def epoch(self, epoch: int) -> None:
        self._report(epoch / self._n_epochs)

    def end(self) -> None:
        self._report(1.0)

    def _report(self, share: float) -> None:
        if share <= self._last:
            return
        self._last = share
        if self._progress is not None:
            self._progress(share)
        if self.advance is not None:
            n_done = round(share * self.n_steps)
            self.advance(n_done - self._n_done)
            self._n_done = n_done


def _run_epoch(
    trainer: Trainer,
    batches: Batches,
    loss_of: BatchLoss,
    weight_of: BatchWeight | None,
    epoch: int,
    reporter: _ProgressReporter,
) -> tuple[list[float], float]:
    """Train for one epoch and return the losses of its steps and their mean."""
    losses: list[float] = []
    # Of the only step, if it uses all of the data.
    total, total_weight = 0.0, 0.0
    trainer.clear()
    n_batches = 0
    for batch in batches.for_model(trainer.model):
        loss = loss_of(trainer.model, batch)
        if loss is None:
            continue
        value = float(loss.detach())
        if not isfinite(value):
            raise CompressionError(
                f"training diverged: the loss is {value} in epoch {epoch}; use a smaller {option('lr')}"
            )
        if trainer.is_full_batch:
            weight = float(batch.n_examples or 1) if weight_of is None else float(weight_of(batch))
            trainer.add(loss * weight)
            total, total_weight = total + weight * value, total_weight + weight
        else:
            trainer.step(loss)
            losses.append(value)
        n_batches += 1
        reporter.batch(epoch, n_batches)
    if not n_batches:
        raise DataError(NO_LABELS_LEFT)
    if trainer.is_full_batch:
        trainer.advance(total_weight)
        losses.append(total / total_weight)
    reporter.epoch(epoch)
    return losses, sum(losses, 0.0) / len(losses)


def _train_mode_(model: nn.Module, flags: TrainingFlags) -> None:
    """Put `model` into training mode, except for its frozen parts.

    These are: a part that was in evaluation mode while the model was in training mode, and running statistics that
    belong to parameters of which none is trained.
    """
    was_training = flags[model]
    frozen = [module for module, is_training in flags.items() if was_training and not is_training]
    model.train()
    for module in (*frozen, *_with_frozen_buffers(model)):
        module.training = False


def _with_frozen_buffers(model: nn.Module) -> list[nn.Module]:
    """Modules with buffers whose parameters are not trained; without any, those of the smallest module around count."""
    frozen: list[nn.Module] = []
    for path, module in model.named_modules():
        if not module._buffers:
            continue
        names = path.split(".") if path else []
        around = [".".join(names[:end]) for end in range(len(names), -1, -1)]
        nearest = next(filter(None, (list(model.get_submodule(name).parameters()) for name in around)), [])
        if nearest and not any(parameter.requires_grad for parameter in nearest):
            frozen.append(module)
    return frozen


@contextmanager
def _consistent_at_end(trainer: Trainer) -> Iterator[None]:
    """Leave a model behind that satisfies its constraints: after an error the one from before training."""
    model, record = trainer.model, record_of(trainer.model)
    tensors = _tensors(model)
    before = [tensor.detach().clone() for tensor in tensors]
    with training_flags_restored(model):
        try:
            yield
        except Exception:
            for tensor, values in zip(tensors, before, strict=True):
                fill_(tensor, values)
            attach_(model, record)
            raise
        except BaseException:
            # An interrupt, or the end of a trial, may have come between a step and the projection.
            trainer.project()
            trainer.update_record()
            raise
        finally:
            model.zero_grad(set_to_none=True)


def _check_trainable(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_inference():
            raise CompressionError(
                f"{name!r} was made under torch.inference_mode, so that it can never be trained: train "
                "copy.deepcopy(model), copied outside of that mode"
            )


def _tensors(model: nn.Module) -> list[Tensor]:
    """All parameters and buffers."""
    return [*model.parameters(), *model.buffers()]


def _total(values: Tensor) -> float:
    """The sum of all numbers; of complex ones, of both parts."""
    return float((torch.view_as_real(values) if values.is_complex() else values).sum())
