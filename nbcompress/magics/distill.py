"""`%distill`: a student learns from a teacher."""

from __future__ import annotations

import argparse

from IPython.core.error import UsageError

from nbcompress.magics.arguments import MagicParser, as_keywords, expression, number_or_expression
from nbcompress.magics.base import LineMagic, Shown
from nbcompress.magics.compressing import add_common, model_of, side_by_side
from nbcompress.magics.scope import Scope

EXAMPLES = """\
  small = %distill model student --data train --epochs 10 --evaluate accuracy
  small = %distill model student --data train --temperature 2 --alpha 0.5 --control --evaluate accuracy"""


def _parser() -> MagicParser:
    parser = MagicParser(
        "%distill",
        "Train a copy of STUDENT on what TEACHER says: alpha * T^2 * KL(softened outputs) + (1 - alpha) * loss on the "
        "labels. Returns the trained copy.",
        EXAMPLES,
    )
    add = parser.add_argument
    add("teacher", type=expression, metavar="TEACHER", help="an expression: the model to learn from")
    add("student", type=expression, metavar="STUDENT", help="an expression: the model to train a copy of")
    add("--epochs", type=number_or_expression, metavar="N", help="passes over the data (10)")
    add("--temperature", type=number_or_expression, metavar="T", help="softens the outputs (4)")
    add("--alpha", type=number_or_expression, metavar="A", help="weight of the teacher, 0 to 1 (0.9)")
    add("--match", action="append", metavar="LAYER:LAYER", help="also learn features, teacher:student; repeatable")
    add("--control", action="store_true", help="also train the same student without the teacher, for comparison")
    add_common(parser, without=("layers", "finetune", "example"))
    parser.add_argument("--example", type=expression, metavar="X", help="an input of the model, for the card's latency")
    return parser


def _call(arguments: argparse.Namespace, scope: Scope) -> Shown:
    from nbcompress.compress import distill

    teacher, student = model_of(arguments.teacher, scope), model_of(arguments.student, scope)
    keywords = scope.values(as_keywords(arguments, ("epochs", "temperature", "alpha", "match", "lr", "seed")))
    if arguments.data is None:
        raise UsageError("--data is needed: a DataLoader, a data set, or a pair of tensors.")
    data = scope.evaluate(arguments.data)
    if not arguments.control:
        trained = distill(teacher, student, data, **keywords)
        models = {str(arguments.teacher): teacher, "distilled": trained}
    else:
        both = distill(teacher, student, data, control=True, **keywords)
        trained = both.student
        models = {str(arguments.teacher): teacher, "distilled": trained, "without teacher": both.control}
    if scope.in_trial:
        return Shown(trained)
    return Shown(trained, side_by_side("%distill", arguments, scope, models))


DISTILL = LineMagic("distill", _parser, _call)
