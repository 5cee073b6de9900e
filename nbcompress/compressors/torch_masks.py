"""Masks of `torch.nn.utils.prune`, taken over as pruned zeros of ours.

Such a mask is a reparametrization: a module has the parameter `weight_orig` and the buffer `weight_mask`, and a hook
computes `weight` before each call. `take_over_masks_` makes `weight` a plain parameter with zeros, and records that
they stay zeros. Compressors do this with their copies, and a file holds the plain weights, so that it fills a fresh
instance of the class.

After `torch.nn.utils.prune.remove` a weight has zeros and no mask. Whether they are meant to stay cannot be known, so
training changes them, and `warn_of_free_zeros` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from nbcompress.compressors.copying import deep_copy
from nbcompress.compressors.record import TensorRecord, attach_, record_of
from nbcompress.errors import warn

# Zeros are rare in weights that nobody pruned: a tensor with a larger share of them is one that somebody pruned.
_MIN_SHARE = 0.1


def torch_masks(model: nn.Module) -> dict[str, Tensor]:
    """Return the mask of each tensor that `torch.nn.utils.prune` masks, by the dotted name of the tensor."""
    return {
        f"{path}.{name}".removeprefix("."): module._buffers[f"{name}_mask"]
        for path, module in model.named_modules()
        for _, name in _hooks(module)
    }


def without_torch_masks(model: nn.Module) -> nn.Module:
    """Return `model` itself if it has no masks of `torch.nn.utils.prune`, else a copy with plain weights."""
    # Something else than a module is refused by its reader, in its own words.
    if not isinstance(model, nn.Module) or not any(True for module in model.modules() for _ in _hooks(module)):
        return model
    new = deep_copy(model)
    take_over_masks_(new)
    return new


@torch.no_grad()
def take_over_masks_(model: nn.Module) -> None:
    """Make every weight with a mask of `torch.nn.utils.prune` a plain parameter, in place, and record its zeros."""
    names = list(torch_masks(model))
    if not names:
        return
    orders = {module: list(_plain_names(module)) for module in model.modules() if any(True for _ in _hooks(module))}
    # A parameter that several modules share can have several masks, so that it is one parameter only if they agree.
    made: list[tuple[nn.Parameter, Tensor, nn.Parameter]] = []
    for module, order in orders.items():
        for key, name in list(_hooks(module)):
            del module._forward_pre_hooks[key]
            original, mask = module._parameters.pop(f"{name}_orig"), module._buffers.pop(f"{name}_mask")
            assert original is not None
            assert mask is not None
            values = original.detach() * mask.to(original.dtype)
            same = (new for old, other, new in made if old is original and torch.equal(other, mask))
            parameter = next(same, None)
            if parameter is None:
                parameter = nn.Parameter(values, requires_grad=original.requires_grad)
                made.append((original, mask, parameter))
            module.__dict__.pop(name, None)
            setattr(module, name, parameter)
        parameters = {name: module._parameters[name] for name in order}
        module._parameters.clear()
        module._parameters.update(parameters)
    record = record_of(model)
    tensors = {name: replace(record.tensors.get(name, TensorRecord()), is_pruned=True) for name in names}
    attach_(model, replace(record, tensors={**record.tensors, **tensors}))


def refresh_masked_(model: nn.Module) -> None:
    """Compute every masked weight again from its parameter and its mask, in place, as the next call would."""
    for module in model.modules():
        for _, name in _hooks(module):
            setattr(module, name, getattr(module, f"{name}_orig") * getattr(module, f"{name}_mask"))


def warn_of_free_zeros(model: nn.Module) -> None:
    """Warn of weights with many zeros that no record and no mask keeps, before training changes them."""
    record = record_of(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    kept_names = (*record.tensors, *(f"{name}_orig" for name in torch_masks(model)))
    kept = {id(parameters[name]) for name in kept_names if name in parameters}
    found: dict[str, int] = {}
    for path, module in model.named_modules():
        for last, parameter in module._parameters.items():
            name = f"{path}.{last}".removeprefix(".")
            if parameter is None or parameter.ndim < 2 or id(parameter) in kept:
                continue
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or not parameter.requires_grad:
                continue
            n_zeros = parameter.numel() - int(torch.count_nonzero(parameter.detach()))
            if _MIN_SHARE * parameter.numel() <= n_zeros < parameter.numel():
                found[name] = n_zeros
    if found:
        listed = ", ".join(f"{n:,} of {name!r}" for name, n in list(found.items())[:3])
        more = f" and of {len(found) - 3} more" if len(found) > 3 else ""
        warn(
            f"zeros that no mask keeps are trained like other weights: {listed}{more}. To keep them, train "
            "prune(model, amount=0)",
            stacklevel=4,
        )


def _hooks(module: nn.Module) -> Iterator[tuple[int, str]]:
    """The key and the tensor name of every pruning hook of a module."""
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, BasePruningMethod):
            yield key, hook._tensor_name


def _plain_names(module: nn.Module) -> list[str]:
    """The names of the parameters as the class registers them; masks moved theirs to the end."""
    masked = {name for _, name in _hooks(module)}
    present = [
        name.removesuffix("_orig") if name.removesuffix("_orig") in masked else name for name in module._parameters
    ]
    # Layers of torch annotate or list their parameters in the order in which they register them.
    known = [*getattr(module, "_flat_weights_names", ()), "in_proj_weight", "q_proj_weight", "k_proj_weight"]
    known += ["v_proj_weight", "in_proj_bias", "weight", "bias"]
    if type(module).__module__.startswith("torch.nn."):
        return sorted(present, key=lambda name: known.index(name) if name in known else len(known))
    return present


__all__ = ["refresh_masked_", "take_over_masks_", "torch_masks", "warn_of_free_zeros", "without_torch_masks"]
