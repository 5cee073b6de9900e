"""How many examples a model gets right, how sure that is, and which ones a change of the model flipped.

References:
    McNemar (1947), "Note on the sampling error of the difference between correlated proportions or percentages";
        here its exact form, on the binomial distribution.
    Agresti and Min (2005), "Simple improved confidence intervals for comparing matched proportions".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import sqrt
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from nbcompress.compress.data import Batch, Batches
from nbcompress.compress.losses import IGNORED, Kind, LossFunction, LossSpec, Reading
from nbcompress.compress.outputs import Output
from nbcompress.compress.seeding import seeded
from nbcompress.errors import DataError, MeasureError
from nbcompress.measure.examples import batches_in_order
from nbcompress.measure.inputs import Inputs
from nbcompress.measure.interval import Interval, normal_width, proportion_interval
from nbcompress.measure.table import points_text, share_text, text_table
from nbcompress.measure.undisturbed import measured_copy

# Of a label that does not count.
_IGNORED = IGNORED
# An output with a NaN in it names no class.
_NO_CLASS = -1
# So many flipped examples are named in a text; all of them are in the result.
_NAMED = 8


@dataclass(frozen=True)
class ClassAccuracy:
    """The examples of one class.

    Attributes:
        label: The class.
        n: Examples with this label.
        interval: Share of these that is right, with Wilson's 95 % interval.
    """

    label: int
    n: int
    interval: Interval


@dataclass(frozen=True, eq=False, repr=False)
class Accuracy:
    """What a model says of examples in a fixed order.

    Attributes:
        labels: What is right, int64 of shape (n,); -100 is not counted, as in cross-entropy.
        predictions: The class with the largest output, int64 of shape (n,); -1 where the output holds a NaN.
        is_part: Whether time ran out before the data ended.
    """

    labels: Tensor
    predictions: Tensor
    is_part: bool = False

    @cached_property
    def is_right(self) -> Tensor:
        """Bool of shape (n,)."""
        return self.labels == self.predictions

    @property
    def n(self) -> int:
        """Examples that count."""
        return int((self.labels != _IGNORED).sum())

    @property
    def interval(self) -> Interval:
        """Share of the examples that is right, with Wilson's 95 % interval."""
        return proportion_interval(int(self.is_right.sum()), self.n)

    @cached_property
    def per_class(self) -> tuple[ClassAccuracy, ...]:
        """Class by class, as the labels name them."""
        found = []
        for label in torch.unique(self.labels[self.labels != _IGNORED]).tolist():
            right = self.is_right[self.labels == label]
            found.append(ClassAccuracy(label, len(right), proportion_interval(int(right.sum()), len(right))))
        return tuple(found)

    def __float__(self) -> float:
        return self.interval.value

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, texts and numbers."""
        per_class = [asdict(one) for one in self.per_class]
        return {"n": self.n, **asdict(self.interval), "per_class": per_class, "is_part": self.is_part}

    def __str__(self) -> str:
        rows = [[str(one.label), f"{one.n:,}", share_text(one.interval)] for one in self.per_class]
        table = text_table(
            ["class", "examples", "accuracy"], [*rows, ["all", f"{self.n:,}", share_text(self.interval)]]
        )
        part = " of the first examples; time ran out" if self.is_part else ""
        return f"{table}\naccuracy{part}, in parentheses its 95 % interval"

    def __repr__(self) -> str:
        return f"<Accuracy {share_text(self.interval)} of {self.n:,} examples>"


@dataclass(frozen=True, eq=False, repr=False)
class AccuracyChange:
    """Two models on the same examples.

    Attributes:
        before: Of the one.
        after: Of the other.
    """

    before: Accuracy
    after: Accuracy

    @cached_property
    def broken(self) -> tuple[int, ...]:
        """Places of the examples that were right before and are wrong after."""
        return _places(self.before.is_right & ~self.after.is_right)

    @cached_property
    def mended(self) -> tuple[int, ...]:
        """Places of the examples that were wrong before and are right after."""
        return _places(self.after.is_right & ~self.before.is_right)

    @property
    def p_value(self) -> float:
        """McNemar's exact test: how likely so uneven a number of flips is if both models were equally good."""
        return mcnemar(len(self.broken), len(self.mended))

    @property
    def change(self) -> Interval:
        """Accuracy after minus accuracy before, with a 95 % interval for matched pairs (Agresti and Min)."""
        up, down, n = len(self.mended), len(self.broken), self.before.n
        value = (up - down) / n
        middle = (up - down) / (n + 2)
        half = normal_width() * sqrt(up + down + 1 - (up - down) ** 2 / (n + 2)) / (n + 2)
        return Interval(value, min(value, max(-1.0, middle - half)), max(value, min(1.0, middle + half)))

    def notes(self) -> list[str]:
        """How many examples that is, which ones flipped, and whether that can be chance."""
        broken, mended = len(self.broken), len(self.mended)
        first = "the first " if self.before.is_part else ""
        said = [f"accuracy on {first}{self.before.n:,} examples, with 95 % intervals"]
        if not broken + mended:
            return [*said, "no example flipped between right and wrong"]
        p = f"p = {self.p_value:.2g}" if self.p_value >= 0.001 else "p < 0.001"
        chance = "which may be chance" if self.p_value >= 0.05 else "more than chance explains"
        said.append(f"{broken + mended} flipped: {broken} broken, {mended} mended, {chance} (McNemar, {p})")
        named = (("right before, wrong after", self.broken), ("wrong before, right after", self.mended))
        some = [(what, "example" + "s" * (len(places) > 1), _listed(places)) for what, places in named if places]
        return said + [f"{what}: {kind} {listed}" for what, kind, listed in some]

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
    model: nn.Module,
    data: object,
    *,
    batch_size: int = 256,
    loss: LossFunction | None = None,
    output: Output | None = None,
) -> Accuracy:
    """Return how many examples of `data` a model gets right, with the interval of that, per class.

    The examples are read in their order, without shuffling; the model runs as a copy in evaluation mode.

    Args:
        model: From inputs to scores of classes, as in training by cross-entropy; or to one logit, or several, of
            targets of 0 and 1 (or to probabilities, if it ends in a sigmoid), where every label counts.
        data: A `DataLoader`, a data set, or a pair of tensors (inputs, labels). Where the labels are the inputs of a
            causal language model, or it shifts them itself, the tokens after the first count.
        batch_size: Of data that is not in batches yet.
        loss: What the model was trained by. A loss of torch tells logits from probabilities, and which label does not
            count (`ignore_index`).
        output: Index or key of the prediction, where the model returns several tensors.

    Raises:
        DataError: The data is empty, or has no labels that fit the model's outputs.
        MeasureError: The model fails on it, or cannot be copied.
    """
    return accuracies({"model": model}, data, batch_size=batch_size, spec=LossSpec(loss, output))["model"]


