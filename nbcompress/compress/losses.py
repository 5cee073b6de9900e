"""How are outputs and targets read? The one place that decides on a loss and a score where nobody says which.

What decides, in this order: a loss that was given; the model's own, where it computes one from labels; for targets of
0 and 1 that have the shape of the outputs, binary cross-entropy; for integer targets, cross-entropy, one token ahead
where the targets of a causal model are its inputs; for other numbers, squared error. What is unclear is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from inspect import Parameter, signature
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbcompress.compress.data import NO_TARGET, Batch, Batches
from nbcompress.compress.ending import Ending, ending_of
from nbcompress.compress.observing import evaluating
from nbcompress.compress.outputs import Output, own_loss_of, prediction_of, rows_of
from nbcompress.compress.seeding import seeded
from nbcompress.errors import CompressionError, DataError

LossFunction = Callable[[Any, Any], Tensor]
# None where no target of the batch counts.
BatchLoss = Callable[[nn.Module, Batch], Tensor | None]

# What torch's cross-entropy skips.
IGNORED = -100

NOTHING_COUNTS = f"training needs at least one label, but all labels are {IGNORED}, which stands for none"

# Arguments under which models take labels to compute their own loss; `y` is an input as often.
_LABEL_ARGUMENTS = ("labels", "targets", "target", "label")
# So many examples are looked at until one tells several labels from one class.
_MOST_EXAMPLES = 1024


class Kind(Enum):
    """What outputs say of targets."""

    CLASSES = "classes"
    # Logits of one or several labels, and probabilities of them.
    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    NUMBERS = "numbers"


@dataclass(frozen=True)
class Reading:
    """How the outputs of one model are read beside the targets of some data.

    Attributes:
        kind: What outputs say of targets.
        output: Which output is the prediction; the only one if None.
        given: The user's own loss.
        is_own: Whether the model computes its loss itself.
        is_ahead: Whether the scores at one position are of the target at the next.
        is_language: Whether the targets are tokens of the vocabulary that the model reads.
        ignored: The label that does not count.
        unclear: Why there is no loss, although there is a score; empty if there is one.
    """

    kind: Kind
    output: Output | None = None
    given: LossFunction | None = None
    is_own: bool = False
    is_ahead: bool = False
    is_language: bool = False
    ignored: int = IGNORED
    unclear: str = ""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Run `model` and return the loss, or None where no target of the batch counts."""
        return self.loss(self.run(model, batch), batch) if self.counts(batch) else None

    def counts(self, batch: Batch) -> bool:
        """Whether any target of the batch does."""
        target = batch.target
        if self.given is not None and _ignored_by(self.given) is None:
            return True
        if not isinstance(target, Tensor) or target.is_floating_point() or not target.numel():
            return True
        counted = target[:, 1:] if self.is_ahead else target
        return bool((counted != self.ignored).any())

    def run(self, model: nn.Module, batch: Batch) -> Any:
        """What the model returns; one that computes its loss itself gets the labels."""
        return _with_labels(model, batch)(model) if self.is_own else batch(model)

    def loss(self, result: Any, batch: Batch) -> Tensor:
        """The loss of what the model returned, one number.

        Raises:
            DataError: The targets do not fit, or what they mean is not clear.
            CompressionError: The user's loss gave something else.
        """
        if self.given is not None:
            said = result if self.output is None else prediction_of(result, self.output)
            return _one_number(self.given(said, batch.target))
        if self.unclear:
            raise DataError(self.unclear)
        if self.is_own:
            own = own_loss_of(result)
            if own is None:
                raise DataError(
                    "the model gave no loss of its own for this batch, though it did for the first: pass loss="
                )
            return own
        output, target = self.prediction(result, batch), _checked(batch.target)
        if self.kind is Kind.NUMBERS:
            return functional.mse_loss(output.float(), _fitted(target, output).float())
        if self.kind is Kind.CLASSES:
            scores, labels = self.scores(output, target)
            return functional.cross_entropy(scores.float(), labels, ignore_index=self.ignored)
        said, labels = self.pairs(output, target)
        return _binary(said, labels, self.kind)

    def prediction(self, result: Any, batch: Batch) -> Tensor:
        """The output that is the prediction."""
        return prediction_of(result, self.output, rows_of(batch))

    def scores(self, output: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """Scores of classes as `(examples, classes)` beside labels as `(examples,)`, also those that do not count."""
        target = _checked(target)
        if self.is_ahead:
            output = output if output.shape[:2] == target.shape else output.movedim(1, -1)
            output, target = output[:, :-1], target[:, 1:]
        return class_scores(output, target, self.ignored)

    def pairs(self, output: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """What is said of each label that counts beside the label, both of shape `(labels,)`."""
        target = _fitted(_checked(target), output).reshape(-1)
        counts = torch.ones_like(target, dtype=torch.bool) if target.is_floating_point() else target != self.ignored
        said, labels = output.reshape(-1)[counts], target[counts].float()
        low, high = _ends(labels)
        # A probability may be trained to be any; a label of a logit is one or none.
        is_fit = low >= 0 and high <= 1 if self.kind is Kind.PROBABILITIES else bool(_is_binary(labels).all())
        if not is_fit:
            raise DataError(
                f"targets were 0 and 1 in the first batch, but now they run from {low:g} to {high:g}: pass loss=, "
                "such as loss=torch.nn.functional.mse_loss"
            )
        return said, labels


@dataclass(frozen=True)
class LossSpec:
    """What the user says of the loss.

    Attributes:
        loss: From what the model returns, or the output that is named, and the target to a scalar; None: see above.
        output: Index or key of the output that is the prediction; None if the model returns one.
    """

    loss: LossFunction | None = None
    output: Output | None = None

    def __post_init__(self) -> None:
        if self.loss is not None and not callable(self.loss):
            raise CompressionError(
                "loss must be a function of what the model returns and the target to a scalar, "
                f"got {type(self.loss).__name__}"
            )
        if isinstance(self.output, bool) or not isinstance(self.output, (int, str, type(None))):
            raise CompressionError(
                f"output must be the index or the key of one of the model's outputs, got {self.output!r}"
            )

    def reading(self, model: nn.Module, data: object, seed: int = 0) -> Reading:
        """Decide on the loss, by the first batch of `data` and by what the model says of it in evaluation mode.

        Model, data and randomness are left as they were. With a loss of the user's own there is nothing to decide.

        Raises:
            DataError: The data has no targets, or what they mean is not clear.
        """
        if self.loss is not None:
            return Reading(Kind.NUMBERS, self.output, self.loss)
        return self._decided(model, data, seed, IGNORED)

    def score_reading(self, model: nn.Module, data: object, seed: int = 0) -> Reading:
        """As `reading`, for a score: a loss that does not say what outputs mean leaves that to targets and model."""
        if self.loss is None:
            return self._decided(model, data, seed, IGNORED)
        if (kind := _kind_of(self.loss)) in (Kind.LOGITS, Kind.PROBABILITIES):
            return Reading(kind, self.output, self.loss)
        ignored = _ignored_by(self.loss)
        found = self._decided(model, data, seed, IGNORED if ignored is None else ignored)
        return replace(found, given=self.loss, is_own=False, unclear="")

    def _decided(self, model: nn.Module, data: object, seed: int, ignored: int) -> Reading:
        batches = data if isinstance(data, Batches) else Batches(data)
        with seeded(seed, *batches.generators):
            batch = batches.first(model)
            if batch.target is None:
                raise DataError(NO_TARGET)
            with evaluating(model), torch.no_grad():
                own = _own_reading(model, batch, self.output)
                if own is not None:
                    return own
                target = _checked(batch.target)
                output = prediction_of(batch(model), self.output, rows_of(batch))
                is_same = _squeezed(output.shape) == _squeezed(target.shape)
                if not is_same and not target.is_floating_point():
                    return self._classes(model, batch, output, ignored)
            if not is_same:
                _fitted(target, output)
            return self._same_shape(model, batches, batch, output)

    def _ending(self, model: nn.Module, batch: Batch, output: Tensor) -> Ending:
        """How the prediction is computed; few models are run for this, as few give nothing but probabilities."""
        return ending_beside(model, output, lambda one: prediction_of(batch(one), self.output, rows_of(batch)))

    def _same_shape(self, model: nn.Module, batches: Batches, batch: Batch, output: Tensor) -> Reading:
        """Targets of the shape of the outputs: one or several labels, or numbers."""
        target: Tensor = batch.target
        every = batches.targets
        seen = target if every is None or every.shape[1:] != target.shape[1:] else every.to(target.device)
        found = replace(_beside(seen, output, lambda: self._ending(model, batch, output)), output=self.output)
        if found.kind is Kind.LOGITS and seen.is_floating_point() and _are_classes(seen):
            # Several labels, of which a few examples have one each, or classes? More examples tell.
            n_seen = len(target)
            for other in islice(batches.for_model(model), 1, None):
                if not isinstance(other.target, Tensor) or not _are_classes(other.target):
                    return found
                n_seen += len(other.target)
                if n_seen >= _MOST_EXAMPLES:
                    break
            raise DataError(
                "every row of the targets holds exactly one 1, so they may be classes or several labels: pass integer "
                "labels (targets.argmax(1)) for classes, or loss=, such as "
                "loss=torch.nn.functional.binary_cross_entropy_with_logits"
            )
        return found

    def _classes(self, model: nn.Module, batch: Batch, output: Tensor, ignored: int) -> Reading:
        """Integer targets, one for each example or position."""
        target: Tensor = batch.target
        relation = _relation(batch)
        is_ahead = relation == "the inputs" and _is_causal(model, batch, self.output)
        found = Reading(Kind.CLASSES, self.output, is_ahead=is_ahead, ignored=ignored)
        scores, _ = found.scores(output, target)
        unclear = ""
        if relation == "the inputs" and not is_ahead:
            unclear = (
                "the targets are the inputs, but the model sees all positions at once, so it cannot be trained to say "
                "the next one: pass loss="
            )
        elif (ending := self._ending(model, batch, output)) is not Ending.OPEN:
            what = "all outputs lie in [0, 1]" if ending is Ending.OTHER else f"the model ends in {ending.value}"
            unclear = (
                f"cross-entropy needs scores of classes, but {what}, so they seem to be probabilities: return what "
                "comes before, or pass loss=, such as "
                "loss=lambda said, label: torch.nn.functional.nll_loss(said.log(), label)"
            )
        is_language = relation is not None or _is_vocabulary(model, batch, scores.shape[1])
        return replace(found, is_language=is_language, unclear=unclear)


def ending_beside(model: nn.Module, output: Tensor, run: Callable[[nn.Module], Tensor]) -> Ending:
    """How the computation of `output` ends; what is not all in [0, 1] can be no probability, so it is open."""
    if bool(((output < 0) | (output > 1)).any()):
        return Ending.OPEN
    return ending_of(model, run)


def soft_loss(
    output: Tensor,
    told: Tensor,
    t: float,
    reading: Reading | None = None,
    target: Any = None,
    *,
    student: Ending = Ending.OPEN,
    teacher: Ending = Ending.OPEN,
) -> Tensor:
    """How far `output` is from what the teacher `told`: shapes alike, one number.

    Classes, also those of tokens: Kullback-Leibler divergence of the classes, softened by the temperature `t`, times
    its square, so that its gradient keeps its size; labels that do not count are skipped. A sigmoid or several labels:
    binary cross-entropy. Everything else: squared error.

    Args:
        output: What the student says.
        told: What the teacher says.
        t: The temperature, above 0.
        reading: How the teacher's outputs are read beside the targets; None where it is not known.
        target: The targets of the batch, None where there are none.
        student: How the computation of `output` ends.
        teacher: How the computation of `told` ends.
    """
    kind = None if reading is None else reading.kind
    if teacher is Ending.SIGMOID or kind in (Kind.LOGITS, Kind.PROBABILITIES):
        is_probable = teacher is Ending.SIGMOID or kind is Kind.PROBABILITIES
        aim = told.float() if is_probable else torch.sigmoid(told.float())
        how = Kind.PROBABILITIES if student is Ending.SIGMOID else Kind.LOGITS
        return _binary(output.reshape(-1), aim.reshape(-1), how)
    if kind is Kind.CLASSES or teacher is Ending.SOFTMAX:
        said, aim = _as_scores(output, student), _as_scores(told, teacher)
        if kind is Kind.CLASSES and reading is not None and target is not None:
            said, labels = reading.scores(said, target)
            aim, _ = reading.scores(aim, target)
            counts = labels != reading.ignored
            said, aim = said[counts], aim[counts]
        else:
            said, aim = _rows_of_classes(said), _rows_of_classes(aim)
        soft = functional.log_softmax(said / t, dim=1)
        hard = functional.log_softmax(aim / t, dim=1)
        return t**2 * functional.kl_div(soft, hard, reduction="batchmean", log_target=True)
    return functional.mse_loss(output.float(), told.float())


def class_scores(output: Tensor, target: Tensor, ignored: int = IGNORED) -> tuple[Tensor, Tensor]:
    """Outputs as `(examples, classes)` beside labels as `(examples,)`; a label of `ignored` does not count.

    Raises:
        DataError: Shapes do not fit, or a label is not among the classes.
    """
    scores, labels = _in_rows(output, target)
    low, high = _ends(labels[labels != ignored])
    if low < 0 or high >= scores.shape[1]:
        hint = (
            f"; if {high:g} stands for no label, pass loss=torch.nn.CrossEntropyLoss(ignore_index={high:g})"
            if high == 255
            else ""
        )
        raise DataError(
            f"labels must be 0 to {scores.shape[1] - 1} for a model with {scores.shape[1]} outputs, "
            f"but they run from {low:g} to {high:g}{hint}"
        )
    return scores, labels


def _own_reading(model: nn.Module, batch: Batch, output: Output | None) -> Reading | None:
    """The reading of a model that computes its loss itself from the labels of the batch; None if it does not."""
    target = batch.target
    called = _with_labels(model, batch)
    if called is batch or not isinstance(target, Tensor):
        return None
    result = called(model)
    own = own_loss_of(result)
    if own is None:
        return None
    found = Reading(Kind.CLASSES, output, is_own=True)
    try:
        said = prediction_of(result, output, rows_of(batch))
        if _squeezed(said.shape) == _squeezed(target.shape):
            if not _is_binary(target[target != IGNORED]).all():
                return replace(found, kind=Kind.NUMBERS)
            kinds = [replace(found, kind=kind, is_own=False) for kind in (Kind.LOGITS, Kind.NUMBERS)]
            gaps = [abs(float(one.loss(result, batch)) - float(own)) for one in kinds]
            return replace(found, kind=Kind.LOGITS if gaps[0] <= gaps[1] else Kind.NUMBERS)
        if target.is_floating_point():
            return replace(found, kind=Kind.NUMBERS)
        scores, _ = found.scores(said, target)
    except DataError:
        # Its loss is known all the same, but there is no score.
        if output is not None:
            raise
        return found
    if target.ndim != 2 or target.shape[1] < 2:
        return found
    # Whether the model shifts its labels shows by which reading comes nearest to its loss.
    relation = _relation(batch)
    gaps = [_gap(one, said, target, own) for one in (replace(found, is_ahead=True), found)]
    is_ahead = gaps[0] < gaps[1]
    found = replace(
        found, is_language=is_ahead or relation is not None or _is_vocabulary(model, batch, scores.shape[1])
    )
    if is_ahead and relation == "one ahead" and batch.target_name is None:
        # Targets that are one ahead already, in a pair with the inputs, must not be moved twice.
        return replace(found, is_own=False)
    return replace(found, is_ahead=is_ahead)


def _gap(reading: Reading, said: Tensor, target: Tensor, own: Tensor) -> float:
    scores, labels = reading.scores(said, target)
    return abs(float(functional.cross_entropy(scores.float(), labels)) - float(own))


def _with_labels(model: nn.Module, batch: Batch) -> Batch:
    """The batch with its target among the inputs, where the model has an optional argument for labels."""
    forward = model
    while isinstance(inner := getattr(forward, "_orig_mod", None) or getattr(forward, "module", None), nn.Module):
        forward = inner
    try:
        parameters = signature(forward.forward).parameters
    except (TypeError, ValueError):
        return batch
    taken = [one.name for one in parameters.values() if one.kind is Parameter.POSITIONAL_OR_KEYWORD][: len(batch.args)]
    own = [] if batch.target_name in (None, "y") else [batch.target_name]
    for name in (*own, *_LABEL_ARGUMENTS):
        if name in parameters and parameters[name].default is None and name not in (*taken, *batch.kwargs):
            return replace(batch, kwargs={**batch.kwargs, name: batch.target})
    return batch


def _relation(batch: Batch) -> str | None:
    """Whether integer targets of positions are `the inputs`, `one ahead` of them, or neither."""
    target = batch.target
    if target.ndim != 2 or target.shape[1] < 2 or not bool((target != IGNORED).any()):
        return None
    for tokens in _tokens(batch):
        counts = target != IGNORED
        if bool((tokens == target)[counts].all()):
            return "the inputs"
        inner = counts[:, :-1]
        if bool(inner.any()) and bool((tokens[:, 1:] == target[:, :-1])[inner].all()):
            return "one ahead"
    return None


def _tokens(batch: Batch) -> list[Tensor]:
    return [
        one
        for one in (*batch.args, *batch.kwargs.values())
        if isinstance(one, Tensor)
        and one.shape == batch.target.shape
        and not (one.is_floating_point() or one.is_complex() or one.dtype == torch.bool)
    ]


def _is_causal(model: nn.Module, batch: Batch, output: Output | None) -> bool:
    """Whether what the model says of earlier positions stays when the last token becomes another one."""
    tokens = next(one for one in _tokens(batch) if bool((one == batch.target)[batch.target != IGNORED].all()))
    moved = tokens.clone()
    # A token that is there is in the vocabulary.
    moved[:, -1] = torch.where(tokens[:, -1] == tokens[0, 0], tokens.max(), tokens[0, 0])
    other = replace(
        batch,
        args=tuple(moved if one is tokens else one for one in batch.args),
        kwargs={name: moved if one is tokens else one for name, one in batch.kwargs.items()},
    )
    rows = rows_of(batch)
    before, after = (prediction_of(one(model), output, rows).float() for one in (batch, other))
    if before.shape[:2] != tokens.shape:
        before, after = before.movedim(1, -1), after.movedim(1, -1)
    return torch.allclose(before[:, :-1], after[:, :-1], rtol=1e-3, atol=1e-4)


def _is_vocabulary(model: nn.Module, batch: Batch, n_classes: int) -> bool:
    """Whether the model says of positions which of the tokens that it reads stands there."""
    is_tokens = batch.target.ndim == 2 and batch.target.shape[1] > 1
    return is_tokens and any(
        isinstance(one, nn.Embedding) and one.num_embeddings == n_classes for one in model.modules()
    )


def _beside(target: Tensor, output: Tensor, ending: Callable[[], Ending]) -> Reading:
    """Targets of the shape of the outputs."""
    counted = target if target.is_floating_point() else target[target != IGNORED]
    is_binary = bool(_is_binary(counted).all())
    low, high = _ends(counted.float())
    if not target.is_floating_point() and not is_binary:
        if _squeezed(output.shape) == output.shape[:1]:
            what = "a model with one output takes integer targets of 0 and 1"
        else:
            what = "integer targets of the shape of the outputs are 0 and 1 for several labels"
        raise DataError(
            f"{what}, but they run from {low:g} to {high:g}: return a score for each class, or for squared error pass "
            "float targets"
        )
    if is_binary or (low >= 0 and high <= 1):
        how = ending()
        if how is Ending.SIGMOID:
            return Reading(Kind.PROBABILITIES)
        if is_binary and how is not Ending.OPEN:
            raise DataError(
                "targets are 0 and 1 and all outputs lie in [0, 1], but the model does not end in a sigmoid, so they "
                "may be probabilities or logits: pass loss=, such as loss=torch.nn.BCELoss() or loss=torch.nn."
                "BCEWithLogitsLoss()"
            )
    elif ending() is Ending.SIGMOID:
        raise DataError(
            f"the model ends in a sigmoid, so its outputs lie in [0, 1], but the targets run from {low:g} to {high:g}: "
            "pass targets in [0, 1], or loss="
        )
    return Reading(Kind.LOGITS if is_binary else Kind.NUMBERS)


def _are_classes(target: Tensor) -> bool:
    """Whether each row of several columns holds exactly one 1, along the last axis or the second."""
    shape = _squeezed(target.shape)
    if len(shape) < 2 or not bool(_is_binary(target).all()):
        return False
    rows = target.reshape(shape)
    return any(bool((rows.sum(dim) == 1).all()) for dim in {1, len(shape) - 1})


def _checked(target: Any) -> Tensor:
    if target is None:
        raise DataError(NO_TARGET)
    if not isinstance(target, Tensor) or target.dtype == torch.bool or target.is_complex():
        kind = str(target.dtype) if isinstance(target, Tensor) else type(target).__name__
        raise DataError(f"targets must be integer labels or float values, got {kind}: convert them, or pass loss=")
    return target


def _is_binary(values: Tensor) -> Tensor:
    return (values == 0) | (values == 1)


def _binary(said: Tensor, labels: Tensor, kind: Kind) -> Tensor:
    if kind is Kind.LOGITS:
        return functional.binary_cross_entropy_with_logits(said.float(), labels.float())
    return functional.binary_cross_entropy(said.float(), labels.float())


def _as_scores(output: Tensor, ending: Ending) -> Tensor:
    """Scores of classes; of probabilities the logarithm."""
    wide = output.float()
    return wide.clamp(min=torch.finfo(torch.float32).tiny).log() if ending is Ending.SOFTMAX else wide


def _rows_of_classes(scores: Tensor) -> Tensor:
    """Without labels: the classes are the channels of an image, else the last axis."""
    moved = scores.movedim(1, -1) if scores.ndim > 3 else scores
    return moved.reshape(-1, moved.shape[-1])


def _one_number(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        kind = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise CompressionError(f"the loss must be a tensor with one number, got {kind}")
    return loss.reshape(())


def _kind_of(loss: LossFunction) -> Kind | None:
    """What outputs mean to a loss of torch; None for every other function."""
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) or loss in (functional.cross_entropy, functional.nll_loss):
        return Kind.CLASSES
    if isinstance(loss, nn.BCEWithLogitsLoss) or loss is functional.binary_cross_entropy_with_logits:
        return Kind.LOGITS
    if isinstance(loss, nn.BCELoss) or loss is functional.binary_cross_entropy:
        return Kind.PROBABILITIES
    return None


def _ignored_by(loss: LossFunction) -> int | None:
    ignored = getattr(loss, "ignore_index", None)
    return ignored if isinstance(ignored, int) else None


def _ends(values: Tensor) -> tuple[float, float]:
    """The least and the largest value, 0 where there is none."""
    if not values.numel():
        return 0, 0
    low, high = values.aminmax()
    return float(low), float(high)


def _squeezed(shape: torch.Size) -> torch.Size:
    """A shape without the axes of length one behind the first."""
    return torch.Size([*shape[:1], *(size for size in shape[1:] if size != 1)])


def _in_rows(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    labels = target
    if labels.ndim == output.ndim and labels.shape[-1] == 1:
        labels = labels.squeeze(-1)
    if output.ndim >= 2 and output.shape[:-1] == labels.shape:
        scores = output.reshape(-1, output.shape[-1])
    elif output.ndim >= 3 and (output.shape[0], *output.shape[2:]) == tuple(labels.shape):
        scores = output.movedim(1, -1).reshape(-1, output.shape[1])
    else:
        raise DataError(
            f"integer targets need outputs with one axis more, the classes; got targets {tuple(target.shape)} and "
            f"outputs {tuple(output.shape)}: pass loss=, or float targets for squared error"
        )
    return scores, labels.reshape(-1).long()


def _fitted(target: Tensor, output: Tensor) -> Tensor:
    if _squeezed(target.shape) != _squeezed(output.shape):
        raise DataError(
            f"float targets must have the shape of the outputs, got targets {tuple(target.shape)} and "
            f"outputs {tuple(output.shape)}"
        )
    return target.reshape(output.shape)


__all__ = [
    "IGNORED",
    "NOTHING_COUNTS",
    "BatchLoss",
    "Kind",
    "LossFunction",
    "LossSpec",
    "Reading",
    "class_scores",
    "ending_beside",
    "soft_loss",
]
