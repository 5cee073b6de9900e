"""`%sensitivity`: what each layer bears."""

from __future__ import annotations

import argparse

from nbcompress.magics.arguments import Expression, MagicParser, OneOf, expression, name, pattern
from nbcompress.magics.base import LineMagic, Shown
from nbcompress.magics.compressing import model_of
from nbcompress.magics.result_card import scoring
from nbcompress.magics.scope import Scope

EXAMPLES = """\
  %sensitivity model --evaluate accuracy
  %sensitivity model --evaluate accuracy --compressor quantize --levels [2, 4, 8]"""


def _parser() -> MagicParser:
    parser = MagicParser(
        "%sensitivity",
        "Compress one layer at a time, by the real operation, and evaluate: what does each layer bear?",
        EXAMPLES,
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


def _call(arguments: argparse.Namespace, scope: Scope) -> Shown:
    from nbcompress.measure import sensitivity

    model = model_of(arguments.model, scope)
    keywords = {key: getattr(arguments, key) for key in ("layers", "compressor", "levels")}
    given = {
        key: scope.evaluate(one) if isinstance(one, Expression) else one
        for key, one in keywords.items()
        if one is not None
    }
    result = sensitivity(model, scoring(scope.evaluate(arguments.evaluate)), **given)
    if scope.in_trial:
        return Shown(result)
    from nbcompress.panels import sensitivity_card

    return Shown(result, sensitivity_card(result, title=arguments.typed))


SENSITIVITY = LineMagic("sensitivity", _parser, _call)
