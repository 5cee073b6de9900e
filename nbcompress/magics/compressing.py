"""What every magic that compresses shares: its common options, the call, and the card of before and after."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from IPython.core.error import UsageError

from nbcompress.magics.arguments import Expression, MagicParser, as_keywords, expression, name, number_or_expression
from nbcompress.magics.base import Bundle, LineMagic, Shown
from nbcompress.magics.scope import Scope
from nbcompress.public import public

# Options that go to the compressor under their own names.
COMMON = ("layers", "data", "finetune", "lr", "seed")


def add_common(parser: MagicParser, *, without: Sequence[str] = ()) -> None:
    """Add the options that belong to every compressor."""
    options: dict[str, dict[str, Any]] = {
        "layers": {"action": "append", "metavar": "PATTERN", "help": "only layers whose dotted name fits; repeatable"},
        "data": {"type": expression, "metavar": "D", "help": "a DataLoader, a data set, or a pair of tensors"},
        "example": {
            "type": expression,
            "metavar": "X",
            "help": "an input of the model, for what needs one and for the card's speed",
        },
        "evaluate": {"type": expression, "metavar": "FN", "help": "a function from model to a number, for the card"},
        "finetune": {"type": number_or_expression, "metavar": "EPOCHS", "help": "epochs of training afterwards (0)"},
        "lr": {"type": number_or_expression, "metavar": "LR", "help": "learning rate of that training (0.001)"},
        "seed": {"type": number_or_expression, "metavar": "N", "help": "equal seeds give equal results (0)"},
        "out": {"type": name, "metavar": "NAME", "help": "a variable that receives the result, too"},
    }
    for option, settings in options.items():
        if option not in without:
            parser.add_argument(f"--{option}", **settings)


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
        small = public(function)(model, **keywords)
        if scope.in_trial:
            return Shown(small)
        return Shown(small, before_and_after(f"%{function}", arguments, scope, model, small))

    return LineMagic(function, build_parser, call)


def model_of(text: Expression, scope: Scope) -> Any:
    """Evaluate the expression of a model.

    Raises:
        UsageError: It is no `torch.nn.Module`.
    """
    from torch import nn

    model = scope.evaluate(text)
    if not isinstance(model, nn.Module):
        raise UsageError(f"MODEL must be a torch.nn.Module, but {text} is {_a(type(model).__name__)}.")
    return model


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def scoring(function: Any) -> Callable[[Any], float]:
    """Return the user's `--evaluate` function, with its result checked.

    Raises:
        UsageError: It is no function, or returns no number.
    """
    if not callable(function):
        raise UsageError(f"--evaluate takes a function from model to a number, but got {_a(type(function).__name__)}.")

    def score(model: Any) -> float:
        try:
            given = function(model)
        except Exception as err:  # the user's own function may raise anything
            raise UsageError(f"--evaluate raised {type(err).__name__}: {err}") from err
        try:
            return float(given)
        except (TypeError, ValueError):
            kind = _a(type(given).__name__)
            text = f"--evaluate takes a function from model to a number, but it returned {kind}."
            raise UsageError(text) from None

    return score


def before_and_after(title: str, arguments: argparse.Namespace, scope: Scope, model: Any, small: Any) -> Bundle:
    """Measure both models side by side and return the card."""
    from nbcompress.compress import record_of
    from nbcompress.measure import compare
    from nbcompress.panels import comparison_card

    scores = _scores(arguments, scope, {"before": model, "after": small})
    comparison = compare(model, small, scope.value(getattr(arguments, "example", None)))
    return comparison_card(title, comparison, scores=scores, left_out=record_of(small).left_out)


def side_by_side(title: str, arguments: argparse.Namespace, scope: Scope, models: dict[str, Any]) -> Bundle:
    """Measure several models in turn and return the card."""
    from nbcompress.measure import footprint
    from nbcompress.panels import footprint_card

    scores = _scores(arguments, scope, models)
    footprints = footprint(models, scope.value(getattr(arguments, "example", None)))
    return footprint_card(footprints, title=title, scores=scores)


def _scores(arguments: argparse.Namespace, scope: Scope, models: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return `{function: {model: number}}`, empty without `--evaluate`."""
    if arguments.evaluate is None:
        return {}
    score = scoring(scope.evaluate(arguments.evaluate))
    return {str(arguments.evaluate): {label: score(model) for label, model in models.items()}}
