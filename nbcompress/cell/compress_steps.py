"""What a compression search can try: the steps of a trial, as text of a cell and as functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from nbcompress.artifact import quantize
from nbcompress.compressors import cluster, factorize, prune

Point = Mapping[str, Any]


class _Names(Protocol):
    @property
    def data(self) -> str | None: ...
    @property
    def example(self) -> str | None: ...


@dataclass(frozen=True)
class Step:
    """One thing that is tried.

    Attributes:
        name: The word for it in `tries`.
        declared: The declaration of its parameter.
        function: The function of ours that a trial calls.
        arguments: The arguments of that call after the model, as text.
        none: The values with which it changes nothing, by parameter.
        apply: The same in this process.
        saves: Whether it makes calls faster in torch; all of them make the file smaller.
    """

    name: str
    declared: str
    function: str
    arguments: str
    none: Point
    apply: Callable[[nn.Module, Point], nn.Module]
    saves: bool


def steps_of(names: _Names, data: object, example: object) -> tuple[Step, ...]:
    """Return everything that can be tried, in the order in which a trial does it.

    Channels and blocks go first, since the others then work on a smaller model. A factorized layer gives up its zeros,
    so weights are pruned after it. Bits and codebooks come last: they keep zeros, and pruning before them sees the
    magnitudes.
    """
    given = f"data={names.data}" if names.data is not None else f"example={names.example}"
    inputs: dict[str, Any] = {"data": data} if names.data is not None else {"example": example}

    def cut(granularity: str, name: str) -> Callable[[nn.Module, Point], nn.Module]:
        options: dict[str, Any] = {"granularity": granularity, **inputs}
        return lambda model, point: prune(model, amount=point[name], **options)

    return (
        Step(
            "blocks",
            "blocks = Float(0, 0.75)  # share of the blocks that are removed",
            "prune",
            f'amount=blocks, granularity="layer", {given}',
            {"blocks": 0.0},
            cut("layer", "blocks"),
            True,
        ),
        Step(
            "channels",
            "channels = Float(0, 0.9)  # share of the channels and heads that are removed",
            "prune",
            f'amount=channels, granularity="channel", {given}',
            {"channels": 0.0},
            cut("channel", "channels"),
            True,
        ),
        Step(
            "rank",
            "rank = Float(0.05, 1)  # share of the rank that a layer keeps; 1 leaves it whole",
            "factorize",
            "rank=rank",
            {"rank": 1.0},
            lambda model, point: factorize(model, rank=point["rank"]),
            True,
        ),
        Step(
            "weights",
            "amount = Float(0, 0.98)  # share of the weights that become zero",
            "prune",
            "amount=amount",
            {"amount": 0.0},
            lambda model, point: prune(model, amount=point["amount"]),
            False,
        ),
    )


# The amounts of each step that remove most.
_MOST = {"blocks": 0.75, "channels": 0.9, "rank": 0.05, "amount": 0.98}


def moved(base: Point, steps: tuple[Step, ...], share: float) -> Point:
    """Return `base` with the amounts of `steps` at this share of the way to those that remove most."""
    changed = {
        name: round(none + share * (_MOST[name] - none), 2) for step in steps for name, none in step.none.items()
    }
    return {**base, **changed}


def shrunk(model: nn.Module, point: Point) -> nn.Module:
    """Return the model with the bits or the codebooks of a point, if it has them."""
    if "clusters" in point:
        return cluster(model, clusters=point["clusters"])
    return quantize(model, bits=point["bits"]) if "bits" in point else model
