"""Weights as the integers of their own grid."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nbcompress.compress.codes import codes_of
from nbcompress.compress.layers import unique_parameters
from nbcompress.compress.record import Grid, TensorRecord, record_of
from nbcompress.errors import CompressionError, NbcompressWarning

Floats = NDArray[np.float32]
Integers = NDArray[Any]


@dataclass(frozen=True, eq=False)
class IntegerWeight:
    """A weight of shape `(channels, ...)`: `(codes - zero) * scale`.

    Attributes:
        name: Of the parameter, the first one if it is shared; with a word behind it once its codes were changed.
        codes: Of the weight's shape. int8 where zero is the code 0 for all, else uint8.
        scale: Shape `(1,)`, `(channels,)`, or `(channels, blocks)` with `block` weights of a channel to each.
        zero: The code of zero, of the shape of `scale`, uint8; None where it is 0 everywhere.
        block: Consecutive weights of a channel that share a scale; 0 without blocks.
    """

    name: str
    codes: Integers
    scale: Floats
    zero: Integers | None
    block: int

    @property
    def fits_4_bits(self) -> bool:
        """Whether every code has a place in 4 bits, of a sign if zero is the code 0."""
        low, high = (-8, 7) if self.zero is None else (0, 15)
        return not self.codes.size or bool(self.codes.min() >= low and self.codes.max() <= high)

    @property
    def values(self) -> Floats:
        """What the integers stand for."""
        zero = 0 if self.zero is None else self._wide(self.zero).astype(np.int32)
        found: Floats = (self.codes.astype(np.int32) - zero).astype(np.float32) * self._wide(self.scale)
        return found

    @property
    def signed(self) -> IntegerWeight | None:
        """The same with zero at the code 0, if its codes then still are of 8 bits."""
        if self.zero is None:
            return self
        steps = self.codes.astype(np.int32) - self._wide(self.zero).astype(np.int32)
        if steps.size and not (steps.min() >= -128 and steps.max() <= 127):
            return None
        return replace(self, name=f"{self.name}.signed", codes=steps.astype(np.int8), zero=None)

    def scaled(self, factor: Floats) -> IntegerWeight | None:
        """This weight with each channel times its factor, shape `(channels,)`, in the same integers up to their sign.

        None where a factor that is not positive meets a code that has no negative.
        """
        scale = np.broadcast_to(self.scale, (len(factor), *self.scale.shape[1:]))
        # A channel that is switched off has the code 0 everywhere, and a scale that nothing is divided by.
        step = np.where(factor == 0, 1, np.abs(factor)).astype(np.float32).reshape(-1, *(1,) * (scale.ndim - 1))
        scale = np.ascontiguousarray(scale * step)
        if bool((factor > 0).all()):
            zero = None if self.zero is None else np.ascontiguousarray(np.broadcast_to(self.zero, scale.shape))
            return replace(self, scale=scale, zero=zero)
        signed = self.signed
        if signed is None or (signed.codes.size and signed.codes.min() == -128):
            return None
        sign = np.sign(factor).astype(np.int8).reshape(-1, *(1,) * (self.codes.ndim - 1))
        return replace(signed, codes=signed.codes * sign, scale=scale)

    def _wide(self, one: Integers | Floats) -> Integers | Floats:
        """`scale` or `zero`, of a shape that broadcasts to that of the codes."""
        shape = self.codes.shape
        if self.block:
            row = self.codes[0].size
            return np.repeat(one, self.block, axis=1)[:, :row].reshape(shape)
        return one.reshape(-1, *(1,) * (len(shape) - 1))


def integer_weights(model: nn.Module) -> dict[str, IntegerWeight]:
    """The weights of `model` that lie on a grid, under every name they have.

    One that left its grid is left out, and a warning names it.
    """
    found: dict[str, IntegerWeight] = {}
    record = record_of(model)
    for names, parameter in unique_parameters(model):
        promise = next((record.tensors[name] for name in names if name in record.tensors), TensorRecord())
        grid = promise.grid
        if grid is None and promise.codebook is not None:
            grid = promise.codebook.grid
        if grid is None or parameter.ndim < 2:
            continue
        try:
            weight = _on_grid(names[0], parameter, grid)
        except CompressionError as err:
            warnings.warn(f"{names[0]!r} is exported in float32. {err}", NbcompressWarning, stacklevel=2)
            continue
        found.update(dict.fromkeys(names, weight))
    return found


def _on_grid(name: str, parameter: torch.Tensor, grid: Grid) -> IntegerWeight:
    codes = codes_of(parameter, TensorRecord(grid=grid), name).cpu()
    _, zero = grid.spread(tuple(codes.shape))
    offsets = (codes - zero).numpy()
    shape = (-1,) if isinstance(grid.group, str) else (len(codes), grid.n_groups(tuple(codes.shape)) // len(codes))
    scale = grid.scale.reshape(shape).numpy().copy()
    block = 0 if isinstance(grid.group, str) else grid.group
    low, high = (int(offsets.min()), int(offsets.max())) if offsets.size else (0, 0)
    # Few bits are worth more than a zero at the code 0, and that more than nothing.
    if (low >= -8 and high <= 7) or (grid.n_codes > 16 and low >= -128 and high <= 127):
        return IntegerWeight(name, offsets.astype(np.int8), scale, None, block)
    zeros = grid.zero.reshape(shape).numpy().astype(np.uint8)
    return IntegerWeight(name, codes.numpy().astype(np.uint8), scale, zeros, block)


__all__ = ["Floats", "IntegerWeight", "Integers", "integer_weights"]
