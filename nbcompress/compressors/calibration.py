"""Inputs of linear layers and convolutions on data, and the activation ranges that integer kernels need.

`observe` runs a model over data and shows the inputs and outputs of chosen layers. `measure_activation_ranges` uses it
to find the range of the inputs of each layer for a grid of 256 codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nbcompress.compressors.data import Batch, Batches
from nbcompress.compressors.layers import Target
from nbcompress.compressors.modes import evaluating, seeded
from nbcompress.compressors.record import ActivationRange, Record
from nbcompress.errors import DataError
from nbcompress.progress import progress_bar

# ---------------------------------------------------------------------------------------------------------------------
# Layers that are observed

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Patches of a convolution are laid out in memory for so many numbers at a time, 64 MiB of float32 (a heuristic).
_MOST_NUMBERS = 1 << 24

NOT_CALLED = "the model does not call its layer on the data"


def layers_of(model: nn.Module, target: Target) -> dict[str, nn.Module]:
    """Return the linear layers and convolutions whose weight is `target`, by name: several if the weight is shared."""
    layers: dict[str, nn.Module] = {}
    for name in target.names:
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        if last == "weight" and isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
            layers[path] = module
    return layers


def why_no_layer(model: nn.Module, target: Target) -> str:
    """Return the reason why `layers_of` finds nothing for `target`."""
    owner = model.get_submodule(target.name.rpartition(".")[0])
    return f"not the weight of a linear layer or a convolution ({type(owner).__name__})"


# Called with the name of a layer, its first input and its output.
OnCall = Callable[[str, Tensor, Tensor], None]


def observe(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    data: object,
    seed: int,
    on_call: OnCall,
    after_batch: Callable[[Batch], None] | None = None,
) -> None:
    """Run `model` over one pass of `data` in evaluation mode and show the inputs and outputs of layers.

    Args:
        model: Comes back as it was, without hooks.
        layers: Modules of the model under names of the caller's choice.
        data: See `Batches`.
        seed: Seed of the order of the data and of the model's own randomness.
        on_call: Called with a name, the layer's first input and its output, each time that the layer runs.
        after_batch: Called with every batch after it ran.

    Raises:
        DataError: `data` is empty or has another form.
    """

    def hook_for(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            x = args[0] if args else kwargs.get("input")
            if isinstance(x, Tensor) and isinstance(output, Tensor):
                on_call(name, x.detach(), output.detach())

        return hook

    run_with_hooks(model, [(module, hook_for(name)) for name, module in layers.items()], data, seed, after_batch)


@torch.no_grad()
def run_with_hooks(
    model: nn.Module,
    hooks: Sequence[tuple[nn.Module, Callable[..., None]]],
    data: object,
    seed: int,
    after_batch: Callable[[Batch], None] | None = None,
) -> None:
    """Run `model` over one pass of `data` in evaluation mode, with hooks.

    Args:
        model: Comes back as it was, without hooks.
        hooks: Modules of the model, and what is called with the module, its arguments, its keyword arguments and its
            result each time that it runs.
        data: See `Batches`.
        seed: Seed of the order of the data and of the model's own randomness.
        after_batch: Called with every batch after it ran.

    Raises:
        DataError: `data` is empty or has another form.
    """
    batches = Batches(data)
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module, hook in hooks]
    try:
        with (
            evaluating(model),
            seeded(seed, *batches.generators),
            progress_bar("inputs of layers", batches.n_batches, "batch") as advance,
        ):
            for batch in batches.for_model(model):
                batch(model)
                if after_batch is not None:
                    after_batch(batch)
                advance(1)
    finally:
        for handle in handles:
            handle.remove()


def input_rows(layer: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Arrange the inputs of `layer` as the rows that its flattened weight is multiplied with, in parts.

    Args:
        layer: A linear layer or a convolution.
        x: Its input.

    Yields:
        A tensor of shape `(groups, rows, columns)`, float32 or wider. The weight of shape `(groups, outputs, columns)`,
        multiplied with the rows, gives the outputs without the bias.

    Raises:
        TypeError: `layer` is of another kind.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if isinstance(layer, nn.Linear):
        yield wide.reshape(1, -1, layer.in_features)
        return
    if not isinstance(layer, _CONVOLUTIONS):
        raise TypeError(f"only linear layers and convolutions have rows of inputs, not {type(layer).__name__}")
    n_axes = len(layer.kernel_size)
    batch = wide if wide.ndim == n_axes + 2 else wide[None]
    # torch keeps the padding of a convolution, of all modes, in the form that `pad` takes.
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    batch = functional.pad(batch, layer._reversed_padding_repeated_twice, mode=mode)
    for axis, (size, stride, step) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        batch = batch.unfold(2 + axis, step * (size - 1) + 1, stride)[..., ::step]
    # (examples, channels, *positions, *kernel): a row for each position, a column for each channel and kernel element.
    n_per_example = max(1, batch[0].numel())
    for part in torch.split(batch, max(1, _MOST_NUMBERS // n_per_example)):
        split = part.reshape(len(part), layer.groups, -1, *part.shape[2:])
        positions, kernel = range(3, 3 + n_axes), range(3 + n_axes, 3 + 2 * n_axes)
        ordered = split.permute(1, 0, *positions, 2, *kernel)
        yield ordered.reshape(layer.groups, ordered.shape[1 : -n_axes - 1].numel(), -1)


# ---------------------------------------------------------------------------------------------------------------------
# Activation ranges

# Bins of the histogram from which a range is chosen: several for each of the 256 codes.
_N_BINS = 4096
# Shares of the widest range that are tried on either side (a heuristic).
_SHARES = tuple(1 - 0.05 * step for step in range(15))

_CHANGED = "its activation range was given up, because weights changed and there was no data to measure it again"


def static_layers(record: Record) -> list[str]:
    """Return the names of modules whose inputs have a measured range."""
    return [name for name, activation in record.activations.items() if isinstance(activation, ActivationRange)]


def with_activation_ranges(model: nn.Module, record: Record, data: object, seed: int) -> Record:
    """Measure every static range of `record` again on `model`.

    Args:
        model: Its weights are final.
        record: Its record.
        data: See `Batches`. Without data, the ranges are removed from the record and named in `left_out`.
        seed: See `observe`.

    Returns:
        The record with the new ranges.

    Raises:
        DataError: An input is NaN or infinite, or `data` does not fit.
    """
    names = static_layers(record)
    if not names:
        return record
    ranges: Mapping[str, ActivationRange] = {} if data is None else measure_activation_ranges(model, names, data, seed)
    why = _CHANGED if data is None else NOT_CALLED
    activations = {name: ranges.get(name, activation) for name, activation in record.activations.items()}
    activations = {
        name: activation for name, activation in activations.items() if activation == "dynamic" or name in ranges
    }
    missing = {name: why for name in names if name not in ranges}
    return replace(record, activations=activations, left_out={**record.left_out, **missing})


def measure_activation_ranges(
    model: nn.Module, names: list[str], data: object, seed: int
) -> dict[str, ActivationRange]:
    """Find the ranges of the inputs of modules that have the least squared error when rounded to 256 codes.

    The data is read twice: for the widest range, and for a histogram within it.

    Args:
        model: Comes back as it was.
        names: Dotted names of modules.
        data: See `Batches`.
        seed: See `observe`.

    Returns:
        The range by name. Modules that the model does not call are missing.

    Raises:
        DataError: An input is NaN or infinite, or `data` does not fit.
    """
    layers = {name: model.get_submodule(name) for name in names}
    widest: dict[str, tuple[float, float]] = {}
    histograms: dict[str, _Histogram] = {}

    def widen(name: str, x: Tensor, _: Tensor) -> None:
        if not x.is_floating_point() or not x.numel():
            return
        low, high = (float(bound) for bound in torch.aminmax(x))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"inputs must be finite, but those of {name!r} hold NaN or infinity on the data")
        before = widest.get(name, (0.0, 0.0))
        widest[name] = (min(low, before[0]), max(high, before[1]))

    def count(name: str, x: Tensor, _: Tensor) -> None:
        if name in histograms and x.numel():
            histograms[name].add(x)

    observe(model, layers, data, seed, widen)
    histograms.update({name: _Histogram(*ends) for name, ends in widest.items()})
    observe(model, layers, data, seed, count)
    return {name: histograms[name].best_range() for name in names if name in histograms}


@dataclass
class _Histogram:
    """Counts of values from `low`, which is at most zero, to `high`, which is at least zero."""

    low: float
    high: float

    def __post_init__(self) -> None:
        self.counts: NDArray[np.float64] = np.zeros(_N_BINS)

    def add(self, x: Tensor) -> None:
        if self.low == self.high:
            return
        # Equal on every device and in every run, unlike `torch.histc`, which adds in a random order on a GPU.
        share = (x.flatten().double() - self.low) / (self.high - self.low)
        bins = (share * _N_BINS).long().clamp(0, _N_BINS - 1)
        self.counts += torch.bincount(bins, minlength=_N_BINS).cpu().numpy()

    def best_range(self) -> ActivationRange:
        if self.low == self.high:
            return ActivationRange(0.0, 0.0)
        width = (self.high - self.low) / _N_BINS
        centres = self.low + width * (np.arange(_N_BINS, dtype=np.float64) + 0.5)
        sides = [(1.0,) if end == 0 else _SHARES for end in (self.low, self.high)]
        tried = [ActivationRange(self.low * below, self.high * above) for below in sides[0] for above in sides[1]]
        errors = [_squared_error(centres, self.counts, candidate) for candidate in tried]
        return tried[int(np.argmin(errors))]


def _squared_error(values: NDArray[np.float64], counts: NDArray[np.float64], limits: ActivationRange) -> float:
    codes = np.clip(np.rint(values / limits.scale) + limits.zero, 0, 255)
    return float((counts * (values - (codes - limits.zero) * limits.scale) ** 2).sum())
