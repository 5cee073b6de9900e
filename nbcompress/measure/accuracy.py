"""Scores of models on data: accuracy, or loss and perplexity of language models.

Accuracies of two models on the same examples are paired: it is known which examples flipped between right and wrong.

References:
    McNemar (1947), "Note on the sampling error of the difference between correlated proportions or percentages";
        here its exact form, on the binomial distribution.
    Agresti and Min (2005), "Simple improved confidence intervals for comparing matched proportions".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import exp, inf, log, sqrt
from sys import float_info
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from nbcompress.compressors.data import Batch, Batches
from nbcompress.compressors.losses import IGNORED, LossFunction, LossSpec, OutputKind, ResolvedLoss
from nbcompress.compressors.modes import seeded, with_progress
from nbcompress.compressors.outputs import OutputKey
from nbcompress.errors import DataError, MeasureError, option
from nbcompress.measure.files import ModelOrFile, OnnxModel, as_module
from nbcompress.measure.inputs import ModelInputs, evaluation_copy, ordered_batches
from nbcompress.measure.interval import Interval, proportion_interval, z_score
from nbcompress.measure.text import points_text, share_text, text_table
from nbcompress.progress import progress_bar

# The prediction from an output that holds a NaN.
_NO_CLASS = -1
# Number of flipped examples that a text names; the result holds all of them.
_MAX_NAMED = 8
# Of data that is not in batches yet.
_BATCH_SIZE = 256


# ---- Accuracy ----


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy on the examples of one class.

    Attributes:
        label: The class.
        n: Number of examples with this label.
        interval: Share of them that is right, with Wilson's 95 % interval.
    """

    label: int
    n: int
    interval: Interval


