"""The loss of distillation: what the student returns, compared with what its teachers return.

`DistillationLoss` compares the outputs of a teacher and the student. `TeacherLoss` is the mean over the teachers, or
compares with the classes that they predict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbcompress.compressors.data import Batch, Batches
from nbcompress.compressors.losses import (
    LossFunction,
    LossSpec,
    OutputKind,
    ResolvedLoss,
    binary_cross_entropy,
    call_loss,
)
from nbcompress.compressors.modes import evaluating, seeded
from nbcompress.compressors.outputs import (
    FinalOperation,
    OutputKey,
    final_operation_beside,
    prediction_of,
    predictions_of,
)
from nbcompress.errors import DataError, option


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

    @property
    def kind(self) -> OutputKind:
        """What the teacher's output is: classes, labels (as logits or probabilities) or numbers."""
        if self.teacher_end is FinalOperation.SIGMOID:
            return OutputKind.PROBABILITIES
        if self.teacher_end is FinalOperation.SOFTMAX:
            return OutputKind.CLASSES
        return OutputKind.NUMBERS if self.resolved is None else self.resolved.kind

    def probabilities(self, wanted: Tensor) -> Tensor:
        """Probabilities of classes or labels, of the shape of the teacher's output."""
        if self.kind is OutputKind.CLASSES:
            return _as_scores(wanted, self.teacher_end).softmax(dim=_class_axis(wanted))
        return wanted.float() if self.kind is OutputKind.PROBABILITIES else torch.sigmoid(wanted.float())

    def predicted(self, probabilities: Tensor) -> Tensor:
        """The predicted class of each example or position, or each label as 0 or 1."""
        if self.kind is OutputKind.CLASSES:
            return probabilities.argmax(dim=_class_axis(probabilities))
        return (probabilities > 0.5).float()

    def hard_loss(self, output: Tensor, probabilities: Tensor, target: Any) -> Tensor:
        """Cross-entropy of the student's output with what is predicted, where labels count or where there are none."""
        if self.kind is OutputKind.CLASSES:
            scores = _as_scores(output, self.student_end)
            student, teacher = _class_pairs(scores, probabilities, self.resolved, target)
            return functional.cross_entropy(student, teacher.argmax(dim=1))
        student_kind = OutputKind.PROBABILITIES if self.student_end is FinalOperation.SIGMOID else OutputKind.LOGITS
        return binary_cross_entropy(output.reshape(-1), self.predicted(probabilities).reshape(-1), student_kind)


@dataclass(frozen=True)
class DistillationLoss:
    """How to compare what the student returns with what the teacher returns.

    Attributes:
        pairs: The outputs that are compared; none if `given` compares all that the models return.
        resolved: How the teacher is compared with the targets; None if that is not known.
        given: The user's own loss, if it replaces the one by kind.
        output: Index or key of the output that `given` gets; None for all that the models return.
        has_targets: Whether the data has targets.
    """

    pairs: tuple[_OutputPair, ...]
    resolved: ResolvedLoss | None
    given: LossFunction | None
    output: OutputKey | None
    has_targets: bool

    @classmethod
    def resolve(
        cls,
        teacher: nn.Module,
        student: nn.Module,
        batches: Batches,
        spec: LossSpec,
        seed: int,
        *,
        is_alone: bool = False,
        is_hard: bool = False,
    ) -> DistillationLoss:
        """Decide by the first batch, on which both models run in evaluation mode.

        Models, data and random state come back as they were.

        Args:
            teacher: The teacher.
            student: The student.
            batches: The data.
            spec: The user's loss and output.
            seed: Seed of the order of the data and of the models' own randomness.
            is_alone: Targets do not count, so that a loss of the user's own compares with the teacher.
            is_hard: What the teacher predicts is needed, also with a loss of the user's own.

        Raises:
            DataError: Outputs do not match, or it is not clear how to compare them.
        """
        with seeded(seed, *batches.generators):
            batch = batches.first(student)
            with evaluating(student), torch.no_grad():
                results = batch(teacher), batch(student)
            has_targets = batch.target is not None
            replaces = spec.loss is not None and (is_alone or not has_targets)
            if replaces and not is_hard:
                return cls((), None, spec.loss, spec.output, has_targets)
            of_teacher, of_student = _compared_outputs(*results, batch, spec)
            if not of_teacher or not of_student:
                if spec.loss is not None and not is_hard:
                    return cls((), None, spec.loss, spec.output, has_targets)
                # Raises the error that says what is missing.
                prediction_of(results[0] if not of_teacher else results[1], None, batch.n_examples)
            main = _main_output(results[0], of_teacher, batch, spec)
            # Targets of sequences, such as labels and their lengths, do not say what the output is.
            are_read = has_targets and main is not None and (isinstance(batch.target, Tensor) or not is_alone)
            resolved = _resolve_teacher(teacher, batches, spec, seed) if are_read else None
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
        return cls(tuple(pairs), resolved, spec.loss if replaces else None, spec.output, has_targets)

    def has_labels(self, batch: Batch) -> bool:
        """Whether any label of the batch counts, or targets do not matter."""
        return self.resolved is None or self.resolved.has_labels(batch)

    def loss(self, result: Any, wanted: Any, batch: Batch, temperature: float) -> Tensor:
        """Return the loss between what the student returned, `result`, and what the teacher returned, `wanted`."""
        if self.given is not None:
            if self.output is not None:
                result, wanted = prediction_of(result, self.output), prediction_of(wanted, self.output)
            return call_loss(self.given, result, wanted, batch)
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


