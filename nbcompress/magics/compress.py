"""`%compress`: write the search cell that makes a model fit a budget, or run it."""

from __future__ import annotations

import argparse
from html import escape
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from nbcompress.choices import TRIES
from nbcompress.magics.arguments import MODEL, NO_PROGRESS, OUT, OneOf, WholeNumber, argument, expression
from nbcompress.magics.base import Bundle, LineMagic, MagicResult, Output, Scope

if TYPE_CHECKING:
    from nbcompress.cell.compress_cell import CompressCell


def _compress(arguments: argparse.Namespace, scope: Scope) -> MagicResult:
    from nbcompress.cell.compress_cell import CellNames, compress_cell

    if scope.in_trial:
        raise UsageError("it writes a search, and a search cannot run inside a trial of another one.")
    if not arguments.budget:
        raise UsageError("--budget says what the model may cost: --budget 60kB or --budget 5ms.")
    names = CellNames(arguments.model, arguments.evaluate, arguments.data, arguments.example)
    if arguments.evaluate is not None:
        scope.value(arguments.evaluate)  # a name that is missing is an error before anything takes long
    cell = compress_cell(
        scope.value(arguments.model),
        arguments.budget,
        names=names,
        data=scope.value(arguments.data),
        example=scope.value(arguments.example),
        tries=arguments.tries or None,
        trials=arguments.trials,
        keep_accuracy=arguments.keep_accuracy,
        study=arguments.study,
        namespace=scope.namespace,
    )
    return _run(cell, scope) if arguments.run else _written(cell, scope)


def _written(cell: CompressCell, scope: Scope) -> MagicResult:
    """Insert the cell below; show it where no cell can be inserted."""
    output, text = Output(scope.shell), cell.text.rstrip("\n")
    if output.best_kind == "live" and output.can_replace and not output.ends_with_last_cell:
        scope.shell.set_next_input(text)
        return MagicResult(None, _as_bundle("The search cell is below: change what you like, and run it.", cell))
    print(text)
    return MagicResult(None)


def _as_bundle(text: str, cell: CompressCell) -> Bundle:
    lines = [text, *(f"not tried: {name}, since {why}" for name, why in cell.left_out.items())]
    html = "".join(f"<div>{escape(line)}</div>" for line in lines)
    return {"text/plain": "\n".join(lines), "text/html": html}


def _run(cell: CompressCell, scope: Scope) -> MagicResult:
    """Run the cell, and return the best model that it keeps."""
    from nbcompress.cell.compress_cell import KEPT
    from nbcompress.magics.search_cell import run_cell

    print(cell.text.rstrip("\n"))
    study = run_cell(" ".join(cell.options), cell.body, scope.shell)
    if study is None:
        raise UsageError("the search was interrupted before its first trial, so there is no model.")
    if study.best is None:
        raise UsageError("no trial met the budget yet; the variable study has the trials.")
    return MagicResult(study.kept[KEPT])


COMPRESS = LineMagic(
    "compress",
    "Write the search cell that makes a model fit a budget. What the model consists of decides what is tried, and the "
    "first trials are uniform settings that meet the budget. The best model is study.kept['small'].",
    """\
  %compress model --data train --evaluate evaluate --budget 60kB
  %compress model --data train --evaluate evaluate --budget 60kB --budget 5ms --keep-accuracy 0.01
  small = %compress model --data train --evaluate evaluate --budget 60kB --run""",
    (
        MODEL,
        argument(
            "--budget", action="append", metavar="60kB/5ms", help="the most bytes of the file, the most ms of a call"
        ),
        argument("--data", type=expression, metavar="D", help="an expression: what compressed models are trained on"),
        argument(
            "--evaluate", type=expression, metavar="FN", help="a function from a model to a number (its accuracy)"
        ),
        argument("--example", type=expression, metavar="X", help="an expression: an input, for ms (one of the data)"),
        argument("--trials", type=WholeNumber(1), default=30, metavar="N", help="trials of the search (30)"),
        argument("--keep-accuracy", type=float, metavar="LOSS", help="how much accuracy may be lost (any)"),
        argument("--tries", action="append", type=OneOf(TRIES), help=f"try this only: {', '.join(TRIES)}; repeatable"),
        argument("--study", metavar="NAME", help="the name of the study (made from the cell)"),
        argument("--run", action="store_true", help="run the cell at once and return the best model"),
        NO_PROGRESS,
        OUT,
    ),
    _compress,
)
