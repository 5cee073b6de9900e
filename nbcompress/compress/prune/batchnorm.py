"""Statistics of batch norm, measured again after channels are gone."""

from __future__ import annotations

import torch
from torch import nn

from nbcompress.compress.data import Batches


@torch.no_grad()
def recompute_batchnorm_(model: nn.Module, data: object) -> int:
    """Measure mean and variance of every batch norm that tracks them, in place, over one pass of `data`.

    Each batch counts the same. Dropout is off while they are measured, and the module comes back in the mode it
    came in.

    Args:
        model: Any module. Without batch norm nothing happens, and the data is not read.
        data: A `DataLoader`, a data set, or a pair of tensors.

    Returns:
        The number of batch norms that were measured.

    Raises:
        DataError: `data` is empty or has another form.
    """
    norms = [
        one
        for one in model.modules()
        if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.running_mean is not None
    ]
    if not norms:
        return 0
    batches = Batches(data)
    before = [{name: buffer.clone() for name, buffer in one.named_buffers()} for one in norms]
    modes = {module: module.training for module in model.modules()}
    momenta = [one.momentum for one in norms]
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over all batches
            norm.train()
        for batch in batches.for_model(model):
            batch(model)
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            norm.load_state_dict(buffers, strict=False)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return len(norms)


__all__ = ["recompute_batchnorm_"]
