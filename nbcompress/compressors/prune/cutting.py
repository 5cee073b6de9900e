"""Remove channels from the tensors of a model, or set them to zero.

A `RemovalPlan` says which indices of which tensor axes are removed. `cut_` carries it out; `mask_` sets the same slices
to zero, which gives the model that a cut model must agree with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from nbcompress.compressors.attention import convert_attention_
from nbcompress.compressors.blocks import packed_indices
from nbcompress.compressors.coupling import AveragingCall, ReshapeCall, TensorAxis, Unit, canonical_names, named_tensors
from nbcompress.compressors.keras import update_layers_
from nbcompress.compressors.numbers import number_at, set_number_
from nbcompress.compressors.record import Grid, Record, Surgery, TensorRecord, record_of, unit_axis
from nbcompress.compressors.resize import Resize, Resplit, Rule, resize_


@dataclass(frozen=True)
class RemovalPlan:
    """What is removed from a model.

    Attributes:
        removed: For each axis of a parameter or buffer, the indices to remove.
        attributes: New values for numbers of modules, by name of the module and path of the number. The sizes of
            torch's own layers are not listed.
        averages: Calls that average over removed channels.
        resizes: Sizes in the code of modules, by name of the module.
    """

    removed: Mapping[TensorAxis, frozenset[int]]
    attributes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    averages: tuple[AveragingCall, ...] = ()
    resizes: tuple[tuple[str, Rule], ...] = ()


def plan_of_units(
    units: Iterable[Unit],
    attributes: Mapping[tuple[str, str], int] | None = None,
    averages: Iterable[AveragingCall] = (),
    reshapes: Iterable[ReshapeCall] = (),
) -> RemovalPlan:
    """Return the plan that removes `units`.

    Args:
        units: What is removed.
        attributes: See `RemovalPlan`.
        averages: The calls that average over the units.
        reshapes: The reshapes and splits that ask for sizes as before the cut and need others.
    """
    removed: dict[TensorAxis, set[int]] = {}
    for unit in units:
        for axis, indices in unit.items():
            removed.setdefault(axis, set()).update(indices)
    frozen_sets = {axis: frozenset(indices) for axis, indices in removed.items()}
    rules = {(call.module, rule): None for call in reshapes for rule in _rules_of(call, frozen_sets)}
    return RemovalPlan(frozen_sets, attributes or {}, tuple(dict.fromkeys(averages)), tuple(rules))


def _rules_of(call: ReshapeCall, removed: Mapping[TensorAxis, frozenset[int]]) -> list[Rule]:
    """The rule for the sizes of a call after `removed` was removed; none if they stay."""
    new = call.sizes_after(removed)
    if new == call.sizes or 0 in new:
        return []
    return [(Resplit if call.is_split else Resize)(call.n_dims, call.end, call.sizes, new)]


@torch.no_grad()
def mask_(model: nn.Module, plan: RemovalPlan) -> None:
    """Set every slice of a parameter that `plan` removes to zero, in place. Buffers stay as they are."""
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    for (name, dim), indices in plan.removed.items():
        if name in parameters and (_weight_norm_length(name), dim) not in plan.removed:
            tensor = parameters[name]
            tensor.index_fill_(dim, torch.tensor(sorted(indices), device=tensor.device), 0.0)


def _weight_norm_length(name: str) -> str:
    """Under weight normalization, the name of the length that belongs to the direction called `name`; else empty.

    A length of zero makes a channel zero. A direction of zeros would be divided by its norm, which is zero.
    """
    for direction, length in (("original1", "original0"), ("weight_v", "weight_g")):
        if name.endswith(f".{direction}"):
            return name.removesuffix(direction) + length
    return ""


@torch.no_grad()
def cut_(model: nn.Module, plan: RemovalPlan) -> tuple[Surgery, ...]:
    """Carry out `plan` on `model`, in place.

    Parameters stay the same objects, so that modules that share them still do.

    Returns:
        The changes of each module.
    """
    tensors = named_tensors(model)
    first = canonical_names(model)
    before = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    computed = {
        path: tuple(cast(Tensor, module.weight).shape)
        for path, module in model.named_modules()
        if _computes_weight(module)
    }
    for (name, dim), indices in plan.removed.items():
        tensor = tensors[name]
        kept = [index for index in range(tensor.shape[dim]) if index not in indices]
        tensor.data = tensor.data.index_select(dim, torch.tensor(kept, device=tensor.device)).contiguous()
        tensor.grad = None
    changed = [name for name, tensor in tensors.items() if tuple(tensor.shape) != before[name]]
    numbers = {**_norm_widths(model, plan), **plan.attributes}
    surgeries = []
    for path, module in model.named_modules():
        names = [name for name in changed if name.rpartition(".")[0] == path]
        old_shapes = {name.rpartition(".")[2]: before[name] for name in names}
        if path in computed:
            old_shapes["weight"] = computed[path]
        if names:
            convert_attention_(module)
        attributes: dict[str, int | tuple[int, ...]] = dict(_set_sizes_(module, old_shapes)) if old_shapes else {}
        for (where, attribute), value in numbers.items():
            if where == path:
                set_number_(model, module, attribute, value)
                attributes[attribute] = value
        shapes = {name.rpartition(".")[2]: tuple(tensors[name].shape) for name in names if first[name] == name}
        if shapes or attributes:
            weights = {name for name in shapes if isinstance(tensors[f"{path}.{name}".lstrip(".")], nn.Parameter)}
            kept_units = {
                name: _kept_units(module, name, path, before, plan)
                for name in shapes
                if name in weights and len(shapes[name]) > 1
            }
            surgeries.append(Surgery("cut", path, shapes, attributes, kept_units))
    for path, rule in plan.resizes:
        resize_(model.get_submodule(path), rule)
        surgeries.append(Surgery("resize", path, attributes=rule.numbers))
    update_layers_(model)
    return tuple(surgeries)


def _kept_units(
    module: nn.Module, name: str, path: str, before: Mapping[str, tuple[int, ...]], plan: RemovalPlan
) -> int | bytes:
    """The indices that a weight keeps along its output axis, packed."""
    full, axis = f"{path}.{name}".removeprefix("."), unit_axis(module)
    removed = plan.removed.get((full, axis), frozenset())
    return packed_indices([index for index in range(before[full][axis]) if index not in removed])


def _computes_weight(module: nn.Module) -> bool:
    """Whether the weight of a layer is computed from other parameters at each call, as under weight normalization."""
    return is_parametrized(module, "weight")


def _norm_widths(model: nn.Module, plan: RemovalPlan) -> dict[tuple[str, str], int]:
    """The new widths of norm modules. A norm without weights has no tensor whose shape gives its width."""
    first = {id(module): path for path, module in model.named_modules()}
    widths: dict[tuple[str, str], int] = {}
    for average in plan.averages:
        module = model.get_submodule(average.module)
        shape = getattr(module, "normalized_shape", None)
        if isinstance(shape, (tuple, list)) and len(shape) >= -average.dim:
            name = f"normalized_shape[{len(shape) + average.dim}]"
            if number_at(module, name) == len(average.sources):
                widths[first[id(module)], name] = len(average.kept(plan.removed))
    return widths


# The tensors whose shape gives the sizes of a layer of torch, in order of preference.
_SIZE_TENSORS = ("weight", "running_mean", "weight_ih_l0", "weight_ih", "in_proj_weight", "q_proj_weight")


def _set_sizes_(module: nn.Module, old_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Set the size attributes of a layer of torch from its new shapes, and return those that changed."""
    if isinstance(module, nn.RNNBase):
        module.flatten_parameters()
    tensors: dict[str, Tensor | None] = {**module._buffers, **module._parameters}
    if _computes_weight(module):
        tensors["weight"] = cast(Tensor, module.weight)
    name = next((name for name in _SIZE_TENSORS if tensors.get(name) is not None), "")
    weight = tensors.get(name)
    if not isinstance(weight, Tensor):
        return {}
    sizes = _sizes(module, tuple(weight.shape), old_shapes.get(name, tuple(weight.shape)))
    changed = {name: size for name, size in sizes.items() if getattr(module, name) != size}
    for name, size in changed.items():
        setattr(module, name, size)
    return changed


