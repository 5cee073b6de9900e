"""A small model learns from a large one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbcompress.compress.data import Batch, Batches, output_of
from nbcompress.compress.distill.matching import matches_of
from nbcompress.compress.layers import (
    Patterns,
    check_model,
    check_patterns,
    copied,
    is_chosen,
    unique_parameters,
)
from nbcompress.compress.losses import IGNORED, class_scores, default_loss
from nbcompress.compress.modes import outside_inference
from nbcompress.compress.observing import evaluating
from nbcompress.compress.options import check_count, check_number
from nbcompress.compress.seeding import seeded
from nbcompress.compress.training import Plan, train_
from nbcompress.errors import DataError, LayerNotFound, did_you_mean


@dataclass(frozen=True)
class Distillation:
    """A student with its control.

    Attributes:
        student: Trained with the teacher.
        control: The same student, trained on the same budget from the same start without the teacher.
    """

    student: nn.Module
    control: nn.Module


@overload
def distill(
    teacher: nn.Module,
    student: nn.Module,
    data: object,
    epochs: int = 10,
    temperature: float = 4.0,
    alpha: float = 0.9,
    lr: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    control: Literal[False] = False,
    match: str | Iterable[str] | None = None,
    layers: Patterns = None,
    finetune: int = 0,
) -> nn.Module: ...


@overload
def distill(
    teacher: nn.Module,
    student: nn.Module,
    data: object,
    epochs: int = 10,
    temperature: float = 4.0,
    alpha: float = 0.9,
    lr: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    *,
    control: Literal[True],
    match: str | Iterable[str] | None = None,
    layers: Patterns = None,
    finetune: int = 0,
) -> Distillation: ...


@outside_inference
def distill(
    teacher: nn.Module,
    student: nn.Module,
    data: object,
    epochs: int = 10,
    temperature: float = 4.0,
    alpha: float = 0.9,
    lr: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    control: bool = False,
    match: str | Iterable[str] | None = None,
    layers: Patterns = None,
    finetune: int = 0,
) -> nn.Module | Distillation:
    """Return a copy of `student`, trained to say what `teacher` says.

    The loss is `alpha * T^2 * KL(teacher / T, student / T) + (1 - alpha) * cross-entropy`; for float targets both
    parts are mean squared errors. With `match`, `alpha` times the distance of features is added.

    Args:
        teacher: Stays as it is; runs in evaluation mode without gradients.
        student: Stays as it is. What its record promises is kept in training.
        data: A `DataLoader`, a data set, or a pair of tensors (inputs, targets).
        epochs: Passes over the data.
        temperature: T, above 0; larger ones show more of what the teacher thinks of wrong classes.
        alpha: Weight of the teacher, 0 to 1.
        lr: Step size of Adam.
        batch_size: Of data that is not in batches yet.
        seed: Equal seeds give equal students.
        control: Train a second copy without the teacher, for comparison.
        match: Features to learn, `TEACHER_LAYER:STUDENT_LAYER` by dotted module names, or several such pairs: the mean
            squared error of what the two layers give, relative to the teacher's mean square. Where they differ in one
            dimension, such as the number of channels, a linear map from the student's features is learned along.
        layers: Shell patterns on dotted module names: only parameters in these layers of the student are trained, the
            others stay as they are. All are without it.
        finetune: Epochs of training on the labels alone afterwards; the control gets them too.

    Returns:
        The trained copy, or a `Distillation` of both copies if `control`.

    Raises:
        CompressionError: An option makes no sense, or the loss stops being finite.
        LayerNotFound: `match` or `layers` names a layer that there is not.
        DataError: The data does not fit, or teacher and student give outputs or features of different shapes.

    References:
        Hinton, Vinyals and Dean (2015), "Distilling the Knowledge in a Neural Network", section 2.
        Romero et al. (2015), "FitNets: Hints for Thin Deep Nets", equation 3.
    """
    check_number("temperature", temperature, 0, float("inf"), is_open_low=True)
    check_number("alpha", alpha, 0, 1)
    plan = Plan(epochs, lr, batch_size=batch_size, seed=seed)
    alone_after = replace(plan, epochs=check_count("finetune", finetune, 0))
    check_model(teacher)
    check_model(student)
    trained = copied(student)
    _check_layers(trained, layers)
    matches = matches_of(match, teacher, trained)
    with evaluating(teacher), ExitStack() as hooks:
        for one in matches:
            hooks.enter_context(one.listening())
        _check_fit(teacher, trained, Batches(data, batch_size), seed)
        for one in matches:
            one.prepare(seed)

        def batch_loss(model: nn.Module, batch: Batch) -> Tensor:
            with torch.no_grad():
                told = output_of(batch(teacher))
            result = batch(model)
            own = default_loss(result, batch.target)
            taught = soft_loss(output_of(result), told, batch.target, temperature)
            return alpha * sum((one.loss() for one in matches), taught) + (1 - alpha) * own

        learned = [parameter for one in matches for parameter in one.parameters]
        with _only_these_train(trained, layers):
            train_(trained, data, plan, batch_loss=batch_loss, learned_along=learned)
            train_(trained, data, alone_after)
    if not control:
        return trained
    alone = copied(student)
    with _only_these_train(alone, layers):
        train_(alone, data, plan)
        train_(alone, data, alone_after)
    return Distillation(trained, alone)


def soft_loss(output: Tensor, told: Tensor, target: Tensor, temperature: float) -> Tensor:
    """How far `output` is from what the teacher `told`: shapes alike, one number.

    Integer targets: Kullback-Leibler divergence of the softened classes, times the square of the temperature, so
    that its gradient keeps its size; labels of -100 are skipped. Float targets: mean squared error.
    """
    if target.is_floating_point():
        return functional.mse_loss(output.float(), told.float())
    scores, labels = class_scores(output, target)
    taught, _ = class_scores(told, target)
    counts = labels != IGNORED
    if not bool(counts.all()):
        scores, taught = scores[counts], taught[counts]
    soft = functional.log_softmax(scores.float() / temperature, dim=1)
    hard = functional.log_softmax(taught.float() / temperature, dim=1)
    return temperature**2 * functional.kl_div(soft, hard, reduction="batchmean", log_target=True)


def _check_layers(student: nn.Module, layers: Patterns) -> None:
    """Every pattern must match a parameter of the student."""
    for pattern in check_patterns(layers) or []:
        names = [name for name, _ in student.named_parameters(remove_duplicate=False)]
        if not any(is_chosen(name, [pattern]) for name in names):
            modules = [name for name, _ in student.named_modules() if name]
            hint = did_you_mean(pattern, [*modules, *names])
            raise LayerNotFound(f"layers={pattern!r} matches no layer of the student with parameters.{hint}")


@contextmanager
def _only_these_train(student: nn.Module, layers: Patterns) -> Iterator[None]:
    """Freeze every parameter outside `layers`, and let it be trainable again afterwards."""
    patterns = check_patterns(layers)
    frozen = [
        parameter
        for names, parameter in unique_parameters(student)
        if parameter.requires_grad and not any(is_chosen(name, patterns) for name in names)
    ]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _check_fit(teacher: nn.Module, student: nn.Module, batches: Batches, seed: int) -> None:
    """Run both once, without a trace, before any training."""
    with evaluating(student), seeded(seed, *batches.generators), torch.no_grad():
        batch = batches.first(student)
        told, said = output_of(batch(teacher)), output_of(batch(student))
        if told.shape != said.shape:
            raise DataError(
                f"teacher and student must give outputs of one shape, got {tuple(told.shape)} and {tuple(said.shape)}"
            )
        default_loss(said, batch.target)


__all__ = ["Distillation", "distill", "soft_loss"]
