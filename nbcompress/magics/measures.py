"""`%footprint`, `%sensitivity` and `%weights`."""

from __future__ import annotations

import argparse
import ast
import os
from typing import Any

from IPython.core.error import UsageError

from nbcompress.magics.arguments import (
    LAYERS,
    MODEL,
    NO_PROGRESS,
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
from nbcompress.magics.compressors import GRANULARITY, model_of, named_models
from nbcompress.magics.result_card import checked_evaluate


def _footprint(arguments: argparse.Namespace, scope: Scope) -> MagicResult:
    from nbcompress.measure import footprint

    file = _model_file(arguments, scope)
    if file is not None:
        return _footprint_of_file(file, arguments, scope)
    models = named_models(arguments.models, scope, or_files=True)
    keywords = scope.values(as_keywords(arguments, ("example", "data", "threads", "runtime", "into")))
    measured = footprint(models, **keywords)
    result: Any = measured[0] if len(models) == 1 else measured
    if scope.in_trial:
        return MagicResult(result)
    from nbcompress.panels.cards import footprint_card

    return MagicResult(result, footprint_card(result, title=arguments.typed))


# What may stand for a path: a text, or a variable.
_PATH_NODES = (ast.Constant, ast.Name, ast.Attribute)


def _model_file(arguments: argparse.Namespace, scope: Scope) -> str | None:
    """Return the path if the line names one file of a compressed model in place of models."""
    if len(arguments.models) != 1 or arguments.into is not None:
        return None
    (text,) = arguments.models
    if not isinstance(text, FileName) and not isinstance(ast.parse(text, mode="eval").body, _PATH_NODES):
        return None  # an expression that makes a model is evaluated once
    value = str(text) if isinstance(text, FileName) else scope.evaluate(text)
    is_path = isinstance(value, (str, os.PathLike)) and str(value).endswith(".nbz")
    return os.fspath(value) if is_path else None


def _footprint_of_file(path: str, arguments: argparse.Namespace, scope: Scope) -> MagicResult:
    from nbcompress.artifact.contents import read_contents

    if arguments.example is not None or arguments.data is not None:
        raise UsageError(
            f"{path!r} holds weights and no code, so nothing is run: leave --example and --data out, or pass --into."
        )
    contents = read_contents(path)
    if scope.in_trial:
        return MagicResult(contents)
    from nbcompress.panels.cards import contents_card

    return MagicResult(contents, contents_card(contents, title=arguments.typed))


FOOTPRINT = LineMagic(
    "footprint",
    "Parameters, non-zeros, bytes of the file, multiply-accumulates and latency with its spread, layer by layer; "
    "several models are measured in turn and shown side by side.",
    """\
  %footprint model --example images[:1]
  %footprint model small
  costs = %footprint [model, small] --example images[:1]
  %footprint "small.nbz\"""",
    (
        argument(
            "models",
            nargs="+",
            type=expression_or_file,
            metavar="MODEL",
            help="expressions: models, or lists of models; or names of files (.onnx, .nbz); one .nbz alone is listed",
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
        NO_PROGRESS,
        OUT,
    ),
    _sensitivity,
)


def _weights(arguments: argparse.Namespace, scope: Scope) -> MagicResult:
    from nbcompress.measure import weights

    keywords = scope.values(as_keywords(arguments, ("layers", "scheme", "granularity")))
    result = weights(model_of(arguments.model, scope), **keywords)
    if scope.in_trial:
        return MagicResult(result)
    from nbcompress.panels.cards import weights_card

    return MagicResult(result, weights_card(result, title=arguments.typed))


WEIGHTS = LineMagic(
    "weights",
    "The distribution of the weights of each layer, with the grids of 8 to 2 bits and codebooks over it, and their "
    "errors, before anything is chosen.",
    """\
  %weights model
  %weights model --layers conv* --granularity group:32""",
    (
        MODEL,
        LAYERS,
        one_of("--scheme", ("symmetric", "affine"), "{words} (symmetric)"),
        GRANULARITY,
        OUT,
    ),
    _weights,
)
