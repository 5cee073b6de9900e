"""`%factorize`: low-rank layers."""

from __future__ import annotations

from nbcompress.magics.arguments import MagicParser, expression, number_or_expression
from nbcompress.magics.compressing import add_common, compressor

EXAMPLES = """\
  small = %factorize model --rank 0.25
  small = %factorize model --rank 0.5 --layers fc* --data train --finetune 5 --evaluate accuracy"""


def _parser() -> MagicParser:
    parser = MagicParser(
        "%factorize",
        "Replace linear and convolution layers by two of a lower rank where that saves bytes. Returns a new model.",
        EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=expression, metavar="MODEL", help="an expression: the model, which stays as it is")
    add("--rank", type=number_or_expression, metavar="R", help="share of the full rank that is kept (0.25)")
    add("--energy", type=number_or_expression, metavar="E", help="or the share of squared weights that is kept")
    add_common(parser)
    return parser


FACTORIZE = compressor("factorize", _parser, own=("rank", "energy"))
