"""Training weights that keep a promise.

The optimizer moves a *leaf*; what the model holds is the leaf made true to the promise: masked, rounded to a grid or to
half precision, or spread from shared values. The gradient at the promised values goes straight through to the leaf
(Bengio, Léonard and Courville 2013). Between two steps the model therefore always holds what would be stored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from nbcompress.compress.codes import codes_of
from nbcompress.compress.grids.fit import improved_scale, rounded
from nbcompress.compress.layers import fill_
from nbcompress.compress.record import Codebook, TensorRecord
from nbcompress.compress.rest import half_rounded

# The scales of a grid follow its weights once in so many steps: at every step they would follow its noise, which costs
# accuracy as well as time.
_N_STEPS_A_SCALE = 16


class Held(Protocol):
    """One parameter in training."""

    parameter: nn.Parameter
    leaf: nn.Parameter

    def take_gradient(self) -> None:
        """Give the leaf the gradient of the parameter."""

    def put(self) -> None:
        """Give the parameter the promised values of the leaf."""

    def promise(self) -> TensorRecord | None:
        """What is promised of the values that the parameter has now."""


class Free:
    """A parameter without a promise is its own leaf."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = self.leaf = parameter

    def take_gradient(self) -> None:
        """Nothing to do: it is there."""

    def put(self) -> None:
        """Nothing to do: it is there."""

    def promise(self) -> None:
        return None


class Latent:
    """A leaf in float32 beside the parameter, for masks, grids and half precision.

    Args:
        parameter: The model's tensor.
        record: What is promised; without a codebook.
        is_half: What is not on a grid is kept in half precision.
        start: Where the leaf begins, instead of the parameter's values.
    """

    def __init__(
        self, parameter: nn.Parameter, record: TensorRecord, *, is_half: bool, start: Tensor | None = None
    ) -> None:
        self.parameter = parameter
        self._record = record
        self._is_half = is_half
        values = parameter.detach() if start is None else start
        self.leaf = nn.Parameter(values.to(torch.promote_types(values.dtype, torch.float32), copy=True))
        self._alive: Tensor | None = None
        self._n_steps = 0
        self.mask_again(values)

    def mask_again(self, values: Tensor) -> None:
        """From now on, the zeros of `values` stay zeros if the tensor is pruned."""
        self._alive = values.detach() != 0 if self._record.is_pruned else None

    def become(self, record: TensorRecord) -> None:
        """From now on, `record` is promised of the parameter as it is."""
        self._record = record
        self.mask_again(self.parameter)
        fill_(self.leaf, self.parameter)

    def take_gradient(self) -> None:
        gradient = self.parameter.grad
        if gradient is None:
            self.leaf.grad = None
            return
        wide = gradient.to(self.leaf.dtype)
        self.leaf.grad = wide if self._alive is None else wide * self._alive

    def put(self) -> None:
        if self._alive is not None:
            # Momentum from before the mask may still move a pruned weight.
            fill_(self.leaf, torch.where(self._alive, self.leaf.detach(), 0.0))
        values = self.leaf.detach().to(self.parameter.dtype)
        if self._record.grid is not None:
            grid, self._n_steps = self._record.grid, self._n_steps + 1
            if self._n_steps % _N_STEPS_A_SCALE == 0:
                grid = improved_scale(values, grid, is_pruned=self._record.is_pruned)
                self._record = replace(self._record, grid=grid)
            values = rounded(values, grid, is_pruned=self._record.is_pruned)
        elif self._is_half:
            half = half_rounded(values)
            values = values if half is None else half
        fill_(self.parameter, values)

    def promise(self) -> TensorRecord | None:
        return self._record if self._record != TensorRecord() else None


class Shared:
    """The leaf holds the shared values; which weight has which value stays.

    The gradient of a shared value is the sum over its members (Han, Mao and Dally 2016, section 3.2). Adam does not
    see the difference between a sum and a mean; plain gradient descent does, and with a sum it would step thousands
    of times too far for a step size meant for weights, so `is_mean` divides by the number of members.
    """

    def __init__(self, parameter: nn.Parameter, record: TensorRecord, *, is_half: bool, is_mean: bool) -> None:
        if record.codebook is None:
            raise TypeError("shared values need a codebook")
        self.parameter = parameter
        self._record, self._is_half = record, is_half
        self._codes = codes_of(parameter.detach(), record).long()
        self._grid = record.codebook.grid
        self.leaf = nn.Parameter(record.codebook.values.to(parameter.device, copy=True))
        n_members = torch.bincount(self._codes.flatten(), minlength=len(self.leaf)).clamp(min=1)
        self._divisor = n_members if is_mean else torch.ones_like(n_members)
        self._alive = self.leaf.detach() != 0 if record.is_pruned else torch.ones_like(self.leaf, dtype=torch.bool)
        self._values = self.leaf.detach().clone()

    def take_gradient(self) -> None:
        gradient = self.parameter.grad
        if gradient is None:
            self.leaf.grad = None
            return
        total = _summed(gradient.to(torch.float32).flatten(), self._codes.flatten(), len(self.leaf))
        self.leaf.grad = torch.where(self._alive, total / self._divisor, 0.0)

    def put(self) -> None:
        fill_(self.leaf, torch.where(self._alive, self.leaf.detach(), 0.0))
        values = self.leaf.detach()
        if self._grid is not None:
            self._grid = improved_scale(values.to(self.parameter.dtype), self._grid, is_pruned=self._record.is_pruned)
            values = rounded(values.to(self.parameter.dtype), self._grid, is_pruned=self._record.is_pruned)
        elif self._is_half:
            half = half_rounded(values)
            values = values if half is None else half
        self._values = values.to(self.parameter.dtype)
        fill_(self.parameter, self._values[self._codes])

    def promise(self) -> TensorRecord:
        # Training may have changed the order of values, or made two of them one.
        values = torch.unique(self._values.to(torch.float32)).cpu()
        return replace(self._record, codebook=Codebook(values, self._grid))


def _summed(values: Tensor, codes: Tensor, n: int) -> Tensor:
    """The sum of `values` under each code, always in the same order, so that equal seeds give equal results."""
    total = torch.zeros(n, dtype=values.dtype, device=values.device)
    if values.device.type == "cpu":
        return total.index_add_(0, codes, values)
    # On a GPU, adding by index depends on chance, while accumulating puts sort first.
    return total.index_put_((codes,), values, accumulate=True)


def hold(
    parameter: nn.Parameter, record: TensorRecord, *, is_half: bool, is_mean: bool, start: Tensor | None
) -> Free | Latent | Shared:
    """The right way to train `parameter` under `record`."""
    if record.codebook is not None:
        return Shared(parameter, record, is_half=is_half, is_mean=is_mean)
    is_plain = record == TensorRecord() and not is_half and parameter.dtype in (torch.float32, torch.float64)
    # Complex numbers are kept in full precision.
    is_plain = is_plain or parameter.is_complex()
    return Free(parameter) if is_plain else Latent(parameter, record, is_half=is_half, start=start)


__all__ = ["Free", "Held", "Latent", "Shared", "hold"]
