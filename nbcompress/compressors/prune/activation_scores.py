"""What criteria need to know of the data: activations of channels, and statistics of the inputs of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nbcompress.compressors.calibration import NOT_CALLED, input_rows, layers_of, observe, why_no_layer
from nbcompress.compressors.coupling import ChannelGroup, TensorAxis
from nbcompress.compressors.data import Batch
from nbcompress.compressors.layers import Target
from nbcompress.errors import DataError

NO_ACTIVATION = "no linear layer or convolution takes or gives its channels on the data"


@dataclass(frozen=True)
class _ActivationSource:
    """Where the activations of a group can be observed.

    Attributes:
        module: Name of a linear layer or a convolution.
        is_input: They are the inputs of the layer (after the activation function); otherwise its outputs.
        axis: The axis of the layer's weight that belongs to the group.
    """

    module: str
    is_input: bool
    axis: TensorAxis


def unit_activations(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    data: object,
    seed: int,
    *,
    of: Callable[[Tensor], Tensor],
    among: Callable[[Tensor], Tensor] | None = None,
) -> tuple[list[Tensor | None], list[object]]:
    """Return the activations of every unit over one pass of `data`.

    They are observed at the input of the next linear layer or convolution, so after the activation function. If no such
    layer reads them (a depthwise convolution follows), they are observed at the output of the layer that computes them.
    Values that belong to one unit, such as the positions of a channel, are averaged.

    Args:
        model: Does not change.
        groups: Groups of the model.
        data: See `Batches`.
        seed: Seed of the order of the data.
        of: Applied to activations before they are averaged, such as `torch.abs`.
        among: Applied to the values of all units, of shape `(positions, units)`, before positions are averaged.

    Returns:
        For each group a tensor of shape `(rows, units)`, float64 on the CPU, with one row for each example if the layer
        runs once for a batch; None if no layer shows the units. Also the targets of all batches, in the same order.

    Raises:
        DataError: An activation is NaN or infinite.
    """
    candidates = [_sources(model, group) for group in groups]
    names = {source.module for sources in candidates for source in sources}
    layers = {name: model.get_submodule(name) for name in sorted(names)}
    wanted: dict[str, list[tuple[int, _ActivationSource, Tensor]]] = {}
    for number, (group, sources) in enumerate(zip(groups, candidates, strict=True)):
        for source in sources:
            units = _units_of_features(group, source.axis, model)
            wanted.setdefault(source.module, []).append((number, source, units))
    seen: dict[tuple[int, _ActivationSource], list[Tensor]] = {}
    targets: list[object] = []

    def collect(name: str, inputs: Tensor, outputs: Tensor) -> None:
        for number, source, units in wanted[name]:
            values = inputs if source.is_input else outputs
            n_units = len(groups[number].units)
            if among is None:
                rows = _mean_per_unit(_mean_per_example(layers[name], values, of), units, n_units)
            else:
                features = _by_position(layers[name], values, of)
                by_unit = among(_mean_per_unit(features.flatten(0, 1), units, n_units))
                rows = by_unit.reshape(*features.shape[:2], n_units).mean(1)
            seen.setdefault((number, source), []).append(rows)

    def after_batch(batch: Batch) -> None:
        targets.append(batch.target)

    observe(model, layers, data, seed, collect, after_batch)
    activations: list[Tensor | None] = []
    for number, sources in enumerate(candidates):
        rows = [torch.cat(seen[number, source]) for source in sources if (number, source) in seen]
        # A layer that runs several times for a batch has several rows for an example; another layer may not.
        best = min(rows, key=len) if rows else None
        if best is not None and not bool(torch.isfinite(best).all()):
            who = repr(groups[number].name)
            raise DataError(f"activations must be finite, but those around {who} hold NaN or infinity")
        activations.append(best)
    return activations, targets


def _sources(model: nn.Module, group: ChannelGroup) -> list[_ActivationSource]:
    """The layers that read the units of `group`, then those that compute them."""
    readers, producers = [], []
    for name, dim in group.tensor_axes:
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        if last != "weight" or not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            continue
        is_grouped = not isinstance(module, nn.Linear) and module.groups > 1
        if dim == 1 and not is_grouped:
            readers.append(_ActivationSource(path, True, (name, dim)))
        elif dim == 0:
            producers.append(_ActivationSource(path, False, (name, dim)))
    return [*readers, *producers]


def _units_of_features(group: ChannelGroup, axis: TensorAxis, model: nn.Module) -> Tensor:
    """For each index along `axis` the number of its unit, or the number of units if it belongs to none."""
    name, dim = axis
    units = torch.full((model.get_parameter(name).shape[dim],), len(group.units), dtype=torch.int64, device="cpu")
    for number, unit in enumerate(group.units):
        units[list(unit[axis])] = number
    return units


def _mean_per_example(layer: nn.Module, x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Features of shape `(examples, features)`: the mean over all dimensions between."""
    return _by_position(layer, x, of).mean(1)


