"""Distillation: a small student learns from a large teacher.

`DistillationLoss` compares the outputs of both models, and `FeatureMatch` compares what two of their layers return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbcompress.compressors.data import NO_TARGET, Batch, Batches
from nbcompress.compressors.layers import (
    Patterns,
    check_model,
    check_number,
    check_patterns,
    copied,
    is_chosen,
    unique_parameters,
)
from nbcompress.compressors.losses import LossFunction, LossSpec, OutputKind, ResolvedLoss, binary_cross_entropy
from nbcompress.compressors.modes import evaluating, outside_inference, requiring_grad, seeded
from nbcompress.compressors.outputs import (
    FinalOperation,
    OutputKey,
    final_operation_beside,
    prediction_of,
    predictions_of,
)
from nbcompress.compressors.training import TrainingOptions, train_
from nbcompress.errors import CompressionError, DataError, LayerNotFound, check_integer, did_you_mean, option

# ---------------------------------------------------------------------------------------------------------------------
# Features of layers


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


def matches_of(match: str | Iterable[str] | None, teacher: nn.Module, student: nn.Module) -> list[FeatureMatch]:
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


# ---------------------------------------------------------------------------------------------------------------------
# Outputs


@dataclass(frozen=True)
class _OutputPair:
    """One output of each model.

    Attributes:
        teacher_key: Index or key of the teacher's output.
        student_key: Index or key of the student's output.
        teacher_end: The operation that computes the teacher's output.
        student_end: The operation that computes the student's output.
        resolved: How the teacher's output is compared with the targets; None if they belong to another output, or if
            there are none.
    """

    teacher_key: OutputKey
    student_key: OutputKey
    teacher_end: FinalOperation
    student_end: FinalOperation
    resolved: ResolvedLoss | None

    def check(self) -> None:
        """Refuse a student of a teacher of labels that seems to return probabilities, but does not end in a sigmoid.

        Raises:
            DataError: The student is such a model.
        """
        kind = None if self.resolved is None else self.resolved.kind
        is_binary = self.teacher_end is FinalOperation.SIGMOID or kind in (OutputKind.LOGITS, OutputKind.PROBABILITIES)
        if is_binary and self.student_end not in (FinalOperation.SIGMOID, FinalOperation.UNBOUNDED):
            raise DataError(
                "the teacher gives probabilities of labels, and all outputs of the student lie in [0, 1], but it does "
                "not end in a sigmoid: let it end in one, or return logits"
            )


@dataclass(frozen=True)
class DistillationLoss:
    """How to compare what the student returns with what the teacher returns.

    Attributes:
        pairs: The outputs that are compared; none if `given` compares all that the models return.
        resolved: How the teacher is compared with the targets; None if that is not known.
        given: The user's own loss, if it replaces the soft one.
        has_targets: Whether the data has targets.
    """

    pairs: tuple[_OutputPair, ...]
    resolved: ResolvedLoss | None
    given: LossFunction | None
    has_targets: bool

    @classmethod
    def resolve(
        cls, teacher: nn.Module, student: nn.Module, batches: Batches, spec: LossSpec, seed: int
    ) -> DistillationLoss:
        """Decide by the first batch, on which both models run in evaluation mode.

        Models, data and random state come back as they were.

        Raises:
            DataError: Outputs do not match, or it is not clear how to compare them.
        """
        with seeded(seed, *batches.generators):
            batch = batches.first(student)
            with evaluating(student), torch.no_grad():
                results = batch(teacher), batch(student)
            has_targets = batch.target is not None
            if spec.loss is not None and not has_targets:
                return cls((), None, spec.loss, has_targets)
            of_teacher, of_student = _compared_outputs(*results, batch, spec)
            if not of_teacher or not of_student:
                if spec.loss is not None:
                    return cls((), None, spec.loss, has_targets)
                # Raises the error that says what is missing.
                prediction_of(results[0] if not of_teacher else results[1], None, batch.n_examples)
            main = _main_output(results[0], of_teacher, batch, spec)
            resolved = _resolve_teacher(teacher, batches, spec, seed) if has_targets and main is not None else None
            pairs = []
            for teacher_key, student_key in zip(of_teacher, of_student, strict=True):
                wanted, output = of_teacher[teacher_key], of_student[student_key]
                if wanted.shape != output.shape:
                    raise DataError(
                        f"teacher and student must give outputs of one shape, got {tuple(wanted.shape)} and "
                        f"{tuple(output.shape)}"
                    )
                teacher_end = _final_operation(teacher, batch, wanted, teacher_key)
                student_end = _final_operation(student, batch, output, student_key)
                beside = resolved if teacher_key == main else None
                if beside is None and len(of_teacher) == 1:
                    beside = _without_targets(wanted)
                pair = _OutputPair(teacher_key, student_key, teacher_end, student_end, beside)
                pair.check()
                pairs.append(pair)
        return cls(tuple(pairs), resolved, None, has_targets)

    def has_labels(self, batch: Batch) -> bool:
        """Whether any label of the batch counts, or targets do not matter."""
        return self.resolved is None or self.resolved.has_labels(batch)

    def loss(self, result: Any, wanted: Any, batch: Batch, temperature: float) -> Tensor:
        """Return the loss between what the student returned, `result`, and what the teacher returned, `wanted`."""
        if self.given is not None:
            return self.given(result, wanted)
        total: Tensor | None = None
        for pair in self.pairs:
            part = soft_loss(
                prediction_of(result, pair.student_key),
                prediction_of(wanted, pair.teacher_key),
                temperature,
                pair.resolved,
                batch.target if pair.resolved is self.resolved else None,
                student_end=pair.student_end,
                teacher_end=pair.teacher_end,
            )
            total = part if total is None else total + part
        if total is None:
            raise DataError("teacher and student have no output in common")
        return total


def _compared_outputs(
    of_teacher: Any, of_student: Any, batch: Batch, spec: LossSpec
) -> tuple[Mapping[OutputKey, Tensor], Mapping[OutputKey, Tensor]]:
    """The outputs of both models that are compared, in the same order."""
    wanted, outputs = predictions_of(of_teacher, batch.n_examples), predictions_of(of_student, batch.n_examples)
    if spec.output is not None:
        named = prediction_of(of_teacher, spec.output)
        if len(wanted) != len(outputs) or not any(output is named for output in wanted.values()):
            # One of the models returns no more than the prediction.
            return {spec.output: named}, {spec.output: prediction_of(of_student, spec.output)}
    if wanted.keys() == outputs.keys():
        return wanted, {key: outputs[key] for key in wanted}
    if len(wanted) != len(outputs) and wanted and outputs:
        raise DataError(
            f"teacher and student must return as many tensors, got {len(wanted)} and {len(outputs)}: pass "
            f"{option('output=')}, the index or key of the one to learn"
        )
    return wanted, outputs


def _main_output(result: Any, wanted: Mapping[OutputKey, Tensor], batch: Batch, spec: LossSpec) -> OutputKey | None:
    """The teacher's output that the targets belong to; None if it could be several."""
    if spec.output is not None:
        named = prediction_of(result, spec.output, batch.n_examples)
        return next((key for key, output in wanted.items() if output is named), None)
    return next(iter(wanted)) if len(wanted) == 1 else None


