"""`quantize` with bits chosen for each tensor, so that the file is at or under a budget."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any, Literal

import torch
from torch import nn

from nbcompress.artifact.file import size_by_tensor, size_bytes
from nbcompress.compressors import quantize as quantize_by_bits
from nbcompress.compressors.layers import Patterns, Target, check_model, check_patterns, select
from nbcompress.compressors.losses import LossFunction, LossSpec
from nbcompress.compressors.modes import outside_inference, with_progress
from nbcompress.compressors.optimizers import OptimizerChoice, OptimizerSpec
from nbcompress.compressors.outputs import OutputKey
from nbcompress.compressors.quantize import BitCost, BitCosts, allocate_bits, bit_increases, error_weights
from nbcompress.compressors.session import FineTuneOptions
from nbcompress.errors import CompressionError, option
from nbcompress.progress import Advance, progress_bar

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
# Tensors share words of the file, so the bytes of a single tensor are known up to some words only.
_SLACK_BYTES = 64
# Fine-tuning changes how well codes compress. After each attempt that ends above the budget, the next one aims lower.
_MAX_ATTEMPTS = 6


@outside_inference
def quantize(
    model: nn.Module,
    bits: int | Mapping[str, int] | Literal["auto"] = 8,
    *,
    budget: str | float | None = None,
    scheme: Literal["symmetric", "affine"] = "symmetric",
    granularity: str = "channel",
    scale: Literal["error", "absmax", "pow2"] | float = "error",
    share: float = 1.0,
    rounding: Literal["nearest", "gptq"] = "nearest",
    activations: Literal["none", "dynamic", "static"] = "none",
    rest: Literal["float16", "float32"] = "float16",
    layers: Patterns = None,
    data: object = None,
    finetune: int = 0,
    lr: float = 1e-3,
    seed: int = 0,
    loss: LossFunction | None = None,
    output: OutputKey | None = None,
    optimizer: OptimizerChoice = "adam",
    momentum: float | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    weight_decay: float = 0.0,
    progress: bool = True,
) -> nn.Module:
    """Return a copy of `model` whose weights lie on uniform grids of a few bits.

    Weights stay floating-point tensors whose *values* lie on a grid, so the copy runs, trains and exports as any
    module. `nc.save` stores the codes; `nc.export` writes integers.

    Args:
        model: Any module; it stays unchanged.
        bits: 1 to 8 for all weights; one bit is the sign times the mean magnitude. Or a dict from the name of each
            chosen parameter to its bits. Or `auto`: each tensor gets its own bits, so that the file is at or under
            `budget`. `auto` spends bytes where they reduce the error most: the error of the loss if there is data
            (Fisher information), else the error relative to the size of each tensor.
        budget: Length of the file for `bits="auto"`: a number of bytes, or text such as `60kB` (1000 bytes each),
            `60KiB` (1024 bytes each) or `1.5MB`.
        scheme: `symmetric` has zero in the middle of its codes, `affine` places the codes where the weights are. Both
            represent zero exactly.
        granularity: What shares a scale: `channel` (along axis 0), `tensor`, or `group:N` (N consecutive weights of a
            channel).
        scale: `error` searches the scale of least squared error, which may clip outliers. `absmax` ends at the largest
            weights. `pow2` is the power of two of least error. A number Q is a factor of one's own: a weight becomes
            `round(w * Q) / Q`. Training keeps powers of two and factors as they are.
        share: Share of the weights of each tensor that lie on the grid, above 0 to 1, ranked by magnitude. The largest
            of the others stay in half precision, also in the file.
        rounding: `nearest`, or `gptq`: such that the outputs of each layer on `data` change least (labels are not
            needed). Layers whose inputs are not known are rounded to the nearest values, and named.
        activations: How an exported model takes the inputs of linear layers and convolutions: `none` (floating point),
            `dynamic` (8 bits, range found at every run) or `static` (8 bits, range measured on `data`). The copy itself
            computes activations in floating point.
        rest: `float16` rounds everything else (biases, norms, stored buffers) to half precision.
        layers: Shell patterns on dotted module names, such as `conv*`; all layers if None.
        data: For `finetune`, `static` activations and `auto`: a `DataLoader`, a data set, or a pair of tensors (inputs,
            targets).
        finetune: Epochs of quantization-aware training, starting from the weights before rounding; 0 for none.
        lr: Step size of that training.
        seed: Of the training, and of the order of the data.
        loss: Training loss, from the output and the target to a scalar; chosen by the targets if None.
        output: Index or key of the prediction, where the model returns several tensors.
        optimizer, momentum, betas, eps, weight_decay: The optimizer of that training and its options; see `finetune`.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        A quantized copy. `nc.finetune` keeps its weights on their grids. Pruned zeros stay zero; of a clustered weight,
        the shared values are rounded. With `auto`, no single tensor could have more bits within the budget, unless
        `finetune` changed the length of the file.

    Raises:
        CompressionError: An option is invalid, the model does not fit the budget with the fewest bits, or fine-tuning
            diverges.
        LayerNotFound: A pattern matches nothing.
        DataError: Data is needed and missing, or does not fit.

    Example:
        >>> import torch, nbcompress as nc
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 10))
        >>> small = nc.quantize(model, bits=4)
        >>> nc.record_of(small).tensors["0.weight"].grid.bits
        4
        >>> nc.size_bytes(nc.quantize(model, bits="auto", budget="3kB")) <= 3000
        True

    References:
        Jacob et al. (2018), "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference".
        Frantar et al. (2023), "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers".
    """
    patterns = check_patterns(layers)
    grids = {"scheme": scheme, "granularity": granularity, "scale": scale, "rest": rest, "layers": patterns}
    grids |= {"share": share}
    training = {"activations": activations, "data": data, "finetune": finetune, "lr": lr, "seed": seed}
    training |= {"loss": loss, "output": output, "optimizer": optimizer, "momentum": momentum, "betas": betas}
    training |= {"rounding": rounding, "eps": eps, "weight_decay": weight_decay, "progress": progress}
    if bits != "auto":
        if budget is not None:
            raise CompressionError(
                f"{option('budget=')} belongs to {option('bits', 'auto')}, got {option('bits', bits)}"
            )
        return quantize_by_bits(model, bits, **grids, **training)  # type: ignore[arg-type]
    if budget is None:
        raise CompressionError(
            f"{option('bits', 'auto')} needs {option('budget=')}, the length of the file, such as '60kB'"
        )
    n_bytes = parse_budget(budget)
    FineTuneOptions(
        data, finetune, lr, seed, LossSpec(loss, output), OptimizerSpec(optimizer, momentum, betas, eps, weight_decay)
    )
    with with_progress(progress), progress_bar("quantize", unit="try") as advance:
        # The most bits first: this checks every other option, and if the file fits there is nothing to choose.
        widest = quantize_by_bits(model, 8, **grids)  # type: ignore[arg-type]
        search = _BitSearch(model, n_bytes, grids, training, advance)
        if not finetune and rounding == "nearest" and size_bytes(widest) <= n_bytes:
            return search.quantized(dict.fromkeys(search.names, 8))
        return search.within_budget()


def parse_budget(budget: object) -> int:
    """Return a number of bytes from `60kB` (1000), `60KiB` (1024), `1.5MB`, or a number; fractions are dropped.

    Raises:
        CompressionError: Something else, or less than a byte.
    """
    number: float | None = None
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Z]*)\s*", budget)
        if match and match[2].lower() in _UNITS:
            number = float(match[1]) * _UNITS[match[2].lower()]
    elif not isinstance(budget, bool) and isinstance(budget, Real):
        number = float(budget)
    if number is None or not isfinite(number) or number < 1:
        raise CompressionError(
            f"{option('budget')} must be a length such as '60kB', '60KiB', '1.5MB' or 60000, got {budget!r}"
        )
    return int(number)


@dataclass(frozen=True)
class Limits:
    """What the budget allows.

    Attributes:
        kilobytes: The most kilobytes (1,000 bytes) of the file, or None.
        milliseconds: The most milliseconds of one call, or None.
    """

    kilobytes: float | None = None
    milliseconds: float | None = None


def parse_limits(budget: object) -> Limits:
    """Return the limits that a budget means.

    Args:
        budget: Such as `"60kB"`, `"1.5MB"`, `"5ms"` or a number of bytes; or a list with one of each kind.

    Raises:
        CompressionError: It reads otherwise, or names one kind twice.

    Example:
        >>> parse_limits(["60kB", "5ms"])
        Limits(kilobytes=60.0, milliseconds=5.0)
    """
    parts = list(budget) if isinstance(budget, (list, tuple)) else [budget]
    found: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*ms\s*", part, re.IGNORECASE) if isinstance(part, str) else None
        kind = "milliseconds" if match else "kilobytes"
        if kind in found:
            raise CompressionError(f"{option('budget')} may have one limit in bytes and one in ms, got {budget!r}")
        found[kind] = float(match[1]) if match else parse_budget(part) / 1000
        if not found[kind] > 0 or not isfinite(found[kind]):
            raise CompressionError(f"{option('budget')} must be above zero, got {budget!r}")
    if not found:
        raise CompressionError(f"{option('budget')} must be a length such as '60kB' or a time such as '5ms'")
    return Limits(**found)


@dataclass
class _BitSearch:
    """A search for the bits of each tensor.

    Attributes:
        model: The model to quantize.
        budget: Bytes that its file may have.
        grids: Options of `quantize` that say which grids, and where.
        training: The other options.
        advance: Called after each try.
    """

    model: nn.Module
    budget: int
    grids: Mapping[str, Any]
    training: Mapping[str, Any]
    advance: Advance

    def __post_init__(self) -> None:
        self.targets = select(check_model(self.model), self.grids["layers"]).targets
        self.names = [target.name for target in self.targets]

    def quantized(self, bits: Mapping[str, int]) -> nn.Module:
        """Return the model with these bits and all other options."""
        small = quantize_by_bits(self.model, bits, **self.grids, **self.training)
        self.advance(1)
        return small

    def within_budget(self) -> nn.Module:
        """Return the model with the best bits within the budget.

        Raises:
            CompressionError: No bits fit, or fine-tuning ends above the budget.
        """
        costs, n_other = self._costs()
        room = self.budget - n_other
        n_over = 0
        for _ in range(_MAX_ATTEMPTS):
            bits = self._best_bits(costs, room)
            if bits is None:
                break
            small = self.quantized(bits)
            n_over = size_bytes(small) - self.budget
            if n_over <= 0:
                return small
            room = sum(costs[name][b].n_bytes for name, b in bits.items()) - n_over - _SLACK_BYTES
        n_least = self._file_bytes({name: min(cost) for name, cost in costs.items()})
        if n_least > self.budget:
            reason = f"with the fewest bits the file has {n_least} bytes: prune or cluster first, or allow more"
        else:
            reason = f"fine-tuning ended {n_over} bytes above it: allow more, or train less"
        raise CompressionError(f"{option('budget', self.budget)} bytes cannot be kept: {reason}")

    def _costs(self) -> tuple[BitCosts, int]:
        """Bytes and error of each tensor at each number of bits, and the bytes of everything else."""
        spec = LossSpec(self.training["loss"], self.training["output"])
        weights = error_weights(self.model, self.targets, self.training["data"], self.training["seed"], spec)
        costs: dict[str, dict[int, BitCost]] = {name: {} for name in self.names}
        n_other: int | None = None
        for bits in range(2 if self.grids["scheme"] == "affine" else 1, 9):
            small = quantize_by_bits(self.model, bits, **self.grids)
            sizes = size_by_tensor(small)
            self.advance(1)
            for target, weight in zip(self.targets, weights, strict=True):
                costs[target.name][bits] = BitCost(_tensor_bytes(sizes, target), _error(target, small, weight))
            n_chosen = sum(cost[bits].n_bytes for cost in costs.values())
            n_rest = sum(sizes.values()) - n_chosen
            n_other = n_rest if n_other is None else min(n_other, n_rest)
        return costs, n_other or 0

    def _best_bits(self, costs: BitCosts, room: int) -> dict[str, int] | None:
        """Return bits for `room` bytes whose file, before training, is within the budget; None if there are none."""
        while True:
            bits = allocate_bits(costs, room)
            if bits is None:
                return None
            n_over = self._file_bytes(bits) - self.budget
            if n_over <= 0:
                return self._raised(costs, bits, room)
            room -= n_over

    def _raised(self, costs: BitCosts, bits: dict[str, int], room: int) -> dict[str, int]:
        """Raise `bits` as far as the file allows; its true length can leave room that costs by tensor do not show."""
        refused: set[tuple[str, int]] = set()
        while True:
            left = room - sum(costs[name][b].n_bytes for name, b in bits.items()) + _SLACK_BYTES
            steps = (step for step in bit_increases(costs, bits) if step.n_bytes <= left)
            step = next((step for step in steps if (step.name, step.bits) not in refused), None)
            if step is None:
                return bits
            raised = {**bits, step.name: step.bits}
            if self._file_bytes(raised) <= self.budget:
                bits = raised
            else:
                refused.add((step.name, step.bits))

    def _file_bytes(self, bits: Mapping[str, int]) -> int:
        n_bytes = size_bytes(quantize_by_bits(self.model, bits, **self.grids))
        self.advance(1)
        return n_bytes


def _tensor_bytes(sizes: Mapping[str, int], target: Target) -> int:
    return next(sizes[name] for name in target.names if name in sizes)


def _error(target: Target, small: nn.Module, weight: torch.Tensor) -> float:
    moved = small.get_parameter(target.name).detach() - target.parameter.detach()
    return float((moved.to("cpu", torch.float64).square() * weight).sum())


__all__ = ["Limits", "parse_budget", "parse_limits", "quantize"]
