"""Take channels out of a model, or set them to zero where they are.

Which weights go: exact counts, ties broken by position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from nbcompress.compressors.attention import free_
from nbcompress.compressors.coupling import Average, Place, Unit, first_names, named_tensors
from nbcompress.compressors.keras import settle_
from nbcompress.compressors.numbers import number_at, set_number_
from nbcompress.compressors.record import Grid, Record, Surgery, TensorRecord, record_of


def lowest(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` lowest of `scores`; among equal ones, those that come first.

    Args:
        scores: One axis, no NaN, at least `count` long, on the CPU.
        count: From 0.

    Returns:
        bool of the shape of `scores` with exactly `count` times True.
    """
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    edge = float(np.partition(scores.numpy(), count - 1)[count - 1])
    marked = scores < edge
    ties = torch.nonzero(scores == edge).flatten()
    marked[ties[: count - int(marked.sum())]] = True
    return marked


def keep_masks(scores: Sequence[Tensor], amount: float, *, is_global: bool) -> list[Tensor]:
    """What stays when the share `amount` of all weights goes.

    Args:
        scores: One tensor of any shape for each layer, not negative; 0 stands for weights that are zero already.
        amount: From 0 to 1.
        is_global: One ranking for all layers; otherwise the share goes from each.

    Returns:
        One bool tensor for each layer. In all (or in each layer) `round(amount * n)` weights go, the lowest scores
        first. No layer loses its last weight unless `amount` is 1, even if fewer go for that.
    """
    flat = [score.detach().flatten().to("cpu", torch.float64) for score in scores]
    if is_global:
        joined = _lowest_but_last(flat, amount)
        parts = list(torch.split(joined, [len(item) for item in flat]))
    else:
        parts = [_lowest_but_last([item], amount) for item in flat]
    return [(~gone).reshape(score.shape).to(score.device) for gone, score in zip(parts, scores, strict=True)]


def keep_masks_by_row(scores: Sequence[Tensor], amount: float) -> list[Tensor]:
    """As `keep_masks`, where the share goes from each row, the weights of one output, and each row keeps its last."""
    found = []
    for score in scores:
        rows = score.detach().flatten(1).to("cpu", torch.float64)
        count = round(amount * rows.shape[1])
        if amount < 1:
            count = min(count, rows.shape[1] - 1)
        order = torch.argsort(rows, dim=1, stable=True)[:, :count]
        gone = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True)
        found.append(~gone.reshape(score.shape).to(score.device))
    return found


def keep_two_of_four(scores: Sequence[Tensor]) -> list[Tensor]:
    """The two highest of every four consecutive scores in a row stay; of equal ones, those that come last.

    Args:
        scores: Tensors of shape `(out, ...)` whose rows, flattened, divide by 4.
    """
    found = []
    for score in scores:
        fours = score.detach().to("cpu", torch.float64).reshape(-1, 4)
        order = torch.argsort(fours, dim=1, stable=True)[:, :2]
        gone = torch.zeros_like(fours, dtype=torch.bool).scatter_(1, order, True)
        found.append(~gone.reshape(score.shape).to(score.device))
    return found


def _lowest_but_last(layers: list[Tensor], amount: float) -> Tensor:
    joined = torch.cat(layers)
    count = round(amount * len(joined))
    if amount < 1:
        start, n_kept = 0, 0
        for layer in layers:
            best = int(layer.argmax())
            if layer[best] > 0:
                joined[start + best] = torch.inf
                n_kept += 1
            start += len(layer)
        count = min(count, len(joined) - n_kept)
    return lowest(joined, count)


@dataclass(frozen=True)
class Plan:
    """What goes.

    Attributes:
        removed: Indices by place: first name of a parameter or buffer, and dimension.
        attributes: Numbers of modules that must change with it, by module and path, beside those that
            torch's own layers have.
        averages: Calls that average over some of it.
    """

    removed: Mapping[Place, frozenset[int]]
    attributes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    averages: tuple[Average, ...] = ()


def plan_of(
    units: Iterable[Unit],
    attributes: Mapping[tuple[str, str], int] | None = None,
    averages: Iterable[Average] = (),
) -> Plan:
    """The plan that removes `units`, which belong to groups over which `averages` are taken."""
    removed: dict[Place, set[int]] = {}
    for unit in units:
        for place, indices in unit.items():
            removed.setdefault(place, set()).update(indices)
    going = {place: frozenset(indices) for place, indices in removed.items()}
    return Plan(going, attributes or {}, tuple(dict.fromkeys(averages)))


@torch.no_grad()
def mask_(model: nn.Module, plan: Plan) -> None:
    """Set every slice of a parameter that `plan` would remove to zero, in place. Buffers stay."""
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    for (name, dim), indices in plan.removed.items():
        if name in parameters and (_length_of(name), dim) not in plan.removed:
            tensor = parameters[name]
            tensor.index_fill_(dim, torch.tensor(sorted(indices), device=tensor.device), 0.0)