def _resolve_teacher(teacher: nn.Module, batches: Batches, spec: LossSpec, seed: int) -> ResolvedLoss | None:
    """How the teacher is compared with the targets; None if only the user's own loss knows their kind."""
    try:
        return LossSpec(None, spec.output).resolve(teacher, batches, seed)
    except DataError:
        if spec.loss is None:
            raise
        return None


def _without_targets(output: Tensor) -> ResolvedLoss | None:
    """Without targets, the only output of a teacher is scores of classes if it has several columns."""
    axis = 1 if output.ndim > 3 else -1
    return ResolvedLoss(OutputKind.CLASSES) if output.ndim > 1 and output.shape[axis] > 1 else None


def _final_operation(model: nn.Module, batch: Batch, output: Tensor, key: OutputKey) -> FinalOperation:
    return final_operation_beside(model, output, lambda model: prediction_of(batch(model), key))


def soft_loss(
    output: Tensor,
    wanted: Tensor,
    temperature: float,
    resolved: ResolvedLoss | None = None,
    target: Any = None,
    *,
    student_end: FinalOperation = FinalOperation.UNBOUNDED,
    teacher_end: FinalOperation = FinalOperation.UNBOUNDED,
) -> Tensor:
    """Return the loss between one output of the student and of the teacher, a tensor of shape `()`.

    Classes, also those of tokens: the Kullback-Leibler divergence of the class probabilities at a temperature, times
    the temperature squared, so that gradients keep their size; labels that do not count are skipped. A sigmoid or
    several labels: binary cross-entropy. Everything else: squared error.

    Args:
        output: The student's output.
        wanted: The teacher's output, of the same shape.
        temperature: Above 0.
        resolved: How the teacher's output is compared with the targets; None if that is not known.
        target: The targets of the batch, or None.
        student_end: The operation that computes `output`.
        teacher_end: The operation that computes `wanted`.
    """
    kind = None if resolved is None else resolved.kind
    if teacher_end is FinalOperation.SIGMOID or kind in (OutputKind.LOGITS, OutputKind.PROBABILITIES):
        is_probability = teacher_end is FinalOperation.SIGMOID or kind is OutputKind.PROBABILITIES
        labels = wanted.float() if is_probability else torch.sigmoid(wanted.float())
        student_kind = OutputKind.PROBABILITIES if student_end is FinalOperation.SIGMOID else OutputKind.LOGITS
        return binary_cross_entropy(output.reshape(-1), labels.reshape(-1), student_kind)
    if kind is OutputKind.CLASSES or teacher_end is FinalOperation.SOFTMAX:
        student, teacher = _as_scores(output, student_end), _as_scores(wanted, teacher_end)
        if kind is OutputKind.CLASSES and resolved is not None and target is not None:
            student, labels = resolved.scores(student, target)
            teacher, _ = resolved.scores(teacher, target)
            counts = labels != resolved.ignored
            student, teacher = student[counts], teacher[counts]
        else:
            student, teacher = _class_rows(student), _class_rows(teacher)
        student_log = functional.log_softmax(student / temperature, dim=1)
        teacher_log = functional.log_softmax(teacher / temperature, dim=1)
        return temperature**2 * functional.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
    return functional.mse_loss(output.float(), wanted.float())


