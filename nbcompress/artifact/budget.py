"""As many bits as a file may have: mixed bits under a budget, held by the real length of the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any, Literal

import torch
from torch import nn

from nbcompress.artifact.files import size_by_tensor, size_bytes
from nbcompress.compress import quantize as quantize_by_bits
from nbcompress.compress.layers import Patterns, Target, check_model, check_patterns, select
from nbcompress.compress.losses import LossFunction, LossSpec
from nbcompress.compress.modes import outside_inference
from nbcompress.compress.outputs import Output
from nbcompress.compress.quantize.allotting import Cost, Costs, allotted, importances, steps_up
from nbcompress.compress.workpiece import Tuning
from nbcompress.errors import CompressionError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
# Tensors share words of the file, so the bytes of one by itself are right to some words.
_SLACK = 64
# Training changes how well codes pack; each time it ends above the budget, the next attempt aims lower.
_MOST_ATTEMPTS = 6


@outside_inference
def quantize(
    model: nn.Module,
    bits: int | Mapping[str, int] | Literal["auto"] = 8,
    *,
    budget: str | float | None = None,
    scheme: Literal["symmetric", "affine"] = "symmetric",
    granularity: str = "channel",
    scale: Literal["error", "absmax"] = "error",
    activations: Literal["none", "dynamic", "static"] = "none",
    rest: Literal["float16", "float32"] = "float16",
    layers: Patterns = None,
    data: object = None,
    finetune: int = 0,
    lr: float = 1e-3,
    seed: int = 0,
    loss: LossFunction | None = None,
    output: Output | None = None,
) -> nn.Module:
    """Return a copy of `model` whose weights lie on uniform grids; see `nbcompress.compress.quantize` for all options.

    Args:
        model: Any module; it stays as it is.
        bits: 1 to 8, or `auto`: every tensor gets bits of its own, so that the file is at or under `budget`. Bits go
            where they take most error away for a byte: by the loss on the data if there is data (Fisher information),
            else relative to each tensor's size.
        budget: Length of the file, such as `60kB`, `60KiB`, `1.5MB`, or a number of bytes. For `auto`.
        scheme: As there, and so on.

    Returns:
        A copy. By `auto`, no single tensor could have had more bits within the budget (but for what training changes).

    Raises:
        CompressionError: An option makes no sense, the model does not fit the budget with the fewest bits, or
            fine-tuning diverges.
        LayerNotFound: `layers` matches nothing.
        DataError: Data is needed and missing, or does not fit.
    """
    patterns = check_patterns(layers)
    grids = {"scheme": scheme, "granularity": granularity, "scale": scale, "rest": rest, "layers": patterns}
    training = {"activations": activations, "data": data, "finetune": finetune, "lr": lr, "seed": seed}
    training |= {"loss": loss, "output": output}
    if bits != "auto":
        if budget is not None:
            raise CompressionError(f"budget= belongs to bits='auto', got bits={bits!r}")
        return quantize_by_bits(model, bits, **grids, **training)  # type: ignore[arg-type]
    if budget is None:
        raise CompressionError("bits='auto' needs budget=, the length of the file, such as '60kB'")
    n_bytes = parse_budget(budget)
    Tuning(data, finetune, lr, seed, LossSpec(loss, output))
    # With the most bits first: this checks every other option, and where they fit there is nothing to choose.
    widest = quantize_by_bits(model, 8, **grids)  # type: ignore[arg-type]
    attempt = _Attempt(model, n_bytes, grids, training)
    if not finetune and size_bytes(widest) <= n_bytes:
        return attempt.quantized(dict.fromkeys(attempt.names, 8))
    return attempt.within_budget()


def parse_budget(budget: object) -> int:
    """A number of bytes from `60kB` (1000), `60KiB` (1024), `1.5MB`, or a number; fractions of a byte are dropped.

    Raises:
        CompressionError: Something else, or less than a byte.
    """
    number: float | None = None
    if isinstance(budget, str):
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Z]*)\s*", budget)
        if found and found[2].lower() in _UNITS:
            number = float(found[1]) * _UNITS[found[2].lower()]
    elif not isinstance(budget, bool) and isinstance(budget, Real):
        number = float(budget)
    if number is None or not isfinite(number) or number < 1:
        raise CompressionError(f"budget must be a length such as '60kB', '60KiB', '1.5MB' or 60000, got {budget!r}")
    return int(number)


@dataclass
class _Attempt:
    """One search for bits.

    Attributes:
        model: What is quantized.
        budget: Bytes that its file may have.
        grids: Options of `quantize` that say which grids, and where.
        training: The other options.
    """

    model: nn.Module
    budget: int
    grids: Mapping[str, Any]
    training: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.targets = select(check_model(self.model), self.grids["layers"]).targets
        self.names = [one.name for one in self.targets]

    def quantized(self, bits: Mapping[str, int]) -> nn.Module:
        """Everything that was asked for, with these bits."""
        return quantize_by_bits(self.model, bits, **self.grids, **self.training)

    def within_budget(self) -> nn.Module:
        costs, n_other = self._costs()
        room = self.budget - n_other
        n_over = 0
        for _ in range(_MOST_ATTEMPTS):
            bits = self._fitting(costs, room)
            if bits is None:
                break
            small = self.quantized(bits)
            n_over = size_bytes(small) - self.budget
            if n_over <= 0:
                return small
            room = sum(costs[name][b].n_bytes for name, b in bits.items()) - n_over - _SLACK
        n_least = size_bytes(
            quantize_by_bits(self.model, {name: min(one) for name, one in costs.items()}, **self.grids)
        )
        if n_least > self.budget:
            why = f"with the fewest bits the file has {n_least} bytes: prune or cluster first, or allow more"
        else:
            why = f"fine-tuning ended {n_over} bytes above it: allow more, or train less"
        raise CompressionError(f"budget={self.budget} bytes cannot be kept: {why}")

    def _costs(self) -> tuple[Costs, int]:
        """What each tensor costs at each number of bits, and the bytes of everything else."""
        spec = LossSpec(self.training["loss"], self.training["output"])
        weights = importances(self.model, self.targets, self.training["data"], self.training["seed"], spec)
        costs: dict[str, dict[int, Cost]] = {name: {} for name in self.names}
        n_other: int | None = None
        for bits in range(2 if self.grids["scheme"] == "affine" else 1, 9):
            small = quantize_by_bits(self.model, bits, **self.grids)
            sizes = size_by_tensor(small)
            for target, weight in zip(self.targets, weights, strict=True):
                error = _error(target, small, weight)
                costs[target.name][bits] = Cost(_n_bytes(sizes, target), error)
            n_chosen = sum(one[bits].n_bytes for one in costs.values())
            n_rest = sum(sizes.values()) - n_chosen
            n_other = n_rest if n_other is None else min(n_other, n_rest)
        return costs, n_other or 0

    def _fitting(self, costs: Costs, room: int) -> dict[str, int] | None:
        """Bits for `room` whose file is within the budget before any training, or None if there are none."""
        while True:
            bits = allotted(costs, room)
            if bits is None:
                return None
            n_over = self._n_bytes(bits) - self.budget
            if n_over <= 0:
                return self._filled(costs, bits, room)
            room -= n_over

    def _filled(self, costs: Costs, bits: dict[str, int], room: int) -> dict[str, int]:
        """`bits` with the steps up that fit by the real length of the file, where costs by tensor are a little off."""
        refused: set[tuple[str, int]] = set()
        while True:
            left = room - sum(costs[name][b].n_bytes for name, b in bits.items()) + _SLACK
            fits = (one for one in steps_up(costs, bits) if one.n_bytes <= left)
            step = next((one for one in fits if (one.name, one.bits) not in refused), None)
            if step is None:
                return bits
            tried = {**bits, step.name: step.bits}
            if self._n_bytes(tried) <= self.budget:
                bits = tried
            else:
                refused.add((step.name, step.bits))

    def _n_bytes(self, bits: Mapping[str, int]) -> int:
        return size_bytes(quantize_by_bits(self.model, bits, **self.grids))


def _n_bytes(sizes: Mapping[str, int], target: Target) -> int:
    return next(sizes[name] for name in target.names if name in sizes)


def _error(target: Target, small: nn.Module, weight: torch.Tensor) -> float:
    moved = small.get_parameter(target.name).detach() - target.parameter.detach()
    return float((moved.to("cpu", torch.float64).square() * weight).sum())


__all__ = ["parse_budget", "quantize"]
