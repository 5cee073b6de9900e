"""Which outputs of a student learn from which of its teacher, and how each is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nbcompress.compress.data import Batch, Batches
from nbcompress.compress.ending import Ending
from nbcompress.compress.losses import Kind, LossFunction, LossSpec, Reading, ending_beside, soft_loss
from nbcompress.compress.observing import evaluating
from nbcompress.compress.outputs import Output, prediction_of, predictions_of, rows_of
from nbcompress.compress.seeding import seeded
from nbcompress.errors import DataError


@dataclass(frozen=True)
class _Pair:
    """One output of each model.

    Attributes:
        told: Index or key of the teacher's.
        said: Index or key of the student's.
        teacher: How the teacher's ends.
        student: How the student's ends.
        reading: How the teacher's is read beside the targets, None if they are about another output or missing.
    """

    told: Output
    said: Output
    teacher: Ending
    student: Ending
    reading: Reading | None


@dataclass(frozen=True)
class Teaching:
    """How a student's results are compared with its teacher's.

    Attributes:
        pairs: Outputs that are compared; none if `given` compares all that the models return.
        reading: How the teacher is read beside the targets, None where that is not known.
        given: The user's own loss, where it takes the place of the soft one.
        has_targets: Whether the data has targets.
    """

    pairs: tuple[_Pair, ...]
    reading: Reading | None
    given: LossFunction | None
    has_targets: bool

    @classmethod
    def of(cls, teacher: nn.Module, student: nn.Module, batches: Batches, spec: LossSpec, seed: int) -> Teaching:
        """Decide by the first batch, on which both models run in evaluation mode, without a trace.

        Raises:
            DataError: Outputs do not go together, or how to compare them is not clear.
        """
        with seeded(seed, *batches.generators):
            batch = batches.first(student)
            with evaluating(student), torch.no_grad():
                results = batch(teacher), batch(student)
            has_targets = batch.target is not None
            if spec.loss is not None and not has_targets:
                return cls((), None, spec.loss, has_targets)
            told, said = _outputs(*results, batch, spec)
            if not told or not said:
                if spec.loss is not None:
                    return cls((), None, spec.loss, has_targets)
                prediction_of(results[0] if not told else results[1], None, rows_of(batch))
            main = _main(results[0], told, batch, spec)
            reading = _reading(teacher, batches, spec, seed) if has_targets and main is not None else None
            pairs = []
            for (told_key, aim), (said_key, value) in zip(told.items(), said.items(), strict=True):
                if aim.shape != value.shape:
                    raise DataError(
                        f"teacher and student must give outputs of one shape, got {tuple(aim.shape)} and "
                        f"{tuple(value.shape)}"
                    )
                endings = _ending(teacher, batch, aim, told_key), _ending(student, batch, value, said_key)
                own = reading if told_key == main else None
                if own is None and len(told) == 1:
                    own = _without_targets(aim)
                pair = _Pair(told_key, said_key, *endings, own)
                _check(pair)
                pairs.append(pair)
        return cls(tuple(pairs), reading, None, has_targets)

    def counts(self, batch: Batch) -> bool:
        """Whether any target of the batch does, or targets do not matter."""
        return self.reading is None or self.reading.counts(batch)

    def loss(self, result: Any, told: Any, batch: Batch, temperature: float) -> Tensor:
        """How far what the student returned is from what the teacher did."""
        if self.given is not None:
            return self.given(result, told)
        total: Tensor | None = None
        for one in self.pairs:
            target = batch.target if one.reading is self.reading else None
            part = soft_loss(
                prediction_of(result, one.said),
                prediction_of(told, one.told),
                temperature,
                one.reading,
                target,
                student=one.student,
                teacher=one.teacher,
            )
            total = part if total is None else total + part
        if total is None:
            raise DataError("teacher and student have no output in common")
        return total


def _outputs(
    told: Any, said: Any, batch: Batch, spec: LossSpec
) -> tuple[Mapping[Output, Tensor], Mapping[Output, Tensor]]:
    """The tensors that are compared, in the same order."""
    found = predictions_of(told, rows_of(batch)), predictions_of(said, rows_of(batch))
    if spec.output is not None:
        named = prediction_of(told, spec.output)
        if len(found[0]) != len(found[1]) or not any(one is named for one in found[0].values()):
            # One of the models returns no more than the prediction.
            return {spec.output: named}, {spec.output: prediction_of(said, spec.output)}
    if found[0].keys() == found[1].keys():
        return found[0], {key: found[1][key] for key in found[0]}
    if len(found[0]) != len(found[1]) and found[0] and found[1]:
        raise DataError(
            f"teacher and student must return as many tensors, got {len(found[0])} and {len(found[1])}: pass output=, "
            "the index or key of the one to learn"
        )
    return found


def _main(result: Any, told: Mapping[Output, Tensor], batch: Batch, spec: LossSpec) -> Output | None:
    """The teacher's output that the targets are about; None where several could be it."""
    if spec.output is not None:
        named = prediction_of(result, spec.output, rows_of(batch))
        return next((key for key, one in told.items() if one is named), None)
    return next(iter(told)) if len(told) == 1 else None


def _reading(teacher: nn.Module, batches: Batches, spec: LossSpec, seed: int) -> Reading | None:
    """How the teacher is read; with a loss of the user's own, targets may be of a kind that only it knows."""
    try:
        return LossSpec(None, spec.output).reading(teacher, batches, seed)
    except DataError:
        if spec.loss is None:
            raise
        return None


def _without_targets(told: Tensor) -> Reading | None:
    """The only output of a teacher beside no targets: scores of classes, if it has several columns."""
    axis = 1 if told.ndim > 3 else -1
    return Reading(Kind.CLASSES) if told.ndim > 1 and told.shape[axis] > 1 else None


def _ending(model: nn.Module, batch: Batch, value: Tensor, key: Output) -> Ending:
    return ending_beside(model, value, lambda one: prediction_of(batch(one), key))


def _check(pair: _Pair) -> None:
    """Refuse a student that seems to give probabilities beside a teacher of labels, and is not known to."""
    kind = None if pair.reading is None else pair.reading.kind
    is_binary = pair.teacher is Ending.SIGMOID or kind in (Kind.LOGITS, Kind.PROBABILITIES)
    if is_binary and pair.student not in (Ending.SIGMOID, Ending.OPEN):
        raise DataError(
            "the teacher gives probabilities of labels, and all outputs of the student lie in [0, 1], but it does not "
            "end in a sigmoid: let it end in one, or return logits"
        )


__all__ = ["Teaching"]