def accuracies(
    models: Mapping[str, nn.Module],
    data: object,
    *,
    batch_size: int = 256,
    seconds: float | None = None,
    spec: LossSpec | None = None,
    readings: Mapping[str, Reading] | None = None,
) -> dict[str, Accuracy]:
    """Measure the accuracy of several models on the same batches, in one pass.

    Args:
        models: By the name to show.
        data: As in `accuracy`.
        batch_size: Of data that is not in batches yet.
        seconds: Stop reading after so long; what was read until then counts. At least one batch is.
        spec: What the user says of the loss and the output.
        readings: How the models are read, by name, if that is known already.

    Raises:
        DataError: The data is empty, or has no labels that fit the models' outputs.
        MeasureError: A model fails on it, or cannot be copied.
    """
    copies = {name: measured_copy(model) for name, model in models.items()}
    if readings is None:
        readings = score_readings(copies, data, batch_size, spec or LossSpec())
    labels: list[Tensor] = []
    said: dict[str, list[Tensor]] = {name: [] for name in copies}
    start, is_part = perf_counter(), False
    with batches_in_order(data, batch_size) as batches, torch.inference_mode():
        for raw in batches:
            if is_part := seconds is not None and bool(labels) and perf_counter() - start > seconds:
                break
            for place, (name, model) in enumerate(copies.items()):
                given, predicted = _predictions(model, raw, readings[name])
                said[name].append(predicted)
                if not place:
                    labels.append(given)
    if not labels:
        raise DataError("data must hold at least one batch, but it gave none")
    right = torch.cat(labels)
    if not bool((right != _IGNORED).any()):
        raise DataError("accuracy needs at least one label, but all labels are -100, which stands for none")
    return {name: Accuracy(right, torch.cat(parts), is_part) for name, parts in said.items()}


