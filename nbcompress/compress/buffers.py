"""Buffers that are not simply tensors of a state dict.

A state dict leaves out those with `persistent=False`, since the class computes them anew. A file need not hold them
either, until a cut goes through one: a fresh instance computes it whole, and cannot know what was taken out of it.

In others one number in memory stands for several, so that nothing can be written into them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nbcompress.compress.record import Surgery


def unstored_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Every buffer that the state dict of `model` leaves out, under every name it has."""
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name in module._non_persistent_buffers_set:
            buffer = module._buffers.get(name)
            if buffer is not None:
                found[f"{prefix}.{name}" if prefix else name] = buffer
    return found


def cut_buffers(model: nn.Module, surgery: Iterable[Surgery]) -> dict[str, Tensor]:
    """Those of them that `surgery` cut, in its order: a file must keep their values."""
    unstored = unstored_buffers(model)
    names = (f"{step.module}.{name}" if step.module else name for step in surgery for name in step.shapes)
    return {name: unstored[name] for name in names if name in unstored}


def share_buffers_(model: nn.Module, names: Iterable[tuple[str, ...]]) -> None:
    """Let the buffers of `model` under the names of each tuple be one tensor, the first of them, in place."""
    for first, *others in names:
        for other in others:
            path, _, last = other.rpartition(".")
            model.get_submodule(path)._buffers[last] = model.get_buffer(first)


def shared_buffers(model: nn.Module) -> list[tuple[str, ...]]:
    """The names of each buffer that has several. Conversions such as `model.to()` make a tensor of each of them."""
    found: dict[int, list[str]] = {}
    for name, buffer in model.named_buffers(remove_duplicate=False):
        found.setdefault(id(buffer), []).append(name)
    return [tuple(names) for names in found.values() if len(names) > 1]


def is_spread(tensor: Tensor) -> bool:
    """Whether one number in memory stands for several, as after `expand`: then none of them can be written."""
    if tensor.layout != torch.strided:
        return False
    return any(size > 1 and not step for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def own_buffers_(model: nn.Module) -> None:
    """Give every buffer of the state dict of `model` a number in memory for each of its own, in place."""
    unstored = unstored_buffers(model)
    own: dict[int, Tensor] = {}
    for name, buffer in list(model.named_buffers(remove_duplicate=False)):
        if is_spread(buffer) and name not in unstored:
            path, _, last = name.rpartition(".")
            contiguous = own.setdefault(id(buffer), buffer.clone(memory_format=torch.contiguous_format))
            model.get_submodule(path)._buffers[last] = contiguous


__all__ = ["cut_buffers", "is_spread", "own_buffers_", "share_buffers_", "shared_buffers", "unstored_buffers"]
