"""How much each weight matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nbcompress.compress.gradients import check_gradients, each_gradient
from nbcompress.compress.layers import Target
from nbcompress.compress.losses import LossSpec
from nbcompress.compress.prune.input_scores import InputStatistics, input_statistics, wanda_scores

# Of single weights; `hessian` is not a score but an operation, see `second_order`.
CRITERIA = ("magnitude", "random", "gradient", "activation", "hessian")


def scores_of(
    model: nn.Module,
    targets: Sequence[Target],
    criterion: str,
    data: object,
    seed: int,
    statistics: Mapping[str, InputStatistics] | None = None,
    spec: LossSpec | None = None,
) -> list[Tensor]:
    """Scores of the weights of each target, of its shape, float64 on the CPU.

    Every score is positive where the weight is not zero, and 0 where it is: what is zero already goes first.

    Args:
        model: Where the targets are; unchanged.
        targets: What is scored.
        criterion: `magnitude`, `random`, `gradient` (first-order Taylor: weight times gradient), or `activation`
            (weight times the norm of its input; every target must have an input, see `input_statistics`).
        data: For `gradient` and `activation`.
        seed: For `random`, and for the order of the data.
        statistics: Of `activation`, by name, if they are known already.
        spec: What the user says of the loss, for `gradient`.
    """
    weights = [one.parameter.detach().to("cpu", torch.float64) for one in targets]
    if criterion == "magnitude":
        found = [one.abs() for one in weights]
    elif criterion == "random":
        generator = torch.Generator("cpu").manual_seed(seed)
        found = [torch.rand(one.shape, generator=generator, dtype=torch.float64, device="cpu") for one in weights]
    elif criterion == "activation":
        if statistics is None:
            statistics, _ = input_statistics(model, targets, data, seed)
        found = [wanda_scores(one, statistics[one.name]) for one in targets]
    else:
        gradients = _gradients(model, targets, data, seed, spec or LossSpec())
        found = [(one * gradient).abs() for one, gradient in zip(weights, gradients, strict=True)]
    # A weight that does not matter by the criterion still comes after one that is not there.
    smallest = torch.finfo(torch.float64).tiny
    return [torch.where(one == 0, 0.0, found_.clamp(min=smallest)) for one, found_ in zip(weights, found, strict=True)]


def lamp_scores(scores: Sequence[Tensor]) -> list[Tensor]:
    """Scores that can be compared between layers.

    The square of a score, divided by the sum of all squares in its layer that are not smaller; of equal scores, the
    one that goes last counts the fewest. The last weight of any layer has score 1, so none is emptied.

    References:
        Lee et al. (2021), "Layer-adaptive Sparsity for the Magnitude-based Pruning", equation 4.
    """
    found = []
    for one in scores:
        flat = one.flatten()
        values, order = torch.sort(flat, stable=True)
        # Divided by the largest, because squares of the smallest scores vanish in floating point.
        squares = (values / values[-1].clamp(min=torch.finfo(torch.float64).tiny)).square()
        left = squares.flip(0).cumsum(0).flip(0)
        ratio = torch.where(values > 0, squares.clamp(min=1e-300) / left.clamp(min=1e-300), 0.0)
        lamp = torch.empty_like(flat)
        lamp[order] = ratio
        found.append(lamp.reshape(one.shape))
    return found


def _gradients(model: nn.Module, targets: Sequence[Target], data: object, seed: int, spec: LossSpec) -> list[Tensor]:
    """Mean gradient of the loss over one pass of the data."""
    totals = [torch.zeros(one.parameter.shape, dtype=torch.float64, device="cpu") for one in targets]

    def add(gradients: Sequence[Tensor | None]) -> None:
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += gradient.detach().to("cpu", torch.float64)

    n_batches = each_gradient(model, [one.parameter for one in targets], data, seed, spec, add)
    check_gradients(totals, "criterion='gradient'")
    return [total / n_batches for total in totals]


__all__ = ["CRITERIA", "lamp_scores", "scores_of"]