@dataclass(frozen=True)
class TeacherLoss:
    """The loss of the student beside all teachers.

    With soft targets it is the mean of the losses beside each teacher. For classes, labels and numbers alike its
    gradient is that of the loss beside the mean of what the teachers return (of the softened probabilities). With hard
    targets the student is compared with the class that the mean of their probabilities predicts.

    Attributes:
        parts: The loss beside each teacher.
        temperature: Of soft targets.
        is_hard: Whether targets are hard.
    """

    parts: tuple[DistillationLoss, ...]
    temperature: float
    is_hard: bool

    def __post_init__(self) -> None:
        if self.is_hard:
            for pair in self.parts[0].pairs:
                if pair.kind is OutputKind.NUMBERS:
                    raise DataError(
                        f"{option('targets', 'hard')} learns predicted classes, but the teacher returns numbers: use "
                        f"{option('targets', 'soft')}"
                    )

    def loss(self, result: Any, wanted: Sequence[Any], batch: Batch) -> Tensor:
        """Return the loss of what the student returned, given what each teacher returned."""
        if self.is_hard:
            return self._hard(result, wanted, batch)
        losses = [
            part.loss(result, item, batch, self.temperature) for part, item in zip(self.parts, wanted, strict=True)
        ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def _hard(self, result: Any, wanted: Sequence[Any], batch: Batch) -> Tensor:
        first, losses = self.parts[0], []
        for index, pair in enumerate(first.pairs):
            pairs = [part.pairs[index] for part in self.parts]
            given = [
                item.probabilities(prediction_of(of, item.teacher_key)) for item, of in zip(pairs, wanted, strict=True)
            ]
            probabilities = given[0] if len(given) == 1 else torch.stack(given).mean(dim=0)
            output = prediction_of(result, pair.student_key)
            if first.given is None:
                target = batch.target if pair.resolved is first.resolved else None
                losses.append(pair.hard_loss(output, probabilities, target))
            else:
                losses.append(call_loss(first.given, output, pair.predicted(probabilities), batch))
        return sum(losses[1:], losses[0])


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
    is_classes = output.ndim > 1 and output.shape[_class_axis(output)] > 1
    return ResolvedLoss(OutputKind.CLASSES) if is_classes else None


def _class_axis(scores: Tensor) -> int:
    """The axis of the classes in an output without labels: the channels of an image, else the last one."""
    return 1 if scores.ndim > 3 else -1


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
        student, teacher = _class_pairs(
            _as_scores(output, student_end), _as_scores(wanted, teacher_end), resolved, target
        )
        student_log = functional.log_softmax(student / temperature, dim=1)
        teacher_log = functional.log_softmax(teacher / temperature, dim=1)
        return temperature**2 * functional.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
    return functional.mse_loss(output.float(), wanted.float())


def _class_pairs(student: Tensor, teacher: Tensor, resolved: ResolvedLoss | None, target: Any) -> tuple[Tensor, Tensor]:
    """Scores of both models as `(examples, classes)`, where labels count or where there are none."""
    if resolved is None or resolved.kind is not OutputKind.CLASSES or target is None:
        return _class_rows(student), _class_rows(teacher)
    student, labels = resolved.scores(student, target)
    teacher, _ = resolved.scores(teacher, target)
    counts = labels != resolved.ignored
    return student[counts], teacher[counts]


def _as_scores(output: Tensor, last: FinalOperation) -> Tensor:
    """Scores of classes: the logarithm of an output that ends in a softmax."""
    wide = output.float()
    return wide.clamp(min=torch.finfo(torch.float32).tiny).log() if last is FinalOperation.SOFTMAX else wide


def _class_rows(scores: Tensor) -> Tensor:
    """Scores as `(examples, classes)` without labels."""
    moved = scores.movedim(_class_axis(scores), -1)
    return moved.reshape(-1, moved.shape[-1])


__all__ = ["DistillationLoss", "TeacherLoss", "soft_loss"]