def accuracy_change(before: Accuracy, after: Accuracy) -> AccuracyChange:
    """Compare two accuracies on the same examples.

    Raises:
        MeasureError: Their labels differ.
    """
    if not torch.equal(before.labels, after.labels):
        raise MeasureError("to see which examples flipped, both models must be measured on the same data, in one order")
    return AccuracyChange(before, after)


def mcnemar(broken: int, mended: int) -> float:
    """How likely chance splits flipped examples so unevenly, or more so (exact, two-sided).

    Args:
        broken: How many examples only the one of two models gets right.
        mended: How many only the other does.
    """
    from scipy.special import bdtr

    flips = broken + mended
    return min(1.0, 2 * float(bdtr(min(broken, mended), flips, 0.5))) if flips else 1.0


def score_readings(
    models: Mapping[str, nn.Module], data: object, batch_size: int, spec: LossSpec
) -> dict[str, Reading]:
    """How the outputs of each model are read beside the targets of `data`.

    Raises:
        DataError: The data is empty, or what its targets mean is not clear.
        MeasureError: A model fails on the data.
    """
    batches = Batches(data, batch_size)
    return {name: _score_reading(model, batches, spec) for name, model in models.items()}


def _score_reading(model: nn.Module, batches: Batches, spec: LossSpec) -> Reading:
    try:
        return spec.score_reading(model, batches)
    except DataError:
        # A model that does not run at all is told as such.
        with seeded(0, *batches.generators), torch.no_grad():
            first = batches.first(model)
            Inputs(first.args, first.kwargs)(model)
        raise


def _predictions(model: nn.Module, raw: Any, reading: Reading) -> tuple[Tensor, Tensor]:
    batch = Batches([raw]).first(model)
    if reading.kind is Kind.NUMBERS:
        raise DataError(f"accuracy needs integer labels, or targets of 0 and 1, got targets of {_kind(batch)}")
    output = reading.prediction(Inputs(batch.args, batch.kwargs)(model), batch)
    if reading.kind is Kind.CLASSES:
        scores, labels = reading.scores(output, batch.target)
        predicted = scores.argmax(1).masked_fill(scores.isnan().any(1), _NO_CLASS)
    else:
        said, labels = reading.pairs(output, batch.target)
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise DataError("accuracy needs integer labels, or targets of 0 and 1, got targets between 0 and 1")
        least = 0.0 if reading.kind is Kind.LOGITS else 0.5
        predicted = (said > least).long().masked_fill(said.isnan(), _NO_CLASS)
    return labels.long().masked_fill(labels == reading.ignored, _IGNORED).cpu(), predicted.cpu()


def _kind(batch: Batch) -> str:
    target = batch.target
    return str(target.dtype) if isinstance(target, Tensor) else type(target).__name__


def _listed(places: tuple[int, ...]) -> str:
    rest = len(places) - _NAMED
    return ", ".join(map(str, places[:_NAMED])) + (f" and {rest} more" if rest > 0 else "")


def _places(which: Tensor) -> tuple[int, ...]:
    return tuple(torch.nonzero(which).flatten().tolist())


__all__ = [
    "Accuracy",
    "AccuracyChange",
    "ClassAccuracy",
    "accuracies",
    "accuracy",
    "accuracy_change",
    "mcnemar",
    "score_readings",
]
