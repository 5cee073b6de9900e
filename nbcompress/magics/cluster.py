"""`%cluster`: weights that share values."""

from __future__ import annotations

from nbcompress.magics.arguments import MagicParser, OneOf, expression, number_or_expression
from nbcompress.magics.compressing import add_common, compressor

EXAMPLES = """\
  small = %cluster model --clusters 16
  small = %cluster pruned --clusters 8 --data train --finetune 5 --evaluate accuracy"""


def _parser() -> MagicParser:
    parser = MagicParser(
        "%cluster",
        "Let the weights of a layer share K values (k-means), which --finetune trains on. Zeros of a pruned model stay "
        "zeros. Returns a new model.",
        EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=expression, metavar="MODEL", help="an expression: the model, which stays as it is")
    add("--clusters", type=number_or_expression, metavar="K", help="values a layer may hold (16)")
    add("--rest", type=OneOf(["float16", "float32"]), help="biases, norms and other layers: float16, float32 (float16)")
    add_common(parser)
    return parser


CLUSTER = compressor("cluster", _parser, own=("clusters", "rest"))
