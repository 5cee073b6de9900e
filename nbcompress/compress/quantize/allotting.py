"""How many bits does each tensor get, when all of them have to fit into a number of bytes?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nbcompress.compress.gradients import check_gradients, each_gradient
from nbcompress.compress.layers import Target
from nbcompress.compress.losses import LossSpec


@dataclass(frozen=True)
class Cost:
    """What one tensor costs at one number of bits: bytes, and an error that adds up over tensors."""

    n_bytes: int
    error: float


# By tensor name and bits.
Costs = Mapping[str, Mapping[int, Cost]]


# What the data does not touch still counts this much, so that bits left over go somewhere sensible.
_UNTOUCHED = 1e-6


def importances(
    model: nn.Module, targets: Sequence[Target], data: object, seed: int, spec: LossSpec | None = None
) -> list[Tensor]:
    """How much the squared error of each weight counts, of the shape of each target, float64 on the CPU.

    Without data, one over the sum of squares of the tensor: noise relative to the signal, which every layer hands on to
    the next. With data, the diagonal of the empirical Fisher information, the squared gradients of all batches, which
    estimates how the loss grows (Dong et al. 2019 use the Hessian so, "HAWQ"); scaled so that it gives all weights
    together, set to zero, the error 1.
    """
    weights = [one.parameter.detach().to("cpu", torch.float64) for one in targets]
    relative = [torch.full_like(one, 1 / max(float(one.square().sum()), 1e-300)) for one in weights]
    if data is None:
        return relative
    totals = [torch.zeros_like(one) for one in weights]

    def add(gradients: Sequence[Tensor | None]) -> None:
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += gradient.detach().to("cpu", torch.float64).square()

    each_gradient(model, [one.parameter for one in targets], data, seed, spec or LossSpec(), add)
    check_gradients(totals, "bits='auto' with data")
    whole = sum(float((total * one.square()).sum()) for total, one in zip(totals, weights, strict=True))
    return [total / max(whole, 1e-300) + _UNTOUCHED * one for total, one in zip(totals, relative, strict=True)]


# So many sums of bytes are told apart at most; with more tensors than that takes, near sums count as one.
_MOST_SUMS = 1 << 15


def allotted(costs: Costs, room: int) -> dict[str, int] | None:
    """Bits by tensor name of least error that fit into `room` bytes, or None if not even the smallest do.

    Tensor after tensor is added to a list of everything that could be reached, in which more bytes always mean less
    error. Exact until the list grows beyond `_MOST_SUMS`. What comes out cannot be improved by other bits for any one
    tensor within the room.
    """
    least = {
        name: min(one.values(), key=lambda cost: (cost.n_bytes, cost.error)).n_bytes for name, one in costs.items()
    }
    left = room - sum(least.values())
    if left < 0:
        return None
    n_bytes, errors = np.zeros(1, np.int64), np.zeros(1)
    trail: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for name, one in costs.items():
        more = np.array([cost.n_bytes - least[name] for cost in one.values()])
        sums = (n_bytes[:, None] + more).ravel()
        found = (errors[:, None] + [cost.error for cost in one.values()]).ravel()
        kept = _front(sums, found, left)
        n_bytes, errors = sums[kept], found[kept]
        trail.append((kept // len(one), kept % len(one)))
    bits: dict[str, int] = {}
    place = len(n_bytes) - 1
    for (name, one), (parents, choices) in zip(reversed(list(costs.items())), reversed(trail), strict=True):
        bits[name] = list(one)[choices[place]]
        place = int(parents[place])
    return _stepped_up(costs, {name: bits[name] for name in costs}, room)


def _front(sums: NDArray[np.int64], errors: NDArray[np.float64], left: int) -> NDArray[np.int64]:
    """Places of the sums that fit and that no smaller one beats, by rising bytes and falling error."""
    order: NDArray[np.int64] = np.lexsort((errors, sums))
    order = order[sums[order] <= left]
    lowest = np.minimum.accumulate(errors[order])
    order = order[np.concatenate([[True], errors[order][1:] < lowest[:-1]])]
    if len(order) > _MOST_SUMS:
        # Of near sums the best stays, and the smallest of all, which alone is sure to lead to an end.
        cells = sums[order] * _MOST_SUMS // (left + 1)
        is_last = np.concatenate([cells[1:] != cells[:-1], [True]])
        is_last[0] = True
        order = order[is_last]
    return order


def _stepped_up(costs: Costs, bits: dict[str, int], room: int) -> dict[str, int]:
    left = room - sum(costs[name][b].n_bytes for name, b in bits.items())
    while True:
        step = next((one for one in steps_up(costs, bits) if one.n_bytes <= left), None)
        if step is None:
            return bits
        bits[step.name] = step.bits
        left -= step.n_bytes


@dataclass(frozen=True)
class Step:
    """Another number of bits for one tensor, with the bytes that it takes more and the error that it takes away."""

    name: str
    bits: int
    n_bytes: int
    gain: float


def steps_up(costs: Costs, bits: Mapping[str, int]) -> Iterator[Step]:
    """Every step that takes error away, the best for a byte first; those for no byte before all others."""
    found = []
    for name, one in costs.items():
        now = one[bits[name]]
        for b, cost in one.items():
            if cost.error < now.error:
                found.append(Step(name, b, cost.n_bytes - now.n_bytes, now.error - cost.error))
    yield from sorted(found, key=lambda one: (-one.gain / max(one.n_bytes, 1e-9), one.name, one.bits))


__all__ = ["Cost", "Costs", "Step", "allotted", "importances", "steps_up"]
