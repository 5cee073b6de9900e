"""The training loop under fine-tuning, retraining after pruning, and distillation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import cos, isfinite, pi

import torch
from torch import Tensor, nn

from nbcompress.compress.buffers import own_buffers_
from nbcompress.compress.calibration import with_ranges
from nbcompress.compress.data import Batches
from nbcompress.compress.early import BestSoFar
from nbcompress.compress.held import Free, Latent, Shared, hold
from nbcompress.compress.layers import fill_, unique_parameters
from nbcompress.compress.losses import NOTHING_COUNTS, BatchLoss, LossSpec
from nbcompress.compress.modes import numbers_on_cpu
from nbcompress.compress.options import check_choice, check_count, check_number, check_seed
from nbcompress.compress.record import TensorRecord, attach_, record_of
from nbcompress.compress.rest import rest_tensors, round_tensors_
from nbcompress.compress.seeding import seeded
from nbcompress.errors import CompressionError, DataError

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        epochs: Passes over the data, from 0.
        lr: Step size.
        optimizer: `adam`, `adamw`, or `sgd` (with momentum).
        batch_size: Of data that is not in batches yet.
        seed: Of the order of the data and of the model's own randomness.
        momentum: Of `sgd`; None stands for 0.9.
        weight_decay: Share of a weight that decay removes per unit of step size.
        schedule: `constant`, or `cosine`: the step size falls from `lr` towards zero, epoch by epoch.
        patience: With validation data, epochs without a lower loss on it after which training stops.
    """

    epochs: int
    lr: float = 1e-3
    optimizer: str = "adam"
    batch_size: int = 64
    seed: int = 0
    momentum: float | None = None
    weight_decay: float = 0.0
    schedule: str = "constant"
    patience: int | None = None

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs, 0)
        check_number("lr", self.lr, 0, float("inf"), is_open_low=True)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_count("batch_size", self.batch_size, 1)
        check_seed(self.seed)
        check_number("weight_decay", self.weight_decay, 0, float("inf"))
        check_choice("schedule", self.schedule, SCHEDULES)
        if self.patience is not None:
            check_count("patience", self.patience, 1)
        if self.momentum is not None:
            check_number("momentum", self.momentum, 0, 1)
            if self.optimizer != "sgd":
                raise CompressionError(f"momentum belongs to optimizer='sgd', got momentum with {self.optimizer!r}")

    def lr_of(self, epoch: int) -> float:
        """The step size in an epoch, counted from 1."""
        if self.schedule == "constant":
            return self.lr
        # Loshchilov and Hutter (2017), "SGDR", equation 5, without restarts and down to zero.
        return self.lr * 0.5 * (1 + cos(pi * (epoch - 1) / self.epochs))

    def make_optimizer(self, leaves: list[nn.Parameter]) -> torch.optim.Optimizer:
        # Fused, a step is one pass over the leaves in place of a dozen; torch has it for real numbers on these devices.
        fused = all(one.is_floating_point() and one.device.type in ("cpu", "cuda") for one in leaves) or None
        if self.optimizer == "adam":
            return torch.optim.Adam(leaves, lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        if self.optimizer == "adamw":
            return torch.optim.AdamW(leaves, lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        momentum = 0.9 if self.momentum is None else self.momentum
        return torch.optim.SGD(leaves, lr=self.lr, momentum=momentum, weight_decay=self.weight_decay, fused=fused)


class Trainer:
    """A model in training, with all its promises.

    Args:
        model: Changed in place.
        plan: How to train.
        latents: Where the leaves of rounded parameters begin, by name.
        learned_along: Parameters outside the model that the loss depends on.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        latents: Mapping[str, Tensor],
        learned_along: Sequence[nn.Parameter] = (),
    ) -> None:
        self.model = model
        self._learned_along = list(learned_along)
        record = record_of(model)
        self._is_half = record.rest == "float16"
        self._held: dict[str, Free | Latent | Shared] = {}
        for names, parameter in unique_parameters(model):
            if not parameter.requires_grad:
                continue
            promise = next((record.tensors[name] for name in names if name in record.tensors), TensorRecord())
            self._held[names[0]] = hold(
                parameter, promise, is_half=self._is_half, is_mean=plan.optimizer == "sgd", start=latents.get(names[0])
            )
        if not self._held:
            raise CompressionError("nothing can be trained: no parameter of the model requires a gradient")
        self._optimizer = plan.make_optimizer([*(one.leaf for one in self._held.values()), *self._learned_along])

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`, back to values that keep the promises."""
        self.model.zero_grad(set_to_none=True)
        for parameter in self._learned_along:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        for one in self._held.values():
            one.take_gradient()
        with numbers_on_cpu():
            self._optimizer.step()
        # A sum is NaN or infinite if one of its numbers is.
        if not isfinite(sum(_total(one.leaf.detach()) for one in self._held.values())):
            raise CompressionError("training diverged: a weight became NaN or infinite; use a smaller lr")
        self.put()

    def set_lr(self, lr: float) -> None:
        """From now on, step by `lr`."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    def put(self) -> None:
        """Give the model the promised values of all leaves."""
        for one in self._held.values():
            one.put()

    def become(self, name: str, promise: TensorRecord) -> None:
        """From now on `promise` is kept for parameter `name` as it is now, as after pruning between epochs."""
        held = self._held.get(name)
        if isinstance(held, Latent):
            held.become(promise)
        elif held is not None:
            raise CompressionError(f"the promise of {name!r} cannot change in training")

    def publish(self) -> None:
        """Bring the model's record up to date, and its stored buffers to half precision."""
        record = record_of(self.model)
        tensors = dict(record.tensors)
        for name, one in self._held.items():
            promise = one.promise()
            if promise is not None:
                key = next((other for other in _names(self.model, one.parameter) if other in tensors), name)
                tensors[key] = promise
        record = replace(record, tensors=tensors)
        attach_(self.model, record)
        if self._is_half:
            buffers = [one for one in rest_tensors(self.model, record) if not isinstance(one[1], nn.Parameter)]
            round_tensors_(buffers)


BeforeEpoch = Callable[[int, Trainer], None]
OnEpoch = Callable[[int, float], object]
Progress = Callable[[float], object]


def train_(
    model: nn.Module,
    data: object,
    plan: Plan,
    *,
    spec: LossSpec | None = None,
    batch_loss: BatchLoss | None = None,
    latents: Mapping[str, Tensor] | None = None,
    learned_along: Sequence[nn.Parameter] = (),
    before_epoch: BeforeEpoch | None = None,
    on_epoch: OnEpoch | None = None,
    valid: object = None,
    progress: Progress | None = None,
) -> None:
    """Train `model` in place, keeping what its record promises.

    Args:
        model: Comes back in the mode it came in, without gradients. What is frozen (see `_Mode.train_`) stays so.
        data: See `Batches`.
        plan: How to train.
        spec: What the user says of the loss.
        batch_loss: Instead of `spec`: from the model and a batch to the loss, None where no target counts.
        latents: Values before rounding, by parameter name, at which training starts.
        learned_along: Parameters outside the model that the loss depends on.
        before_epoch: Called with the epoch, counted from 1, and the trainer.
        on_epoch: Called with the epoch, counted from 1, and its mean loss, in the mode the model came in.
        valid: Data for the plan's patience; the model ends in the state with the lowest loss on it.
        progress: Called with the share of the training that is done, after every batch if their number is known, else
            after every epoch; at the end with 1.

    Raises:
        CompressionError: The loss stopped being finite. Model and record are what they were before.
        DataError: The data does not fit. Model and record are what they were before.
    """
    batches = Batches(data, plan.batch_size)
    _check_trainable(model)
    own_buffers_(model)
    trainer = Trainer(model, plan, latents or {}, learned_along)
    mode = _Mode(model)
    told = _Told(progress, plan.epochs, batches.n_batches)
    if not plan.epochs:
        told.end()
        return
    with seeded(plan.seed, *batches.generators), torch.enable_grad(), _settled(trainer, mode):
        loss_of = batch_loss or (spec or LossSpec()).reading(model, batches, plan.seed)
        best = None
        if plan.patience is not None:
            best = BestSoFar(model, Batches(valid, plan.batch_size), loss_of, plan.patience, plan.seed)
        for epoch in range(1, plan.epochs + 1):
            trainer.set_lr(plan.lr_of(epoch))
            if before_epoch is not None:
                before_epoch(epoch, trainer)
            mode.train_()
            loss = _run_epoch(trainer, batches, loss_of, epoch, told)
            mode.restore()
            trainer.publish()
            if on_epoch is not None:
                on_epoch(epoch, loss)
            if best is not None and best.is_enough():
                break
        if best is not None:
            best.restore_()
        # Other weights, other activations.
        attach_(model, with_ranges(model, record_of(model), data, plan.seed))
    told.end()


class _Told:
    """Tells how much of the training is done."""

    def __init__(self, progress: Progress | None, n_epochs: int, n_batches: int | None) -> None:
        self._progress, self._n_epochs, self._n_batches = progress, n_epochs, n_batches
        self._last = 0.0

    def batch(self, epoch: int, number: int) -> None:
        if self._n_batches:
            self._tell((epoch - 1 + min(number / self._n_batches, 1.0)) / self._n_epochs)

    def epoch(self, epoch: int) -> None:
        self._tell(epoch / self._n_epochs)

    def end(self) -> None:
        self._tell(1.0)

    def _tell(self, done: float) -> None:
        if self._progress is not None and done > self._last:
            self._last = done
            self._progress(done)


def _run_epoch(trainer: Trainer, batches: Batches, loss_of: BatchLoss, epoch: int, told: _Told) -> float:
    total, n_batches = 0.0, 0
    for batch in batches.for_model(trainer.model):
        loss = loss_of(trainer.model, batch)
        if loss is None:
            continue
        value = float(loss.detach())
        if not isfinite(value):
            raise CompressionError(f"training diverged: the loss is {value} in epoch {epoch}; use a smaller lr")
        trainer.step(loss)
        total, n_batches = total + value, n_batches + 1
        told.batch(epoch, n_batches)
    if not n_batches:
        raise DataError(NOTHING_COUNTS)
    told.epoch(epoch)
    return total / n_batches


class _Mode:
    """The training flag of every module."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._flags = [(module, module.training) for module in model.modules()]

    def train_(self) -> None:
        """Training mode, but for what is frozen: a part in evaluation mode of a model in training mode, and running
        statistics that belong to parameters of which none is trained."""
        was_training = self._model.training
        self._model.train()
        for module, is_training in self._flags:
            if was_training and not is_training:
                module.training = False
        for module in _with_frozen_buffers(self._model):
            module.training = False

    def restore(self) -> None:
        for module, is_training in self._flags:
            module.training = is_training


def _with_frozen_buffers(model: nn.Module) -> list[nn.Module]:
    """Modules with buffers whose parameters, or else those of the smallest module around, are not trained."""
    frozen: list[nn.Module] = []
    for path, module in model.named_modules():
        if not module._buffers:
            continue
        names = path.split(".") if path else []
        around = [".".join(names[:end]) for end in range(len(names), -1, -1)]
        held = next(filter(None, (list(model.get_submodule(one).parameters()) for one in around)), [])
        if held and not any(parameter.requires_grad for parameter in held):
            frozen.append(module)
    return frozen


@contextmanager
def _settled(trainer: Trainer, mode: _Mode) -> Iterator[None]:
    """Leave a model behind that keeps its promises: after an error the one from before, else the one trained so far."""
    model, record = trainer.model, record_of(trainer.model)
    held = [one for _, one in (*model.named_parameters(), *model.named_buffers())]
    before = [one.detach().clone() for one in held]
    try:
        yield
    except Exception:
        for one, values in zip(held, before, strict=True):
            fill_(one, values)
        attach_(model, record)
        raise
    except BaseException:
        # An interrupt, or the end of a trial: it may have come between a step of the leaves and the model.
        trainer.put()
        trainer.publish()
        raise
    finally:
        mode.restore()
        model.zero_grad(set_to_none=True)


def _check_trainable(model: nn.Module) -> None:
    for name, one in (*model.named_parameters(), *model.named_buffers()):
        if one.is_inference():
            raise CompressionError(
                f"{name!r} was made under torch.inference_mode, so that it can never be trained: train "
                "copy.deepcopy(model), copied outside of that mode"
            )


def _total(values: Tensor) -> float:
    """The sum of all numbers, of complex ones both parts."""
    return float((torch.view_as_real(values) if values.is_complex() else values).sum())


def _names(model: nn.Module, parameter: nn.Parameter) -> tuple[str, ...]:
    return next(names for names, one in unique_parameters(model) if one is parameter)


__all__ = ["OPTIMIZERS", "SCHEDULES", "BeforeEpoch", "OnEpoch", "Plan", "Progress", "Trainer", "train_"]
