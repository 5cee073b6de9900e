"""Buffers that a state dict does not hold, since the class computes them anew (`persistent=False`).

A file need not hold them either, until a cut goes through one: a fresh instance computes it whole, and cannot know
what was taken out of it.
"""

from __future__ import annotations

from collections.abc import Iterable

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


__all__ = ["cut_buffers", "share_buffers_", "shared_buffers", "unstored_buffers"]
