"""The optimizers of training: five names with their options, or a function of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn

from nbcompress.choices import OPTIMIZERS
from nbcompress.compressors.layers import check_choice, check_number
from nbcompress.errors import CompressionError, option

DEFAULT_LR = 1e-3
_MOMENTUM = 0.9
_BETAS, _EPS = (0.9, 0.999), 1e-8

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OptimizerChoice = str | OptimizerFactory

# The optimizers that each option belongs to.
_OPTIONS = {
    "momentum": ("momentum", "sgd", "gd"),
    "betas": ("adam", "adamw"),
    "eps": ("adam", "adamw"),
    "weight_decay": OPTIMIZERS,
}


@dataclass(frozen=True)
class OptimizerSpec:
    """Which optimizer trains, and how.

    Attributes:
        choice: `adam`; `adamw` (decay apart from the gradient: Loshchilov and Hutter 2019); `sgd` (stochastic gradient
            descent, a step for each batch); `momentum` (the same with momentum: Polyak 1964); `gd` (gradient descent:
            one step for each epoch, with the gradient of all of the data); or a function from a list of parameters to a
            `torch.optim.Optimizer`, which sets its own step size.
        momentum: For `momentum`, `sgd` and `gd`; None stands for 0.9 with `momentum` and for 0 with the others.
        betas: Decay rates of the two averages of `adam` and `adamw`; None stands for 0.9 and 0.999.
        eps: Added to the denominator of `adam` and `adamw`; None stands for 1e-8.
        weight_decay: Share of a weight that decay removes per unit of step size.

    Raises:
        CompressionError: An option is out of range, or does not belong to the optimizer.
    """

    choice: OptimizerChoice = "adam"
    momentum: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.choice, torch.optim.Optimizer):
            raise CompressionError(
                f"{option('optimizer')} must be a name or a function of the parameters, since a copy of the model is "
                "trained, but got an optimizer: write "
                f"{option('optimizer=lambda parameters: torch.optim.RMSprop(parameters, lr=0.001)')}"
            )
        if not callable(self.choice):
            check_choice("optimizer", self.choice, OPTIMIZERS)
        if self.momentum is not None:
            check_number("momentum", self.momentum, 0, 1)
        if self.betas is not None:
            _check_betas(self.betas)
        if self.eps is not None:
            check_number("eps", self.eps, 0, float("inf"), is_open_low=True)
        check_number("weight_decay", self.weight_decay, 0, float("inf"))
        for name, owners in _OPTIONS.items():
            if getattr(self, name) != getattr(OptimizerSpec, name):
                self._check_owner(name, owners)

    def _check_owner(self, name: str, owners: tuple[str, ...]) -> None:
        if callable(self.choice):
            raise CompressionError(
                f"{option(name)} belongs to the optimizers with a name: let the function of {option('optimizer=')} "
                f"set it, or name one of {', '.join(owners)}"
            )
        if self.choice not in owners:
            *others, last = (option("optimizer", owner) for owner in owners)
            listed = f"{', '.join(others)} or {last}" if others else last
            raise CompressionError(f"{option(name)} belongs to {listed}, got {name} with {self.choice!r}")

    @property
    def name(self) -> str:
        """The name, or that of the function."""
        return self.choice if isinstance(self.choice, str) else getattr(self.choice, "__name__", "optimizer")

    @property
    def is_full_batch(self) -> bool:
        """Whether each step uses all of the data."""
        return self.choice == "gd"

    @property
    def is_scale_free(self) -> bool:
        """Whether a gradient times a constant gives the same steps, as with Adam."""
        return self.choice in ("adam", "adamw")

    def check_lr(self, lr: float) -> None:
        """Refuse a step size beside a function that sets its own.

        Raises:
            CompressionError: It is not the default.
        """
        check_number("lr", lr, 0, float("inf"), is_open_low=True)
        if callable(self.choice) and lr != DEFAULT_LR:
            raise CompressionError(
                f"{option('lr', lr)} belongs to the optimizers with a name: let the function of "
                f"{option('optimizer=')} set the step size"
            )

    def make(self, parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """Return the optimizer of `parameters`.

        Raises:
            CompressionError: The user's function returns no optimizer, one of other parameters, or one whose steps
                evaluate the loss themselves.
        """
        if callable(self.choice):
            return _checked(self.choice(parameters), parameters)
        # A fused step is one pass over the parameters instead of a dozen. torch has it for real numbers on these
        # devices.
        fused = all(item.is_floating_point() and item.device.type in ("cpu", "cuda") for item in parameters) or None
        decay = self.weight_decay
        if self.is_scale_free:
            kind = torch.optim.Adam if self.choice == "adam" else torch.optim.AdamW
            return kind(
                parameters, lr=lr, betas=self.betas or _BETAS, eps=self.eps or _EPS, weight_decay=decay, fused=fused
            )
        default = _MOMENTUM if self.choice == "momentum" else 0.0
        momentum = default if self.momentum is None else self.momentum
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay, fused=fused)


def _check_betas(betas: object) -> None:
    items = tuple(betas) if isinstance(betas, Iterable) and not isinstance(betas, str) else ()
    if len(items) != 2:
        raise CompressionError(f"{option('betas')} must be two numbers from 0 to below 1, got {betas!r}")
    for item in items:
        if check_number("betas", item, 0, 1) == 1:
            raise CompressionError(f"{option('betas')} must be two numbers from 0 to below 1, got {betas!r}")


def _checked(made: Any, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if not isinstance(made, torch.optim.Optimizer):
        raise CompressionError(
            f"the function of {option('optimizer=')} must return a torch.optim.Optimizer, got {type(made).__name__}"
        )
    given = {id(parameter) for parameter in parameters}
    if any(id(item) not in given for group in made.param_groups for item in group["params"]):
        raise CompressionError(
            f"the function of {option('optimizer=')} must use the parameters that it gets, not those of a model of "
            "the notebook: a copy of the model is trained"
        )
    closure = signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is Parameter.empty:
        raise CompressionError(
            f"{type(made).__name__} evaluates the loss several times in a step, which training cannot do: choose "
            "another optimizer"
        )
    return made


__all__ = ["DEFAULT_LR", "OptimizerChoice", "OptimizerFactory", "OptimizerSpec"]
