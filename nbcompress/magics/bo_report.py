"""`%bo_report`: one self-contained page from a study."""

from __future__ import annotations

import argparse
from html import escape
from pathlib import Path

from IPython.core.error import UsageError

from nbcompress.magics.arguments import MagicParser
from nbcompress.magics.base import LineMagic, Shown
from nbcompress.magics.bo_study import add_storage, known_of, stored
from nbcompress.magics.scope import Scope

EXAMPLES = """\
  %bo_report digits --html report.html"""


def _parser() -> MagicParser:
    parser = MagicParser("%bo_report", "Write one self-contained page about a study; it opens offline.", EXAMPLES)
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="a study (the one begun last)")
    add("--html", required=True, metavar="FILE", help="the file to write")
    add_storage(parser)
    return parser


def _call(arguments: argparse.Namespace, scope: Scope) -> Shown:
    from nbcompress.panels import study_page
    from nbcompress.study import list_studies

    study_name = arguments.name
    if study_name is None:
        studies = list_studies(arguments.storage)
        if not studies:
            raise UsageError("no study is stored here yet.")
        study_name = max(studies, key=lambda one: one.created).name
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


BO_REPORT = LineMagic("bo_report", _parser, _call)
