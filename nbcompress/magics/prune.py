"""`%prune`: remove weights, or whole channels."""

from __future__ import annotations

from nbcompress.magics.arguments import MagicParser, OneOf, expression, number_or_expression
from nbcompress.magics.compressing import add_common, compressor

EXAMPLES = """\
  small = %prune model --amount 0.8
  small = %prune model --amount 0.9 --data train --finetune 5 --evaluate accuracy
  small = %prune model --amount 0.8 --criterion hessian --data train
  small = %prune model --amount 0.5 --granularity channel --example images[:1]"""


def _parser() -> MagicParser:
    parser = MagicParser(
        "%prune",
        "Remove the share A of the weights, or of whole neurons and channels, physically. Returns a new model. "
        "(Not %prun, which profiles a statement.)",
        EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=expression, metavar="MODEL", help="an expression: the model, which stays as it is")
    add("--amount", type=number_or_expression, metavar="A", help="share to remove, 0 to 1; or --threshold")
    add("--threshold", type=number_or_expression, metavar="T", help="remove weights of smaller magnitude")
    add("--granularity", type=OneOf(["weight", "2:4", "channel"]), help="weight, 2:4, channel (weight)")
    criteria = ["magnitude", "random", "gradient", "activation", "mutual-information", "hessian"]
    add(
        "--criterion",
        type=OneOf(criteria),
        help=f"{', '.join(criteria)} (magnitude); all but magnitude and random need --data",
    )
    add("--scope", type=OneOf(["global", "layer", "lamp"]), help="global, layer, lamp (global; channels: layer)")
    add("--schedule", type=OneOf(["one-shot", "gradual"]), help="one-shot, gradual (one-shot)")
    add(
        "--norms",
        type=OneOf(["keep", "cut"]),
        help="keep, cut (keep); cut: channels that a layer norm averages over go too, and it averages over those left",
    )
    add_common(parser)
    return parser


PRUNE = compressor(
    "prune", _parser, own=("amount", "threshold", "granularity", "criterion", "scope", "schedule", "norms", "example")
)
