"""`%bo_report`: one self-contained page from a study.

`%bo_study`: list, show, follow or delete stored studies.
"""

from __future__ import annotations

import argparse
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from nbcompress.magics.arguments import MagicParser, name
from nbcompress.magics.base import LineMagic, Scope, Shown
from nbcompress.magics.search_cell import notebook_modules

if TYPE_CHECKING:
    from nbcompress.magics.base import Output
    from nbcompress.optimize import Proposer
    from nbcompress.study import Study, StudySummary


STUDY_EXAMPLES = """\
  %bo_study
  %bo_study digits
  %bo_study digits --delete"""


def _study_parser() -> MagicParser:
    parser = MagicParser(
        "%bo_study",
        "List the stored studies, show one and return it (one that is searched is followed), or delete one.",
        STUDY_EXAMPLES,
    )
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="a study; none lists all of them")
    add_storage(parser)
    add("--delete", action="store_true", help="delete the study and what it kept; this cannot be undone")
    add("--out", type=name, metavar="NAME", help="a variable that receives the Study, too")
    return parser


def add_storage(parser: MagicParser) -> None:
    """Add the option that says where studies are."""
    help_ = "where studies are (nbcompress.journal)"
    parser.add_argument("--storage", default="nbcompress.journal", metavar="PATH or URL", help=help_)


def stored(study_name: str, storage: str, scope: Scope) -> Study:
    """Open a stored study for reading, its kept values at hand.

    Raises:
        StudyError: There is no such study; the text names the nearest.
    """
    from nbcompress.run.kept import attach_artifact_store
    from nbcompress.study import read_study

    study = read_study(study_name, storage)
    attach_artifact_store(study, lambda: notebook_modules(scope.namespace))
    return study


def _study_call(arguments: argparse.Namespace, scope: Scope) -> Shown:
    from nbcompress.study import delete_study, list_studies

    if arguments.delete:
        if arguments.name is None:
            raise UsageError("--delete needs the name of a study.")
        delete_study(arguments.name, arguments.storage)
        text = f"Deleted the study {arguments.name!r}."
        return Shown(None, {"text/plain": text, "text/html": f"<p>{escape(text)}</p>"})
    if arguments.name is None:
        return Shown(None, _listed(list_studies(arguments.storage)))
    from nbcompress.magics.base import Output

    study = stored(arguments.name, arguments.storage, scope)
    output = Output(scope.shell)
    if output.best_kind != "live" or scope.in_trial:
        from nbcompress.panels import study_bundle

        return Shown(study, study_bundle(study, **known_of(study)))
    _show_live(study, output)
    return Shown(study)


def _show_live(study: Study, output: Output) -> None:
    """Show a study where the output can change: followed while it is searched, else the data first and then all."""
    from nbcompress.panels.bundle import study_glance
    from nbcompress.panels.following import follow

    baseline = study.record.get("baseline")
    if follow(study, output, baseline, lambda: proposer_of(study)) is None:
        # To load what draws, to ask the surrogate and to draw takes seconds, in which one can read already.
        output.show(study_glance(study, baseline))
        from nbcompress.panels import study_bundle

        output.show(study_bundle(study, **known_of(study)))


def known_of(study: Study) -> dict[str, Any]:
    """Return what a view of a stored study shows beside its trials: the baseline, and what its surrogate expects."""
    from nbcompress.panels import expectations_of

    return {"baseline": study.record.get("baseline"), "expected": expectations_of(proposer_of(study), study)}


def proposer_of(study: Study) -> Proposer | None:
    """Return what the study was searched with, or None where that is not recorded."""
    from nbcompress.optimize import proposer
    from nbcompress.run.options import PROPOSER_OPTIONS

    record = study.record
    chosen = {key: record.get("search", {}).get(key) for key in PROPOSER_OPTIONS}
    if None in chosen.values():
        return None
    n_objectives, n_constraints = len(study.goal.objectives), len(study.goal.constraints)
    return proposer(space=study.space, n_objectives=n_objectives, n_constraints=n_constraints, **chosen)


def _listed(studies: tuple[StudySummary, ...]) -> dict[str, Any]:
    if not studies:
        text = "No study is stored here yet."
        return {"text/plain": text, "text/html": f"<p>{text}</p>"}
    rows = [("study", "trials", "goal", "begun")]
    for study in studies:
        counts = ", ".join(f"{count} {state.value}" for state, count in study.counts.items())
        rows.append((study.name, counts or "none", str(study.goal), f"{study.created:%Y-%m-%d %H:%M}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    cells = ["".join(f"<td style='text-align:left'>{escape(text)}</td>" for text in row) for row in rows]
    cells[0] = cells[0].replace("<td", "<th").replace("</td>", "</th>")
    html = "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
    return {"text/plain": "\n".join(lines), "text/html": html}


BO_STUDY = LineMagic("bo_study", _study_parser, _study_call)


REPORT_EXAMPLES = """\
  %bo_report digits --html report.html"""


def _report_parser() -> MagicParser:
    parser = MagicParser(
        "%bo_report", "Write one self-contained page about a study; it opens offline.", REPORT_EXAMPLES
    )
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="a study (the one begun last)")
    add("--html", required=True, metavar="FILE", help="the file to write")
    add_storage(parser)
    return parser


def _report_call(arguments: argparse.Namespace, scope: Scope) -> Shown:
    from nbcompress.panels import study_page
    from nbcompress.study import list_studies

    study_name = arguments.name
    if study_name is None:
        studies = list_studies(arguments.storage)
        if not studies:
            raise UsageError("no study is stored here yet.")
        study_name = max(studies, key=lambda study: study.created).name
    study = stored(study_name, arguments.storage, scope)
    path = Path(arguments.html)
    if not path.parent.is_dir():
        raise UsageError(f"--html: there is no folder {str(path.parent)!r}.")
    page = study_page(study, **known_of(study))
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as err:
        raise UsageError(f"--html: {str(path)!r} cannot be written: {err.strerror}.") from err
    text = f"Wrote {path} ({path.stat().st_size / 1024:.0f} kB) from the study {study.name!r}."
    return Shown(None, {"text/plain": text, "text/html": f"<p>{escape(text)}</p>"})


BO_REPORT = LineMagic("bo_report", _report_parser, _report_call)
