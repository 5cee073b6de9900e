"""What every magic that compresses shares: its common options, the call, and the card of before and after."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from IPython.core.error import UsageError

from nbcompress.magics.arguments import (
    Expression,
    MagicParser,
    as_keywords,
    expression,
    index_or_key,
    name,
    number_or_expression,
    pattern,
)
from nbcompress.magics.base import LineMagic, Shown
from nbcompress.magics.result_card import CardInputs, before_and_after, with_article
from nbcompress.magics.scope import Scope
from nbcompress.public import public

# Options that go to the compressor under their own names.
COMMON = ("layers", "data", "finetune", "lr", "seed", "loss", "output")


def add_common(parser: MagicParser, **helps: str) -> None:
    """Add the options that belong to every compressor, some with a help text of the magic's own."""
    options: dict[str, dict[str, Any]] = {
        "layers": {
            "action": "append",
            "type": pattern,
            "metavar": "PATTERN",
            "help": "only layers whose dotted name fits; repeatable",
        },
        "data": {"type": expression, "metavar": "D", "help": "a DataLoader, a data set, or a pair of tensors"},
        "example": {
            "type": expression,
            "metavar": "X",
            "help": "an input of the model, for what needs one and for the card's speed",
        },
        "evaluate": {"type": expression, "metavar": "FN", "help": "a function from model to a number, for the card"},
        "finetune": {"type": number_or_expression, "metavar": "EPOCHS", "help": "epochs of training afterwards (0)"},
        "lr": {"type": number_or_expression, "metavar": "LR", "help": "learning rate of that training (0.001)"},
        "loss": {
            "type": expression,
            "metavar": "FN",
            "help": "from what the model returns and the target to a scalar (by model and targets)",
        },
        "output": {
            "type": index_or_key,
            "metavar": "KEY",
            "help": "index or key of the prediction, of a model that returns several tensors",
        },
        "seed": {"type": number_or_expression, "metavar": "N", "help": "equal seeds give equal results (0)"},
        "out": {"type": name, "metavar": "NAME", "help": "a variable that receives the result, too"},
    }
    for option, settings in options.items():
        parser.add_argument(f"--{option}", **{**settings, "help": helps.get(option, settings["help"])})


def compressor(function: str, build_parser: Callable[[], MagicParser], own: Sequence[str]) -> LineMagic:
    """Return the magic of one compressor.

    Args:
        function: Its name, in `nbcompress` and as a magic.
        build_parser: Its options; the model is the positional `MODEL`.
        own: Options of its own that go to the function under their names.
    """

    def call(arguments: argparse.Namespace, scope: Scope) -> Shown:
        model = model_of(arguments.model, scope)
        keywords = scope.values(as_keywords(arguments, [*own, *COMMON]))
        if "lr" in keywords and not keywords.get("finetune"):
            raise UsageError("--lr is the learning rate of --finetune EPOCHS, and has no effect without it.")
        if scope.in_trial:
            return Shown(public(function)(model, **keywords))
        card = CardInputs.of(arguments, scope, keywords, is_trained=bool(keywords.get("finetune")))
        before = card.begun({"before": model})
        small = public(function)(model, **keywords)
        return Shown(small, card.safely(lambda: before_and_after(card, before, model, small)))

    return LineMagic(function, build_parser, call)


def model_of(text: Expression, scope: Scope) -> Any:
    """Evaluate the expression of a model.

    Raises:
        UsageError: It is no `torch.nn.Module`.
    """
    from torch import nn

    model = scope.evaluate(text)
    if not isinstance(model, nn.Module):
        raise UsageError(f"MODEL must be a torch.nn.Module, but {text} is {with_article(type(model).__name__)}.")
    return model
