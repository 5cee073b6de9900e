"""Parameters that are trained under a constraint, and weights rounded to half precision.

A constraint is a `TensorRecord`: zeros that stay, a grid, or a codebook. The optimizer moves a *latent* parameter, and
the model's weight is the latent one projected onto the constraint (straight-through estimator: Bengio, Léonard and
Courville 2013, "Estimating or Propagating Gradients Through Stochastic Neurons"). So between two steps the model
always holds the values that a file would store.

Whatever has neither a grid nor a codebook is called the rest. It can be rounded to half precision in the model itself,
so that a file holds it in two bytes a number and the model that was evaluated equals the model in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from nbcompress.compressors.buffers import cut_buffers, non_persistent_buffers
from nbcompress.compressors.codes import codes_of
from nbcompress.compressors.grids import refit_scale, round_to_grid
from nbcompress.compressors.layers import fill_, unique_parameters
from nbcompress.compressors.record import Codebook, Record, TensorRecord, attach_, record_of

# ---------------------------------------------------------------------------------------------------------------------
# Half precision

_WIDE = (torch.float32, torch.float64)


def round_to_half(values: Tensor, *, keeps_positive: bool = False) -> Tensor | None:
    """Round `values` to the nearest float16, in their own dtype.

    Args:
        values: A floating tensor of any shape. 16-bit ones are returned as they are, since they take two bytes already.
        keeps_positive: No positive value may become zero (a variance, which is divided by).

    Returns:
        None if a finite value would overflow (beyond 65504), or if `keeps_positive` would be broken.
    """
    if values.dtype not in _WIDE:
        return values
    half = values.to(torch.float16)
    if not torch.equal(torch.isinf(half), torch.isinf(values)):
        return None
    if keeps_positive and bool(((values > 0) & (half == 0)).any()):
        return None
    return half.to(values.dtype)


def rest_tensors(model: nn.Module, record: Record) -> Iterator[tuple[str, Tensor]]:
    """Every floating parameter (once, under its first name) and stored buffer without a grid or a codebook."""
    for names, parameter in unique_parameters(model):
        constraints = [record.tensors[name] for name in names if name in record.tensors]
        if parameter.is_floating_point() and not any(item.grid or item.codebook for item in constraints):
            yield names[0], parameter
    # The class computes a buffer that is not stored anew, so the rounded values would not come back.
    unstored = non_persistent_buffers(model).keys() - cut_buffers(model, record.surgery).keys()
    seen: set[int] = set()
    for name, buffer in model.named_buffers(remove_duplicate=False):
        is_dense = buffer.is_floating_point() and buffer.layout == torch.strided
        if is_dense and name not in unstored and id(buffer) not in seen:
            seen.add(id(buffer))
            yield name, buffer


def round_to_half_(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Round named tensors to half precision in place. Return the names that had to stay, each with the reason."""
    unrounded: dict[str, str] = {}
    for name, tensor in tensors:
        half = round_to_half(tensor.detach(), keeps_positive=name.rpartition(".")[2] == "running_var")
        if half is None:
            unrounded[name] = "stays in float32: half precision would overflow, or make a variance zero"
        else:
            fill_(tensor, half)
    return unrounded


# ---------------------------------------------------------------------------------------------------------------------
# Parameters in training

# Scales of a grid are fitted again once in so many steps. At every step they would follow the noise of the weights,
# which costs accuracy as well as time (a heuristic).
_STEPS_PER_SCALE = 16


