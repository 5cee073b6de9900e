"""Distillation: a small student learns from a large teacher, or from several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from nbcompress.compressors.data import NO_TARGET, Batch, Batches
from nbcompress.compressors.layers import (
    Patterns,
    check_choice,
    check_model,
    check_number,
    check_patterns,
    copied,
    is_chosen,
    unique_parameters,
)
from nbcompress.compressors.losses import LossFunction, LossSpec
from nbcompress.compressors.modes import evaluating, outside_inference, requiring_grad, seeded, with_progress
from nbcompress.compressors.optimizers import OptimizerChoice, OptimizerSpec
from nbcompress.compressors.outputs import OutputKey
from nbcompress.compressors.soft_targets import DistillationLoss, TeacherLoss
from nbcompress.compressors.training import TrainingOptions, train_
from nbcompress.errors import CompressionError, DataError, LayerNotFound, check_integer, did_you_mean, option


@dataclass(frozen=True)
class Distillation:
    """A student and its control.

    Attributes:
        student: The copy that was trained with the teacher.
        control: A copy with the same start that was trained for as many epochs without the teacher.
    """

    student: nn.Module
    control: nn.Module


@overload
def distill(
    teacher: nn.Module | Sequence[nn.Module],
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
    output: OutputKey | None = None,
    *,
    targets: Literal["soft", "hard"] = "soft",
    through: nn.Module | Iterable[nn.Module] = (),
    optimizer: OptimizerChoice = "adam",
    momentum: float | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    weight_decay: float = 0.0,
    progress: bool = True,
) -> nn.Module: ...


@overload
def distill(
    teacher: nn.Module | Sequence[nn.Module],
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
    output: OutputKey | None = None,
    targets: Literal["soft", "hard"] = "soft",
    through: nn.Module | Iterable[nn.Module] = (),
    optimizer: OptimizerChoice = "adam",
    momentum: float | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    weight_decay: float = 0.0,
    progress: bool = True,
) -> Distillation: ...


@outside_inference
def distill(
    teacher: nn.Module | Sequence[nn.Module],
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
    output: OutputKey | None = None,
    *,
    targets: Literal["soft", "hard"] = "soft",
    through: nn.Module | Iterable[nn.Module] = (),
    optimizer: OptimizerChoice = "adam",
    momentum: float | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    weight_decay: float = 0.0,
    progress: bool = True,
) -> nn.Module | Distillation:
    """Return a copy of `student` that is trained to return what `teacher` returns.

    The loss is `alpha * soft + (1 - alpha) * hard`. The hard part compares with the targets, as in `finetune`. The soft
    part compares with the teacher: for classes, also those of tokens, `T^2 * KL(teacher / T, student / T)`; for a
    sigmoid, one logit or several labels, binary cross-entropy with the teacher's probabilities; for other numbers,
    squared error. If there are several outputs, their losses are added. With `match`, `alpha` times the distance of
    features is added.

    Args:
        teacher: The large model, or a list of several: the student learns the mean of what they say. They stay as they
            are, and run in evaluation mode without gradients.
        student: The small model. It stays as it is; constraints in its record are kept in training.
        data: A `DataLoader`, a data set, or a pair of tensors (inputs, targets). Targets are not needed with `alpha=1`
            or `targets="hard"`; then a single output of several columns that does not end in a sigmoid is taken for
            scores of classes.
        epochs: Passes over the data, for the student and for each assistant.
        temperature: T, above 0. A larger T shows more of the probabilities that the teacher gives to wrong classes.
        alpha: Weight of the teacher, 0 to 1. With `targets="hard"` and data without targets it is 1.
        lr: Step size.
        batch_size: Examples in a batch, for data that is not in batches yet.
        seed: Seed of the order of the data and of the models' own randomness. Equal seeds give equal students.
        control: Train a second copy without the teacher, for comparison.
        match: Features to learn: `TEACHER_LAYER:STUDENT_LAYER` by dotted module names, or several such pairs. The loss
            is the mean squared error between what the two layers return, relative to the teacher's mean square. If they
            differ in one dimension, such as the number of channels, a linear map of the student's features is learned
            along. With `through`, the layers are those of the last assistant and of the student.
        layers: A shell pattern on dotted module names, or several: only parameters in these layers of the student are
            trained. None trains all.
        finetune: Epochs of training on the targets alone afterwards, also of the control.
        loss: As in `finetune`, for the hard part. If targets do not count (`alpha=1`, or there are none), or if outputs
            are no tensors that the soft part knows, it compares what the student returns with what the teacher returns;
            with `targets="hard"`, with the predicted class.
        output: Index or key of the prediction, where a model returns several tensors.
        targets: `soft` learns the teacher's probabilities. `hard` learns its predicted class (or labels of 0 and 1) by
            cross-entropy in place of the soft part; where the data has no targets, nothing else counts.
        through: An assistant of a size between teacher and student, or several. A copy of each is trained on the model
            before it: the teacher teaches the first assistant, and the last assistant teaches the student.
        optimizer, momentum, betas, eps, weight_decay: The optimizer of all training and its options; see `finetune`.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        The trained copy; with `control`, a `Distillation` that holds both copies.

    Raises:
        CompressionError: An option makes no sense, or the loss becomes NaN or infinite.
        LayerNotFound: `match` or `layers` names a layer that does not exist.
        DataError: The data does not fit, or teacher and student return outputs or features of different shapes.

    Example:
        >>> import torch, nbcompress as nc
        >>> teacher, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3, bias=False)
        >>> inputs, labels = torch.randn(32, 4), torch.randint(0, 3, (32,))
        >>> trained = nc.distill(teacher, student, (inputs, labels), epochs=2)
        >>> trained is student
        False
        >>> trained = nc.distill(teacher, student, inputs, epochs=2, targets="hard")

    References:
        Hinton, Vinyals and Dean (2015), "Distilling the Knowledge in a Neural Network", section 2.
        Romero et al. (2015), "FitNets: Hints for Thin Deep Nets", equation 3 (features).
        Mirzadeh et al. (2020), "Improved Knowledge Distillation via Teacher Assistant" (`through`).
    """
    check_number("temperature", temperature, 0, float("inf"), is_open_low=True)
    check_number("alpha", alpha, 0, 1)
    check_choice("targets", targets, ("soft", "hard"))
    spec = OptimizerSpec(optimizer, momentum, betas, eps, weight_decay)
    options = TrainingOptions(epochs, lr, spec, batch_size, seed)
    options_alone = replace(options, epochs=check_integer("finetune", finetune, 0, error=CompressionError))
    teachers, assistants = _models("teacher", teacher), _models("through", through)
    if not teachers:
        raise CompressionError("there must be a teacher, got an empty list")
    check_model(student)
    _check_layers(student, layers)
    if _matches_of(match, (assistants or teachers)[-1], student) and len(teachers) > 1 and not assistants:
        raise CompressionError(
            f"{option('match=')} compares layers of one teacher, got {len(teachers)} teachers: leave it out"
        )
    step = _Step(data, LossSpec(loss, output), options, temperature, alpha, targets == "hard")
    needs_targets = control or options_alone.epochs > 0
    with with_progress(progress):
        for assistant in assistants:
            learned = copied(assistant)
            step.run_(teachers, learned, None, None, needs_targets=needs_targets)
            teachers = [learned]
        trained = copied(student)
        step.run_(teachers, trained, match, layers, needs_targets=needs_targets)
        with _only_these_train(trained, layers):
            train_(trained, data, options_alone, spec=step.spec)
        if not control:
            return trained
        alone = copied(student)
        with _only_these_train(alone, layers):
            train_(alone, data, options, spec=step.spec)
            train_(alone, data, options_alone, spec=step.spec)
    return Distillation(trained, alone)


@dataclass(frozen=True)
class _Step:
    """How one model is trained on its teachers.

    Attributes:
        data: See `distill`.
        spec: The user's loss and output.
        options: How to train.
        temperature: See `distill`.
        alpha: See `distill`.
        is_hard: Whether targets are hard.
    """

    data: object
    spec: LossSpec
    options: TrainingOptions
    temperature: float
    alpha: float
    is_hard: bool

    def run_(
        self,
        teachers: Sequence[nn.Module],
        student: nn.Module,
        match: str | Iterable[str] | None,
        layers: Patterns,
        *,
        needs_targets: bool,
    ) -> None:
        """Train `student` in place."""
        matches, batches = _matches_of(match, teachers[0], student), Batches(self.data, self.options.batch_size)
        seed = self.options.seed
        with ExitStack() as stack:
            for teacher in teachers:
                stack.enter_context(evaluating(teacher))
            for pair in matches:
                stack.enter_context(pair.watching())
            parts = tuple(self._beside(teacher, student, batches) for teacher in teachers)
            loss = TeacherLoss(parts, self.temperature, self.is_hard)
            has_targets = parts[0].has_targets
            # Predicted classes stand for missing targets.
            alpha = 1.0 if self.is_hard and not has_targets else self.alpha
            if not has_targets and (alpha < 1 or needs_targets):
                hint = (
                    f"; without any, {option('alpha', 1)} or {option('targets', 'hard')} learns from the teacher alone"
                )
                raise DataError(NO_TARGET + (hint if alpha < 1 else ""))
            hard = self.spec.resolve(student, batches, seed) if alpha < 1 else None
            for pair in matches:
                pair.prepare(seed)

            def batch_loss(model: nn.Module, batch: Batch) -> Tensor | None:
                if not parts[0].has_labels(batch):
                    return None
                with torch.no_grad():
                    wanted = [batch(teacher) for teacher in teachers]
                result = batch(model) if hard is None else hard.run(model, batch)
                total = alpha * sum((pair.loss() for pair in matches), loss.loss(result, wanted, batch))
                return total if hard is None else total + (1 - alpha) * hard.loss(result, batch)

            weigh = None if parts[0].resolved is None else parts[0].resolved.n_counted
            learned = [parameter for pair in matches for parameter in pair.parameters]
            with _only_these_train(student, layers):
                train_(
                    student,
                    self.data,
                    self.options,
                    batch_loss=batch_loss,
                    batch_weight=weigh,
                    learned_along=learned,
                )

    def _beside(self, teacher: nn.Module, student: nn.Module, batches: Batches) -> DistillationLoss:
        is_alone = self.alpha == 1
        return DistillationLoss.resolve(
            teacher, student, batches, self.spec, self.options.seed, is_alone=is_alone, is_hard=self.is_hard
        )


def _models(name: str, given: object) -> list[nn.Module]:
    """Return one model, or several in a list, as a list of checked models."""
    models = [given] if isinstance(given, nn.Module) else list(given) if isinstance(given, (list, tuple)) else None
    if models is None:
        raise CompressionError(
            f"{option(name)} must be a torch.nn.Module or a list of them, got {type(given).__name__}"
        )
    return [check_model(model) for model in models]


def _check_layers(student: nn.Module, layers: Patterns) -> None:
    """Refuse a pattern that matches no parameter of the student."""
    for pattern in check_patterns(layers) or []:
        names = [name for name, _ in student.named_parameters(remove_duplicate=False)]
        if not any(is_chosen(name, [pattern]) for name in names):
            modules = [name for name, _ in student.named_modules() if name]
            hint = did_you_mean(pattern, [*modules, *names])
            raise LayerNotFound(f"{option('layers', pattern)} matches no layer of the student with parameters.{hint}")


@contextmanager
def _only_these_train(student: nn.Module, layers: Patterns) -> Iterator[None]:
    """Freeze every parameter outside `layers`, and make it trainable again at the end."""
    patterns = check_patterns(layers)
    frozen = [
        parameter
        for names, parameter in unique_parameters(student)
        if parameter.requires_grad and not any(is_chosen(name, patterns) for name in names)
    ]
    with requiring_grad(frozen, False):
        yield


# ---- Features of layers ----


class FeatureMatch:
    """Compares what one layer of the teacher and one of the student return.

    Args:
        text: `TEACHER_LAYER:STUDENT_LAYER`, dotted module names.
        teacher: The model with the first layer.
        student: The copy that is trained, with the second layer.

    Raises:
        CompressionError: The text has another form.
        LayerNotFound: There is no such layer.
    """

    def __init__(self, text: object, teacher: nn.Module, student: nn.Module) -> None:
        names = text.split(":") if isinstance(text, str) else []
        if len(names) != 2 or not all(names):
            raise CompressionError(
                f"{option('match')} must be TEACHER_LAYER:STUDENT_LAYER, such as 'layer3:layer2', got {text!r}"
            )
        self.text = text
        self._layers = (_layer(teacher, names[0], "teacher", text), _layer(student, names[1], "student", text))
        self._seen: list[Tensor | None] = [None, None]
        self._projection: nn.Linear | None = None
        self._axis = -1

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters outside the student that are learned along with it."""
        return [] if self._projection is None else list(self._projection.parameters())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep what both layers return each time that they run."""

        def hook_for(side: int) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                self._seen[side] = self._features_in(output)

            return hook

        handles = [layer.register_forward_hook(hook_for(side)) for side, layer in enumerate(self._layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._seen = [None, None]

    def prepare(self, seed: int) -> None:
        """Check the shapes after both models ran once, and make a projection if the widths differ.

        Raises:
            DataError: A layer was not called, or shapes differ in more than one dimension.
        """
        teacher, student = self._features()
        differing = [
            k for k in range(1, teacher.ndim) if teacher.ndim == student.ndim and teacher.shape[k] != student.shape[k]
        ]
        if teacher.ndim != student.ndim or teacher.shape[0] != student.shape[0] or len(differing) > 1:
            raise DataError(
                f"{option('match', self.text)} needs features that differ in width alone, got {tuple(teacher.shape)} "
                f"of the teacher and {tuple(student.shape)} of the student"
            )
        if differing:
            self._axis = differing[0]
            with seeded(seed):
                widths = student.shape[self._axis], teacher.shape[self._axis]
                self._projection = nn.Linear(*widths, device=student.device, dtype=torch.float32)

    def loss(self) -> Tensor:
        """Return the squared distance of the features of the last batch, relative to the size of the teacher's."""
        teacher, student = (features.float() for features in self._features())
        if self._projection is not None:
            student = self._projection(student.movedim(self._axis, -1)).movedim(-1, self._axis)
        size = teacher.square().mean().clamp(min=torch.finfo(torch.float32).tiny)
        return (student - teacher).square().mean() / size

    def _features_in(self, output: Any) -> Tensor:
        """The output of a layer if it is a tensor; else the first of a tuple, as of recurrent layers and attention."""
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(first, Tensor):
            raise DataError(
                f"{option('match', self.text)} needs layers that give a tensor, or a tuple that starts with one, "
                f"got {type(output).__name__}"
            )
        return first

    def _features(self) -> tuple[Tensor, Tensor]:
        """Features of the teacher and of the student."""
        teacher, student = self._seen
        if teacher is None or student is None:
            who = "teacher" if teacher is None else "student"
            raise DataError(
                f"{option('match', self.text)} needs layers that run, but the {who} does not call its layer"
            )
        return teacher.detach(), student


def _matches_of(match: str | Iterable[str] | None, teacher: nn.Module, student: nn.Module) -> list[FeatureMatch]:
    """Return the pairs of layers that the option `match` names: none, one, or several."""
    if match is None:
        return []
    texts = [match] if isinstance(match, str) or not isinstance(match, Iterable) else list(match)
    return [FeatureMatch(text, teacher, student) for text in texts]


def _layer(model: nn.Module, name: str, who: str, text: object) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules:
        hint = did_you_mean(name, [module for module in modules if module])
        raise LayerNotFound(f"{option('match', text)}: the {who} has no layer {name!r}.{hint}")
    return modules[name]


__all__ = ["Distillation", "FeatureMatch", "distill"]
