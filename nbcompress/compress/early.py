"""When to stop training, and which of its states to keep."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor, nn

from nbcompress.compress.data import Batches
from nbcompress.compress.layers import fill_
from nbcompress.compress.losses import NOTHING_COUNTS, BatchLoss
from nbcompress.compress.observing import evaluating
from nbcompress.compress.record import attach_, record_of
from nbcompress.compress.seeding import seeded
from nbcompress.errors import DataError


class BestSoFar:
    """The state of a model with the lowest loss on validation data, the one at the start among them.

    Args:
        model: In training.
        batches: Validation data.
        loss_of: The loss of a batch.
        patience: After so many epochs without a lower loss, training stops.
        seed: Of the order of the data and of the model's own randomness.

    Raises:
        DataError: The loss of the model as it is, is NaN or infinite.
    """

    def __init__(self, model: nn.Module, batches: Batches, loss_of: BatchLoss, patience: int, seed: int) -> None:
        self._model, self._batches, self._loss_of = model, batches, loss_of
        self._patience, self._seed = patience, seed
        self._n_waited = 0
        self._lowest = self._loss()
        if not isfinite(self._lowest):
            raise DataError(f"the loss on valid= must be finite before training, got {self._lowest}")
        self._note()

    def is_enough(self) -> bool:
        """After an epoch: whether training should stop."""
        loss = self._loss()
        if loss < self._lowest:
            self._lowest, self._n_waited = loss, 0
            self._note()
        else:
            self._n_waited += 1
        return self._n_waited >= self._patience

    def restore_(self) -> None:
        """Give the model the best state back, record included."""
        for one, values in zip(self._tensors(), self._values, strict=True):
            fill_(one, values)
        attach_(self._model, self._record)

    def _note(self) -> None:
        self._values = [one.detach().clone() for one in self._tensors()]
        self._record = record_of(self._model)

    def _tensors(self) -> list[Tensor]:
        return [one for _, one in (*self._model.named_parameters(), *self._model.named_buffers())]

    def _loss(self) -> float:
        """The mean over batches, in evaluation mode."""
        with evaluating(self._model), seeded(self._seed, *self._batches.generators), torch.no_grad():
            batches = self._batches.for_model(self._model)
            found = [self._loss_of(self._model, batch) for batch in batches]
        losses = [float(one) for one in found if one is not None]
        if not losses:
            raise DataError(NOTHING_COUNTS)
        return sum(losses) / len(losses)


__all__ = ["BestSoFar"]