def _sizes(module: nn.Module, new: tuple[int, ...], old: tuple[int, ...]) -> dict[str, int]:
    if isinstance(module, nn.modules.conv._ConvNd):
        return _conv_sizes(module, new, old)
    if isinstance(module, nn.Linear):
        return {"in_features": new[1], "out_features": new[0]}
    if isinstance(module, nn.Bilinear):
        return {"out_features": new[0], "in1_features": new[1], "in2_features": new[2]}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return {"num_features": new[0]}
    if isinstance(module, nn.GroupNorm):
        # Whole groups are removed, unless there is only one.
        return {"num_channels": new[0], "num_groups": max(1, module.num_groups * new[0] // old[0])}
    if isinstance(module, nn.MultiheadAttention):
        rows = new[0] // 3 if module.in_proj_weight is not None else new[0]
        return {"num_heads": rows // module.head_dim, "embed_dim": new[1]}
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return {"input_size": new[1], "hidden_size": module.hidden_size * new[0] // old[0]}
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return {"embedding_dim": new[1]}
    return {"num_parameters": new[0]} if isinstance(module, nn.PReLU) else {}


def _conv_sizes(module: nn.modules.conv._ConvNd, new: tuple[int, ...], old: tuple[int, ...]) -> dict[str, int]:
    groups = module.groups
    if module.transposed:
        # weight (in, out / groups, *); a group of one input channel is removed with it.
        groups = new[0] if groups == old[0] else groups
        return {"in_channels": new[0], "out_channels": new[1] * groups, "groups": groups}
    # weight (out, in / groups, *)
    groups = groups * new[0] // old[0] if groups > 1 and old[1] == 1 else groups
    return {"in_channels": new[1] * groups, "out_channels": new[0], "groups": groups}


def cut_record(
    model: nn.Module, plan: RemovalPlan, surgeries: tuple[Surgery, ...], left_out: Mapping[str, str]
) -> Record:
    """Return the record of `model`, which is still uncut, as it is after `plan` was carried out.

    Grids lose the scales of removed channels. A grid with groups that would lose some of their weights is dropped; the
    values of the weights stay.
    """
    record, parameters = record_of(model), dict(model.named_parameters(remove_duplicate=False))
    tensors: dict[str, TensorRecord] = {}
    dropped: dict[str, str] = {}
    for name, before in record.tensors.items():
        removed = {dim: indices for (parameter, dim), indices in plan.removed.items() if parameter == name}
        after = replace(before, grid=_cut_grid(before.grid, removed, tuple(parameters[name].shape)))
        if before.grid is not None and after.grid is None:
            dropped[name] = "its groups of weights no longer fit after the cut, so its grid was dropped"
        if after != TensorRecord():
            tensors[name] = after
    surgery = (*record.surgery, *surgeries)
    return replace(record, tensors=tensors, surgery=surgery, left_out={**record.left_out, **left_out, **dropped})


def _cut_grid(grid: Grid | None, removed: Mapping[int, frozenset[int]], shape: tuple[int, ...]) -> Grid | None:
    if grid is None or not removed:
        return grid
    # The axis of the channels that have scales.
    outputs = int(grid.is_turned)
    n_channels = shape[outputs]
    if grid.in_half is not None:
        marked = torch.zeros(prod(shape), dtype=torch.bool, device="cpu")
        marked[grid.in_half] = True
        marked = marked.reshape(shape)
        for axis, indices in removed.items():
            left = [index for index in range(shape[axis]) if index not in indices]
            marked = marked.index_select(axis, torch.tensor(left, device="cpu"))
        left_in_half = torch.nonzero(marked.flatten()).flatten()
        grid = replace(grid, in_half=left_in_half if len(left_in_half) else None)
    if grid.group == "tensor":
        return grid
    if grid.group != "channel" and set(removed) != {outputs}:
        return None
    # Scales are ordered by channel, so the scales of each channel are one row.
    kept = [index for index in range(n_channels) if index not in removed.get(outputs, ())]
    scale, zero = (tensor.reshape(n_channels, -1)[kept].reshape(-1) for tensor in (grid.scale, grid.zero))
    return replace(grid, scale=scale, zero=zero)
