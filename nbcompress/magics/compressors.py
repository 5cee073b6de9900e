"""`%prune`, `%quantize`, `%cluster`, `%factorize` and `%distill`.

Each magic declares its arguments. The options are passed to the function of the same name under their own names; those
that are not given keep the function's defaults.
"""

from __future__ import annotations

import argparse
import ast
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from IPython.core.error import UsageError

from nbcompress.choices import CRITERIA, OPTIMIZERS, SCALES
from nbcompress.errors import did_you_mean
from nbcompress.magics.arguments import (
    LAYERS,
    MODEL,
    NO_PROGRESS,
    OUT,
    Argument,
    Expression,
    FileName,
    Suggests,
    argument,
    as_keywords,
    expression,
    index_or_key,
    number,
    number_or_expression,
    one_of,
    verbatim,
)
from nbcompress.magics.base import LineMagic, MagicResult, Scope
from nbcompress.magics.result_card import CardInputs, before_and_after, side_by_side, with_article
from nbcompress.public import public

# The options of every compressor --------------------------------------------------------------------------------------

# These go to the function. The others are for the card alone.
OF_TRAINING = ("lr", "optimizer", "momentum", "betas", "eps", "weight_decay")
COMMON = ("layers", "data", "finetune", *OF_TRAINING, "seed", "loss", "output")


def common_options(
    layers: Argument = LAYERS,
    finetune: str = "epochs of training afterwards (0)",
    lr: str = "learning rate of that training (0.001)",
    example: str = "an input of the model, where one is needed, and for the latency on the card",
) -> list[Argument]:
    """Return the options that every compressor has, some with a help text of the magic's own."""
    return [
        layers,
        argument("--data", type=expression, metavar="D", help="a DataLoader, a data set, or a pair of tensors"),
        argument("--example", type=expression, metavar="X", help=example),
        argument("--evaluate", type=expression, metavar="FN", help="a function from model to a number, for the card"),
        number("--finetune", "EPOCHS", finetune),
        number("--lr", "LR", lr),
        argument(
            "--optimizer",
            # A fixed word wins over a variable of that name.
            type=Suggests(lambda text: text if text in OPTIMIZERS else expression(text), OPTIMIZERS),
            metavar="NAME",
            help=f"{', '.join(OPTIMIZERS)}, or a variable: a function from parameters to an optimizer (adam)",
        ),
        number("--momentum", "M", "of the optimizers momentum (0.9), sgd and gd (0)"),
        argument("--betas", type=expression, metavar="PAIR", help="of adam and adamw: an expression, (0.9, 0.999)"),
        number("--eps", "E", "of adam and adamw: 1e-8"),
        number("--weight-decay", "W", "weight decay of the optimizer (0)"),
        argument(
            "--loss",
            type=expression,
            metavar="FN",
            help="from what the model returns and the target to a scalar (by model and targets)",
        ),
        argument(
            "--output",
            type=index_or_key,
            metavar="KEY",
            help="index or key of the prediction, of a model that returns several tensors",
        ),
        number("--seed", "N", "equal seeds give equal results (0)"),
        NO_PROGRESS,
        OUT,
    ]


def model_of(text: Expression, scope: Scope) -> Any:
    """Evaluate the expression of a model.

    Raises:
        UsageError: The result is not a `torch.nn.Module`.
    """
    from torch import nn

    model = scope.evaluate(text)
    if not isinstance(model, nn.Module):
        raise UsageError(f"MODEL must be a torch.nn.Module, but {text} is {with_article(type(model).__name__)}.")
    return model