def _length_of(name: str) -> str:
    """Under weight normalization, the name of the length of a weight whose direction is called `name`.

    At length zero a channel is zero; a direction of zeros has no length to be divided by.
    """
    for direction, length in (("original1", "original0"), ("weight_v", "weight_g")):
        if name.endswith(f".{direction}"):
            return name.removesuffix(direction) + length
    return ""


@torch.no_grad()
def cut_(model: nn.Module, plan: Plan) -> tuple[Surgery, ...]:
    """Remove what `plan` names, in place, and say what changed, module by module.

    The parameters stay the objects that they are, so that ties between modules hold.
    """
    tensors = named_tensors(model)
    first = first_names(model)
    before = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    computed = {
        path: tuple(cast(Tensor, one.weight).shape) for path, one in model.named_modules() if _computes_weight(one)
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
        own = [name for name in changed if name.rpartition(".")[0] == path]
        olds = {name.rpartition(".")[2]: before[name] for name in own}
        if path in computed:
            olds["weight"] = computed[path]
        if own:
            free_(module)
        attributes: dict[str, int | tuple[int, ...]] = dict(_set_sizes_(module, olds)) if olds else {}
        for (where, attribute), value in numbers.items():
            if where == path:
                set_number_(model, module, attribute, value)
                attributes[attribute] = value
        shapes = {name.rpartition(".")[2]: tuple(tensors[name].shape) for name in own if first[name] == name}
        if shapes or attributes:
            surgeries.append(Surgery("cut", path, shapes, attributes))
    settle_(model)
    return tuple(surgeries)


def _computes_weight(module: nn.Module) -> bool:
    """Whether the weight of a layer is made of other parameters at each call, as under weight normalization."""
    return is_parametrized(module, "weight")


def _norm_widths(model: nn.Module, plan: Plan) -> dict[tuple[str, str], int]:
    """The widths that modules of norms expect, which no shape tells where a norm has no weights."""
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


# The tensors whose shape tells the sizes of a layer of torch.
_TELLING = ("weight", "running_mean", "weight_ih_l0", "weight_ih", "in_proj_weight", "q_proj_weight")


def _set_sizes_(module: nn.Module, olds: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Give a layer of torch the numbers that its new shapes imply; return those that changed."""
    if isinstance(module, nn.RNNBase):
        module.flatten_parameters()
    held: dict[str, Tensor | None] = {**module._buffers, **module._parameters}
    if _computes_weight(module):
        held["weight"] = cast(Tensor, module.weight)
    name = next((one for one in _TELLING if held.get(one) is not None), "")
    weight = held.get(name)
    if not isinstance(weight, Tensor):
        return {}
    sizes = _sizes(module, tuple(weight.shape), olds.get(name, tuple(weight.shape)))
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
        # A group goes whole, unless it is the only one.
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
        # weight (in, out / groups, *); a group of one input channel goes with it.
        groups = new[0] if groups == old[0] else groups
        return {"in_channels": new[0], "out_channels": new[1] * groups, "groups": groups}
    # weight (out, in / groups, *)
    groups = groups * new[0] // old[0] if groups > 1 and old[1] == 1 else groups
    return {"in_channels": new[1] * groups, "out_channels": new[0], "groups": groups}


def cut_record(model: nn.Module, plan: Plan, surgeries: tuple[Surgery, ...], left_out: Mapping[str, str]) -> Record:
    """The record after `plan` is carried out on `model`, which is still uncut.

    Grids lose the scales of removed channels; a grid whose groups of weights are torn is given up, its values stay.
    """
    record, parameters = record_of(model), dict(model.named_parameters(remove_duplicate=False))
    tensors: dict[str, TensorRecord] = {}
    gone: dict[str, str] = {}
    for name, promise in record.tensors.items():
        removed = {dim: indices for (where, dim), indices in plan.removed.items() if where == name}
        after = replace(promise, grid=_cut_grid(promise.grid, removed, len(parameters[name])))
        if promise.grid is not None and after.grid is None:
            gone[name] = "its groups of weights no longer fit after the cut, so its grid was given up"
        if after != TensorRecord():
            tensors[name] = after
    surgery = (*record.surgery, *surgeries)
    return replace(record, tensors=tensors, surgery=surgery, left_out={**record.left_out, **left_out, **gone})


def _cut_grid(grid: Grid | None, removed: Mapping[int, frozenset[int]], n_channels: int) -> Grid | None:
    if grid is None or not removed or grid.group == "tensor":
        return grid
    if grid.group != "channel" and set(removed) != {0}:
        return None
    # Groups are counted channel by channel, so each channel is one row of the scales.
    kept = [index for index in range(n_channels) if index not in removed.get(0, ())]
    scale, zero = (tensor.reshape(n_channels, -1)[kept].reshape(-1) for tensor in (grid.scale, grid.zero))
    return replace(grid, scale=scale, zero=zero)
