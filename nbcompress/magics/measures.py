"""`%footprint` and `%sensitivity`."""

from __future__ import annotations

import argparse
import ast
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from IPython.core.error import UsageError

from nbcompress.magics.arguments import (
    LAYERS,
    MODEL,
    OUT,
    Expression,
    FileName,
    argument,
    as_keywords,
    expression,
    expression_or_file,
    number,
    one_of,
)
from nbcompress.magics.base import LineMagic, MagicResult, Scope
from nbcompress.magics.compressors import model_of
from nbcompress.magics.result_card import checked_evaluate, with_article


def _footprint(arguments: argparse.Namespace, scope: Scope) -> MagicResult:
    from nbcompress.measure import footprint

    models = named_models(arguments.models, scope, or_files=True)
    keywords = scope.values(as_keywords(arguments, ("example", "data", "threads", "runtime", "into")))
    measured = footprint(models, **keywords)
    result: Any = measured[0] if len(models) == 1 else measured
    if scope.in_trial:
        return MagicResult(result)
    from nbcompress.panels.cards import footprint_card

    return MagicResult(result, footprint_card(result, title=arguments.typed))


def named_models(texts: Sequence[Expression | FileName], scope: Scope, *, or_files: bool = False) -> dict[str, Any]:
    """Evaluate expressions of models and label each model by its expression; equal labels get a number.

    Args:
        texts: The expressions.
        scope: Where they are evaluated.
        or_files: Whether names of files may stand for models. They are labelled by their names.

    Raises:
        UsageError: There is no model, or a value is not a model.
    """
    from torch import nn

    found: dict[str, Any] = {}
    for text in texts:
        value = scope.evaluate(text) if isinstance(text, Expression) else str(text)
        for typed, model in _labelled(text, value):
            label = typed
            if or_files and isinstance(model, (str, os.PathLike)):
                label = Path(model).name
            elif not isinstance(model, nn.Module):
                kind = with_article(type(model).__name__)
                files = " Names of files end in .onnx or .nbz." if or_files else ""
                raise UsageError(f"MODEL must be a torch.nn.Module, but {label} is {kind}.{files}")
            key, count = label, 2
            while key in found:
                key, count = f"{label} ({count})", count + 1
            found[key] = model
    if not found:
        raise UsageError("there is no model in an empty list.")
    return found


def _labelled(text: str, value: Any) -> list[tuple[str, Any]]:
    """Return pairs of label and model: for a list display the text of each part, for other lists the position."""
    if isinstance(value, dict):
        return [(str(key), model) for key, model in value.items()]
    if not isinstance(value, (list, tuple)):
        return [(str(text), value)]
    node = ast.parse(text, mode="eval").body
    if isinstance(node, (ast.List, ast.Tuple)) and len(node.elts) == len(value):
        return [(ast.unparse(part), model) for part, model in zip(node.elts, value, strict=True)]
    return [(f"{text}[{index}]", model) for index, model in enumerate(value)]


FOOTPRINT = LineMagic(
    "footprint",
    "Parameters, non-zeros, bytes of the file, multiply-accumulates and latency with its spread, layer by layer; "
    "several models are measured in turn and shown side by side.",
    """\
  %footprint model --example images[:1]
  %footprint model small
  costs = %footprint [model, small] --example images[:1]""",
    (
        argument(
            "models",
            nargs="+",
            type=expression_or_file,
            metavar="MODEL",
            help="expressions: models, or lists of models; or names of files (.onnx, .nbz)",
        ),
        argument("--example", type=expression, metavar="X", help="an input of the model; without it nothing is run"),
        argument("--data", type=expression, metavar="D", help="data whose first batch serves as the example"),
        one_of("--runtime", ("torch", "onnx"), "where latency is measured: {words} (torch)"),
        number("--threads", "N", "threads while latency is measured (1)"),
        argument(
            "--into", type=expression, metavar="MODEL", help="an instance of the class of the model in a .nbz file"
        ),
        OUT,
    ),
    _footprint,
)


def _sensitivity(arguments: argparse.Namespace, scope: Scope) -> MagicResult:
    from nbcompress.measure import sensitivity

    model = model_of(arguments.model, scope)
    keywords = scope.values(as_keywords(arguments, ("layers", "compressor", "levels")))
    result = sensitivity(model, checked_evaluate(scope.evaluate(arguments.evaluate)), **keywords)
    if scope.in_trial:
        return MagicResult(result)
    from nbcompress.panels.cards import sensitivity_card

    return MagicResult(result, sensitivity_card(result, title=arguments.typed))


def _levels(text: str) -> Expression:
    """Accept an expression of a list; unlike in other expressions, `{...}` is replaced by a value before."""
    return expression(text)


SENSITIVITY = LineMagic(
    "sensitivity",
    "Compress one layer at a time, by the real operation, and evaluate: what does it cost at each layer?",
    """\
  %sensitivity model --evaluate accuracy
  %sensitivity model --evaluate accuracy --compressor quantize --levels [2, 4, 8]""",
    (
        MODEL,
        argument("--evaluate", type=expression, required=True, metavar="FN", help="a function from model to a number"),
        LAYERS,
        one_of("--compressor", ("prune", "quantize", "cluster", "factorize"), "{words} (prune)"),
        argument(
            "--levels", type=_levels, metavar="LIST", help="an expression: amounts, bits, clusters or ranks to try"
        ),
        OUT,
    ),
    _sensitivity,
)
