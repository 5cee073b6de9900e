"""What a search for the best compression of a model can try, and the names that stand in its cell."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nbcompress.cell.source import names_read
from nbcompress.compressors import factorize, prune
from nbcompress.compressors.data import tensors_in
from nbcompress.errors import SearchError, option

# The names that the cell assigns and that are promised: the kept model and its metrics.
KEPT, ACCURACY, KILOBYTES, MILLISECONDS = "small", "accuracy", "kilobytes", "milliseconds"


@dataclass(frozen=True)
class CellNames:
    """The expressions of the notebook that stand in the cell.

    Attributes:
        model: The model.
        evaluate: A function from a model to a number; None takes the accuracy on the data.
        data: The data to train on; None leaves training out.
        example: An input of the model; None takes one of the data.

    Raises:
        SearchError: One of them is no expression of Python, or the cell assigns a name that it reads.
    """

    model: str = "model"
    evaluate: str | None = "evaluate"
    data: str | None = "train"
    example: str | None = None

    def __post_init__(self) -> None:
        for keyword in ("model", "evaluate", "data", "example"):
            text = getattr(self, keyword)
            if text is None:
                continue
            try:
                read = {node.id for node in names_read(ast.parse(text.strip(), mode="eval").body)}
            except (SyntaxError, ValueError):
                raise SearchError(f"{option(keyword)} is an expression of the notebook, but got {text!r}.") from None
            own = _ASSIGNED - ({KEPT} if keyword == "model" else {ACCURACY} if keyword == "evaluate" else set())
            taken = sorted(own & read)
            if taken:
                raise SearchError(
                    f"The cell assigns {taken[0]!r}, so {option(keyword)} cannot read a variable of that name: give "
                    "your variable another name."
                )


@dataclass(frozen=True)
class Step:
    """One thing that is tried.

    Attributes:
        name: The word for it in `tries`.
        declared: The declaration of its parameter.
        function: The function of ours that a trial calls.
        arguments: The arguments of that call after the model, as text.
        values: What its parameter can be in the first trials, from the value that changes nothing to the strongest.
        apply: The same in this process.
        saves: Whether it makes calls faster in torch; all of them make the file smaller.
    """

    name: str
    declared: str
    function: str
    arguments: str
    values: tuple[float, ...]
    apply: Callable[[nn.Module, Any], nn.Module]
    saves: bool

    @property
    def parameter(self) -> str:
        """The name of its parameter."""
        return self.declared.split(" ")[0]


def steps_of(names: CellNames, data: object, example: object, n_blocks: int) -> tuple[Step, ...]:
    """Return everything that can be tried, in the order in which a trial does it.

    Channels and blocks go first, since the others then work on a smaller model. A factorized layer gives up its zeros,
    so weights are pruned after it. Bits and codebooks come last: they keep zeros, and pruning before them sees the
    magnitudes.
    """
    given = f"data={names.data}" if names.data is not None else f"example={names.example}"
    inputs: dict[str, Any] = {"data": data} if names.data is not None else {"example": example}

    def hundredths(first: int, last: int) -> tuple[float, ...]:
        step = 1 if last > first else -1
        return tuple(number / 100 for number in range(first, last + step, step))

    return (
        Step(
            "blocks",
            f"blocks = Int(0, {n_blocks - 1})  # how many of the {n_blocks} blocks are removed",
            "prune",
            f'amount=blocks / {n_blocks}, granularity="layer", {given}',
            tuple(range(n_blocks)),
            lambda model, value: prune(model, amount=value / n_blocks, granularity="layer", **inputs),
            True,
        ),
        Step(
            "channels",
            "channels = Float(0, 0.9)  # share of the channels and heads that are removed",
            "prune",
            f'amount=channels, granularity="channel", {given}',
            hundredths(0, 90),
            lambda model, value: prune(model, amount=value, granularity="channel", **inputs),
            True,
        ),
        Step(
            "rank",
            "rank = Float(0.05, 1)  # share of the rank that a layer keeps; 1 leaves it whole",
            "factorize",
            "rank=rank",
            hundredths(100, 5),
            lambda model, value: factorize(model, rank=value),
            True,
        ),
        Step(
            "weights",
            "amount = Float(0, 0.98)  # share of the weights that become zero",
            "prune",
            "amount=amount",
            hundredths(0, 98),
            lambda model, value: prune(model, amount=value),
            False,
        ),
    )


_ASSIGNED = frozenset(
    {KEPT, ACCURACY, KILOBYTES, MILLISECONDS, "blocks", "channels", "rank", "amount", "method", "bits", "clusters"}
    | {"lr", "epochs"}
)


def first_input(text: str, data: Any) -> tuple[str, object] | None:
    """Return one input of the data as an expression and as a value, or None if only the user can write it."""
    if isinstance(data, Tensor):
        return f"{text}[:1]", data[:1]
    if isinstance(data, tuple) and tensors_in(data) is not None:
        if len(data) == 2:
            return f"{text}[0][:1]", data[0][:1]
        return f"tuple(part[:1] for part in {text}[:-1])", tuple(part[:1] for part in data[:-1])
    first = next(iter(data), None) if isinstance(data, Iterable) and hasattr(data, "batch_size") else None
    if isinstance(first, (tuple, list)) and first and isinstance(first[0], Tensor):
        return f"next(iter({text}))[0][:1]", first[0][:1]
    return None


__all__ = [
    "ACCURACY",
    "KEPT",
    "KILOBYTES",
    "MILLISECONDS",
    "CellNames",
    "Step",
    "first_input",
    "steps_of",
]
