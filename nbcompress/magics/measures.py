"""`%sensitivity`: what each layer bears.

`%footprint`: what one or several models cost.
"""

from __future__ import annotations

import argparse
import ast
from typing import Any

from IPython.core.error import UsageError

from nbcompress.magics.arguments import Expression, MagicParser, OneOf, expression, name, number_or_expression, pattern
from nbcompress.magics.base import LineMagic, Scope, Shown
from nbcompress.magics.compressors import model_of
from nbcompress.magics.result_card import scoring

FOOTPRINT_EXAMPLES = """\
  %footprint model --example images[:1]
  %footprint model small
  costs = %footprint [model, small] --example images[:1]"""


def _footprint_parser() -> MagicParser:
    parser = MagicParser(
        "%footprint",
        "Parameters, non-zeros, bytes of the file, multiply-accumulates and latency with its spread, layer by layer; "
        "several models are measured in turn and shown side by side.",
        FOOTPRINT_EXAMPLES,
    )
    add = parser.add_argument
    add("models", nargs="+", type=expression, metavar="MODEL", help="expressions: models, or lists of models")
    add("--example", type=expression, metavar="X", help="an input; without one nothing is run")
    add("--data", type=expression, metavar="D", help="data whose first batch serves as the example")
    add("--runtime", type=OneOf(["torch", "onnx"]), help="where latency is measured: torch, onnx (torch)")
    add("--threads", type=number_or_expression, metavar="N", help="threads while latency is measured (1)")
    add("--out", type=name, metavar="NAME", help="a variable that receives the result, too")
    return parser


def _footprint_call(arguments: argparse.Namespace, scope: Scope) -> Shown:
    from nbcompress.measure import footprint

    models = named_models(arguments.models, scope)
    keywords = {key: scope.value(getattr(arguments, key)) for key in ("example", "data", "threads", "runtime")}
    given = {key: value for key, value in keywords.items() if value is not None}
    if len(models) == 1:
        (label, model), *_ = models.items()
        result: Any = footprint({label: model}, **given)[0]
    else:
        result = footprint(models, **given)
    if scope.in_trial:
        return Shown(result)
    from nbcompress.panels.cards import footprint_card

    return Shown(result, footprint_card(result, title=arguments.typed))


def named_models(texts: list[Expression], scope: Scope) -> dict[str, Any]:
    """Evaluate the models and name each by how it was written; equal names get a number.

    Raises:
        UsageError: Something is no model.
    """
    from torch import nn

    found: dict[str, Any] = {}
    for text in texts:
        value = scope.evaluate(text)
        for label, model in _labelled(text, value):
            if not isinstance(model, nn.Module):
                raise UsageError(f"{label} is no torch.nn.Module, but of the type {type(model).__name__}.")
            key, count = label, 2
            while key in found:
                key, count = f"{label} ({count})", count + 1
            found[key] = model
    if not found:
        raise UsageError("there is no model in an empty list.")
    return found


def _labelled(text: Expression, value: Any) -> list[tuple[str, Any]]:
    """Return label and model pairs: a list literal is labelled by its parts, other lists by position."""
    if isinstance(value, dict):
        return [(str(key), item) for key, item in value.items()]
    if not isinstance(value, (list, tuple)):
        return [(str(text), value)]
    node = ast.parse(text, mode="eval").body
    if isinstance(node, (ast.List, ast.Tuple)) and len(node.elts) == len(value):
        return [(ast.unparse(part), item) for part, item in zip(node.elts, value, strict=True)]
    return [(f"{text}[{index}]", item) for index, item in enumerate(value)]


FOOTPRINT = LineMagic("footprint", _footprint_parser, _footprint_call)


SENSITIVITY_EXAMPLES = """\
  %sensitivity model --evaluate accuracy
  %sensitivity model --evaluate accuracy --compressor quantize --levels [2, 4, 8]"""


def _sensitivity_parser() -> MagicParser:
    parser = MagicParser(
        "%sensitivity",
        "Compress one layer at a time, by the real operation, and evaluate: what does each layer bear?",
        SENSITIVITY_EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=expression, metavar="MODEL", help="an expression: the model, which stays as it is")
    add("--evaluate", type=expression, required=True, metavar="FN", help="a function from model to a number")
    add(
        "--layers",
        action="append",
        type=pattern,
        metavar="PATTERN",
        help="only layers whose dotted name fits; repeatable",
    )
    kinds = ["prune", "quantize", "cluster", "factorize"]
    add("--compressor", type=OneOf(kinds), help="prune, quantize, cluster, factorize (prune)")
    add("--levels", type=expression, metavar="LIST", help="an expression: amounts, bits, clusters or ranks to try")
    add("--out", type=name, metavar="NAME", help="a variable that receives the result, too")
    return parser


def _sensitivity_call(arguments: argparse.Namespace, scope: Scope) -> Shown:
    from nbcompress.measure import sensitivity

    model = model_of(arguments.model, scope)
    keywords = {key: getattr(arguments, key) for key in ("layers", "compressor", "levels")}
    given = {
        key: scope.evaluate(keyword) if isinstance(keyword, Expression) else keyword
        for key, keyword in keywords.items()
        if keyword is not None
    }
    result = sensitivity(model, scoring(scope.evaluate(arguments.evaluate)), **given)
    if scope.in_trial:
        return Shown(result)
    from nbcompress.panels.cards import sensitivity_card

    return Shown(result, sensitivity_card(result, title=arguments.typed))


SENSITIVITY = LineMagic("sensitivity", _sensitivity_parser, _sensitivity_call)
