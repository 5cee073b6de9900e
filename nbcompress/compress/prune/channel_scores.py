"""Which channels of a group matter least?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nbcompress.compress.coupling import Group

Scores = NDArray[np.float64]


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


def lowest_per_group(scores: Sequence[Scores], amount: float) -> list[list[int]]:
    """In each group the share `amount` with the lowest scores, rounded to the nearest number; one always stays."""
    return [_lowest(one, _n_cut(len(one), amount)) for one in scores]


def lowest_of_all(scores: Sequence[Scores], amount: float) -> list[list[int]]:
    """The share `amount` of all units, ranked by score over the mean score of the group; one of each group stays."""
    relative = [one / (mean if (mean := one.mean()) > 0 else 1.0) for one in scores]
    # The best unit of each group never goes, so it takes no part in the ranking.
    ranked = sorted(
        (float(value), group, unit)
        for group, one in enumerate(relative)
        for unit, value in enumerate(one)
        if unit != int(np.argmax(one))
    )
    n_cut = min(int(amount * sum(len(one) for one in scores) + 0.5), len(ranked))
    chosen: list[list[int]] = [[] for _ in scores]
    for _, group, unit in ranked[:n_cut]:
        chosen[group].append(unit)
    return [sorted(units) for units in chosen]


def _n_cut(n_units: int, amount: float) -> int:
    # A half is rounded up; the small number keeps .3 * 5 = 1.4999999999999998 from being less than a half.
    return min(int(amount * n_units + 0.5 + 1e-9), n_units - 1)


def _lowest(scores: Scores, n_cut: int) -> list[int]:
    return sorted(np.argsort(scores, kind="stable")[:n_cut].tolist())


CRITERIA: Mapping[str, str] = {
    "magnitude": "the L2 norm of everything that goes with a channel",
    "random": "chance",
}

__all__ = ["CRITERIA", "Scores", "lowest_of_all", "lowest_per_group", "magnitude_scores", "random_scores"]
