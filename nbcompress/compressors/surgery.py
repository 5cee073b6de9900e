"""Replay recorded structural changes on a fresh instance, as when a file is loaded.

Changes are cut tensors, sizes in the code, factorized layers and removed blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nbcompress.compressors.attention import convert_attention_
from nbcompress.compressors.blocks import bypass_, remove_items_, unpacked_indices
from nbcompress.compressors.factorize import LowRank, low_rank_like
from nbcompress.compressors.keras import update_layers_
from nbcompress.compressors.numbers import is_integer, number_at, set_number_
from nbcompress.compressors.record import Surgery, unit_axis
from nbcompress.compressors.resize import resize_, rule_from_numbers
from nbcompress.errors import CompressionError


def replay_surgery_(model: nn.Module, surgery: Surgery) -> None:
    """Make the change that `surgery` describes on `model`, in place.

    Changed weights become zeros of the new shapes, on the same device and with the same dtype; values are filled in
    later. Everything is checked before anything is changed, because the description may come from a file. A parameter
    that several modules share is cut in all of them.

    Raises:
        CompressionError: The model has no such module, parameter or attribute: it is not a fresh instance of the class
            that was changed, or the description was tampered with.
    """
    if surgery.kind == "factorize":
        _factorize_(model, surgery)
    elif surgery.kind == "cut":
        _cut_(model, surgery)
    elif surgery.kind == "remove":
        remove_items_(model, surgery.module, surgery.positions)
    elif surgery.kind == "bypass":
        bypass_(model, surgery.module)
    elif surgery.kind == "resize":
        resize_(_module(model, surgery), rule_from_numbers(surgery.attributes))
    else:
        raise CompressionError(f"a surgery is cut, resize, factorize, remove or bypass, got {surgery.kind!r}")


def _module(model: nn.Module, surgery: Surgery) -> nn.Module:
    try:
        return model.get_submodule(surgery.module)
    except AttributeError as err:
        raise CompressionError(
            f"the model has no module {surgery.module!r} to {surgery.kind}: pass a fresh instance of the original class"
        ) from err


def _factorize_(model: nn.Module, surgery: Surgery) -> None:
    module = _module(model, surgery)
    rank = surgery.attributes.get("rank")
    if not isinstance(rank, int) or not surgery.module:
        raise CompressionError(f"factorizing {surgery.module!r} needs its rank, got {rank!r}")
    path, _, name = surgery.module.rpartition(".")
    parent = model.get_submodule(path)
    if isinstance(parent, LowRank):
        # Each step may double what it replaces, so steps within steps from a file would have no bound.
        raise CompressionError(f"{surgery.module!r} is a factor already, and cannot be factorized again")
    setattr(parent, name, low_rank_like(module, rank))


def _cut_(model: nn.Module, surgery: Surgery) -> None:
    module = _module(model, surgery)
    for name, value in surgery.attributes.items():
        _check_attribute(module, surgery.module, name, value)
    if surgery.shapes:
        convert_attention_(module)
    tensors = {name: _tensor(module, surgery.module, name, shape) for name, shape in surgery.shapes.items()}
    for name, kept in surgery.kept.items():
        _check_kept(module, surgery, name, tensors.get(name), kept)
    for name, shape in surgery.shapes.items():
        old = tensors[name]
        # The tensor stays the same object, because other modules and layers of Keras may hold it too.
        old.data = torch.zeros(shape, dtype=old.dtype, device=old.device)
        old.grad = None
    for path, value in surgery.attributes.items():
        if isinstance(value, int):
            set_number_(model, module, path, value)
        else:
            setattr(module, path, tuple(value))
    update_layers_(model)


def _tensor(module: nn.Module, where: str, name: str, shape: tuple[int, ...]) -> Tensor:
    path, _, last = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError:
        owner = nn.Module()
    parameter = owner._parameters.get(last)
    tensor = parameter if parameter is not None else owner._buffers.get(last)
    if tensor is None:
        raise CompressionError(f"module {where!r} has no parameter or buffer {name!r}: pass a fresh instance")
    is_smaller = len(shape) == tensor.ndim and all(
        isinstance(size, int) and not isinstance(size, bool) and 0 < size <= before
        for size, before in zip(shape, tensor.shape, strict=True)
    )
    if not is_smaller:
        raise CompressionError(
            f"{name!r} of module {where!r} can only be cut, from {tuple(tensor.shape)}, but the record says {shape}"
        )
    return tensor


def _check_kept(module: nn.Module, surgery: Surgery, name: str, tensor: Tensor | None, kept: int | bytes) -> None:
    """Refuse kept units that the weight does not have, or of another number than its new shape has."""
    shape, axis = surgery.shapes.get(name, ()), unit_axis(module)
    n_bits = kept if isinstance(kept, int) else 8 * len(kept)
    is_valid = tensor is not None and axis < len(shape) and n_bits < tensor.shape[axis] + 8
    indices = unpacked_indices(kept) if is_valid else ()
    if tensor is None or len(indices) != shape[axis] or (indices and indices[-1] >= tensor.shape[axis]):
        raise CompressionError(f"the kept units of {name!r} in module {surgery.module!r} do not fit its shape")


def _check_attribute(module: nn.Module, where: str, path: str, value: object) -> None:
    """Refuse everything except integers, and rows of integers, that the instance already has."""
    is_same_kind = number_at(module, path) is not None and is_integer(value)
    before = module.__dict__.get(path)
    if isinstance(before, (tuple, list)) and isinstance(value, (tuple, list)):
        is_same_kind = len(before) == len(value) and all(map(is_integer, (*before, *value)))
    if not is_same_kind:
        raise CompressionError(f"module {where!r} has no number {path!r} that could be set to {value!r}")


__all__ = ["replay_surgery_"]
