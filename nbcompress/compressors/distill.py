"""A small model learns from a large one.

A student's layer learns to hold what a teacher's layer holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbcompress.compressors.data import Batch, Batches, output_of
from nbcompress.compressors.layers import (
    Patterns,
    check_count,
    check_model,
    check_number,
    check_patterns,
    copied,
    is_chosen,
    unique_parameters,
)
from nbcompress.compressors.losses import IGNORED, class_scores, default_loss
from nbcompress.compressors.observing import evaluating, seeded
from nbcompress.compressors.training import Plan, train_
from nbcompress.errors import CompressionError, DataError, LayerNotFound, did_you_mean, option


class Match:
    """One layer of the teacher beside one of the student.

    Args:
        text: `TEACHER_LAYER:STUDENT_LAYER`, dotted module names.
        teacher: Has the one.
        student: Has the other; the copy that is trained.

    Raises:
        CompressionError: The text is not of this form.
        LayerNotFound: There is no such layer.
    """

    def __init__(self, text: object, teacher: nn.Module, student: nn.Module) -> None:
        names = text.split(":") if isinstance(text, str) else []
        if len(names) != 2 or not all(names):
            raise CompressionError(
                f"{option('match')} must be TEACHER_LAYER:STUDENT_LAYER, such as 'layer3:layer2', got {text!r}"
            )
        self.text = text
        self._modules = (_layer(teacher, names[0], "teacher", text), _layer(student, names[1], "student", text))
        self._seen: list[Tensor | None] = [None, None]
        self._projection: nn.Linear | None = None
        self._axis = -1

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learned beside the student."""
        return [] if self._projection is None else list(self._projection.parameters())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note what both layers give, each time that they run."""

        def hook_for(side: int) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                self._seen[side] = output_of(output)

            return hook

        handles = [module.register_forward_hook(hook_for(side)) for side, module in enumerate(self._modules)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._seen = [None, None]

    def prepare(self, seed: int) -> None:
        """After both models ran once: check shapes, and make a projection where the widths differ.

        Raises:
            DataError: A layer was not called, or shapes differ in more than one dimension.
        """
        told, said = self._features()
        differing = [k for k in range(1, told.ndim) if told.ndim == said.ndim and told.shape[k] != said.shape[k]]
        if told.ndim != said.ndim or told.shape[0] != said.shape[0] or len(differing) > 1:
            raise DataError(
                f"{option('match', self.text)} needs features that differ in width alone, got {tuple(told.shape)} of "
                f"the teacher and {tuple(said.shape)} of the student"
            )
        if differing:
            self._axis = differing[0]
            with seeded(seed):
                self._projection = nn.Linear(said.shape[self._axis], told.shape[self._axis], device=said.device)

    def loss(self) -> Tensor:
        """Squared distance of the features of the last batch, relative to the size of the teacher's."""
        told, said = (feature.float() for feature in self._features())
        if self._projection is not None:
            said = self._projection(said.movedim(self._axis, -1)).movedim(-1, self._axis)
        size = told.square().mean().clamp(min=torch.finfo(torch.float32).tiny)
        return (said - told).square().mean() / size

    def _features(self) -> tuple[Tensor, Tensor]:
        told, said = self._seen
        if told is None or said is None:
            who = "teacher" if told is None else "student"
            raise DataError(
                f"{option('match', self.text)} needs layers that run, but the {who} does not call its layer"
            )
        return told.detach(), said


def matches_of(match: str | Iterable[str] | None, teacher: nn.Module, student: nn.Module) -> list[Match]:
    """The pairs that `match` names: none, one, or several."""
    if match is None:
        return []
    texts = [match] if isinstance(match, str) or not isinstance(match, Iterable) else list(match)
    return [Match(text, teacher, student) for text in texts]


def _layer(model: nn.Module, name: str, who: str, text: object) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules:
        hint = did_you_mean(name, [module for module in modules if module])
        raise LayerNotFound(f"{option('match', text)}: the {who} has no layer {name!r}.{hint}")
    return modules[name]


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
            return alpha * sum((match.loss() for match in matches), taught) + (1 - alpha) * own

        learned = [parameter for match in matches for parameter in match.parameters]
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
            raise LayerNotFound(f"{option('layers', pattern)} matches no layer of the student with parameters.{hint}")


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