@dataclass(frozen=True, eq=False, repr=False)
class Accuracy:
    """Predictions of a model on examples in a fixed order.

    Attributes:
        labels: Correct classes, int64 of shape `(n,)`; -100 is not counted, as in cross-entropy.
        predictions: Classes with the largest output, int64 of shape `(n,)`; -1 where the output holds a NaN.
        is_part: Whether the time limit ended the pass before the data did.
    """

    labels: Tensor
    predictions: Tensor
    is_part: bool = False

    @cached_property
    def is_right(self) -> Tensor:
        """Whether each prediction is right, bool of shape `(n,)`."""
        return self.labels == self.predictions

    @property
    def n(self) -> int:
        """Number of examples that count."""
        return int((self.labels != IGNORED).sum())

    @property
    def interval(self) -> Interval:
        """Share of the examples that is right, with Wilson's 95 % interval."""
        return proportion_interval(int(self.is_right.sum()), self.n)

    @cached_property
    def per_class(self) -> tuple[ClassAccuracy, ...]:
        """Accuracy of each class, in the order of the labels."""
        classes = []
        for label in torch.unique(self.labels[self.labels != IGNORED]).tolist():
            right = self.is_right[self.labels == label]
            classes.append(ClassAccuracy(label, len(right), proportion_interval(int(right.sum()), len(right))))
        return tuple(classes)

    def __float__(self) -> float:
        return self.interval.value

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, texts and numbers."""
        per_class = [asdict(accuracy) for accuracy in self.per_class]
        return {"n": self.n, **asdict(self.interval), "per_class": per_class, "is_part": self.is_part}

    def __str__(self) -> str:
        rows = [[str(row.label), f"{row.n:,}", share_text(row.interval)] for row in self.per_class]
        table = text_table(
            ["class", "examples", "accuracy"], [*rows, ["all", f"{self.n:,}", share_text(self.interval)]]
        )
        part = " of the first examples, up to the time limit" if self.is_part else ""
        return f"{table}\naccuracy{part}, with its 95 % interval in parentheses"

    def __repr__(self) -> str:
        return f"<Accuracy {share_text(self.interval)} of {self.n:,} examples>"


@dataclass(frozen=True, eq=False, repr=False)
class AccuracyChange:
    """Accuracies of two models on the same examples.

    Attributes:
        before: Of the first model.
        after: Of the second model.
    """

    before: Accuracy
    after: Accuracy

    @cached_property
    def broken(self) -> tuple[int, ...]:
        """Indices of the examples that were right before and are wrong after."""
        return _indices(self.before.is_right & ~self.after.is_right)

    @cached_property
    def mended(self) -> tuple[int, ...]:
        """Indices of the examples that were wrong before and are right after."""
        return _indices(self.after.is_right & ~self.before.is_right)

    @property
    def p_value(self) -> float:
        """p value of McNemar's exact test that both models are equally good."""
        return mcnemar(len(self.broken), len(self.mended))

    @property
    def change(self) -> Interval:
        """Accuracy after minus accuracy before, with a 95 % interval for matched pairs (Agresti and Min)."""
        gained, lost, n = len(self.mended), len(self.broken), self.before.n
        value = (gained - lost) / n
        middle = (gained - lost) / (n + 2)
        half = z_score() * sqrt(gained + lost + 1 - (gained - lost) ** 2 / (n + 2)) / (n + 2)
        return Interval(value, min(value, max(-1.0, middle - half)), max(value, min(1.0, middle + half)))

    def notes(self) -> list[str]:
        """Notes under a table: the number of examples, which ones flipped, and whether chance can explain it."""
        broken, mended = len(self.broken), len(self.mended)
        first = "the first " if self.before.is_part else ""
        notes = [f"accuracy on {first}{self.before.n:,} examples, with 95 % intervals"]
        if not broken + mended:
            return [*notes, "no example flipped between right and wrong"]
        p = f"p = {self.p_value:.2g}" if self.p_value >= 0.001 else "p < 0.001"
        chance = "which may be chance" if self.p_value >= 0.05 else "more than chance explains"
        notes.append(f"{broken + mended} flipped: {broken} now wrong, {mended} now right, {chance} (McNemar, {p})")
        for what, indices in (
            ("right before, wrong after", self.broken),
            ("wrong before, right after", self.mended),
        ):
            if indices:
                notes.append(f"{what}: example{'s' * (len(indices) > 1)} {_listed(indices)}")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, texts and numbers."""
        return {
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "change": asdict(self.change),
            "broken": list(self.broken),
            "mended": list(self.mended),
            "p_value": self.p_value,
        }

    def __str__(self) -> str:
        rows = [
            ["accuracy", share_text(self.before.interval), share_text(self.after.interval), points_text(self.change)]
        ]
        return text_table(["", "before", "after", "change"], rows)

    def __repr__(self) -> str:
        return f"<AccuracyChange {points_text(self.change)}, {len(self.broken) + len(self.mended)} examples flipped>"


def accuracy(
    model: ModelOrFile,
    data: object,
    *,
    batch_size: int = _BATCH_SIZE,
    loss: LossFunction | None = None,
    output: OutputKey | None = None,
    into: nn.Module | None = None,
    progress: bool = True,
) -> Accuracy:
    """Measure the share of examples that a model classifies correctly, with its 95 % interval, and per class.

    The examples are read in their order, without shuffling. The model runs as a copy in evaluation mode.

    Args:
        model: From inputs to scores of shape `(n, classes)`, as in training with cross-entropy; or, for targets of 0
            and 1, to logits (or probabilities, if it ends in a sigmoid) of the shape of the targets. Or the name of a
            file: an ONNX file runs in ONNX Runtime, and a file of `nc.save` fills a copy of `into`.
        data: A `DataLoader`, a data set, or a pair of tensors (inputs, labels). For a causal language model whose
            labels are its inputs, or that shifts labels itself, every token after the first counts.
        batch_size: Of data that is not in batches yet.
        loss: Loss that the model was trained with. A loss of torch tells logits from probabilities, and which label
            does not count (`ignore_index`).
        output: Index or key of the prediction, where the model returns several tensors.
        into: An instance of the class of the model in a file of `nc.save`.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        Labels and predictions, with `n`, `interval` (a share from 0 to 1 with Wilson's 95 % interval) and `per_class`.
        `float` gives the share; `print` shows a table.

    Raises:
        DataError: The data is empty, or has no labels that fit the outputs of the model.
        MeasureError: The model fails on the data, or cannot be copied.

    Example:
        >>> import torch, nbcompress as nc
        >>> scores = torch.eye(2)[[0, 0, 1, 1, 1]]
        >>> result = nc.accuracy(torch.nn.Identity(), (scores, torch.tensor([0, 0, 1, 1, 0])))
        >>> result
        <Accuracy 80.0 % (37.6 to 96.4) of 5 examples>
        >>> float(result)
        0.8

    References:
        Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    models = {"model": as_module(model, into)}
    with with_progress(progress):
        return accuracies(models, data, batch_size=batch_size, spec=LossSpec(loss, output))["model"]


def accuracies(
    models: Mapping[str, nn.Module],
    data: object,
    *,
    batch_size: int = _BATCH_SIZE,
    seconds: float | None = None,
    spec: LossSpec | None = None,
    readings: Mapping[str, ResolvedLoss] | None = None,
) -> dict[str, Accuracy]:
    """Measure the accuracy of several models on the same batches, in one pass.

    Args:
        models: By the name to show.
        data: As in `accuracy`.
        batch_size: Of data that is not in batches yet.
        seconds: Time limit; the batches that were read by then count, at least one. No limit if None.
        spec: Loss and output, as the user gave them.
        readings: By name of the model, how its outputs are read; found out if None.

    Raises:
        DataError: The data is empty, or has no labels that fit the models' outputs.
        MeasureError: A model fails on it, or cannot be copied.
    """
    copies = {name: evaluation_copy(model) for name, model in models.items()}
    if readings is None:
        readings = score_readings(copies, data, batch_size, spec or LossSpec())
    labels: list[Tensor] = []
    predictions: dict[str, list[Tensor]] = {name: [] for name in copies}
    start, is_part = perf_counter(), False
    with (
        ordered_batches(data, batch_size) as batches,
        torch.inference_mode(),
        progress_bar("accuracy", Batches(data, batch_size).n_batches, "batch") as advance,
    ):
        for raw in batches:
            if is_part := seconds is not None and bool(labels) and perf_counter() - start > seconds:
                break
            for index, (name, model) in enumerate(copies.items()):
                batch_labels, batch_predictions = _labels_and_predictions(model, raw, readings[name])
                predictions[name].append(batch_predictions)
                if not index:
                    labels.append(batch_labels)
            advance(1)
    if not labels:
        raise DataError(f"{option('data')} must hold at least one batch, but it gave none")
    all_labels = torch.cat(labels)
    if not bool((all_labels != IGNORED).any()):
        raise DataError("accuracy needs at least one label, but all labels are -100, which stands for none")
    return {name: Accuracy(all_labels, torch.cat(parts), is_part) for name, parts in predictions.items()}


def accuracy_change(before: Accuracy, after: Accuracy) -> AccuracyChange:
    """Pair two accuracies on the same examples.

    Raises:
        MeasureError: Their labels differ.
    """
    if not torch.equal(before.labels, after.labels):
        raise MeasureError(
            "to see which examples flipped, both models must be measured on the same data in the same order"
        )
    return AccuracyChange(before, after)


def mcnemar(broken: int, mended: int) -> float:
    """Return the p value of McNemar's exact test, two-sided.

    Args:
        broken: Number of examples that only the first of two models gets right.
        mended: Number of examples that only the second gets right.
    """
    from scipy.special import bdtr

    flips = broken + mended
    return min(1.0, 2 * float(bdtr(min(broken, mended), flips, 0.5))) if flips else 1.0


def score_readings(
    models: Mapping[str, nn.Module], data: object, batch_size: int, spec: LossSpec
) -> dict[str, ResolvedLoss]:
    """Return how the outputs of each model are compared with the targets of `data`.

    Raises:
        DataError: The data is empty, or the meaning of its targets is not clear.
        MeasureError: A model fails on the data.
    """
    batches = Batches(data, batch_size)
    modules = {name: model for name, model in models.items() if not isinstance(model, OnnxModel)}
    readings = {name: _score_reading(model, batches, spec) for name, model in modules.items()}
    # A file returns what a module beside it returns, and cannot compute a loss of its own.
    beside = next(iter(readings.values()), None)
    for name, model in models.items():
        if name not in modules:
            if beside is None or isinstance(beside.output, str):
                readings[name] = _score_reading(model, batches, spec)
            else:
                readings[name] = replace(beside, is_model_loss=False)
    return {name: readings[name] for name in models}


def _score_reading(model: nn.Module, batches: Batches, spec: LossSpec) -> ResolvedLoss:
    try:
        return spec.resolve_for_scores(model, batches)
    except DataError:
        # A model that does not run at all is the clearer error.
        with seeded(0, *batches.generators), torch.no_grad():
            first = batches.first(model)
            ModelInputs(*first.arguments_for(model))(model)
        raise


def _labels_and_predictions(model: nn.Module, raw: Any, reading: ResolvedLoss) -> tuple[Tensor, Tensor]:
    batch = Batches([raw]).first(model)
    if reading.kind is OutputKind.NUMBERS:
        raise DataError(f"accuracy needs integer labels, or targets of 0 and 1, got targets of {_target_kind(batch)}")
    output = reading.prediction(ModelInputs(*batch.arguments_for(model))(model), batch)
    if reading.kind is OutputKind.CLASSES:
        scores, labels = reading.scores(output, batch.target)
        predicted = scores.argmax(1).masked_fill(scores.isnan().any(1), _NO_CLASS)
    else:
        scores, labels = reading.label_pairs(output, batch.target)
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise DataError("accuracy needs integer labels, or targets of 0 and 1, got targets between 0 and 1")
        threshold = 0.0 if reading.kind is OutputKind.LOGITS else 0.5
        predicted = (scores > threshold).long().masked_fill(scores.isnan(), _NO_CLASS)
    return labels.long().masked_fill(labels == reading.ignored, IGNORED).cpu(), predicted.cpu()


def _target_kind(batch: Batch) -> str:
    target = batch.target
    return str(target.dtype) if isinstance(target, Tensor) else type(target).__name__


def _listed(indices: tuple[int, ...]) -> str:
    n_more = len(indices) - _MAX_NAMED
    return ", ".join(map(str, indices[:_MAX_NAMED])) + (f" and {n_more} more" if n_more > 0 else "")


def _indices(mask: Tensor) -> tuple[int, ...]:
    return tuple(torch.nonzero(mask).flatten().tolist())


# ---- Loss and perplexity ----


@dataclass(frozen=True)
class LanguageLoss:
    """Loss of a language model on tokens.

    Attributes:
        loss: Mean cross-entropy over the tokens that count, in nats.
        n: Number of tokens that count.
        is_part: Whether the time limit ended the pass before the data did.
    """

    loss: float
    n: int
    is_part: bool = False

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return exp(self.loss) if self.loss < log(float_info.max) else inf

    def to_json(self) -> dict[str, Any]:
        """Plain data: a dict of numbers."""
        return {**asdict(self), "perplexity": self.perplexity}


@dataclass(frozen=True)
class LanguageChange:
    """Losses of two language models on the same tokens.

    Attributes:
        before: Of the first model.
        after: Of the second model.
    """

    before: LanguageLoss
    after: LanguageLoss

    def rows(self) -> list[list[str]]:
        """Rows of a table: loss and perplexity before, after, and their change."""
        pairs = (
            ("loss", self.before.loss, self.after.loss),
            ("perplexity", self.before.perplexity, self.after.perplexity),
        )
        return [[name, f"{before:.4g}", f"{after:.4g}", f"{after - before:+.4g}"] for name, before, after in pairs]

    def notes(self) -> list[str]:
        """Notes under a table: the number of tokens."""
        return [language_note(self.before)]

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts of numbers."""
        return {"before": self.before.to_json(), "after": self.after.to_json()}


def language_note(measured: LanguageLoss) -> str:
    """`loss and perplexity on 1,234 tokens`."""
    first = "the first " if measured.is_part else ""
    return f"loss and perplexity on {first}{measured.n:,} tokens"


def language_losses(
    models: Mapping[str, nn.Module],
    data: object,
    readings: Mapping[str, ResolvedLoss],
    *,
    batch_size: int = _BATCH_SIZE,
    seconds: float | None = None,
) -> dict[str, LanguageLoss]:
    """Measure the loss of several language models on the same batches, in one pass.

    Args:
        models: By the name to show.
        data: A `DataLoader`, a data set, or a pair of tensors.
        readings: By name of the model, how its outputs are read.
        batch_size: Of data that is not in batches yet.
        seconds: Time limit; the batches that were read by then count, at least one. No limit if None.

    Raises:
        DataError: No token counts.
        MeasureError: A model cannot be copied.
    """
    copies = {name: evaluation_copy(model) for name, model in models.items()}
    totals = dict.fromkeys(copies, 0.0)
    n_tokens, start, is_part = 0, perf_counter(), False
    with (
        ordered_batches(data, batch_size) as batches,
        torch.inference_mode(),
        progress_bar("loss", Batches(data, batch_size).n_batches, "batch") as advance,
    ):
        for raw in batches:
            if is_part := seconds is not None and n_tokens > 0 and perf_counter() - start > seconds:
                break
            n = 0
            for name, model in copies.items():
                batch = Batches([raw]).first(model)
                loss = readings[name](model, batch)
                n = 0 if loss is None else _n_counted(readings[name], batch)
                totals[name] += n * float(0 if loss is None else loss)
            n_tokens += n
            advance(1)
    if not n_tokens:
        raise DataError("loss and perplexity need at least one token that counts, but no label does")
    return {name: LanguageLoss(total / n_tokens, n_tokens, is_part) for name, total in totals.items()}


def _n_counted(reading: ResolvedLoss, batch: Batch) -> int:
    target: Tensor = batch.target
    counted = target[:, 1:] if reading.is_next_token else target
    return int((counted != reading.ignored).sum())


# ---- Either of the two ----


@dataclass(frozen=True)
class EvaluationScores:
    """Scores of several models, by their names; one of the two mappings is empty.

    Attributes:
        accuracy: Of classifiers.
        language: Of language models.
    """

    accuracy: Mapping[str, Accuracy] = field(default_factory=dict)
    language: Mapping[str, LanguageLoss] = field(default_factory=dict)


def scores_on(
    models: Mapping[str, nn.Module], data: object, spec: LossSpec, *, seconds: float | None = None
) -> EvaluationScores:
    """Measure the accuracy, or the loss of language models, of several models on the same batches, in one pass.

    Args:
        models: By the name to show.
        data: A `DataLoader`, a data set, or a pair of tensors.
        spec: Loss and output, as the user gave them.
        seconds: Time limit; the batches that were read by then count, at least one. No limit if None.

    Raises:
        DataError: The data has no labels that fit, or their meaning is not clear.
        MeasureError: A model fails on it, or cannot be copied.
    """
    copies = {name: evaluation_copy(model) for name, model in models.items()}
    readings = score_readings(copies, data, _BATCH_SIZE, spec)
    is_language = {reading.is_language for reading in readings.values()}
    if is_language == {True}:
        losses = language_losses(copies, data, readings, batch_size=_BATCH_SIZE, seconds=seconds)
        return EvaluationScores(language=losses)
    if True in is_language:
        raise DataError("a language model has loss and perplexity, another model accuracy: they cannot be compared")
    return EvaluationScores(accuracies(copies, data, batch_size=_BATCH_SIZE, seconds=seconds, readings=readings))