def _by_position(layer: nn.Module, x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Features of shape `(examples, positions, features)`."""
    if isinstance(layer, nn.Linear):
        features = of(x.double())
        features = features if x.ndim > 1 else features[None]
    else:
        n_axes = len(layer.kernel_size)  # type: ignore[arg-type]
        batch = x if x.ndim == n_axes + 2 else x[None]
        features = of(batch.double()).movedim(1, -1)
    return features.reshape(features.shape[0], -1, features.shape[-1])


def _mean_per_unit(features: Tensor, units: Tensor, n_units: int) -> Tensor:
    # On the CPU, because `index_add_` on a GPU adds in random order.
    features = features.cpu()
    total = features.new_zeros((len(features), n_units + 1)).index_add_(1, units, features)
    counts = torch.bincount(units, minlength=n_units + 1).clamp(min=1)
    return (total / counts)[:, :n_units]


# The second moments of more inputs than this take more than 2 GiB in double precision.
MAX_COLUMNS = 16384


@dataclass
class InputStatistics:
    """Sums over all input rows of one weight.

    Attributes:
        n_groups: Groups of a convolution, 1 for a linear layer.
        squares: Shape `(groups, columns)`: sums of squares, float64.
        products: Shape `(groups, columns, columns)`: sums of products, float64; None if they are not needed.
    """

    n_groups: int
    squares: Tensor
    products: Tensor | None

    @classmethod
    def for_rows(cls, rows: Tensor, *, with_products: bool) -> InputStatistics:
        """Return sums of nothing, for input rows of the shape of `rows`."""
        n_groups, _, n = rows.shape
        products = rows.new_zeros((n_groups, n, n), dtype=torch.float64) if with_products else None
        return cls(n_groups, rows.new_zeros((n_groups, n), dtype=torch.float64), products)

    def add(self, rows: Tensor) -> None:
        """Add input rows of shape `(groups, rows, columns)`."""
        if self.products is None:
            self.squares += rows.square().sum(1, dtype=torch.float64)
            return
        self.products += (rows.mT @ rows).double()
        self.squares = self.products.diagonal(dim1=1, dim2=2)


def input_statistics(
    model: nn.Module, targets: Sequence[Target], data: object, seed: int, *, with_products: bool = False
) -> tuple[dict[str, InputStatistics], dict[str, str]]:
    """Measure the inputs of the layers of `targets` over one pass of `data`.

    Args:
        model: Does not change.
        targets: The weights whose inputs are measured.
        data: See `Batches`.
        seed: Seed of the order of the data.
        with_products: Also sum the products of inputs.

    Returns:
        Statistics by name of the target, and reasons by name for the targets that have none.

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
        elif with_products and target.parameter[0].numel() > MAX_COLUMNS:
            reasons[target.name] = f"its {target.parameter[0].numel()} inputs are too many for products of inputs"
        else:
            layers |= found
            owners |= dict.fromkeys(found, target)
    statistics: dict[str, InputStatistics] = {}

    def collect(name: str, x: Tensor, _: Tensor) -> None:
        target = owners[name]
        for rows in input_rows(layers[name], x):
            if target.name not in statistics:
                statistics[target.name] = InputStatistics.for_rows(rows, with_products=with_products)
            statistics[target.name].add(rows)

    observe(model, layers, data, seed, collect)
    for name, statistic in statistics.items():
        if not bool(torch.isfinite(statistic.squares).all()):
            raise DataError(f"inputs must be finite, but those of {name!r} hold NaN or infinity on the data")
    missing = [owner.name for owner in owners.values() if owner.name not in statistics]
    return statistics, {**reasons, **dict.fromkeys(missing, NOT_CALLED)}


def wanda_scores(target: Target, statistics: InputStatistics) -> Tensor:
    """Return the magnitude of each weight times the Euclidean norm of its input over the data, float64 on the CPU.

    References:
        Sun et al. (2024), "A Simple and Effective Pruning Approach for Large Language Models", equation 1.
    """
    weight = target.parameter.detach().to("cpu", torch.float64)
    norms = statistics.squares.sqrt().cpu()
    rows = weight.reshape(statistics.n_groups, -1, norms.shape[1])
    return (rows.abs() * norms[:, None]).reshape(weight.shape)