class ConstrainedParameter(Protocol):
    """One parameter of a model in training.

    Attributes:
        parameter: The model's parameter, which satisfies the constraint.
        latent: The parameter that the optimizer moves.
    """

    parameter: nn.Parameter
    latent: nn.Parameter

    def pass_gradient(self) -> None:
        """Give the latent parameter the gradient of the model's parameter."""

    def project(self) -> None:
        """Set the model's parameter to the latent one, projected onto the constraint."""

    def constraint(self) -> TensorRecord | None:
        """The constraint that the parameter satisfies now; None if there is none."""

    # For an optimizer that holds the model's parameter in place of the latent one.

    def lend(self) -> None:
        """Give the model's parameter the latent values, for a step of the optimizer."""

    def constrain_gradient(self, *, is_mean: bool) -> None:
        """Make the gradient of the model's parameter one that respects the constraint."""

    def take_back(self) -> None:
        """Read the latent values from the model's parameter after a step."""


class FreeParameter:
    """A parameter without a constraint is its own latent parameter."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = self.latent = parameter

    def pass_gradient(self) -> None:
        """Do nothing: the gradient is there already."""

    def project(self) -> None:
        """Do nothing: the values are there already."""

    def constraint(self) -> None:
        return None

    def lend(self) -> None:
        """Do nothing: the parameter is the latent one."""

    def constrain_gradient(self, *, is_mean: bool) -> None:
        """Do nothing: there is no constraint."""

    def take_back(self) -> None:
        """Do nothing: the parameter is the latent one."""


class LatentParameter:
    """A latent parameter in float32 beside the model's, for masks, grids and half precision.

    Args:
        parameter: The model's parameter.
        record: The constraint; without a codebook.
        is_half: Values without a grid are rounded to half precision.
        start: Where the latent parameter starts, in place of the parameter's values.
    """

    def __init__(
        self, parameter: nn.Parameter, record: TensorRecord, *, is_half: bool, start: Tensor | None = None
    ) -> None:
        self.parameter = parameter
        self._record = record
        self._is_half = is_half
        values = parameter.detach() if start is None else start
        self.latent = nn.Parameter(values.to(torch.promote_types(values.dtype, torch.float32), copy=True))
        self._mask: Tensor | None = None
        self._n_steps = 0
        self._set_mask(values)

    def set_constraint(self, record: TensorRecord) -> None:
        """Change the constraint to `record`, which the parameter satisfies already."""
        self._record = record
        self._set_mask(self.parameter)
        fill_(self.latent, self.parameter)

    def pass_gradient(self) -> None:
        gradient = self.parameter.grad
        if gradient is None:
            self.latent.grad = None
            return
        wide = gradient.to(self.latent.dtype)
        self.latent.grad = wide if self._mask is None else wide * self._mask

    def project(self) -> None:
        if self._mask is not None:
            # Momentum from before the mask may still move a pruned weight.
            fill_(self.latent, torch.where(self._mask, self.latent.detach(), 0.0))
        values = self.latent.detach().to(self.parameter.dtype)
        if self._record.grid is not None:
            grid, self._n_steps = self._record.grid, self._n_steps + 1
            if self._n_steps % _STEPS_PER_SCALE == 0:
                grid = refit_scale(values, grid, is_pruned=self._record.is_pruned)
                self._record = replace(self._record, grid=grid)
            values = round_to_grid(values, grid, is_pruned=self._record.is_pruned)
        elif self._is_half:
            half = round_to_half(values)
            values = values if half is None else half
        fill_(self.parameter, values)

    def constraint(self) -> TensorRecord | None:
        return self._record if self._record != TensorRecord() else None

    def lend(self) -> None:
        fill_(self.parameter, self.latent.detach().to(self.parameter.dtype))

    def constrain_gradient(self, *, is_mean: bool) -> None:  # noqa: ARG002  as `SharedParameter`
        if self.parameter.grad is not None and self._mask is not None:
            self.parameter.grad = self.parameter.grad * self._mask

    def take_back(self) -> None:
        fill_(self.latent, self.parameter.detach().to(self.latent.dtype))

    def _set_mask(self, values: Tensor) -> None:
        """From now on, the zeros of `values` stay zeros if the tensor is pruned."""
        self._mask = values.detach() != 0 if self._record.is_pruned else None


class SharedParameter:
    """The latent parameter holds the values of a codebook. Which weight has which value does not change.

    The gradient of a shared value is the sum over the weights that have it (Han, Mao and Dally 2016, "Deep
    Compression", section 3.2). Adam does not see the difference between a sum and a mean. Plain gradient descent does:
    with a sum, a step size meant for weights would step thousands of times too far.

    Args:
        parameter: The model's parameter.
        record: The constraint; with a codebook.
        is_half: Shared values without a grid are rounded to half precision.
        is_mean: Divide each gradient by the number of weights that share the value.
        owner: Another tensor that has the same codebook. Then its latent parameter is used.
    """

    def __init__(
        self,
        parameter: nn.Parameter,
        record: TensorRecord,
        *,
        is_half: bool,
        is_mean: bool,
        owner: SharedParameter | None = None,
    ) -> None:
        if record.codebook is None:
            raise TypeError("shared values need a codebook")
        self.parameter, self.owner = parameter, owner
        # Those that use this latent parameter, too.
        self._others: list[SharedParameter] = []
        self._codebook: Codebook | None = None
        self._record, self._is_half = record, is_half
        self._codes = codes_of(parameter.detach(), record).long()
        self._grid = record.codebook.grid
        self._counts = torch.bincount(self._codes.flatten(), minlength=len(record.codebook.values))
        self._is_mean, self._is_used = is_mean, self._counts > 0
        # A place of each code among the weights, found when it is needed.
        self._first: Tensor | None = None
        if owner is not None:
            owner.join(self)
            return
        self.latent = nn.Parameter(record.codebook.values.to(parameter.device, copy=True))
        self._mask = self.latent.detach() != 0 if record.is_pruned else torch.ones_like(self.latent, dtype=torch.bool)
        self._values = self.latent.detach().clone()

    def join(self, other: SharedParameter) -> None:
        """Share the latent parameter with another tensor that has the same codebook."""
        self._others.append(other)
        self._counts = self._counts + other._counts.to(self._counts.device)
        if other._record.is_pruned:
            self._mask = self._mask & (self.latent.detach() != 0)

    def pass_gradient(self) -> None:
        if self.owner is not None:
            # The owner adds the gradients of all.
            return
        total = self._total_gradient()
        if total is None:
            self.latent.grad = None
            return
        divisor = self._counts.clamp(min=1) if self._is_mean else torch.ones_like(self._counts)
        self.latent.grad = torch.where(self._mask, total / divisor, 0.0)

    def _total_gradient(self) -> Tensor | None:
        """The sum over all tensors that have the codebook; None if none of them has a gradient."""
        totals = [total for member in (self, *self._others) if (total := member._gradient()) is not None]
        return sum((item.to(totals[0].device) for item in totals[1:]), totals[0]) if totals else None

    def _gradient(self) -> Tensor | None:
        """The sum of the gradients of the weights that have each value."""
        gradient = self.parameter.grad
        if gradient is None:
            return None
        return _sum_by_code(gradient.to(torch.float32).flatten(), self._codes.flatten(), len(self._counts))

    def project(self) -> None:
        if self.owner is not None:
            # The owner writes the values of all.
            return
        fill_(self.latent, torch.where(self._mask, self.latent.detach(), 0.0))
        values = self.latent.detach()
        if self._grid is not None:
            values = values.to(self.parameter.dtype)
            self._grid = refit_scale(values, self._grid, is_pruned=self._record.is_pruned)
            values = round_to_grid(values, self._grid, is_pruned=self._record.is_pruned)
        elif self._is_half:
            half = round_to_half(values)
            values = values if half is None else half
        self._values = values.to(self.parameter.dtype)
        for member in (self, *self._others):
            fill_(member.parameter, self._values.to(member.parameter.device)[member._codes])
        self._codebook = None

    def constraint(self) -> TensorRecord:
        return replace(self._record, codebook=(self.owner or self)._trained_codebook())

    def _trained_codebook(self) -> Codebook:
        """The codebook now: one object for all tensors that have it."""
        if self._codebook is None:
            # Training may have changed the order of values, or made two of them equal.
            self._codebook = Codebook(torch.unique(self._values.to(torch.float32)).cpu(), self._grid)
        return self._codebook

    def lend(self) -> None:
        # The owner lends the values of all.
        for member in () if self.owner is not None else (self, *self._others):
            values = self.latent.detach().to(member.parameter.device, member.parameter.dtype)
            fill_(member.parameter, values[member._codes])

    def constrain_gradient(self, *, is_mean: bool) -> None:
        total = None if self.owner is not None else self._total_gradient()
        if total is None:
            return
        shared = torch.where(self._mask, total / self._counts.clamp(min=1) if is_mean else total, 0.0)
        # Weights of one value get one gradient, so that the optimizer moves them together.
        for member in (self, *self._others):
            gradient = shared.to(member.parameter.device, member.parameter.dtype)
            member.parameter.grad = gradient[member._codes]

    def take_back(self) -> None:
        if self.owner is not None:
            return
        values = self.latent.detach()
        # Weights of one value were moved by equal gradients, so each of them tells the value.
        for member in (self, *self._others):
            own = member.parameter.detach().flatten()[member._first_places()]
            values = torch.where(member._is_used.to(values.device), own.to(values.device, values.dtype), values)
        fill_(self.latent, values)

    def _first_places(self) -> Tensor:
        """A place of each code among the weights."""
        if self._first is None:
            flat = self._codes.flatten()
            places = torch.arange(len(flat), device=flat.device)
            # The last one written is the first place of each code.
            self._first = torch.zeros(len(self._is_used), dtype=torch.int64, device=flat.device)
            self._first[flat.flip(0)] = places.flip(0)
        return self._first


def _sum_by_code(values: Tensor, codes: Tensor, n: int) -> Tensor:
    """The sum of `values` for each code, added in a fixed order, so that equal seeds give equal results."""
    total = torch.zeros(n, dtype=values.dtype, device=values.device)
    if values.device.type == "cpu":
        return total.index_add_(0, codes, values)
    # On a GPU, `index_add_` adds in an order that changes from run to run, while accumulating puts sort first.
    return total.index_put_((codes,), values, accumulate=True)


def record_constraints_(model: nn.Module, constrained: Iterable[ConstrainedParameter]) -> Record:
    """Write the constraints of parameters of `model` into its record, and return the record."""
    record = record_of(model)
    tensors = dict(record.tensors)
    items = {id(item.parameter): item for item in constrained}
    for names, parameter in unique_parameters(model):
        constraint = items[id(parameter)].constraint() if id(parameter) in items else None
        if constraint is not None:
            tensors[next((name for name in names if name in tensors), names[0])] = constraint
    record = replace(record, tensors=tensors)
    attach_(model, record)
    return record


def constrain(
    parameter: nn.Parameter,
    record: TensorRecord,
    *,
    is_half: bool,
    is_mean: bool,
    start: Tensor | None,
    owner: SharedParameter | None = None,
) -> FreeParameter | LatentParameter | SharedParameter:
    """Prepare `parameter` for training under the constraint `record`.

    Args:
        parameter: The model's parameter, which satisfies the constraint.
        record: The constraint; `TensorRecord()` for none.
        is_half: See `LatentParameter`.
        is_mean: See `SharedParameter`.
        start: See `LatentParameter`.
        owner: See `SharedParameter`.
    """
    if record.codebook is not None:
        return SharedParameter(parameter, record, is_half=is_half, is_mean=is_mean, owner=owner)
    is_free = record == TensorRecord() and not is_half and parameter.dtype in _WIDE
    # Complex numbers stay in full precision.
    is_free = is_free or parameter.is_complex()
    return FreeParameter(parameter) if is_free else LatentParameter(parameter, record, is_half=is_half, start=start)
