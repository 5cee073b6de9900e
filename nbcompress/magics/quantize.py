"""`%quantize`: few bits a weight."""

from __future__ import annotations

from nbcompress.magics.arguments import MagicParser, OneOf, Suggests, expression, number_or_expression
from nbcompress.magics.compressing import add_common, compressor

EXAMPLES = """\
  small = %quantize model --bits 8
  small = %quantize model --bits 4 --granularity group:32
  small = %quantize model --bits auto --budget 60kB --data train
  small = %quantize model --bits 2 --data train --finetune 5 --evaluate accuracy"""

# Any number of weights may share a scale.
GROUPS = ("channel", "tensor", "group:16", "group:32", "group:64", "group:128")


def _bits(text: str) -> float | str:
    return text if text == "auto" else number_or_expression(text)


def _budget(text: str) -> str:
    """A length such as 60kB, or an expression for one."""
    return text if text[:1].isdigit() or text[:1] == "." else expression(text)


def _parser() -> MagicParser:
    parser = MagicParser(
        "%quantize",
        "Store every weight in 1 to 8 bits. Returns a new model, whose values are those of the file. With --finetune "
        "it is trained on in the same bits (quantization-aware).",
        EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=expression, metavar="MODEL", help="an expression: the model, which stays as it is")
    add("--bits", type=Suggests(_bits, ["auto"]), metavar="B", help="bits a weight, 1 to 8, or auto with --budget (8)")
    add("--budget", type=_budget, metavar="SIZE", help="length of the file for --bits auto, such as 60kB or 1.5MB")
    add("--scheme", type=OneOf(["symmetric", "affine"]), help="symmetric, affine (symmetric)")
    add(
        "--granularity",
        type=Suggests(str, GROUPS),
        metavar="G",
        help="a scale per channel, tensor, or group:N of weights (channel)",
    )
    kinds = ["none", "dynamic", "static"]
    add("--activations", type=OneOf(kinds), help="8-bit inputs in an exported model: none, dynamic, static (none)")
    add("--rest", type=OneOf(["float16", "float32"]), help="biases, norms and other layers: float16, float32 (float16)")
    add_common(parser)
    return parser


QUANTIZE = compressor("quantize", _parser, own=("bits", "budget", "scheme", "granularity", "activations", "rest"))
