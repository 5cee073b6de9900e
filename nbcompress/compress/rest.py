"""The rest: what stays in floating point is rounded to half precision in the model itself.

So the file can hold it in two bytes, and the model that was evaluated is the model in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from nbcompress.compress.buffers import cut_buffers, unstored_buffers
from nbcompress.compress.layers import fill_, unique_parameters
from nbcompress.compress.record import Record

_WIDE = (torch.float32, torch.float64)


def half_rounded(values: Tensor, *, keeps_positive: bool = False) -> Tensor | None:
    """`values` rounded to the nearest float16, in their own dtype; None where that would lose their meaning.

    Args:
        values: Any floating tensor. Sixteen-bit ones come back as they are: they take two bytes already.
        keeps_positive: Nothing positive may become zero (a variance, which is divided by).

    Returns:
        None if a finite value would overflow (beyond 65504), or a variance would vanish.
    """
    if values.dtype not in _WIDE:
        return values
    half = values.to(torch.float16)
    if not torch.equal(torch.isinf(half), torch.isinf(values)):
        return None
    if keeps_positive and bool(((values > 0) & (half == 0)).any()):
        return None
    return half.to(values.dtype)


def rest_tensors(model: nn.Module, record: Record) -> Iterator[tuple[str, Tensor]]:
    """Every floating parameter (once, under its first name) and stored buffer without a grid or a codebook."""
    for names, parameter in unique_parameters(model):
        promised = [record.tensors[name] for name in names if name in record.tensors]
        if parameter.is_floating_point() and not any(one.grid or one.codebook for one in promised):
            yield names[0], parameter
    # A buffer that is not stored is made anew by the class: what we round would not come back.
    unstored = unstored_buffers(model).keys() - cut_buffers(model, record.surgery).keys()
    seen: set[int] = set()
    for name, buffer in model.named_buffers(remove_duplicate=False):
        is_dense = buffer.is_floating_point() and buffer.layout == torch.strided
        if is_dense and name not in unstored and id(buffer) not in seen:
            seen.add(id(buffer))
            yield name, buffer


def round_rest_(model: nn.Module, record: Record) -> dict[str, str]:
    """Round the rest of `model` in place. Returns the tensors that had to stay as they are, with the reason."""
    return round_tensors_(rest_tensors(model, record))


def round_tensors_(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Round named tensors in place; those that cannot be are returned with the reason."""
    kept: dict[str, str] = {}
    for name, tensor in tensors:
        rounded = half_rounded(tensor.detach(), keeps_positive=name.rpartition(".")[2] == "running_var")
        if rounded is None:
            kept[name] = "stays in float32: half precision would overflow, or make a variance zero"
        else:
            fill_(tensor, rounded)
    return kept


__all__ = ["half_rounded", "rest_tensors", "round_rest_", "round_tensors_"]
