"""`%distill`: a student learns from a teacher.

What every magic that compresses shares: its common options, the call, and the card of before and after.

`%prune`: remove weights, or whole channels.

`%quantize`: few bits a weight.

`%cluster`: weights that share values.

`%factorize`: low-rank layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from IPython.core.error import UsageError

from nbcompress.magics.arguments import (
    Expression,
    MagicParser,
    OneOf,
    Suggests,
    as_keywords,
    expression,
    index_or_key,
    name,
    number_or_expression,
    pattern,
)
from nbcompress.magics.base import LineMagic, Scope, Shown
from nbcompress.magics.result_card import CardInputs, before_and_after, side_by_side, with_article
from nbcompress.public import public

# Options that go to the compressor under their own names.
COMMON = ("layers", "data", "finetune", "lr", "seed", "loss", "output")


def add_common(parser: MagicParser, **helps: str) -> None:
    """Add the options that belong to every compressor, some with a help text of the magic's own."""
    options: dict[str, dict[str, Any]] = {
        "layers": {
            "action": "append",
            "type": pattern,
            "metavar": "PATTERN",
            "help": "only layers whose dotted name fits; repeatable",
        },
        "data": {"type": expression, "metavar": "D", "help": "a DataLoader, a data set, or a pair of tensors"},
        "example": {
            "type": expression,
            "metavar": "X",
            "help": "an input of the model, for what needs one and for the card's speed",
        },
        "evaluate": {"type": expression, "metavar": "FN", "help": "a function from model to a number, for the card"},
        "finetune": {"type": number_or_expression, "metavar": "EPOCHS", "help": "epochs of training afterwards (0)"},
        "lr": {"type": number_or_expression, "metavar": "LR", "help": "learning rate of that training (0.001)"},
        "loss": {
            "type": expression,
            "metavar": "FN",
            "help": "from what the model returns and the target to a scalar (by model and targets)",
        },
        "output": {
            "type": index_or_key,
            "metavar": "KEY",
            "help": "index or key of the prediction, of a model that returns several tensors",
        },
        "seed": {"type": number_or_expression, "metavar": "N", "help": "equal seeds give equal results (0)"},
        "out": {"type": name, "metavar": "NAME", "help": "a variable that receives the result, too"},
    }
    for option, settings in options.items():
        parser.add_argument(f"--{option}", **{**settings, "help": helps.get(option, settings["help"])})


def compressor(function: str, build_parser: Callable[[], MagicParser], own: Sequence[str]) -> LineMagic:
    """Return the magic of one compressor.

    Args:
        function: Its name, in `nbcompress` and as a magic.
        build_parser: Its options; the model is the positional `MODEL`.
        own: Options of its own that go to the function under their names.
    """

    def call(arguments: argparse.Namespace, scope: Scope) -> Shown:
        model = model_of(arguments.model, scope)
        keywords = scope.values(as_keywords(arguments, [*own, *COMMON]))
        if "lr" in keywords and not keywords.get("finetune"):
            raise UsageError("--lr is the learning rate of --finetune EPOCHS, and has no effect without it.")
        if scope.in_trial:
            return Shown(public(function)(model, **keywords))
        card = CardInputs.of(arguments, scope, keywords, is_trained=bool(keywords.get("finetune")))
        before = card.begun({"before": model})
        small = public(function)(model, **keywords)
        return Shown(small, card.safely(lambda: before_and_after(card, before, model, small)))

    return LineMagic(function, build_parser, call)


def model_of(text: Expression, scope: Scope) -> Any:
    """Evaluate the expression of a model.

    Raises:
        UsageError: It is no `torch.nn.Module`.
    """
    from torch import nn

    model = scope.evaluate(text)
    if not isinstance(model, nn.Module):
        raise UsageError(f"MODEL must be a torch.nn.Module, but {text} is {with_article(type(model).__name__)}.")
    return model


PRUNE_EXAMPLES = """\
  small = %prune model --amount 0.8
  small = %prune model --amount 0.9 --data train --finetune 5 --evaluate accuracy
  small = %prune model --amount 0.8 --criterion hessian --data train
  small = %prune model --amount 0.5 --granularity channel --example images[:1]"""


def _prune_parser() -> MagicParser:
    parser = MagicParser(
        "%prune",
        "Remove the share A of the weights, or of whole neurons and channels, physically. Returns a new model. "
        "(Not %prun, which profiles a statement.)",
        PRUNE_EXAMPLES,
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
    "prune",
    _prune_parser,
    own=("amount", "threshold", "granularity", "criterion", "scope", "schedule", "norms", "example"),
)


QUANTIZE_EXAMPLES = """\
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


def _quantize_parser() -> MagicParser:
    parser = MagicParser(
        "%quantize",
        "Store every weight in 1 to 8 bits. Returns a new model, whose values are those of the file. With --finetune "
        "it is trained on in the same bits (quantization-aware).",
        QUANTIZE_EXAMPLES,
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


QUANTIZE = compressor(
    "quantize", _quantize_parser, own=("bits", "budget", "scheme", "granularity", "activations", "rest")
)


CLUSTER_EXAMPLES = """\
  small = %cluster model --clusters 16
  small = %cluster pruned --clusters 8 --data train --finetune 5 --evaluate accuracy"""


def _cluster_parser() -> MagicParser:
    parser = MagicParser(
        "%cluster",
        "Let the weights of a layer share K values (k-means), which --finetune trains on. Zeros of a pruned model stay "
        "zeros. Returns a new model.",
        CLUSTER_EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=expression, metavar="MODEL", help="an expression: the model, which stays as it is")
    add("--clusters", type=number_or_expression, metavar="K", help="values a layer may hold (16)")
    add("--rest", type=OneOf(["float16", "float32"]), help="biases, norms and other layers: float16, float32 (float16)")
    add_common(parser)
    return parser


CLUSTER = compressor("cluster", _cluster_parser, own=("clusters", "rest"))


FACTORIZE_EXAMPLES = """\
  small = %factorize model --rank 0.25
  small = %factorize model --rank 0.5 --layers fc* --data train --finetune 5 --evaluate accuracy"""


def _factorize_parser() -> MagicParser:
    parser = MagicParser(
        "%factorize",
        "Replace linear and convolution layers by two of a lower rank where that saves bytes. Returns a new model.",
        FACTORIZE_EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=expression, metavar="MODEL", help="an expression: the model, which stays as it is")
    add("--rank", type=number_or_expression, metavar="R", help="share of the full rank that is kept (0.25)")
    add("--energy", type=number_or_expression, metavar="E", help="or the share of squared weights that is kept")
    add_common(parser)
    return parser


FACTORIZE = compressor("factorize", _factorize_parser, own=("rank", "energy"))


DISTILL_EXAMPLES = """\
  small = %distill model student --data train --epochs 10 --evaluate accuracy
  small = %distill model student --data train --temperature 2 --alpha 0.5 --control --evaluate accuracy"""


# Options that go to the function under their own names, beside those of every compressor.
OWN = ("epochs", "temperature", "alpha", "match")


def _distill_parser() -> MagicParser:
    parser = MagicParser(
        "%distill",
        "Train a copy of STUDENT on what TEACHER says: alpha * soft loss, for classes T^2 * KL(softened outputs), + "
        "(1 - alpha) * loss on the labels. Returns the trained copy.",
        DISTILL_EXAMPLES,
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

    from nbcompress.compressors import distill

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


DISTILL = LineMagic("distill", _distill_parser, _call)