def _as_scores(output: Tensor, last: FinalOperation) -> Tensor:
    """Scores of classes: the logarithm of an output that ends in a softmax."""
    wide = output.float()
    return wide.clamp(min=torch.finfo(torch.float32).tiny).log() if last is FinalOperation.SOFTMAX else wide


def _class_rows(scores: Tensor) -> Tensor:
    """Scores as `(examples, classes)` without labels: the classes are the channels of an image, else the last axis."""
    moved = scores.movedim(1, -1) if scores.ndim > 3 else scores
    return moved.reshape(-1, moved.shape[-1])


# ---------------------------------------------------------------------------------------------------------------------
# The compressor


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
    output: OutputKey | None = None,
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
    output: OutputKey | None = None,
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
    output: OutputKey | None = None,
) -> nn.Module | Distillation:
    """Return a copy of `student` that is trained to return what `teacher` returns.

    The loss is `alpha * soft + (1 - alpha) * hard`. The hard part compares with the targets, as in `finetune`. The soft
    part compares with the teacher: for classes, also those of tokens, `T^2 * KL(teacher / T, student / T)`; for a
    sigmoid, one logit or several labels, binary cross-entropy with the teacher's probabilities; for other numbers,
    squared error. If there are several outputs, their losses are added. With `match`, `alpha` times the distance of
    features is added.

    Args:
        teacher: The large model. It stays as it is, and runs in evaluation mode without gradients.
        student: The small model. It stays as it is; constraints in its record are kept in training.
        data: A `DataLoader`, a data set, or a pair of tensors (inputs, targets). With `alpha=1` targets are not needed;
            then a single output of several columns that does not end in a sigmoid is taken for scores of classes.
        epochs: Passes over the data.
        temperature: T, above 0. A larger T shows more of the probabilities that the teacher gives to wrong classes.
        alpha: Weight of the teacher, 0 to 1.
        lr: Step size of Adam.
        batch_size: Examples in a batch, for data that is not in batches yet.
        seed: Seed of the order of the data and of the models' own randomness. Equal seeds give equal students.
        control: Train a second copy without the teacher, for comparison.
        match: Features to learn: `TEACHER_LAYER:STUDENT_LAYER` by dotted module names, or several such pairs. The loss
            is the mean squared error between what the two layers return, relative to the teacher's mean square. If they
            differ in one dimension, such as the number of channels, a linear map of the student's features is learned
            along.
        layers: A shell pattern on dotted module names, or several: only parameters in these layers of the student are
            trained. None trains all.
        finetune: Epochs of training on the targets alone afterwards, also of the control.
        loss: As in `finetune`, for the hard part. If there are no targets, or if outputs are no tensors that the soft
            part knows, it compares what the student returns with what the teacher returns.
        output: Index or key of the prediction, where a model returns several tensors.

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

    References:
        Hinton, Vinyals and Dean (2015), "Distilling the Knowledge in a Neural Network", section 2.
        Romero et al. (2015), "FitNets: Hints for Thin Deep Nets", equation 3 (features).
    """
    check_number("temperature", temperature, 0, float("inf"), is_open_low=True)
    check_number("alpha", alpha, 0, 1)
    options = TrainingOptions(epochs, lr, batch_size=batch_size, seed=seed)
    options_alone = replace(options, epochs=check_integer("finetune", finetune, 0, error=CompressionError))
    check_model(teacher)
    check_model(student)
    trained = copied(student)
    _check_layers(trained, layers)
    matches = matches_of(match, teacher, trained)
    spec = LossSpec(loss, output)
    batches = Batches(data, batch_size)
    with evaluating(teacher), ExitStack() as hooks:
        for pair in matches:
            hooks.enter_context(pair.watching())
        soft = DistillationLoss.resolve(teacher, trained, batches, spec, seed)
        if not soft.has_targets and (alpha < 1 or control or finetune):
            raise DataError(NO_TARGET)
        hard = spec.resolve(trained, batches, seed) if alpha < 1 else None
        for pair in matches:
            pair.prepare(seed)

        def batch_loss(model: nn.Module, batch: Batch) -> Tensor | None:
            if not soft.has_labels(batch):
                return None
            with torch.no_grad():
                wanted = batch(teacher)
            result = batch(model) if hard is None else hard.run(model, batch)
            total = alpha * sum((pair.loss() for pair in matches), soft.loss(result, wanted, batch, temperature))
            return total if hard is None else total + (1 - alpha) * hard.loss(result, batch)

        learned = [parameter for pair in matches for parameter in pair.parameters]
        with _only_these_train(trained, layers):
            train_(trained, data, options, batch_loss=batch_loss, learned_along=learned)
            train_(trained, data, options_alone, spec=spec)
    if not control:
        return trained
    alone = copied(student)
    with _only_these_train(alone, layers):
        train_(alone, data, options, spec=spec)
        train_(alone, data, options_alone, spec=spec)
    return Distillation(trained, alone)


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


__all__ = ["Distillation", "DistillationLoss", "FeatureMatch", "distill", "matches_of", "soft_loss"]
