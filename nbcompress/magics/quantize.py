"""`%quantize`: few bits a weight."""

from __future__ import annotations

from nbcompress.magics.arguments import MagicParser, OneOf, expression, number_or_expression
from nbcompress.magics.compressing import add_common, compressor

EXAMPLES = """\
  small = %quantize model --bits 8
  small = %quantize model --bits 4 --granularity group:32
  small = %quantize model --bits 2 --data train --finetune 5 --evaluate accuracy"""


def _parser() -> MagicParser:
    parser = MagicParser(
        "%quantize",
        "Store every weight in 1 to 8 bits. Returns a new model, whose values are those of the file. With --finetune "
        "it is trained on in the same bits (quantization-aware).",
        EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=expression, metavar="MODEL", help="an expression: the model, which stays as it is")
    add("--bits", type=number_or_expression, metavar="B", help="bits a weight, 1 to 8 (8)")
    add("--scheme", type=OneOf(["symmetric", "affine"]), help="symmetric, affine (symmetric)")
    add("--granularity", metavar="G", help="a scale per channel, tensor, or group:N of weights (channel)")
    kinds = ["none", "dynamic", "static"]
    add("--activations", type=OneOf(kinds), help="8-bit inputs in an exported model: none, dynamic, static (none)")
    add("--rest", type=OneOf(["float16", "float32"]), help="biases, norms and other layers: float16, float32 (float16)")
    add_common(parser)
    return parser


QUANTIZE = compressor("quantize", _parser, own=("bits", "scheme", "granularity", "activations", "rest"))
