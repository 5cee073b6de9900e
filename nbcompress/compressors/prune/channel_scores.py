"""Score channels by magnitude, gradient, activation or mutual information, and choose the lowest ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nbcompress.compressors.coupling import ChannelGroup
from nbcompress.compressors.losses import LossSpec
from nbcompress.compressors.prune.activation_scores import NO_ACTIVATION, unit_activations
from nbcompress.compressors.training import check_gradients, each_gradient
from nbcompress.errors import DataError, option

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
# One score for each unit of a group.
ChannelScores = Floats

# Heuristic, see benchmarks.md#pruning-criteria: more bins resolve finer dependence, fewer bins have less bias.
_MAX_BINS = 8
# Expected number of examples for each pair of bin and class.
_MIN_EXAMPLES = 5


def mutual_information(values: Floats, labels: Integers, n_bins: int | None = None) -> float:
    """Estimate the mutual information of a number and a label, in nats.

    The numbers are put into bins of equal frequency (equal numbers into the same bin). The entropies of bins, of labels
    and of pairs are corrected for bias by Miller and Madow: `(number of cells that occur - 1) / 2n` is added to each.
    The estimate can be negative where there is no information. It is not clipped at zero, so that ranks are kept.

    Args:
        values: Shape `(n,)`, finite.
        labels: Shape `(n,)`.
        n_bins: Number of bins; by default so many that each pair of bin and label has 5 examples on average, from 2 to
            8.

    References:
        Miller (1955), "Note on the Bias of Information Estimates".
    """
    n = len(values)
    _, classes = np.unique(labels, return_inverse=True)
    n_classes = int(classes.max()) + 1
    if n_bins is None:
        n_bins = min(max(n // (_MIN_EXAMPLES * n_classes), 2), _MAX_BINS)
    bins = equal_frequency_bins(values, n_bins)
    joint = np.bincount(bins * n_classes + classes)
    return _entropy(np.bincount(bins), n) + _entropy(np.bincount(classes), n) - _entropy(joint, n)


def equal_frequency_bins(values: Floats, n_bins: int) -> Integers:
    """Return the bin of each value, from 0. Bins are as equally filled as ties allow; larger values have later bins."""
    _, ranks, counts = np.unique(values, return_inverse=True, return_counts=True)
    # Equal values get the bin of the middle of their positions in the sorted values.
    middles = np.cumsum(counts) - counts / 2
    bins: Integers = np.minimum((middles * n_bins / len(values)).astype(np.int64), n_bins - 1)
    return bins[ranks]


def _entropy(counts: NDArray[np.int64], n: int) -> float:
    shares = counts[counts > 0] / n
    return float(-(shares * np.log(shares)).sum() + (len(shares) - 1) / (2 * n))


# Targets that are numbers are put into this many classes of equal frequency.
N_TARGET_BINS = 8


def magnitude_scores(model: nn.Module, groups: Sequence[ChannelGroup]) -> list[ChannelScores]:
    """Return for each unit the L2 norm over all slices of parameters that are removed with it, without buffers."""
    parameters = dict(model.named_parameters())
    squares: dict[tuple[str, int], ChannelScores] = {}
    scores = []
    for group in groups:
        totals = np.zeros(len(group.units))
        for axis in group.tensor_axes:
            name, dim = axis
            if name not in parameters:
                continue
            if axis not in squares:
                squares[axis] = _squares(parameters[name].detach(), dim)
            totals += [squares[axis][list(unit[axis])].sum() for unit in group.units]
        scores.append(np.sqrt(totals))
    return scores


# Numbers that are converted to double precision at once.
_N_AT_ONCE = 1 << 22


def _squares(tensor: torch.Tensor, dim: int) -> ChannelScores:
    rows = tensor.movedim(dim, 0) if tensor.ndim > 1 else tensor[:, None]
    n_rows = max(1, _N_AT_ONCE * len(rows) // max(1, rows.numel()))
    parts = [part.flatten(1).to("cpu", torch.float64).square().sum(1) for part in torch.split(rows, n_rows)]
    squares: ChannelScores = torch.cat(parts).numpy()
    return squares


def random_scores(groups: Sequence[ChannelGroup], seed: int) -> list[ChannelScores]:
    """Return uniform random scores; equal seeds give equal scores."""
    generator = np.random.default_rng(seed)
    return [generator.random(len(group.units)) for group in groups]


def taylor_scores(
    model: nn.Module, groups: Sequence[ChannelGroup], data: object, seed: int, spec: LossSpec | None = None
) -> list[ChannelScores]:
    """Return how much the loss of a batch would change without a unit, to first order, as the mean over all batches.

    The change of one batch is the absolute sum of weight times gradient over all slices of parameters that are removed
    with the unit. The gradient over the whole data would be zero after training, so batches are taken one by one.

    References:
        Molchanov et al. (2019), "Importance Estimation for Neural Network Pruning", equation 8 for groups.
    """
    parameters = dict(model.named_parameters())
    names = sorted({name for group in groups for name, _ in group.tensor_axes if name in parameters})
    totals = [np.zeros(len(group.units)) for group in groups]

    def add(gradients: Sequence[torch.Tensor | None]) -> None:
        slopes = {
            name: parameters[name].detach().double() * gradient.double()
            for name, gradient in zip(names, gradients, strict=True)
            if gradient is not None
        }
        check_gradients(list(slopes.values()), option("criterion", "gradient"))
        for total, group in zip(totals, groups, strict=True):
            change = np.zeros(len(group.units))
            for axis in group.tensor_axes:
                name, dim = axis
                if name in slopes:
                    along = slopes[name].movedim(dim, 0).reshape(slopes[name].shape[dim], -1).sum(1).cpu().numpy()
                    change += [along[list(unit[axis])].sum() for unit in group.units]
            total += np.abs(change)

    n_batches = each_gradient(model, [parameters[name] for name in names], data, seed, spec or LossSpec(), add)
    return [total / n_batches for total in totals]


def activation_scores(
    model: nn.Module, groups: Sequence[ChannelGroup], data: object, seed: int
) -> list[ChannelScores | str]:
    """Return the mean absolute activation of each unit over the data, or the reason why there is none."""
    activations, _ = unit_activations(model, groups, data, seed, of=torch.abs)
    return [NO_ACTIVATION if rows is None else rows.mean(0).numpy() for rows in activations]


def energy_scores(
    model: nn.Module, groups: Sequence[ChannelGroup], data: object, seed: int
) -> list[ChannelScores | str]:
    """Return the energy of each unit, or the reason why there is none.

    The energy of unit u is `sum over examples of mean over positions of a_u^2`, with the activation `a_u` after the
    activation function. A unit that is rarely large has more energy than one that is always a little active, although
    its mean absolute activation may be lower.

    References:
        Hagiwara (1994), "A simple and effective method for removal of hidden units and weights", compares scores that
        sum squares of what a unit passes on.
    """
    activations, _ = unit_activations(model, groups, data, seed, of=torch.square)
    return [NO_ACTIVATION if rows is None else rows.sum(0).numpy() for rows in activations]


def winner_scores(
    model: nn.Module, groups: Sequence[ChannelGroup], data: object, seed: int
) -> list[ChannelScores | str]:
    """Return the energy of each unit where it is the largest of its layer, or the reason why there is none.

    The score of unit u is `sum over examples of mean over positions of a_u^2 * [a_u^2 = max over v of a_v^2]`. At a
    position where several units are the largest, each of them counts. A unit that never is the largest scores zero.

    References:
        Rumelhart and Zipser (1985), "Feature Discovery by Competitive Learning" (winner take all).
    """

    def winners(values: torch.Tensor) -> torch.Tensor:
        return torch.where(values == values.amax(1, keepdim=True), values, 0.0)

    activations, _ = unit_activations(model, groups, data, seed, of=torch.square, among=winners)
    return [NO_ACTIVATION if rows is None else rows.sum(0).numpy() for rows in activations]


def redundancy_scores(
    model: nn.Module, groups: Sequence[ChannelGroup], data: object, seed: int
) -> list[ChannelScores | str]:
    """Return one minus the redundancy of each unit, when it would be removed; or the reason why there is none.

    The redundancy of unit u is the largest share of its information that another unit of its group gives, too:
    `max over v of I(u; v) / H(u)`. The most redundant unit is removed first, and then the redundancy of the others is
    computed without it: of two equal units exactly one goes early. A unit that is always the same has no information
    and goes first. `I` and `H` are estimated as in `mutual_information`, from the activations of an example (averaged
    over positions) in bins of equal frequency: so many bins that each pair of bins has 5 examples on average, from 2 to
    8.

    Raises:
        DataError: There are fewer than two examples.

    References:
        Battiti (1994), "Using Mutual Information for Selecting Features in Supervised Neural Net Learning".
    """
    activations, _ = unit_activations(model, groups, data, seed, of=lambda x: x)
    for rows in activations:
        if rows is not None and len(rows) < 2:
            raise DataError(f"{option('criterion', 'redundancy')} compares examples, so it needs at least 2, got 1")
    return [NO_ACTIVATION if rows is None else 1 - removal_redundancy(rows.numpy()) for rows in activations]


def removal_redundancy(values: Floats) -> Floats:
    """Return the redundancy that each unit has when it is removed, the most redundant one first.

    Args:
        values: Activations of shape `(examples, units)`.

    Returns:
        At most 1 for each unit. Later removals never have a higher redundancy, so the order of removal is that of the
        values. The unit that is removed last has the redundancy 0.
    """
    shares = _shared_information(values)
    n = shares.shape[0]
    left = np.ones(n, dtype=bool)
    redundancy = np.zeros(n)
    highest = shares.max(1, initial=-np.inf)
    partner = shares.argmax(1) if n else np.zeros(0, dtype=np.int64)
    last = 1.0
    for n_left in range(n, 1, -1):
        unit = int(np.where(left, highest, -np.inf).argmax())
        # Equal numbers, computed in another order, may differ by rounding; the order of removal must not suffer.
        last = min(last, float(highest[unit]))
        redundancy[unit] = last
        left[unit] = False
        shares[:, unit] = np.where(np.isposinf(shares[:, unit]), np.inf, -np.inf)
        if n_left > 2:
            stale = np.flatnonzero(left & (partner == unit) & ~np.isposinf(highest))
            highest[stale], partner[stale] = shares[stale].max(1), shares[stale].argmax(1)
    return np.minimum(redundancy, 1.0)


# Units whose pairs are counted together. The table of counts has 64 numbers for a pair.
_UNITS_AT_ONCE = 64


def _shared_information(values: Floats) -> Floats:
    """For each unit the share of its information that each other unit gives; infinity if it has none to give."""
    n, n_units = values.shape
    n_bins = min(max(int((n / _MIN_EXAMPLES) ** 0.5), 2), _MAX_BINS)
    bins = np.stack([equal_frequency_bins(column, n_bins) for column in values.T], 1)
    # One column for each pair of unit and bin, so that a matrix product counts all pairs of bins.
    members = np.zeros((n, n_units * n_bins), dtype=np.float32)
    members[np.arange(n)[:, None], np.arange(n_units) * n_bins + bins] = 1
    entropy = _entropies(members.sum(0).reshape(n_units, n_bins), n)
    shares = np.empty((n_units, n_units))
    for start in range(0, n_units, _UNITS_AT_ONCE):
        some = slice(start, min(start + _UNITS_AT_ONCE, n_units))
        counts = members[:, some.start * n_bins : some.stop * n_bins].T @ members
        pairs = counts.reshape(-1, n_bins, n_units, n_bins).transpose(0, 2, 1, 3).reshape(-1, n_units, n_bins**2)
        shared = entropy[some, None] + entropy[None] - _entropies(pairs, n)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares[some] = shared / entropy[some, None]
    np.fill_diagonal(shares, -np.inf)
    shares[entropy <= 0] = np.inf
    return shares


def _entropies(counts: NDArray[Any], n: int) -> Floats:
    """Entropies of the counts along the last axis, with the correction of Miller and Madow."""
    shares = counts / n
    logs = np.log(shares, out=np.zeros(shares.shape), where=shares > 0)
    entropies: Floats = -(shares * logs).sum(-1) + ((counts > 0).sum(-1) - 1) / (2 * n)
    return entropies


def mutual_information_scores(
    model: nn.Module, groups: Sequence[ChannelGroup], data: object, seed: int
) -> list[ChannelScores | str]:
    """Return the mutual information of each unit's activation and the label, or the reason why there is none.

    Targets that are numbers are put into bins first, like activations. Each unit is scored by itself: two units with
    the same activations have the same score.

    Raises:
        DataError: There is not one label or number for each example.
    """
    activations, targets = unit_activations(model, groups, data, seed, of=lambda x: x)
    labels = _labels(targets)
    scores: list[ChannelScores | str] = []
    for rows in activations:
        if rows is None:
            scores.append(NO_ACTIVATION)
        elif len(rows) != len(labels):
            scores.append("its layer does not give one row of activations for each example")
        else:
            scores.append(np.array([mutual_information(column, labels) for column in rows.numpy().T]))
    return scores


def _labels(targets: Sequence[object]) -> NDArray[np.int64]:
    flat = []
    for target in targets:
        if (
            not isinstance(target, torch.Tensor)
            or target.is_complex()
            or not target.ndim
            or target.numel() != len(target)
        ):
            got = f"shape {tuple(target.shape)}" if isinstance(target, torch.Tensor) else type(target).__name__
            raise DataError(
                f"{option('criterion', 'mutual-information')} needs one label for each example, got targets of {got}"
            )
        flat.append(target.detach().reshape(-1).cpu())
    joined = torch.cat(flat).numpy()
    if joined.dtype.kind == "f":
        if not np.isfinite(joined).all():
            raise DataError(
                f"{option('criterion', 'mutual-information')} needs finite targets, but some are NaN or infinite"
            )
        return equal_frequency_bins(joined.astype(np.float64), N_TARGET_BINS)
    return joined.astype(np.int64)


def lowest_per_group(
    scores: Sequence[ChannelScores], amount: float, min_kept: Sequence[int], n_gone: Sequence[int] | None = None
) -> list[list[int]]:
    """Return the lowest units of each group: the share `amount`, rounded to the nearest integer.

    `min_kept` units of each group always stay. The share counts the `n_gone` units that were removed from a group
    before.
    """
    gone = n_gone or [0] * len(scores)
    return [
        _lowest(score, _n_removed(len(score), amount, n_kept, n))
        for score, n_kept, n in zip(scores, min_kept, gone, strict=True)
    ]


def lowest_globally(
    scores: Sequence[ChannelScores], amount: float, min_kept: Sequence[int], n_gone: Sequence[int] | None = None
) -> list[list[int]]:
    """Return the lowest units of all groups together: the share `amount`, rounded to the nearest integer.

    Units are ranked by the score divided by the mean score of the group. `min_kept` units of each group always stay.
    The share counts the `n_gone` units that were removed from a group before.
    """
    n_before = sum(n_gone or ())
    relative = [score / (mean if (mean := score.mean()) > 0 else 1.0) for score in scores]
    # The best units of each group always stay, so they are not ranked.
    ranked = sorted(
        (float(score[unit]), group, unit)
        for group, (score, n_kept) in enumerate(zip(relative, min_kept, strict=True))
        for unit in np.argsort(-score, kind="stable")[n_kept:].tolist()
    )
    n_all = sum(len(score) for score in scores) + n_before
    n_removed = max(0, min(int(amount * n_all + 0.5) - n_before, len(ranked)))
    chosen: list[list[int]] = [[] for _ in scores]
    for _, group, unit in ranked[:n_removed]:
        chosen[group].append(unit)
    return [sorted(units) for units in chosen]


def _n_removed(n_units: int, amount: float, n_kept: int, n_gone: int) -> int:
    # A half is rounded up. The small number is for products like .3 * 5 = 1.4999999999999998.
    return max(0, min(int(amount * (n_units + n_gone) + 0.5 + 1e-9) - n_gone, n_units - n_kept))


def _lowest(scores: ChannelScores, n_removed: int) -> list[int]:
    return sorted(np.argsort(scores, kind="stable")[:n_removed].tolist())