def named_models(texts: Sequence[Expression | FileName], scope: Scope, *, or_files: bool = False) -> dict[str, Any]:
    """Evaluate expressions of models and label each model by its expression; equal labels get a number.

    Args:
        texts: The expressions.
        scope: Where they are evaluated.
        or_files: Whether names of files may stand for models. They are labelled by their names.

    Raises:
        UsageError: There is no model, or a value is not a model.
    """
    from torch import nn

    found: dict[str, Any] = {}
    for text in texts:
        value = str(text) if isinstance(text, FileName) else scope.evaluate(text)
        for typed, model in _labelled(text, value):
            label = typed
            if or_files and isinstance(model, (str, os.PathLike)):
                label = Path(model).name
            elif not isinstance(model, nn.Module):
                kind = with_article(type(model).__name__)
                files = " Names of files end in .onnx or .nbz." if or_files else ""
                raise UsageError(f"MODEL must be a torch.nn.Module, but {label} is {kind}.{files}")
            key, count = label, 2
            while key in found:
                key, count = f"{label} ({count})", count + 1
            found[key] = model
    if not found:
        raise UsageError("there is no model in an empty list.")
    return found


def _labelled(text: str, value: Any) -> list[tuple[str, Any]]:
    """Return pairs of label and model: for a list display the text of each part, for other lists the position."""
    if isinstance(value, dict):
        return [(str(key), model) for key, model in value.items()]
    if not isinstance(value, (list, tuple)):
        return [(str(text), value)]
    node = ast.parse(text, mode="eval").body
    if isinstance(node, (ast.List, ast.Tuple)) and len(node.elts) == len(value):
        return [(ast.unparse(part), model) for part, model in zip(node.elts, value, strict=True)]
    return [(f"{text}[{index}]", model) for index, model in enumerate(value)]


def keywords_of(arguments: argparse.Namespace, passed: Sequence[str], scope: Scope) -> dict[str, Any]:
    """Return the options among `passed` that are given, with every expression evaluated.

    Raises:
        UsageError: An expression cannot be evaluated.
    """
    keywords = as_keywords(arguments, passed)
    try:
        return scope.values(keywords)
    except UsageError as err:
        # A name that is no variable may be a fixed word that is misspelt.
        for key, words in (("optimizer", OPTIMIZERS), ("scale", SCALES)):
            if keywords.get(key) in str(err).split("'"):
                hint = did_you_mean(keywords[key], words)
                raise UsageError(f"{err}{hint} Fixed words: {', '.join(words)}.") from None
        raise


def check_training(keywords: Mapping[str, Any]) -> None:
    """Refuse options of a training that does not take place.

    Raises:
        UsageError: There is one.
    """
    unused = [key for key in OF_TRAINING if key in keywords]
    if unused and not keywords.get("finetune"):
        what = "the learning rate" if unused[0] == "lr" else "an option"
        name = unused[0].replace("_", "-")
        raise UsageError(f"--{name} is {what} of --finetune EPOCHS, and has no effect without it.")


# Magics of one model --------------------------------------------------------------------------------------------------


def compressor(
    name: str, summary: str, examples: str, options: Sequence[Argument], also_passes: Sequence[str] = ()
) -> LineMagic:
    """Return the magic of a function that compresses one model.

    Args:
        name: The name of the function in `nbcompress`, and of the magic.
        summary: What the magic does, for its help.
        examples: Lines for its help.
        options: The options that only this function has.
        also_passes: Options for the card that this function takes, too.
    """
    passed = [*(option.keyword for option in options), *COMMON, *also_passes]

    def call(arguments: argparse.Namespace, scope: Scope) -> MagicResult:
        model = model_of(arguments.model, scope)
        keywords = keywords_of(arguments, passed, scope)
        check_training(keywords)
        if scope.in_trial:
            return MagicResult(public(name)(model, **keywords))
        card = CardInputs.of(arguments, scope, keywords, is_trained=bool(keywords.get("finetune")))
        before = card.scores_before({"before": model})
        small = public(name)(model, **keywords)
        return MagicResult(small, card.or_error(lambda: before_and_after(card, before, model, small)))

    return LineMagic(name, summary, examples, (MODEL, *options, *common_options()), call)


def _bits(text: str) -> float | str:
    return text if text == "auto" else number_or_expression(text)


SCHEDULE_WORDS = ("one-shot", "gradual")


