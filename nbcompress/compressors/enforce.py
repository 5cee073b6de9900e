"""`enforce`: a training loop of one's own keeps masks, grids and codebooks.

The optimizer of the loop holds the parameters of the model. Before a step they get the latent values that training
moves, and gradients that respect the constraint. After it they are projected onto the constraint again. So the model
satisfies its constraints whenever no step is running: in every forward pass, and in whatever the loop saves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from nbcompress.compressors.buffers import materialize_buffers_
from nbcompress.compressors.constraints import (
    ConstrainedParameter,
    LatentParameter,
    SharedParameter,
    constrain,
    record_constraints_,
    rest_tensors,
    round_to_half_,
)
from nbcompress.compressors.layers import check_model, unique_parameters
from nbcompress.compressors.record import TensorRecord, record_of
from nbcompress.errors import CompressionError, option


def enforce(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Enforcement:
    """Keep the constraints of a compressed model in a training loop of one's own. Changes `model` in place.

    As in `finetune`: zeros of a pruned model stay zeros, weights stay on their grid or in their codebook, and what was
    rounded to half precision stays so. Gradients pass straight through the rounding, and scales and shared values are
    trained along. Ranges of static activations stay as they are: call `quantize` again with data to measure them.

    Args:
        model: A model that compressors returned. The loop trains this object, not a copy of it.
        optimizer: The optimizer of the loop. If None, every optimizer that holds parameters of the model is watched:
            that of a `transformers.Trainer` or of Lightning, which make it themselves.

    Returns:
        A handle: a context manager, whose end stops the watching. Without `with`, call its `remove()`.

    Raises:
        CompressionError: `model` is no module that can be trained, or the optimizer holds none of its parameters.

    Example:
        >>> import torch, nbcompress as nc
        >>> small = nc.quantize(nc.prune(torch.nn.Linear(8, 2), amount=0.5), bits=4)
        >>> optimizer = torch.optim.Adam(small.parameters(), lr=0.01)
        >>> with nc.enforce(small, optimizer):
        ...     for step in range(5):
        ...         small(torch.ones(4, 8)).square().sum().backward()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> int((small.weight == 0).sum()) >= 8, small.weight.unique().numel() <= 32
        (True, True)

    References:
        Bengio, Léonard and Courville (2013), "Estimating or Propagating Gradients Through Stochastic Neurons for
        Conditional Computation".
    """
    check_model(model)
    if optimizer is not None:
        if not hasattr(optimizer, "param_groups"):
            raise CompressionError(
                f"{option('optimizer')} must be an optimizer of torch, got {type(optimizer).__name__}"
            )
        known = {id(parameter) for parameter in model.parameters()}
        if not known & {id(parameter) for parameter in _parameters_of(optimizer)}:
            raise CompressionError(
                f"the optimizer must hold parameters of the model, but it holds none of this {type(model).__name__}: "
                "make it with model.parameters() of the compressed model"
            )
    return Enforcement(model, optimizer)


class Enforcement:
    """Watches the steps of optimizers, and keeps the constraints of a model. Made by `enforce`.

    Args:
        model: The model; its parameters are changed at every step.
        optimizer: The optimizer, or None to watch all that hold parameters of the model.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        self._model = model
        materialize_buffers_(model)
        self._constrained: dict[int, ConstrainedParameter] = {}
        # The optimizer whose step is running.
        self._stepping: object = None
        if optimizer is None:
            self._hooks = [
                register_optimizer_step_pre_hook(self._before),
                register_optimizer_step_post_hook(self._after),
            ]
        else:
            # Some libraries wrap the optimizer that makes the step.
            inner: Any = getattr(optimizer, "optimizer", optimizer)
            self._hooks = [inner.register_step_pre_hook(self._before), inner.register_step_post_hook(self._after)]

    def remove(self) -> None:
        """Stop watching. The model satisfies its constraints, and its record says which."""
        hooks, self._hooks = self._hooks, []
        for hook in hooks:
            hook.remove()
        if self._stepping is not None:
            # A step was interrupted.
            self._project(self._constrained.values())
            self._stepping = None
        if not hooks:
            return
        self._update_record()
        record = record_of(self._model)
        if record.rest == "float16":
            rest = rest_tensors(self._model, record)
            round_to_half_((name, tensor) for name, tensor in rest if not isinstance(tensor, nn.Parameter))

    def __enter__(self) -> Enforcement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "watches" if self._hooks else "does not watch"
        return f"<Enforcement {state} the training of {type(self._model).__name__}>"

    # The hooks, which get the optimizer and the arguments of its step.

    def _before(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._stepping is not None and self._stepping is not optimizer:
            return None  # an optimizer inside of another one
        own = self._of(optimizer)
        if not own:
            return None
        self._stepping = optimizer
        for constrained in own:
            constrained.lend()
        # Arguments are counted from the optimizer itself in some versions of torch.
        place = next((i for i, arg in enumerate(args) if callable(arg) and arg is not optimizer), None)
        if place is not None:
            return (*args[:place], self._closure(own, args[place]), *args[place + 1 :]), kwargs
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._closure(own, kwargs["closure"])}
        self._pass_gradients(own, optimizer)
        return None

    def _closure(self, own: list[ConstrainedParameter], closure: Callable[[], Any]) -> Callable[[], Any]:
        """A closure that runs the model with projected parameters, inside of a step that moves the latent ones."""

        def projected() -> Any:
            for constrained in own:
                constrained.take_back()
                constrained.project()
            loss = closure()
            for constrained in own:
                constrained.lend()
            self._pass_gradients(own, self._stepping)
            return loss

        return projected

    def _after(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self._stepping is not optimizer:
            return
        self._stepping = None
        own = self._of(optimizer)
        for constrained in own:
            constrained.take_back()
        self._project(own)

    def _of(self, optimizer: torch.optim.Optimizer) -> list[ConstrainedParameter]:
        """The parameters of the model that an optimizer holds."""
        if not self._constrained:
            self._constrained = self._constrain(optimizer)
        held = (self._constrained.get(id(parameter)) for parameter in _parameters_of(optimizer))
        return [constrained for constrained in held if constrained is not None]

    def _constrain(self, optimizer: torch.optim.Optimizer) -> dict[int, ConstrainedParameter]:
        # At the first step: a library may move the model to its device before.
        held = {id(parameter) for parameter in _parameters_of(optimizer)}
        names_of = list(unique_parameters(self._model))
        if not any(id(parameter) in held for _, parameter in names_of):
            return {}
        record = record_of(self._model)
        found: dict[int, ConstrainedParameter] = {}
        # By identity of the codebook: the first tensor that has it, of those that this optimizer moves together.
        owners: dict[int, SharedParameter] = {}
        for names, parameter in names_of:
            constraint = next((record.tensors[name] for name in names if name in record.tensors), TensorRecord())
            if parameter.requires_grad:
                key = id(constraint.codebook)
                owner = owners.get(key) if id(parameter) in held else None
                constrained = found[id(parameter)] = constrain(
                    parameter, constraint, is_half=record.rest == "float16", is_mean=False, start=None, owner=owner
                )
                if isinstance(constrained, SharedParameter) and id(parameter) in held:
                    owners.setdefault(key, constrained)
        return found

    def _pass_gradients(self, own: Iterable[ConstrainedParameter], optimizer: object) -> None:
        # Plain descent would step too far with the sum over all weights of a shared value; see `SharedParameter`.
        is_mean = isinstance(optimizer, torch.optim.SGD)
        for constrained in own:
            constrained.constrain_gradient(is_mean=is_mean)

    def _project(self, own: Iterable[ConstrainedParameter]) -> None:
        before = [constrained.constraint() for constrained in own if isinstance(constrained, LatentParameter)]
        for constrained in own:
            constrained.project()
        after = [constrained.constraint() for constrained in own if isinstance(constrained, LatentParameter)]
        is_same = all(first is second for first, second in zip(before, after, strict=True))
        if not is_same or any(isinstance(constrained, SharedParameter) for constrained in own):
            self._update_record()

    def _update_record(self) -> None:
        """Write scales and shared values, which training moves, into the record of the model."""
        record_constraints_(self._model, self._constrained.values())


def _parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


__all__ = ["Enforcement", "enforce"]
