"""Buffers that the forward pass makes anew when they do not fit its inputs: a cut through one would be undone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nbcompress.compress.buffers import unstored_buffers
from nbcompress.compress.layers import copied
from nbcompress.compress.prune.agreeing import Removal, named
from nbcompress.compress.prune.checking import Check, run


def without_remade(model: nn.Module, check: Check, removals: Sequence[Removal]) -> tuple[list[Removal], dict[str, str]]:
    """The removals that go through no such buffer, and why the others cannot be carried out.

    Args:
        model: As the user has it, which may not have run yet.
        check: With a copy that ran.
        removals: What is to go.
    """
    whole = unstored_buffers(check.originals[0])
    places = {name for one in removals for name, _ in one.group.places if name in whole}
    remade = {name for name in sorted(places) if _is_remade(model, check, name, whole[name])}
    kept: list[Removal] = []
    reasons: dict[str, str] = {}
    for one in removals:
        name = next((name for name, _ in one.group.places if name in remade), None)
        if name is None:
            kept.append(one)
        else:
            reasons |= named(one.group, f"the buffer {name!r} goes with it, which the forward pass makes anew")
    return kept, reasons


def _is_remade(model: nn.Module, check: Check, name: str, buffer: Tensor) -> bool:
    """Whether the forward pass made `buffer`, or makes it where it is missing or of another shape."""
    before = unstored_buffers(model).get(name)
    if before is None or before.shape != buffer.shape:
        return True
    for start in (None, buffer.new_zeros((1,) * buffer.ndim)):
        tried = copied(check.originals[0])
        same = [other for other, one in unstored_buffers(tried).items() if one is tried.get_buffer(name)]
        for path, _, last in (other.rpartition(".") for other in same):
            tried.get_submodule(path)._buffers[last] = start
        try:
            run(tried, check.inputs[0])
        except Exception:  # noqa: BLE001 - code that needs the buffer as it was raises anything
            continue
        made = unstored_buffers(tried).get(name)
        if made is not None and made is not start and made.shape == buffer.shape:
            return True
    return False


__all__ = ["without_remade"]
