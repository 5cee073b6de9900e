"""Which range do the inputs of a layer take? Measured on data, for integer kernels with fixed grids of 256 codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nbcompress.compressors.observing import NOT_CALLED, observe
from nbcompress.compressors.record import ActivationRange, Record
from nbcompress.errors import DataError

# Bins of the histogram from which a range is chosen: several for each of the 256 codes.
_N_BINS = 4096
# Shares of the widest range that are tried on either side (a heuristic: what is clipped costs its squared distance).
_SHARES = tuple(1 - 0.05 * step for step in range(15))

_CHANGED = "its activation range was given up, because weights changed and there was no data to measure it again"


def static_layers(record: Record) -> list[str]:
    """Modules whose inputs have a measured range."""
    return [name for name, activation in record.activations.items() if isinstance(activation, ActivationRange)]


def with_ranges(model: nn.Module, record: Record, data: object, seed: int) -> Record:
    """`record` with every static range measured again on `model`; without data they are given up, by name.

    Raises:
        DataError: An input is NaN or infinite, or `data` does not fit.
    """
    names = static_layers(record)
    if not names:
        return record
    ranges: Mapping[str, ActivationRange] = {} if data is None else measured_ranges(model, names, data, seed)
    why = _CHANGED if data is None else NOT_CALLED
    activations = {name: ranges.get(name, activation) for name, activation in record.activations.items()}
    activations = {
        name: activation for name, activation in activations.items() if activation == "dynamic" or name in ranges
    }
    missing = {name: why for name in names if name not in ranges}
    return replace(record, activations=activations, left_out={**record.left_out, **missing})


def measured_ranges(model: nn.Module, names: list[str], data: object, seed: int) -> dict[str, ActivationRange]:
    """The range of least squared error, rounded to 256 codes, of the inputs of modules over one pass of `data`.

    The data is read twice: for the widest range, and for a histogram in it. Modules that are not called are missing.

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
    """Counts of values between two ends, of which the lower is not above zero and the upper not below."""

    low: float
    high: float

    def __post_init__(self) -> None:
        self.counts: NDArray[np.float64] = np.zeros(_N_BINS)

    def add(self, x: Tensor) -> None:
        if self.low == self.high:
            return
        # The same arithmetic on every device, unlike torch.histc, which adds on a GPU by chance.
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
        errors = [_squared_error(centres, self.counts, width) for width in tried]
        return tried[int(np.argmin(errors))]


def _squared_error(values: NDArray[np.float64], counts: NDArray[np.float64], one: ActivationRange) -> float:
    codes = np.clip(np.rint(values / one.scale) + one.zero, 0, 255)
    return float((counts * (values - (codes - one.zero) * one.scale) ** 2).sum())


__all__ = ["measured_ranges", "static_layers", "with_ranges"]
