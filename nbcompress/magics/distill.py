"""`%distill`: a student learns from a teacher."""

from __future__ import annotations

import argparse

from IPython.core.error import UsageError

from nbcompress.magics.arguments import MagicParser, as_keywords, expression, number_or_expression
from nbcompress.magics.base import LineMagic, Shown
from nbcompress.magics.compressing import COMMON, add_common, model_of
from nbcompress.magics.result_card import CardInputs, side_by_side
from nbcompress.magics.scope import Scope

EXAMPLES = """\
  small = %distill model student --data train --epochs 10 --evaluate accuracy
  small = %distill model student --data train --temperature 2 --alpha 0.5 --control --evaluate accuracy"""


# Options that go to the function under their own names, beside those of every compressor.
OWN = ("epochs", "temperature", "alpha", "match")


def _parser() -> MagicParser:
    parser = MagicParser(
        "%distill",
        "Train a copy of STUDENT on what TEACHER says: alpha * soft loss, for classes T^2 * KL(softened outputs), + "
        "(1 - alpha) * loss on the labels. Returns the trained copy.",
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
    add_common(
        parser,
        layers="train only these layers of the student, the others stay as they are; repeatable",
        finetune="epochs on the labels alone afterwards (0)",
        lr="learning rate of all training (0.001)",
        example="an input of the models, for the card's speed",
    )
    return parser


def _call(arguments: argparse.Namespace, scope: Scope) -> Shown:
    from torch import nn

    from nbcompress.compress import distill

    teacher, student = model_of(arguments.teacher, scope), model_of(arguments.student, scope)
    if arguments.data is None:
        raise UsageError("--data is needed: a DataLoader, a data set, or a pair of tensors.")
    keywords = scope.values(as_keywords(arguments, (*OWN, *COMMON)))
    if scope.in_trial:
        return Shown(distill(teacher, student, **keywords))
    card = CardInputs.of(arguments, scope, keywords, is_trained=True)
    name = str(arguments.teacher)
    before = card.begun({name: teacher})
    found = distill(teacher, student, control=arguments.control, **keywords)
    models = {name: teacher}
    if isinstance(found, nn.Module):
        trained = models["distilled"] = found
    else:
        trained = models["distilled"] = found.student
        models["without teacher"] = found.control
    return Shown(trained, card.safely(lambda: side_by_side(card, before, models)))


DISTILL = LineMagic("distill", _parser, _call)
