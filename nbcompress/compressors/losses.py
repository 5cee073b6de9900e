"""The loss of a model on data: which output is compared with the target, and how.

`LossSpec` is what the user chose. `LossSpec.resolve` decides on the rest, by the first batch:

1. A loss that the user gave.
2. The model's own loss, if the model computes one from labels.
3. Targets of the shape of the outputs that are 0 and 1: binary cross-entropy.
4. Integer targets: cross-entropy; with the next token, if the targets of a causal model are its inputs.
5. Other numbers: squared error.

If the data fits several of these, an error asks for `loss=`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from inspect import Parameter, signature
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbcompress.compressors.data import NO_TARGET, Batch, Batches, forward_parameters
from nbcompress.compressors.modes import evaluating, seeded
from nbcompress.compressors.outputs import (
    IGNORED,
    FinalOperation,
    OutputKey,
    class_scores,
    final_operation_beside,
    in_shape_of,
    limits_of,
    model_loss_of,
    prediction_of,
    without_unit_axes,
)
from nbcompress.errors import CompressionError, DataError, option

# From (output, target), or (output, target, inputs), to a scalar.
LossFunction = Callable[..., Tensor]
# Returns None if the batch has no label that counts.
BatchLoss = Callable[[nn.Module, Batch], Tensor | None]

NO_LABELS_LEFT = f"training needs at least one label, but all labels are {IGNORED}, which stands for none"

# The arguments by which models take labels to compute their own loss. `y` is not among them: it is often an input.
_LABEL_ARGUMENTS = ("labels", "targets", "target", "label")
# So many examples are read to tell several labels from one class (a heuristic).
_MOST_EXAMPLES = 1024


class OutputKind(Enum):
    """What the values of an output are."""

    CLASSES = "classes"
    """A score for each class."""
    LOGITS = "logits"
    """Logits of one or several labels of 0 and 1."""
    PROBABILITIES = "probabilities"
    """Probabilities of one or several labels of 0 and 1."""
    NUMBERS = "numbers"
    """Numbers to be predicted."""


# ---------------------------------------------------------------------------------------------------------------------
# The loss of a batch


@dataclass(frozen=True)
class ResolvedLoss:
    """How to compare the outputs of a model with the targets of some data.

    Attributes:
        kind: What the values of the output are.
        output: Index or key of the output that is the prediction; None if there is only one.
        given: The user's own loss, or None.
        is_model_loss: The model computes its loss itself.
        is_next_token: The scores at one position belong to the target at the next.
        is_language: The targets are tokens of the vocabulary that the model reads.
        ignored: The label that does not count.
        unclear: Why there is no loss although there is a score; empty if there is one.
    """

    kind: OutputKind
    output: OutputKey | None = None
    given: LossFunction | None = None
    is_model_loss: bool = False
    is_next_token: bool = False
    is_language: bool = False
    ignored: int = IGNORED
    unclear: str = ""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Run `model` and return the loss; None if the batch has no label that counts."""
        return self.loss(self.run(model, batch), batch) if self.has_labels(batch) else None

    def has_labels(self, batch: Batch) -> bool:
        """Whether any label of the batch counts."""
        target = batch.target
        if self.given is not None and _ignored_by(self.given) is None:
            return True
        if not isinstance(target, Tensor) or target.is_floating_point() or not target.numel():
            return True
        counted = target[:, 1:] if self.is_next_token else target
        return bool((counted != self.ignored).any())

    def n_counted(self, batch: Batch) -> int:
        """Return how many labels of the batch count, over which its loss is a mean; without labels, its examples."""
        target = batch.target
        has_given = self.given is not None and _ignored_by(self.given) is None
        if has_given or not isinstance(target, Tensor) or target.is_floating_point():
            return batch.n_examples or 1
        counted = target[:, 1:] if self.is_next_token else target
        return int((counted != self.ignored).sum())

    def run(self, model: nn.Module, batch: Batch) -> Any:
        """Return what the model returns, which gets the labels if it computes its loss itself."""
        return _with_labels(model, batch)(model) if self.is_model_loss else batch(model)

    def loss(self, result: Any, batch: Batch) -> Tensor:
        """Return the loss of what the model returned, a tensor of shape `()`.

        Raises:
            DataError: The targets do not fit, or what they mean is not clear.
            CompressionError: The user's loss returned something else.
        """
        if self.given is not None:
            output = result if self.output is None else prediction_of(result, self.output)
            return call_loss(self.given, output, batch.target, batch)
        if self.unclear:
            raise DataError(self.unclear)
        if self.is_model_loss:
            loss = model_loss_of(result)
            if loss is None:
                raise DataError(
                    "the model gave no loss of its own for this batch, though it did for the first: "
                    f"pass {option('loss=')}"
                )
            return loss
        output, target = self.prediction(result, batch), _check_target(batch.target)
        if self.kind is OutputKind.NUMBERS:
            return functional.mse_loss(output.float(), in_shape_of(output, target).float())
        if self.kind is OutputKind.CLASSES:
            scores, labels = self.scores(output, target)
            return functional.cross_entropy(scores.float(), labels, ignore_index=self.ignored)
        predicted, labels = self.label_pairs(output, target)
        return binary_cross_entropy(predicted, labels, self.kind)

    def prediction(self, result: Any, batch: Batch) -> Tensor:
        """Return the prediction among what the model returned."""
        return prediction_of(result, self.output, batch.n_examples)

    def scores(self, output: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """Return scores of shape `(examples, classes)` and labels of shape `(examples,)`, with those that do not count.

        Raises:
            DataError: Shapes do not fit, or a label is not among the classes.
        """
        target = _check_target(target)
        if self.is_next_token:
            output = output if output.shape[:2] == target.shape else output.movedim(1, -1)
            output, target = output[:, :-1], target[:, 1:]
        return class_scores(output, target, self.ignored)

    def label_pairs(self, output: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """Return the outputs and the labels of 0 and 1 that count, both of shape `(labels,)`.

        Raises:
            DataError: Shapes do not fit, or there are other targets than 0 and 1.
        """
        target = in_shape_of(output, _check_target(target)).reshape(-1)
        counts = torch.ones_like(target, dtype=torch.bool) if target.is_floating_point() else target != self.ignored
        predicted, labels = output.reshape(-1)[counts], target[counts].float()
        low, high = limits_of(labels)
        # A probability can be trained towards any probability, a logit only towards 0 or 1.
        is_fit = low >= 0 and high <= 1 if self.kind is OutputKind.PROBABILITIES else bool(_is_binary(labels).all())
        if not is_fit:
            raise DataError(
                f"targets were 0 and 1 in the first batch, but now they run from {low:g} to {high:g}: "
                f"pass {option('loss=')}, such as {option('loss=torch.nn.functional.mse_loss')}"
            )
        return predicted, labels


# ---------------------------------------------------------------------------------------------------------------------
# Deciding on a loss


@dataclass(frozen=True)
class LossSpec:
    """The loss and the output that the user chose.

    Attributes:
        loss: A function from what the model returns (the output that `output` names, if it is given) and the target to
            a scalar, and from the inputs of the batch if its third argument is called `inputs`; None to decide by model
            and data.
        output: Index or key of the output that is the prediction; None if the model returns one.

    Raises:
        CompressionError: `loss` is no function, or `output` no index or key.
    """

    loss: LossFunction | None = None
    output: OutputKey | None = None

    def __post_init__(self) -> None:
        if self.loss is not None and not callable(self.loss):
            raise CompressionError(
                f"{option('loss')} must be a function of what the model returns and the target to a scalar, "
                f"got {type(self.loss).__name__}"
            )
        if self.loss is not None:
            _takes_inputs(self.loss)
        if isinstance(self.output, bool) or not isinstance(self.output, (int, str, type(None))):
            raise CompressionError(
                f"{option('output')} must be the index or the key of one of the model's outputs, got {self.output!r}"
            )

    def resolve(self, model: nn.Module, data: object, seed: int = 0) -> ResolvedLoss:
        """Decide on the loss, by the first batch of `data` and what the model returns for it in evaluation mode.

        Model, data and random state come back as they were. A loss of the user's own is taken without a look at them.

        Args:
            model: The model.
            data: See `Batches`.
            seed: Seed of the order of the data and of the model's own randomness.

        Raises:
            DataError: The data has no targets, or what they mean is not clear.
        """
        if self.loss is not None:
            return ResolvedLoss(OutputKind.NUMBERS, self.output, self.loss)
        return self._decide(model, data, seed, IGNORED)

    def resolve_for_scores(self, model: nn.Module, data: object, seed: int = 0) -> ResolvedLoss:
        """As `resolve`, for a score such as accuracy, which needs the kind of the output also if the user gave a loss.

        The kind comes from the loss if it is one of torch, else from the targets and the model.
        """
        if self.loss is None:
            return self._decide(model, data, seed, IGNORED)
        if (kind := _kind_of(self.loss)) in (OutputKind.LOGITS, OutputKind.PROBABILITIES):
            return ResolvedLoss(kind, self.output, self.loss)
        batches = data if isinstance(data, Batches) else Batches(data)
        with seeded(seed, *batches.generators):
            target = batches.first(model).target
        if target is not None and not isinstance(target, Tensor):
            raise DataError(
                f"accuracy needs targets that are one tensor, got {type(target).__name__}: measure such a model by a "
                "function of your own"
            )
        ignored = _ignored_by(self.loss)
        resolved = self._decide(model, data, seed, IGNORED if ignored is None else ignored)
        return replace(resolved, given=self.loss, is_model_loss=False, unclear="")

    def _decide(self, model: nn.Module, data: object, seed: int, ignored: int) -> ResolvedLoss:
        batches = data if isinstance(data, Batches) else Batches(data)
        with seeded(seed, *batches.generators):
            batch = batches.first(model)
            if batch.target is None:
                raise DataError(NO_TARGET)
            with evaluating(model), torch.no_grad():
                resolved = _model_loss(model, batch, self.output)
                if resolved is not None:
                    return resolved
                target = _check_target(batch.target)
                output = prediction_of(batch(model), self.output, batch.n_examples)
                is_same = without_unit_axes(output.shape) == without_unit_axes(target.shape)
                if not is_same and not target.is_floating_point():
                    return self._classes(model, batch, output, ignored)
            if not is_same:
                in_shape_of(output, target)
            return self._same_shape(model, batches, batch, output)

    def _final_operation(self, model: nn.Module, batch: Batch, output: Tensor) -> FinalOperation:
        def run(model: nn.Module) -> Tensor:
            return prediction_of(batch(model), self.output, batch.n_examples)

        return final_operation_beside(model, output, run)

    def _same_shape(self, model: nn.Module, batches: Batches, batch: Batch, output: Tensor) -> ResolvedLoss:
        """Targets of the shape of the outputs: one or several labels, or numbers."""
        target: Tensor = batch.target
        in_memory = batches.targets
        seen = target if in_memory is None or in_memory.shape[1:] != target.shape[1:] else in_memory.to(target.device)
        kind = _kind_in_same_shape(seen, output, lambda: self._final_operation(model, batch, output))
        # Each example so far may have one label by chance. More examples tell classes from several labels.
        is_one_hot = kind is OutputKind.LOGITS and seen.is_floating_point() and _is_one_hot(seen)
        if is_one_hot and _stays_one_hot(batches, model, len(target)):
            raise DataError(
                "every row of the targets holds exactly one 1, so they may be classes or several labels: pass integer "
                f"labels (targets.argmax(1)) for classes, or {option('loss=')}, such as "
                f"{option('loss=torch.nn.functional.binary_cross_entropy_with_logits')}"
            )
        return ResolvedLoss(kind, self.output)

    def _classes(self, model: nn.Module, batch: Batch, output: Tensor, ignored: int) -> ResolvedLoss:
        """Integer targets, one for each example or position."""
        target: Tensor = batch.target
        relation = _relation(batch)
        is_next_token = relation == "the inputs" and _is_causal(model, batch, self.output)
        resolved = ResolvedLoss(OutputKind.CLASSES, self.output, is_next_token=is_next_token, ignored=ignored)
        scores, _ = resolved.scores(output, target)
        unclear = ""
        if relation == "the inputs" and not is_next_token:
            unclear = (
                "the targets are the inputs, but the model sees all positions at once, so it cannot be trained to say "
                f"the next one: pass {option('loss=')}"
            )
        elif (last := self._final_operation(model, batch, output)) is not FinalOperation.UNBOUNDED:
            what = "all outputs lie in [0, 1]" if last is FinalOperation.OTHER else f"the model ends in {last.value}"
            unclear = (
                f"cross-entropy needs scores of classes, but {what}, so they seem to be probabilities: return what "
                f"comes before, or pass {option('loss=')}, such as "
                f"{option('loss=lambda said, label: torch.nn.functional.nll_loss(said.log(), label)')}"
            )
        is_language = relation is not None or _is_vocabulary(model, batch, scores.shape[1])
        return replace(resolved, is_language=is_language, unclear=unclear)


def _model_loss(model: nn.Module, batch: Batch, output: OutputKey | None) -> ResolvedLoss | None:
    """The loss that the model computes itself from the labels of the batch; None if it does not."""
    target = batch.target
    with_labels = _with_labels(model, batch)
    if with_labels is batch or not isinstance(target, Tensor):
        return None
    result = with_labels(model)
    loss = model_loss_of(result)
    if loss is None:
        return None
    resolved = ResolvedLoss(OutputKind.CLASSES, output, is_model_loss=True)
    try:
        prediction = prediction_of(result, output, batch.n_examples)
        if without_unit_axes(prediction.shape) == without_unit_axes(target.shape):
            if not _is_binary(target[target != IGNORED]).all():
                return replace(resolved, kind=OutputKind.NUMBERS)
            # The kind whose usual loss is nearest to the model's own.
            kinds = (OutputKind.LOGITS, OutputKind.NUMBERS)
            losses = [ResolvedLoss(kind, output).loss(result, batch) for kind in kinds]
            gaps = [abs(float(usual) - float(loss)) for usual in losses]
            return replace(resolved, kind=kinds[0] if gaps[0] <= gaps[1] else kinds[1])
        if target.is_floating_point():
            return replace(resolved, kind=OutputKind.NUMBERS)
        scores, _ = resolved.scores(prediction, target)
    except DataError:
        # There is no score, but there is a loss.
        if output is not None:
            raise
        return resolved
    if target.ndim != 2 or target.shape[1] < 2:
        return resolved
    # The model shifts its labels by one token if that loss is nearer to its own.
    relation = _relation(batch)
    readings = (replace(resolved, is_next_token=True), resolved)
    gaps = [_gap(reading, prediction, target, loss) for reading in readings]
    is_next_token = gaps[0] < gaps[1]
    is_language = is_next_token or relation is not None or _is_vocabulary(model, batch, scores.shape[1])
    if is_next_token and relation == "one ahead" and batch.target_name is None:
        # The targets of a pair are one token ahead already. The model would shift them a second time.
        return replace(resolved, is_language=is_language, is_model_loss=False)
    return replace(resolved, is_language=is_language, is_next_token=is_next_token)


def _gap(resolved: ResolvedLoss, prediction: Tensor, target: Tensor, loss: Tensor) -> float:
    """The difference between cross-entropy, as `resolved` reads the labels, and a loss."""
    scores, labels = resolved.scores(prediction, target)
    return abs(float(functional.cross_entropy(scores.float(), labels)) - float(loss))


def _with_labels(model: nn.Module, batch: Batch) -> Batch:
    """The batch with its target among the inputs, if the model has an optional argument for labels."""
    parameters = forward_parameters(model)
    if parameters is None:
        return batch
    by_position = [name for name, item in parameters.items() if item.kind is Parameter.POSITIONAL_OR_KEYWORD]
    taken = by_position[: len(batch.arguments_for(model)[0])]
    target_name = [] if batch.target_name in (None, "y") else [batch.target_name]
    for name in (*target_name, *_LABEL_ARGUMENTS):
        if name in parameters and parameters[name].default is None and name not in (*taken, *batch.kwargs):
            return replace(batch, kwargs={**batch.kwargs, name: batch.target})
    return batch


def _relation(batch: Batch) -> Literal["the inputs", "one ahead"] | None:
    """Whether integer targets of positions are the inputs, one token ahead of them, or neither."""
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
    """The integer inputs of the shape of the target."""
    return [
        arg
        for arg in (*batch.args, *batch.kwargs.values())
        if isinstance(arg, Tensor)
        and arg.shape == batch.target.shape
        and not (arg.is_floating_point() or arg.is_complex() or arg.dtype == torch.bool)
    ]


def _is_causal(model: nn.Module, batch: Batch, output: OutputKey | None) -> bool:
    """Whether the outputs at earlier positions do not change when the last token does."""
    tokens = next(token for token in _tokens(batch) if bool((token == batch.target)[batch.target != IGNORED].all()))
    changed = tokens.clone()
    # A token that occurs is in the vocabulary.
    changed[:, -1] = torch.where(tokens[:, -1] == tokens[0, 0], tokens.max(), tokens[0, 0])
    other = replace(
        batch,
        args=tuple(changed if arg is tokens else arg for arg in batch.args),
        kwargs={name: changed if kwarg is tokens else kwarg for name, kwarg in batch.kwargs.items()},
    )
    before, after = (prediction_of(item(model), output, batch.n_examples).float() for item in (batch, other))
    if before.shape[:2] != tokens.shape:
        before, after = before.movedim(1, -1), after.movedim(1, -1)
    return torch.allclose(before[:, :-1], after[:, :-1], rtol=1e-3, atol=1e-4)


def _is_vocabulary(model: nn.Module, batch: Batch, n_classes: int) -> bool:
    """Whether the classes of positions are the tokens of an embedding of the model."""
    is_tokens = batch.target.ndim == 2 and batch.target.shape[1] > 1
    return is_tokens and any(
        isinstance(module, nn.Embedding) and module.num_embeddings == n_classes for module in model.modules()
    )


def _kind_in_same_shape(target: Tensor, output: Tensor, final_operation: Callable[[], FinalOperation]) -> OutputKind:
    """The kind of outputs whose targets have the same shape. `final_operation` runs the model, so only if needed."""
    counted = target if target.is_floating_point() else target[target != IGNORED]
    is_binary = bool(_is_binary(counted).all())
    low, high = limits_of(counted.float())
    if not target.is_floating_point() and not is_binary:
        if without_unit_axes(output.shape) == output.shape[:1]:
            what = "a model with one output takes integer targets of 0 and 1"
        else:
            what = "integer targets of the shape of the outputs are 0 and 1 for several labels"
        raise DataError(
            f"{what}, but they run from {low:g} to {high:g}: return a score for each class, or for squared error pass "
            "float targets"
        )
    if is_binary or (low >= 0 and high <= 1):
        last = final_operation()
        if last is FinalOperation.SIGMOID:
            return OutputKind.PROBABILITIES
        if is_binary and last is not FinalOperation.UNBOUNDED:
            raise DataError(
                "targets are 0 and 1 and all outputs lie in [0, 1], but the model does not end in a sigmoid, so they "
                f"may be probabilities or logits: pass {option('loss=')}, such as "
                f"{option('loss=torch.nn.BCELoss()')} or {option('loss=torch.nn.BCEWithLogitsLoss()')}"
            )
    elif final_operation() is FinalOperation.SIGMOID:
        raise DataError(
            f"the model ends in a sigmoid, so its outputs lie in [0, 1], but the targets run from {low:g} to {high:g}: "
            f"pass targets in [0, 1], or {option('loss=')}"
        )
    return OutputKind.LOGITS if is_binary else OutputKind.NUMBERS


def _is_one_hot(target: Tensor) -> bool:
    """Whether each row of several columns holds exactly one 1, along the last axis or the second."""
    shape = without_unit_axes(target.shape)
    if len(shape) < 2 or not bool(_is_binary(target).all()):
        return False
    rows = target.reshape(shape)
    return any(bool((rows.sum(dim) == 1).all()) for dim in {1, len(shape) - 1})


def _stays_one_hot(batches: Batches, model: nn.Module, n_seen: int) -> bool:
    """Whether the targets after the first batch are one-hot too; `n_seen` examples were read."""
    for batch in islice(batches.for_model(model), 1, None):
        if not isinstance(batch.target, Tensor) or not _is_one_hot(batch.target):
            return False
        n_seen += len(batch.target)
        if n_seen >= _MOST_EXAMPLES:
            break
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Targets and losses that a user gave


def _check_target(target: Any) -> Tensor:
    if target is None:
        raise DataError(NO_TARGET)
    if not isinstance(target, Tensor) or target.dtype == torch.bool or target.is_complex():
        kind = str(target.dtype) if isinstance(target, Tensor) else type(target).__name__
        raise DataError(
            f"targets must be integer labels or float values, got {kind}: convert them, or pass {option('loss=')}"
        )
    return target


def _is_binary(values: Tensor) -> Tensor:
    return (values == 0) | (values == 1)


def binary_cross_entropy(predicted: Tensor, labels: Tensor, kind: OutputKind) -> Tensor:
    """Binary cross-entropy of logits or probabilities, by `kind`, with labels from 0 to 1 of the same shape."""
    if kind is OutputKind.LOGITS:
        return functional.binary_cross_entropy_with_logits(predicted.float(), labels.float())
    return functional.binary_cross_entropy(predicted.float(), labels.float())


def call_loss(loss: LossFunction, output: Any, target: Any, batch: Batch) -> Tensor:
    """Call a loss of the user's own, with the inputs of the batch if it takes them, and return a scalar."""
    if not _takes_inputs(loss):
        return as_scalar(loss(output, target))
    inputs = dict(batch.kwargs) if batch.kwargs else batch.args[0] if len(batch.args) == 1 else batch.args
    return as_scalar(loss(output, target, inputs=inputs))


def _takes_inputs(loss: Callable[..., Any]) -> bool:
    """Whether a loss takes output, target and inputs; else it takes output and target.

    Raises:
        CompressionError: It needs other arguments.
    """
    try:
        parameters = signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters
    except (TypeError, ValueError):
        return False  # some functions written in C do not declare their arguments
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    takes_inputs = "inputs" in list(parameters)[2:]
    needed = [name for name, item in parameters.items() if item.kind in kinds and item.default is Parameter.empty]
    extra = [name for name in needed[2:] if name != "inputs"]
    if extra:
        hint = ""
        if {"input_lengths", "target_lengths"} <= set(extra):
            hint = (
                ", such as lambda output, target, inputs: ctc_loss(output.transpose(0, 1), target[0], inputs[1], "
                "target[1])"
            )
        raise CompressionError(
            f"{option('loss')} must be a function of (output, target), or of (output, target, inputs), but it also "
            f"needs {', '.join(extra)}: write a function that calls it{hint}"
        )
    return takes_inputs


def as_scalar(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        kind = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise CompressionError(f"the loss must be a tensor with one number, got {kind}")
    return loss.reshape(())


def _kind_of(loss: LossFunction) -> OutputKind | None:
    """The kind of outputs that a loss of torch takes; None for any other function."""
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) or loss in (functional.cross_entropy, functional.nll_loss):
        return OutputKind.CLASSES
    if isinstance(loss, nn.BCEWithLogitsLoss) or loss is functional.binary_cross_entropy_with_logits:
        return OutputKind.LOGITS
    if isinstance(loss, nn.BCELoss) or loss is functional.binary_cross_entropy:
        return OutputKind.PROBABILITIES
    return None


def _ignored_by(loss: LossFunction) -> int | None:
    ignored = getattr(loss, "ignore_index", None)
    return ignored if isinstance(ignored, int) else None


__all__ = [
    "IGNORED",
    "NO_LABELS_LEFT",
    "BatchLoss",
    "LossFunction",
    "LossSpec",
    "OutputKind",
    "ResolvedLoss",
    "binary_cross_entropy",
    "call_loss",
]
