"""How the loss of a batch depends on weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nbcompress.compress.data import Batches
from nbcompress.compress.losses import NOTHING_COUNTS, LossSpec
from nbcompress.compress.observing import evaluating
from nbcompress.compress.seeding import seeded
from nbcompress.errors import CompressionError, DataError


def each_gradient(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    data: object,
    seed: int,
    spec: LossSpec,
    see: Callable[[Sequence[Tensor | None]], None],
) -> int:
    """Show the gradients of every batch's mean loss, in evaluation mode, and return the number of batches.

    A gradient is None where the loss does not depend on the parameter.
    """
    batches = Batches(data)
    loss_of = spec.reading(model, batches, seed)
    needed = [one.requires_grad for one in parameters]
    n_batches = 0
    # cuDNN cannot run a recurrent layer backward in evaluation mode.
    without_cudnn = torch.backends.cudnn.flags(enabled=False)
    try:
        for one in parameters:
            one.requires_grad_(True)
        with evaluating(model), seeded(seed, *batches.generators), torch.enable_grad(), without_cudnn:
            for batch in batches.for_model(model):
                loss = loss_of(model, batch)
                if loss is None:
                    continue
                see(torch.autograd.grad(loss, list(parameters), allow_unused=True))
                n_batches += 1
    finally:
        for one, was_needed in zip(parameters, needed, strict=True):
            one.requires_grad_(was_needed)
    if not n_batches:
        raise DataError(NOTHING_COUNTS)
    return n_batches


def check_gradients(totals: Sequence[Tensor], what_for: str) -> None:
    """Refuse sums of gradients that hold NaN or infinity."""
    if not all(bool(torch.isfinite(one).all()) for one in totals):
        raise CompressionError(f"gradients must be finite for {what_for}, but the loss gave NaN or infinity")


__all__ = ["check_gradients", "each_gradient"]
