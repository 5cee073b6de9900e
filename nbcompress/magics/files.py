"""`%export` and `%compare`: files of models, measured beside the models themselves."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from nbcompress.magics.arguments import (
    MODEL,
    NO_PROGRESS,
    OUT,
    Argument,
    argument,
    as_keywords,
    expression,
    expression_or_file,
    index_or_key,
    number,
    one_of,
)
from nbcompress.magics.base import LineMagic, MagicResult, Scope
from nbcompress.magics.compressors import model_of, named_models
from nbcompress.magics.result_card import CARD_SECONDS, CardInputs, many_models

if TYPE_CHECKING:
    from nbcompress.artifact.export import ExportedFile
    from nbcompress.measure import Comparison
    from nbcompress.panels.cards import FunctionScores

_MEASURED: tuple[Argument, ...] = (
    argument(
        "--data", type=expression, metavar="D", help="data with labels, for accuracy; its first batch is an example"
    ),
    argument("--example", type=expression, metavar="X", help="an input of the models"),
    argument("--evaluate", type=expression, metavar="FN", help="a function from model to a number, for the card"),
    number("--threads", "N", "threads while latency is measured (1)"),
    argument("--loss", type=expression, metavar="FN", help="the loss that the models were trained with"),
    argument("--output", type=index_or_key, metavar="KEY", help="index or key of the prediction among several tensors"),
    NO_PROGRESS,
    OUT,
)
# These go to the functions that measure.
_KEYWORDS = ("example", "data", "threads", "loss", "output")


def _compared(
    names: tuple[str, str], models: tuple[Any, Any], card: CardInputs, keywords: dict[str, Any]
) -> tuple[Comparison, FunctionScores]:
    """Return the comparison of two models or files under their own names, and their scores."""
    from nbcompress.measure import as_modules, compare

    modules = as_modules(dict(zip(names, models, strict=True)), keywords.get("into"), keywords.get("threads", 1))
    scores = card.scores(modules)
    first, second = modules.values()
    found = compare(first, second, seconds=CARD_SECONDS, **keywords)
    before, after = (replace(item, name=name) for item, name in zip((found.before, found.after), names, strict=True))
    return replace(found, before=before, after=after), scores


# %compare -------------------------------------------------------------------------------------------------------------


def _compare(arguments: argparse.Namespace, scope: Scope) -> MagicResult:
    models = named_models(arguments.models, scope, or_files=True)
    if len(models) < 2:
        raise UsageError("%compare takes two models or files or more: %compare model small --data test.")
    keywords = scope.values(as_keywords(arguments, (*_KEYWORDS, "into")))
    card = CardInputs.of(arguments, scope, keywords, is_trained=False)
    if len(models) > 2:
        return MagicResult(*many_models(card, models, keywords))
    from nbcompress.panels.cards import comparison_card

    first, second = models
    comparison, scores = _compared((first, second), (models[first], models[second]), card, keywords)
    if scope.in_trial:
        return MagicResult(comparison)
    return MagicResult(comparison, comparison_card(card.title, comparison, scores=scores, names=(first, second)))


COMPARE = LineMagic(
    "compare",
    "Two or more models or files (.onnx, .nbz) side by side: size, costs of a call, latency in turn with its spread, "
    "and accuracy on the same examples. ONNX files run in ONNX Runtime.",
    """\
  %compare model small --data test
  %compare model small.onnx --data test
  %compare before.nbz after.nbz --into Net() --data test""",
    (
        argument(
            "models",
            nargs="+",
            type=expression_or_file,
            metavar="MODEL",
            help="expressions: models, or lists of models; or names of files (.onnx, .nbz)",
        ),
        argument(
            "--into",
            type=expression,
            metavar="MODEL",
            help="an instance of the class of the model in a .nbz file (the first model)",
        ),
        *_MEASURED,
    ),
    _compare,
)


# %export --------------------------------------------------------------------------------------------------------------


def _export(arguments: argparse.Namespace, scope: Scope) -> MagicResult:
    from nbcompress.artifact import export

    model = model_of(arguments.model, scope)
    keywords = scope.values(as_keywords(arguments, ("example", "data", "dynamic", "format", "tolerance")))
    measured = scope.values(as_keywords(arguments, ("threads", "loss", "output")))
    measured |= {key: keywords[key] for key in ("example", "data") if key in keywords}
    card = CardInputs.of(arguments, scope, measured, is_trained=False)
    path = export(model, arguments.path, **keywords)
    if scope.in_trial:
        return MagicResult(path)
    return MagicResult(path, card.or_error(lambda: _export_card(card, str(arguments.model), model, path, measured)))


def _export_card(
    card: CardInputs, label: str, model: Any, path: ExportedFile, keywords: dict[str, Any]
) -> dict[str, Any]:
    from nbcompress.artifact import size_bytes
    from nbcompress.measure.text import reduction_text, size_text
    from nbcompress.panels.cards import Card, comparison_card

    report = path.report
    assert report is not None  # it was just exported
    if report.format != "onnx":
        before, after = size_bytes(model), report.size_bytes
        row = ("size", size_text(before), size_text(after), reduction_text(before, after))
        notes = (f"{report.format} files are not run here: load {path.name} to measure it", *report.notes())
        return Card(card.title, ("", label, path.name, "gain"), (row,), notes).bundle()
    names = (label, path.name if path.name != label else str(Path(path)))
    comparison, scores = _compared(names, (model, path), card, keywords)
    remarks = [f"written: {size_text(report.size_bytes)} to {path}", *report.notes()]
    memory = comparison.before.memory
    if memory is not None:
        remarks.append(
            f"on a device: {size_text(report.size_bytes)} of flash for the file, and about "
            f"{size_text(memory.call_bytes)} of working memory for one call (inputs and results in float32, in torch)"
        )
    return comparison_card(card.title, comparison, scores=scores, names=names, remarks=remarks)


def _axes(text: str) -> Any:
    """Accept an axis, or an expression of a tuple or a dict."""
    return expression(text)


EXPORT = LineMagic(
    "export",
    "Write a model for other programs (ONNX, torch.export, a state dict), checked before the file appears, and measure "
    "that file: size, latency, agreement with the model, and accuracy on --data. Returns its path.",
    """\
  %export small small.onnx --data test
  %export small small.onnx --example tokens --dynamic 1
  path = %export model model.pt2 --example images[:2]""",
    (
        MODEL,
        argument("path", type=str, metavar="FILE", help="its name; the suffix selects the format"),
        argument("--dynamic", type=_axes, metavar="AXES", help="free axes beside the first, such as 1 for sequences"),
        one_of("--format", ("onnx", "pt2", "safetensors", "pt"), "{words} (by the suffix)"),
        number("--tolerance", "T", "largest error of an output (0.001; 0.3 with integers)"),
        *_MEASURED,
    ),
    _export,
)
