"""What models are worth on data: accuracy, or loss and perplexity of language models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from nbcompress.compress.losses import LossSpec
from nbcompress.errors import DataError
from nbcompress.measure.accuracy import Accuracy, accuracies, score_readings
from nbcompress.measure.language import LanguageLoss, language_losses
from nbcompress.measure.undisturbed import measured_copy

_BATCH_SIZE = 256


@dataclass(frozen=True)
class Scores:
    """Either of the two, by the models' names.

    Attributes:
        accuracy: Of classifiers.
        language: Of language models.
    """

    accuracy: Mapping[str, Accuracy] = field(default_factory=dict)
    language: Mapping[str, LanguageLoss] = field(default_factory=dict)


def scores_on(models: Mapping[str, nn.Module], data: object, spec: LossSpec, *, seconds: float | None = None) -> Scores:
    """Measure several models on the same batches, in one pass.

    Args:
        models: By the name to show.
        data: A `DataLoader`, a data set, or a pair of tensors.
        spec: What the user says of the loss and the output.
        seconds: Stop reading after so long; what was read until then counts. At least one batch is.

    Raises:
        DataError: The data has no labels that fit, or what they mean is not clear.
        MeasureError: A model fails on it, or cannot be copied.
    """
    copies = {name: measured_copy(model) for name, model in models.items()}
    readings = score_readings(copies, data, _BATCH_SIZE, spec)
    is_language = {one.is_language for one in readings.values()}
    if is_language == {True}:
        found = language_losses(copies, data, readings, batch_size=_BATCH_SIZE, seconds=seconds)
        return Scores(language=found)
    if True in is_language:
        raise DataError("a language model has loss and perplexity, another model accuracy: they cannot be compared")
    return Scores(accuracies(copies, data, batch_size=_BATCH_SIZE, seconds=seconds, readings=readings))


__all__ = ["Scores", "scores_on"]
