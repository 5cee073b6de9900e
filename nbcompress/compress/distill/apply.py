"""A small model learns from a large one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal, overload

import torch
from torch import Tensor, nn

from nbcompress.compress.data import NO_TARGET, Batch, Batches
from nbcompress.compress.distill.matching import matches_of
from nbcompress.compress.distill.teaching import Teaching
from nbcompress.compress.layers import (
    Patterns,
    check_model,
    check_patterns,
    copied,
    is_chosen,
    unique_parameters,
)
from nbcompress.compress.losses import LossFunction, LossSpec
from nbcompress.compress.modes import outside_inference
from nbcompress.compress.observing import evaluating
from nbcompress.compress.options import check_count, check_number
from nbcompress.compress.outputs import Output
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
    loss: LossFunction | None = None,
    output: Output | None = None,
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
    loss: LossFunction | None = None,
    output: Output | None = None,
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
    loss: LossFunction | None = None,
    output: Output | None = None,
) -> nn.Module | Distillation:
    """Return a copy of `student`, trained to say what `teacher` says.

    The loss is `alpha * soft + (1 - alpha) * hard`. The hard part is the loss on the targets, as in `finetune`. The
    soft part follows the teacher: for classes, also those of tokens, `T^2 * KL(teacher / T, student / T)`; for a
    sigmoid, one logit or several labels, binary cross-entropy with the teacher's probabilities; for other numbers,
    squared error. Of several outputs each has its own, and they add up. With `match`, `alpha` times the distance of
    features is added.

    Args:
        teacher: Stays as it is; runs in evaluation mode without gradients.
        student: Stays as it is. What its record promises is kept in training.
        data: A `DataLoader`, a data set, or a pair of tensors (inputs, targets); with `alpha=1` also without targets,
            where a single output of several columns that does not end in a sigmoid is taken for scores of classes.
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
        loss: As in `finetune`, for the hard part; where there are no targets, or outputs are no tensors that the soft
            part knows, it compares what the student returns with what the teacher does.
        output: Index or key of the prediction, where a model returns several tensors.

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
    spec = LossSpec(loss, output)
    batches = Batches(data, batch_size)
    with evaluating(teacher), ExitStack() as hooks:
        for one in matches:
            hooks.enter_context(one.listening())
        teaching = Teaching.of(teacher, trained, batches, spec, seed)
        if not teaching.has_targets and (alpha < 1 or control or finetune):
            raise DataError(NO_TARGET)
        own = spec.reading(trained, batches, seed) if alpha < 1 else None
        for one in matches:
            one.prepare(seed)

        def batch_loss(model: nn.Module, batch: Batch) -> Tensor | None:
            if not teaching.counts(batch):
                return None
            with torch.no_grad():
                told = batch(teacher)
            result = batch(model) if own is None else own.run(model, batch)
            taught = alpha * sum((one.loss() for one in matches), teaching.loss(result, told, batch, temperature))
            return taught if own is None else taught + (1 - alpha) * own.loss(result, batch)

        learned = [parameter for one in matches for parameter in one.parameters]
        with _only_these_train(trained, layers):
            train_(trained, data, plan, batch_loss=batch_loss, learned_along=learned)
            train_(trained, data, alone_after, spec=spec)
    if not control:
        return trained
    alone = copied(student)
    with _only_these_train(alone, layers):
        train_(alone, data, plan, spec=spec)
        train_(alone, data, alone_after, spec=spec)
    return Distillation(trained, alone)


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


__all__ = ["Distillation", "distill"]