def _schedule(text: str) -> str:
    return text if text in SCHEDULE_WORDS else expression(text)


def _size(text: str) -> str:
    """Accept a size such as 60kB, or an expression for one."""
    return text if text[:1].isdigit() or text[:1] == "." else expression(text)


# The words of the options are those of the functions; a test compares them. They are repeated here since importing the
# functions loads torch, which help and Tab completion do not need.
REST = one_of("--rest", ("float16", "float32"), "biases, norms and other layers: {words} (float16)")

GRANULARITY = argument(
    "--granularity",
    # Groups of any size are allowed.
    type=Suggests(str, ("channel", "tensor", "group:16", "group:32", "group:64", "group:128")),
    metavar="G",
    help="a scale per channel, tensor, or group:N of weights (channel)",
)

PRUNE = compressor(
    "prune",
    "Remove the share A of the weights, or of whole neurons, channels and layers, physically. Returns a new model. "
    "(Not %prun, which profiles a statement.)",
    """\
  small = %prune model --amount 0.8
  small = %prune model --amount 0.9 --data train --finetune 5 --evaluate accuracy
  small = %prune model --amount 0.8 --criterion hessian --data train
  small = %prune model --amount 0.5 --granularity channel --example images[:1]
  small = %prune model --amount 0.25 --granularity layer --data train --finetune 3""",
    [
        number("--amount", "A", "share to remove, 0 to 1; or --threshold"),
        number("--threshold", "T", "remove weights of smaller magnitude"),
        one_of("--granularity", ("weight", "2:4", "channel", "layer"), "{words} (weight)"),
        one_of("--criterion", CRITERIA, "{words} (magnitude); all but magnitude and random need --data"),
        one_of("--scope", ("global", "layer", "lamp"), "{words} (global; channels: layer)"),
        argument(
            "--schedule",
            type=Suggests(_schedule, SCHEDULE_WORDS),
            metavar="S",
            help="one-shot, gradual, or an expression: a list of shares, or a function of the step (one-shot)",
        ),
        one_of(
            "--norms",
            ("keep", "cut"),
            "{words} (keep); cut: channels that a layer norm averages over go too, and it averages over those left",
        ),
    ],
    also_passes=["example"],
)

QUANTIZE = compressor(
    "quantize",
    "Store every weight in 1 to 8 bits. Returns a new model, whose values are those of the file. With --finetune "
    "it is trained on in the same bits (quantization-aware).",
    """\
  small = %quantize model --bits 8
  small = %quantize model --bits 4 --granularity group:32
  small = %quantize model --bits auto --budget 60kB --data train
  small = %quantize model --bits 2 --data train --finetune 5 --evaluate accuracy""",
    [
        argument(
            "--bits",
            type=Suggests(_bits, ["auto"]),
            metavar="B",
            help="bits per weight, 1 to 8, or auto with --budget (8)",
        ),
        argument(
            "--budget", type=_size, metavar="SIZE", help="length of the file for --bits auto, such as 60kB or 1.5MB"
        ),
        one_of("--scheme", ("symmetric", "affine"), "{words} (symmetric)"),
        GRANULARITY,
        argument(
            "--scale",
            type=Suggests(lambda text: text if text in SCALES else number_or_expression(text), SCALES),
            metavar="S",
            help=f"step of the grid: {', '.join(SCALES)}, or a factor Q for round(w * Q) / Q (error)",
        ),
        one_of("--rounding", ("nearest", "gptq"), "{words} (nearest); gptq: by the inputs of each layer on --data"),
        number("--share", "A", "share of the weights on the grid; the largest stay in half precision (1)"),
        one_of("--activations", ("none", "dynamic", "static"), "8-bit inputs in an exported model: {words} (none)"),
        REST,
    ],
)

