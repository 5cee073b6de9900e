"""Buffers that need care when a model is copied, cut or saved.

A state dict leaves out buffers with `persistent=False`, because the class computes them again. A file need not hold
them, unless a cut removed some of their values: a fresh instance computes the whole buffer and does not know what was
removed.

Other buffers are expanded: one number in memory stands for several elements, so nothing can be written into them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nbcompress.compressors.blocks import name_after_removal
from nbcompress.compressors.record import Surgery


def non_persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return every buffer that the state dict of `model` leaves out, under each of its names."""
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name in module._non_persistent_buffers_set:
            buffer = module._buffers.get(name)
            if buffer is not None:
                found[f"{prefix}.{name}" if prefix else name] = buffer
    return found


def cut_buffers(model: nn.Module, surgery: Iterable[Surgery]) -> dict[str, Tensor]:
    """Return the non-persistent buffers that `surgery` cut, in its order: a file must hold their values."""
    buffers = non_persistent_buffers(model)
    names: list[str] = []
    for step in surgery:
        if step.kind == "remove":
            new_names = (name_after_removal(name, step.module, step.positions) for name in names)
            names = [name for name in new_names if name is not None]
        names += [f"{step.module}.{name}" if step.module else name for name in step.shapes]
    return {name: buffers[name] for name in names if name in buffers}


def share_buffers_(model: nn.Module, names: Iterable[tuple[str, ...]]) -> None:
    """Make the buffers under the names of each tuple one tensor, the first of them, in place."""
    for first, *others in names:
        for other in others:
            path, _, last = other.rpartition(".")
            model.get_submodule(path)._buffers[last] = model.get_buffer(first)


def shared_buffers(model: nn.Module) -> list[tuple[str, ...]]:
    """Return the names of each buffer with several names. Conversions such as `model.to()` separate them."""
    found: dict[int, list[str]] = {}
    for name, buffer in model.named_buffers(remove_duplicate=False):
        found.setdefault(id(buffer), []).append(name)
    return [tuple(names) for names in found.values() if len(names) > 1]


def is_expanded(tensor: Tensor) -> bool:
    """Whether one number in memory stands for several elements, as after `expand`, so that none can be written."""
    if tensor.layout != torch.strided:
        return False
    return any(size > 1 and not step for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def materialize_buffers_(model: nn.Module) -> None:
    """Replace every expanded buffer of the state dict of `model` by a contiguous copy, in place."""
    non_persistent = non_persistent_buffers(model)
    copies: dict[int, Tensor] = {}
    for name, buffer in list(model.named_buffers(remove_duplicate=False)):
        if is_expanded(buffer) and name not in non_persistent:
            path, _, last = name.rpartition(".")
            contiguous = copies.setdefault(id(buffer), buffer.clone(memory_format=torch.contiguous_format))
            model.get_submodule(path)._buffers[last] = contiguous


__all__ = [
    "cut_buffers",
    "is_expanded",
    "materialize_buffers_",
    "non_persistent_buffers",
    "share_buffers_",
    "shared_buffers",
]
