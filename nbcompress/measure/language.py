"""How well a language model says its tokens: loss and perplexity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import exp, inf, log
from sys import float_info
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from nbcompress.compress.data import Batch, Batches
from nbcompress.compress.losses import Reading
from nbcompress.errors import DataError
from nbcompress.measure.examples import batches_in_order
from nbcompress.measure.undisturbed import measured_copy


@dataclass(frozen=True)
class LanguageLoss:
    """What a language model loses on tokens.

    Attributes:
        loss: Mean over the tokens that count.
        n: How many tokens count.
        is_part: Whether time ran out before the data ended.
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
    """Two language models on the same tokens.

    Attributes:
        before: Of the one.
        after: Of the other.
    """

    before: LanguageLoss
    after: LanguageLoss

    def rows(self) -> list[list[str]]:
        """Loss and perplexity: before, after, and what was gained or lost."""
        pairs = (
            ("loss", self.before.loss, self.after.loss),
            ("perplexity", self.before.perplexity, self.after.perplexity),
        )
        return [[name, f"{one:.4g}", f"{two:.4g}", f"{two - one:+.4g}"] for name, one, two in pairs]

    def notes(self) -> list[str]:
        """On how much it was measured."""
        return [language_note(self.before)]

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts of numbers."""
        return {"before": self.before.to_json(), "after": self.after.to_json()}


def language_note(found: LanguageLoss) -> str:
    """On how much it was measured."""
    first = "the first " if found.is_part else ""
    return f"loss and perplexity on {first}{found.n:,} tokens"


def language_losses(
    models: Mapping[str, nn.Module],
    data: object,
    readings: Mapping[str, Reading],
    *,
    batch_size: int = 256,
    seconds: float | None = None,
) -> dict[str, LanguageLoss]:
    """Measure what several language models lose on the same batches, in one pass.

    Args:
        models: By the name to show.
        data: A `DataLoader`, a data set, or a pair of tensors.
        readings: How the models are read, by name.
        batch_size: Of data that is not in batches yet.
        seconds: Stop reading after so long; what was read until then counts. At least one batch is.

    Raises:
        DataError: No token counts.
        MeasureError: A model cannot be copied.
    """
    copies = {name: measured_copy(model) for name, model in models.items()}
    totals = dict.fromkeys(copies, 0.0)
    n_tokens, start, is_part = 0, perf_counter(), False
    with batches_in_order(data, batch_size) as batches, torch.inference_mode():
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
    if not n_tokens:
        raise DataError("loss and perplexity need at least one token that counts, but no label does")
    return {name: LanguageLoss(total / n_tokens, n_tokens, is_part) for name, total in totals.items()}


def _n_counted(reading: Reading, batch: Batch) -> int:
    target: Tensor = batch.target
    counted = target[:, 1:] if reading.is_ahead else target
    return int((counted != reading.ignored).sum())


__all__ = ["LanguageChange", "LanguageLoss", "language_losses", "language_note"]
