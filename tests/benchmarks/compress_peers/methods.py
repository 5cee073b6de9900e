"""What a method of compression is, for nbcompress and for the peers.

A method is a generator function of a `Case` and a budget. It yields a `Stage` when the model is compressed, and another
one when it is tuned. A stage is measured before the method goes on, so it may train in place.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from nets import NETS, Case
from torch import Tensor, nn

import nbcompress as nc

OURS = "nbcompress"


@dataclass(frozen=True)
class Stage:
    """A model as it is at one point of a method.

    Attributes:
        name: `plain` right after compression, or `tuned`.
        run: From inputs to logits.
        n_bytes: Measures the length of the file that the method writes.
        covers: Share of the weights that keep the budget. A peer that leaves some of them at full precision cannot
            be compared with a method that leaves none. The report compares only those that cover nearly all.
        n_weights: Numbers that are left in the model, where that is what the budget is about.
    """

    name: str
    run: Callable[[Tensor], Tensor]
    n_bytes: Callable[[], int]
    covers: float = 1.0
    n_weights: int | None = None


Make = Callable[[Case, int], Iterator[Stage]]


@dataclass(frozen=True)
class Method:
    """One way to compress.

    Attributes:
        family: `weights`, `channels` or `bits`.
        by: `nbcompress`, or the package of a peer.
        name: Criterion or scheme; methods of one family and name do the same thing.
        make: Does it.
        budgets: Per cent of the weights that are removed, or bits.
        nets: Where it applies.
    """

    family: str
    by: str
    name: str
    make: Make
    budgets: tuple[int, ...]
    nets: tuple[str, ...] = tuple(NETS)

    def fits(self, net: str, budget: int) -> bool:
        return net in self.nets and budget in self.budgets


def state_bytes(model: nn.Module) -> int:
    """Length of the file that `torch.save` makes of a state dict."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def ours(name: str, model: nn.Module) -> Stage:
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    return Stage(name, model.eval(), partial(nc.size_bytes, model), n_weights=n_weights)


def theirs(name: str, model: nn.Module, *, covers: float = 1.0, run: Any = None) -> Stage:
    """A module of a peer; `run` where another callable than the module answers."""
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    return Stage(name, run or model, partial(state_bytes, model), covers, n_weights)


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that every method here compresses, by name: those of linear layers and convolutions."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    return {f"{name}.weight": layer.weight for name, layer in layers.items()}


def layers_of(model: nn.Module) -> list[str]:
    """Names of the layers that hold them, as `layers=` takes them."""
    return [name.removesuffix(".weight") for name in weights_of(model)]


def share_of(names: Iterable[str], model: nn.Module) -> float:
    """Share of these weights that have one of the names."""
    sizes = {name: weight.numel() for name, weight in weights_of(model).items()}
    return sum(sizes.get(name, 0) for name in names) / sum(sizes.values())
