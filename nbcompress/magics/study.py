"""`%bo_study`: list, show, follow or delete stored studies. `%bo_report`: write a page about a study."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from nbcompress.errors import GoalError, StudyError
from nbcompress.magics.arguments import OUT, argument
from nbcompress.magics.base import Bundle, LineMagic, MagicResult, Output, Scope
from nbcompress.magics.search_cell import notebook_modules
from nbcompress.study.storage import DEFAULT_STORAGE

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.study import Study, StudySummary
    from nbcompress.study.reading import ForeignStudy


STORAGE = argument(
    "--storage", default=DEFAULT_STORAGE, metavar="PATH or URL", help=f"where studies are ({DEFAULT_STORAGE})"
)


def stored_study(name: str, storage: str, scope: Scope) -> Study:
    """Open a stored study for reading, with its kept values.

    Raises:
        StudyError: There is no such study. The message names the study with the nearest name.
    """
    from nbcompress.run.kept import attach_artifact_store
    from nbcompress.study import read_study
    from nbcompress.study.registration import register_study

    study = read_study(name, storage)
    register_study(study.storage, study.name)
    attach_artifact_store(study, lambda: notebook_modules(scope.namespace))
    return study


def any_stored_study(name: str, storage: str, scope: Scope) -> Study | ForeignStudy:
    """Open a stored study for reading, of ours or of any other program that uses Optuna.

    Raises:
        StudyError: There is no such study. The message names the study with the nearest name.
    """
    from nbcompress.study.reading import read_foreign_study

    try:
        return stored_study(name, storage, scope)
    except StudyError:
        foreign = read_foreign_study(name, storage)
        if foreign is None:
            raise
        return foreign


def view_options(study: Study) -> dict[str, Any]:
    """Return what a view of a stored study shows beside its trials: the baseline, and predictions of its surrogate."""
    from nbcompress.panels.surrogate_data import SurrogateInsight, insight_of
    from nbcompress.run.history import HistoryCache

    baseline = study.record.get("baseline")
    try:
        proposer, noise = proposer_of(study), noise_of(study)
    except GoalError as error:  # an object of an earlier session, which was not stored
        return {"baseline": baseline, "insight": SurrogateInsight(warning=str(error))}
    return {"baseline": baseline, "insight": insight_of(proposer, study, histories=HistoryCache(noise))}


def noise_of(study: Study) -> dict[str, str]:
    """Return by metric the name of the metric that holds its standard deviation, as the study records it."""
    from nbcompress.run.options import noise_names

    return noise_names(study.record.get("search", {}).get("noise", ()), study.goal)


def study_view(study: Study) -> Bundle:
    """Return the finished output of a study, as a saved notebook holds it."""
    from nbcompress.panels.bundle import study_bundle

    return study_bundle(study, **view_options(study))


def proposer_of(study: Study) -> Proposer | None:
    """Return the proposer that searched a study, or None if the study does not record it.

    Raises:
        GoalError: The surrogate or the acquisition was an object of an earlier session, which was not stored.
    """
    from nbcompress.optimize.surrogates.protocol import from_record
    from nbcompress.run.options import PROPOSER_OPTIONS, SearchOptions
    from nbcompress.run.setup import proposer_of as proposer_of_search

    record = study.record.get("search", {})
    optional = ("surrogate", "sensitivity")
    if any(key not in record for key in PROPOSER_OPTIONS if key not in optional):
        return None
    chosen = {key: from_record(record[key]) for key in PROPOSER_OPTIONS if key in record and key != "sensitivity"}
    chosen["sensitivity"] = record.get("sensitivity")
    return proposer_of_search(SearchOptions(**chosen), study.space, study.goal)


def _as_bundle(text: str) -> Bundle:
    return {"text/plain": text, "text/html": f"<p>{escape(text)}</p>"}


# %bo_study ------------------------------------------------------------------------------------------------------------


def _study(arguments: argparse.Namespace, scope: Scope) -> MagicResult:
    from nbcompress.panels.bundle import study_bundle
    from nbcompress.study import delete_study, list_studies
    from nbcompress.study.reading import ForeignStudy, foreign_studies, storage_of

    storage = storage_of(arguments.storage)
    if arguments.delete:
        if arguments.name is None:
            raise UsageError("--delete needs the name of a study.")
        delete_study(arguments.name, storage)
        return MagicResult(None, _as_bundle(f"Deleted the study {arguments.name!r}."))
    if arguments.name is None:
        rows = _rows(list_studies(storage), foreign_studies(storage))
        return MagicResult(None, _table(rows))
    study = any_stored_study(arguments.name, storage, scope)
    if isinstance(study, ForeignStudy):
        return MagicResult(study, study_bundle(study))
    output = Output(scope.shell)
    if output.best_kind != "live" or not output.can_replace or scope.in_trial:
        return MagicResult(study, study_view(study))
    _show_live(study, output)
    return MagicResult(study)


def _show_live(study: Study, output: Output) -> None:
    """Show a study in an output that can change: follow it while it is searched, else show the whole view."""
    from nbcompress.panels.bundle import first_bundle
    from nbcompress.panels.following import follow

    baseline = study.record.get("baseline")
    if follow(study, output, baseline, lambda: proposer_of(study)) is None:
        # The whole view takes seconds: it loads the plotting libraries and fits the surrogate. The data come first.
        output.show(first_bundle(study, baseline))
        output.show(study_view(study))


def _rows(ours: tuple[StudySummary, ...], theirs: Mapping[str, ForeignStudy]) -> list[tuple[str, str, str, str]]:
    """Return a row for each study: ours in the order in which they began, then those of other programs."""
    from nbcompress.panels.view import count_trials

    def counts_text(counts: Mapping[Any, int]) -> str:
        return ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"

    return [
        *((each.name, counts_text(each.counts), str(each.goal), f"{each.created:%Y-%m-%d %H:%M}") for each in ours),
        *(
            (each.name, counts_text(count_trials(each.all_trials)), str(each.goal), "by another program")
            for each in theirs.values()
        ),
    ]


def _table(studies: Sequence[tuple[str, str, str, str]]) -> Bundle:
    if not studies:
        return _as_bundle("No study is stored here yet.")
    rows = [("study", "trials", "goal", "begun"), *studies]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    cells = ["".join(f"<td style='text-align:left'>{escape(text)}</td>" for text in row) for row in rows]
    cells[0] = cells[0].replace("<td", "<th").replace("</td>", "</th>")
    html = "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
    return {"text/plain": "\n".join(lines), "text/html": html}


BO_STUDY = LineMagic(
    "bo_study",
    "List the stored studies, show one and return it, or delete one. A study that is being searched is followed.",
    """\
  %bo_study
  %bo_study digits
  %bo_study digits --delete""",
    (
        argument("name", nargs="?", metavar="NAME", help="a study; without it all are listed"),
        STORAGE,
        argument("--delete", action="store_true", help="delete the study and what it kept; this cannot be undone"),
        OUT.with_help("a variable that receives the Study, too"),
    ),
    _study,
)


# %bo_report -----------------------------------------------------------------------------------------------------------


def _report(arguments: argparse.Namespace, scope: Scope) -> MagicResult:
    from nbcompress.panels.page import study_page
    from nbcompress.study import list_studies
    from nbcompress.study.reading import ForeignStudy, storage_of

    storage, study_name = storage_of(arguments.storage), arguments.name
    if study_name is None:
        studies = list_studies(storage)
        if not studies:
            raise UsageError("no study is stored here yet.")
        study_name = max(studies, key=lambda study: study.created).name
    study = any_stored_study(study_name, storage, scope)
    path = Path(arguments.html)
    if not path.parent.is_dir():
        raise UsageError(f"--html: there is no folder {str(path.parent)!r}.")
    page = study_page(study, **({} if isinstance(study, ForeignStudy) else view_options(study)))
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as err:
        raise UsageError(f"--html: {str(path)!r} cannot be written: {err.strerror}.") from err
    return MagicResult(
        None, _as_bundle(f"Wrote {path} ({path.stat().st_size / 1000:.0f} kB) from the study {study.name!r}.")
    )


BO_REPORT = LineMagic(
    "bo_report",
    "Write one self-contained page about a study; it opens offline.",
    "  %bo_report digits --html report.html",
    (
        argument("name", nargs="?", metavar="NAME", help="a study (the newest)"),
        argument("--html", required=True, metavar="FILE", help="the file to write"),
        STORAGE,
    ),
    _report,
)
