"""Which channels of a group matter least?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nbcompress.compress.coupling import Group
from nbcompress.compress.gradients import check_gradients, each_gradient
from nbcompress.compress.losses import LossSpec
from nbcompress.compress.prune.information import equal_frequency_bins, mutual_information
from nbcompress.compress.prune.unit_activations import NO_ACTIVATION, unit_activations
from nbcompress.errors import DataError

Scores = NDArray[np.float64]

# Numbers to be predicted become this many classes of equal frequency.
N_TARGET_BINS = 8


def magnitude_scores(model: nn.Module, groups: Sequence[Group]) -> list[Scores]:
    """For each unit the L2 norm over all slices of parameters that go with it; buffers do not count."""
    parameters = dict(model.named_parameters())
    squares: dict[tuple[str, int], Scores] = {}
    found = []
    for group in groups:
        scores = np.zeros(len(group.units))
        for place in group.places:
            name, dim = place
            if name not in parameters:
                continue
            if place not in squares:
                squares[place] = _squares(parameters[name].detach(), dim)
            scores += [squares[place][list(unit[place])].sum() for unit in group.units]
        found.append(np.sqrt(scores))
    return found


def _squares(tensor: torch.Tensor, dim: int) -> Scores:
    rows = tensor.movedim(dim, 0).flatten(1) if tensor.ndim > 1 else tensor[:, None]
    squares: Scores = rows.to("cpu", torch.float64).square().sum(1).numpy()
    return squares


def random_scores(groups: Sequence[Group], seed: int) -> list[Scores]:
    """Uniform numbers, equal for equal seeds."""
    generator = np.random.default_rng(seed)
    return [generator.random(len(group.units)) for group in groups]


def taylor_scores(
    model: nn.Module, groups: Sequence[Group], data: object, seed: int, spec: LossSpec | None = None
) -> list[Scores]:
    """How much the loss of a batch would change without a unit, to first order; the mean over all batches.

    For each unit the size of the sum of weight times gradient over all slices of parameters that go with it. A sum
    over the whole data would vanish where training has converged, so each batch is taken by itself.

    References:
        Molchanov et al. (2019), "Importance Estimation for Neural Network Pruning", equation 8 for groups.
    """
    parameters = dict(model.named_parameters())
    names = sorted({name for group in groups for name, _ in group.places if name in parameters})
    totals = [np.zeros(len(group.units)) for group in groups]

    def add(gradients: Sequence[torch.Tensor | None]) -> None:
        slopes = {
            name: parameters[name].detach().double() * gradient.double()
            for name, gradient in zip(names, gradients, strict=True)
            if gradient is not None
        }
        check_gradients(list(slopes.values()), "criterion='gradient'")
        for total, group in zip(totals, groups, strict=True):
            change = np.zeros(len(group.units))
            for place in group.places:
                name, dim = place
                if name in slopes:
                    along = slopes[name].movedim(dim, 0).reshape(slopes[name].shape[dim], -1).sum(1).cpu().numpy()
                    change += [along[list(unit[place])].sum() for unit in group.units]
            total += np.abs(change)

    n_batches = each_gradient(model, [parameters[name] for name in names], data, seed, spec or LossSpec(), add)
    return [total / n_batches for total in totals]


def activation_scores(model: nn.Module, groups: Sequence[Group], data: object, seed: int) -> list[Scores | str]:
    """Mean absolute activation of each unit over the data (see `unit_activations`), or why there is none."""
    found, _ = unit_activations(model, groups, data, seed, of=torch.abs)
    return [NO_ACTIVATION if one is None else one.mean(0).numpy() for one in found]


def information_scores(model: nn.Module, groups: Sequence[Group], data: object, seed: int) -> list[Scores | str]:
    """Mutual information of each unit's activation and the label of the example, or why there is none.

    Numbers as targets are put into bins first, as activations are. Units are looked at one by one: two that say the
    same count the same.

    Raises:
        DataError: There is not one label or number for each example.
    """
    found, targets = unit_activations(model, groups, data, seed, of=lambda x: x)
    labels = _labels(targets)
    scores: list[Scores | str] = []
    for one in found:
        if one is None:
            scores.append(NO_ACTIVATION)
        elif len(one) != len(labels):
            scores.append("its layer does not give one row of activations for each example")
        else:
            scores.append(np.array([mutual_information(column, labels) for column in one.numpy().T]))
    return scores


def _labels(targets: Sequence[object]) -> NDArray[np.int64]:
    flat = []
    for one in targets:
        if not isinstance(one, torch.Tensor) or one.is_complex() or not one.ndim or one.numel() != len(one):
            got = f"shape {tuple(one.shape)}" if isinstance(one, torch.Tensor) else type(one).__name__
            raise DataError(f"criterion='mutual-information' needs one label for each example, got targets of {got}")
        flat.append(one.detach().reshape(-1).cpu())
    joined = torch.cat(flat).numpy()
    if joined.dtype.kind == "f":
        if not np.isfinite(joined).all():
            raise DataError("criterion='mutual-information' needs finite targets, but some are NaN or infinite")
        return equal_frequency_bins(joined.astype(np.float64), N_TARGET_BINS)
    return joined.astype(np.int64)


def lowest_per_group(scores: Sequence[Scores], amount: float, n_stay: Sequence[int]) -> list[list[int]]:
    """In each group the share `amount` with the lowest scores, rounded to the nearest number; `n_stay` always stay."""
    return [_lowest(one, _n_cut(len(one), amount, least)) for one, least in zip(scores, n_stay, strict=True)]


def lowest_of_all(scores: Sequence[Scores], amount: float, n_stay: Sequence[int]) -> list[list[int]]:
    """The share `amount` of all units, ranked by score over the mean of the group; `n_stay` of each group stay."""
    relative = [one / (mean if (mean := one.mean()) > 0 else 1.0) for one in scores]
    # The best units of each group never go, so they take no part in the ranking.
    ranked = sorted(
        (float(one[unit]), group, unit)
        for group, (one, least) in enumerate(zip(relative, n_stay, strict=True))
        for unit in np.argsort(-one, kind="stable")[least:].tolist()
    )
    n_cut = min(int(amount * sum(len(one) for one in scores) + 0.5), len(ranked))
    chosen: list[list[int]] = [[] for _ in scores]
    for _, group, unit in ranked[:n_cut]:
        chosen[group].append(unit)
    return [sorted(units) for units in chosen]


def _n_cut(n_units: int, amount: float, least: int) -> int:
    # A half is rounded up; the small number keeps .3 * 5 = 1.4999999999999998 from being less than a half.
    return max(0, min(int(amount * n_units + 0.5 + 1e-9), n_units - least))


def _lowest(scores: Scores, n_cut: int) -> list[int]:
    return sorted(np.argsort(scores, kind="stable")[:n_cut].tolist())


CRITERIA = ("magnitude", "random", "gradient", "activation", "mutual-information")

__all__ = [
    "CRITERIA",
    "Scores",
    "activation_scores",
    "information_scores",
    "lowest_of_all",
    "lowest_per_group",
    "magnitude_scores",
    "random_scores",
    "taylor_scores",
]
