"""Which inputs of a layer are large, and how they go together: what activation-aware criteria know of the data.

What the units of a group say on data: the activations of channels, neurons and heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nbcompress.compressors.calibration import NOT_CALLED, input_rows, layers_of, observe, why_no_layer
from nbcompress.compressors.coupling import Group, Place
from nbcompress.compressors.data import Batch
from nbcompress.compressors.layers import Target
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
        rows = [torch.cat(seen[number, source]) for source in sources if (number, source) in seen]
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


# The second moments of more inputs than this take more than 2 GiB in double precision.
_MOST_COLUMNS = 16384


@dataclass
class InputStatistics:
    """Sums over all rows of inputs that one weight met.

    Attributes:
        n_groups: Groups of a convolution, 1 for a linear layer.
        squares: Shape `(groups, columns)`: sum of squares, float64.
        products: Shape `(groups, columns, columns)`: sums of products, float64; None if they were not asked for.
        n_rows: How many rows there were.
    """

    n_groups: int
    squares: Tensor
    products: Tensor | None
    n_rows: int = 0

    def add(self, rows: Tensor) -> None:
        self.n_rows += rows.shape[1]
        if self.products is None:
            self.squares += rows.square().sum(1, dtype=torch.float64)
            return
        self.products += (rows.mT @ rows).double()
        self.squares = self.products.diagonal(dim1=1, dim2=2)


def input_statistics(
    model: nn.Module, targets: Sequence[Target], data: object, seed: int, *, with_products: bool = False
) -> tuple[dict[str, InputStatistics], dict[str, str]]:
    """What the layers of `targets` meet in one pass of `data`.

    Returns:
        Statistics by target name, and why there are none for the other targets.

    Raises:
        DataError: An input is NaN or infinite, or `data` does not fit.
    """
    layers: dict[str, nn.Module] = {}
    owners: dict[str, Target] = {}
    reasons: dict[str, str] = {}
    for target in targets:
        found = layers_of(model, target)
        if not found:
            reasons[target.name] = why_no_layer(model, target)
        elif with_products and target.parameter[0].numel() > _MOST_COLUMNS:
            reasons[target.name] = f"its {target.parameter[0].numel()} inputs are too many to go together"
        else:
            layers |= found
            owners |= dict.fromkeys(found, target)
    statistics: dict[str, InputStatistics] = {}

    def see(name: str, x: Tensor, _: Tensor) -> None:
        target = owners[name]
        for rows in input_rows(layers[name], x):
            if target.name not in statistics:
                statistics[target.name] = _empty(rows, with_products)
            statistics[target.name].add(rows)

    observe(model, layers, data, seed, see)
    for name, statistic in statistics.items():
        if not bool(torch.isfinite(statistic.squares).all()):
            raise DataError(f"inputs must be finite, but those of {name!r} hold NaN or infinity on the data")
    missing = [owner.name for owner in owners.values() if owner.name not in statistics]
    return statistics, {**reasons, **dict.fromkeys(missing, NOT_CALLED)}


def _empty(rows: Tensor, with_products: bool) -> InputStatistics:
    n_groups, _, n = rows.shape
    products = rows.new_zeros((n_groups, n, n), dtype=torch.float64) if with_products else None
    return InputStatistics(n_groups, rows.new_zeros((n_groups, n), dtype=torch.float64), products)


def wanda_scores(target: Target, statistics: InputStatistics) -> Tensor:
    """Magnitude of each weight times the Euclidean norm of its input over the data, float64 on the CPU.

    References:
        Sun et al. (2024), "A Simple and Effective Pruning Approach for Large Language Models", equation 1.
    """
    weight = target.parameter.detach().to("cpu", torch.float64)
    norms = statistics.squares.sqrt().cpu()
    rows = weight.reshape(statistics.n_groups, -1, norms.shape[1])
    return (rows.abs() * norms[:, None]).reshape(weight.shape)
