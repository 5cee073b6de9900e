"""Which inputs of a layer are large, and how they go together: what activation-aware criteria know of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nbcompress.compress.layers import Target
from nbcompress.compress.observing import NOT_CALLED, input_rows, layers_of, observe, why_no_layer
from nbcompress.errors import DataError

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
    for name, one in statistics.items():
        if not bool(torch.isfinite(one.squares).all()):
            raise DataError(f"inputs must be finite, but those of {name!r} hold NaN or infinity on the data")
    missing = [one.name for one in owners.values() if one.name not in statistics]
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


__all__ = ["InputStatistics", "input_statistics", "wanda_scores"]
