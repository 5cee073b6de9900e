"""`compress`: the search that `%compress` writes as a cell, run from Python."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from nbcompress.artifact import size_bytes
from nbcompress.cell.body import CellBody, CellSource
from nbcompress.cell.compress_cell import CompressCell, compress_cell
from nbcompress.cell.compress_steps import ACCURACY, KEPT, KILOBYTES, MILLISECONDS, CellNames
from nbcompress.cell.evaluator import CellEvaluator
from nbcompress.compressors.modes import with_progress
from nbcompress.errors import SearchError, did_you_mean, option
from nbcompress.measure import accuracy, latency_ms
from nbcompress.run.api import finished_study
from nbcompress.run.options import OPTION_NAMES, SearchOptions
from nbcompress.run.setup import StudyLocation, prepare_search
from nbcompress.study.goal import Goal

if TYPE_CHECKING:
    from torch import nn

    from nbcompress.study import Study

Tried = Literal["blocks", "channels", "rank", "weights", "bits", "codebooks", "training"]
# The options of a search that `compress` decides itself. No trial of it measures a standard deviation.
_OWN = frozenset({"start", "baseline", "keep", "noise"})


def compress(
    model: nn.Module,
    data: Any = None,
    evaluate: Any = None,
    *,
    budget: Any,
    trials: int = 30,
    keep_accuracy: float | None = None,
    example: Any = None,
    tries: Tried | Iterable[Tried] | None = None,
    study: str | None = None,
    progress: bool = True,
    **options: Any,
) -> Study:
    """Search the best compression of a model within a budget, and return the study.

    What the model consists of decides what is tried: blocks, channels, the rank of layers, weights, bits, codebooks,
    and training after each of them. The first trials are uniform settings that meet the budget. It is the search of the
    cell that `%compress` writes; write that cell to change anything about it.

    Args:
        model: A trained model. It does not change.
        data: What the compressed models are trained on: a loader, a data set or a pair of tensors. None leaves training
            out.
        evaluate: A function from a model to a number, more is better. None takes the accuracy on `data`. Let it read
            data that the training does not.
        budget: `"60kB"` for the file, `"5ms"` for one call, a number of bytes, or a list with one of each kind.
        trials: The number of trials.
        keep_accuracy: How much less than the original's number is allowed; None allows any.
        example: An input of the model, for milliseconds; None takes one of `data`.
        tries: Some of `blocks`, `channels`, `rank`, `weights`, `bits`, `codebooks` and `training`; None chooses those
            that make this model cheaper in what the budget limits.
        study: The name of a stored study. Without a name and a storage nothing is stored.
        progress: Whether a bar shows how far the first trials are found, from two seconds on.
        options: All other options of `nc.search`, such as `storage`, `timeout` or `engine`.

    Returns:
        The study. The best model is `study.kept["small"]`, its metrics are `accuracy`, `kilobytes` and, with a budget
        in milliseconds, `milliseconds`. If no trial met the budget, `study.best` is None.

    Raises:
        CompressionError: The model cannot be compressed, or no setting that is tried meets the budget.
        SearchError, DataError, MeasureError: An argument cannot be used.
        SearchFailed: The first three trials failed with the same error.

    Example:
        >>> import nbcompress as nc
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> x = torch.randn(40, 32)
        >>> study = nc.compress(model, (x, (x[:, 0] > 0).long()), budget="1kB", trials=3, tries=["weights", "bits"])
        >>> study.best.values["kilobytes"] <= 1
        True
    """
    unknown = [name for name in options if name not in OPTION_NAMES or name in _OWN]
    if unknown:
        known = [name for name in OPTION_NAMES if name not in _OWN]
        raise SearchError(
            f"nc.compress takes the options of nc.search but {', '.join(sorted(_OWN))} and the objectives, and got "
            f"{option(unknown[0])}.{did_you_mean(unknown[0], known)}"
        )
    # Made before the cell is written, which takes long: a wrong option is refused at once.
    asked = SearchOptions(trials=trials, study=study, keep=(KEPT,), **options)
    given = {"model": model, "data": data, "evaluate": evaluate, "example": example}
    namespace = {name: value for name, value in given.items() if value is not None}
    with with_progress(progress):
        cell = compress_cell(
            model,
            budget,
            names=CellNames(
                "model", *(name if name in namespace else None for name in ("evaluate", "data", "example"))
            ),
            data=data,
            example=example,
            tries=[tries] if isinstance(tries, str) else tries,
            trials=trials,
            keep_accuracy=keep_accuracy,
        )
        baseline = {ACCURACY: float(accuracy(model, data)) if evaluate is None else evaluate(model)}
        if cell.limits.milliseconds is not None:
            baseline[MILLISECONDS] = latency_ms(model, cell.example)
        baseline[KILOBYTES] = size_bytes(model) / 1000
    return _run(cell, namespace, replace(asked, start=tuple(map(dict, cell.start)), baseline=baseline))


def _run(cell: CompressCell, namespace: dict[str, Any], options: SearchOptions) -> Study:
    """Run the search of a written cell whose names have these values."""
    goal = Goal.of([ACCURACY], [], cell.constraints, options.baseline)
    body = CellBody(CellSource(cell.body, goal, filename="<nc.compress>"))
    space = body.space(ast.literal_eval)
    prepared = prepare_search(
        options,
        CellEvaluator(body, space, namespace, options.keep),
        space,
        goal,
        StudyLocation.of_call(options, f"compress-{body.digest[:8]}"),
        digest=body.digest,
        modules=lambda: {"model": namespace["model"]},
        facts={"cell": cell.text},
    )
    return finished_study(prepared, prepared.run())