CLUSTER = compressor(
    "cluster",
    "Let the weights of a layer share K values (k-means), which --finetune trains on. Zeros of a pruned model stay "
    "zeros. Returns a new model.",
    """\
  small = %cluster model --clusters 16
  small = %cluster pruned --clusters 8 --data train --finetune 5 --evaluate accuracy""",
    [
        number("--clusters", "K", "values a layer may hold (16)"),
        one_of("--codebook", ("layer", "model"), "{words} (layer); model: the same values for all layers"),
        REST,
    ],
)

FACTORIZE = compressor(
    "factorize",
    "Replace linear and convolution layers by two of a lower rank where that saves bytes. Returns a new model.",
    """\
  small = %factorize model --rank 0.25
  small = %factorize model --rank 0.5 --layers fc* --data train --finetune 5 --evaluate accuracy""",
    [
        number("--rank", "R", "share of the full rank that is kept (0.25)"),
        number("--energy", "E", "or the share of squared weights that is kept"),
    ],
)


# Distillation ---------------------------------------------------------------------------------------------------------

_DISTILL_OPTIONS = [
    number("--epochs", "N", "passes over the data (10)"),
    number("--temperature", "T", "softens the outputs (4)"),
    number("--alpha", "A", "weight of the teacher, 0 to 1 (0.9)"),
    one_of("--targets", ("soft", "hard"), "{words} (soft); hard: the class that the teacher predicts, as the label"),
    argument(
        "--through",
        action="append",
        type=expression,
        metavar="ASSISTANT",
        help="a model between teacher and student, a copy of which is trained first; repeatable",
    ),
    argument(
        "--match",
        action="append",
        type=verbatim,
        metavar="LAYER:LAYER",
        help="also learn features, teacher:student; repeatable",
    ),
]


def _distill(arguments: argparse.Namespace, scope: Scope) -> MagicResult:
    from torch import nn

    from nbcompress.compressors import distill

    teachers, student = named_models([arguments.teacher], scope), model_of(arguments.student, scope)
    teacher = list(teachers.values())
    if arguments.data is None:
        raise UsageError("--data is needed: a DataLoader, a data set, or a pair of tensors.")
    passed = [*(option.keyword for option in _DISTILL_OPTIONS), *COMMON]
    keywords = keywords_of(arguments, passed, scope)
    if arguments.through:
        keywords["through"] = list(named_models(arguments.through, scope).values())
    if scope.in_trial:
        return MagicResult(distill(teacher, student, **keywords))
    card = CardInputs.of(arguments, scope, keywords, is_trained=True)
    before = card.scores_before(teachers)
    result = distill(teacher, student, control=arguments.control, **keywords)
    if isinstance(result, nn.Module):
        trained = result
        models = {**teachers, "distilled": trained}
    else:
        trained = result.student
        models = {**teachers, "distilled": trained, "without teacher": result.control}
    return MagicResult(trained, card.or_error(lambda: side_by_side(card, before, models, models.keys() - teachers)))


DISTILL = LineMagic(
    "distill",
    "Train a copy of STUDENT on what TEACHER says: alpha * soft loss, for classes T^2 * KL(softened outputs), + "
    "(1 - alpha) * loss on the labels. Returns the trained copy.",
    """\
  small = %distill model student --data train --epochs 10 --evaluate accuracy
  small = %distill model student --data train --temperature 2 --alpha 0.5 --control --evaluate accuracy
  small = %distill model student --data images --targets hard
  small = %distill [first, second] student --through assistant --data train""",
    (
        argument(
            "teacher",
            type=expression,
            metavar="TEACHER",
            help="an expression: the model to learn from, or a list of several",
        ),
        argument("student", type=expression, metavar="STUDENT", help="an expression: the model to train a copy of"),
        *_DISTILL_OPTIONS,
        argument(
            "--control",
            action="store_true",
            help="also train the same student without the teacher, for comparison",
        ),
        *common_options(
            layers=LAYERS.with_help("train only these layers of the student, the others stay as they are; repeatable"),
            finetune="epochs on the labels alone afterwards (0)",
            lr="learning rate of all training (0.001)",
            example="an input of the models, for the latency on the card",
        ),
    ),
    _distill,
)
