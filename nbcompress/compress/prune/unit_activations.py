"""What the units of a group say on data: the activations of channels, neurons and heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nbcompress.compress.coupling import Group, Place
from nbcompress.compress.data import Batch
from nbcompress.compress.observing import observe
from nbcompress.errors import DataError

NO_ACTIVATION = "no linear layer or convolution takes or gives its channels on the data"


@dataclass(frozen=True)
class _Source:
    """Where the activations of a group are seen.

    Attributes:
        module: Name of a linear layer or a convolution.
        is_input: They are its inputs (behind the non-linearity), otherwise its outputs.
        place: The dimension of its weight that they go with.
    """

    module: str
    is_input: bool
    place: Place


def unit_activations(
    model: nn.Module, groups: Sequence[Group], data: object, seed: int, *, of: Callable[[Tensor], Tensor]
) -> tuple[list[Tensor | None], list[object]]:
    """The activations of every unit in one pass of `data`.

    They are taken where the next linear layer or convolution reads them, so behind the non-linearity; where none does
    (a depthwise convolution follows), where one makes them. Of what belongs to one unit, such as the positions of a
    channel, the mean counts.

    Args:
        model: Unchanged.
        groups: Of the model.
        data: See `Batches`.
        seed: Of the order of the data.
        of: Applied to activations before means are taken, such as `torch.abs`.

    Returns:
        For each group shape `(rows, units)`, float64 on the CPU, with one row for each example wherever the layer keeps
        examples apart; None where no layer shows the units. Beside them the targets of all batches, in the same order.

    Raises:
        DataError: An activation is NaN or infinite.
    """
    candidates = [_sources(model, group) for group in groups]
    names = {source.module for sources in candidates for source in sources}
    layers = {name: model.get_submodule(name) for name in sorted(names)}
    wanted: dict[str, list[tuple[int, _Source, Tensor]]] = {}
    for number, (group, sources) in enumerate(zip(groups, candidates, strict=True)):
        for source in sources:
            owners = _owners(group, source.place, model)
            wanted.setdefault(source.module, []).append((number, source, owners))
    seen: dict[tuple[int, _Source], list[Tensor]] = {}
    targets: list[object] = []

    def see(name: str, given: Tensor, made: Tensor) -> None:
        for number, source, owners in wanted[name]:
            features = _by_example(layers[name], given if source.is_input else made, of)
            rows = _by_unit(features, owners, len(groups[number].units))
            seen.setdefault((number, source), []).append(rows)

    def after_batch(batch: Batch) -> None:
        targets.append(batch.target)

    observe(model, layers, data, seed, see, after_batch)
    found: list[Tensor | None] = []
    for number, sources in enumerate(candidates):
        rows = [torch.cat(seen[number, one]) for one in sources if (number, one) in seen]
        # A layer that runs more than once for a batch does not keep examples apart; another one may.
        best = min(rows, key=len) if rows else None
        if best is not None and not bool(torch.isfinite(best).all()):
            who = repr(groups[number].name)
            raise DataError(f"activations must be finite, but those around {who} hold NaN or infinity")
        found.append(best)
    return found, targets


def _sources(model: nn.Module, group: Group) -> list[_Source]:
    """Layers that read the units of `group`, then those that make them."""
    readers, makers = [], []
    for name, dim in group.places:
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        if last != "weight" or not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            continue
        is_grouped = not isinstance(module, nn.Linear) and module.groups > 1
        if dim == 1 and not is_grouped:
            readers.append(_Source(path, True, (name, dim)))
        elif dim == 0:
            makers.append(_Source(path, False, (name, dim)))
    return [*readers, *makers]


def _owners(group: Group, place: Place, model: nn.Module) -> Tensor:
    """For each feature along `place` the unit that it belongs to, or the number of units if to none."""
    name, dim = place
    owners = torch.full((model.get_parameter(name).shape[dim],), len(group.units), dtype=torch.int64, device="cpu")
    for number, unit in enumerate(group.units):
        owners[list(unit[place])] = number
    return owners


def _by_example(layer: nn.Module, x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Shape `(examples, features)`: the mean over everything between."""
    if isinstance(layer, nn.Linear):
        features = of(x.double())
        features = features if x.ndim > 1 else features[None]
    else:
        n_axes = len(layer.kernel_size)  # type: ignore[arg-type]
        batch = x if x.ndim == n_axes + 2 else x[None]
        features = of(batch.double()).movedim(1, -1)
    return features.reshape(features.shape[0], -1, features.shape[-1]).mean(1)


def _by_unit(features: Tensor, owners: Tensor, n_units: int) -> Tensor:
    # On the CPU, because a GPU adds by index in an order of chance.
    features = features.cpu()
    total = features.new_zeros((len(features), n_units + 1)).index_add_(1, owners, features)
    counts = torch.bincount(owners, minlength=n_units + 1).clamp(min=1)
    return (total / counts)[:, :n_units]


__all__ = ["NO_ACTIVATION", "unit_activations"]
