"""A study as one page that opens offline: the interactive view, and the plain form for print or without scripts.

The built front end, as it lies in the package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from nbcompress.panels.bundle import pictures
from nbcompress.panels.document import study_html
from nbcompress.panels.drawing import Markup, tag
from nbcompress.panels.figures import describe
from nbcompress.panels.surrogate_data import NOTHING, Expectations
from nbcompress.panels.text import LIVE
from nbcompress.panels.view import Course, StudyLike, study_view


@cache
def asset(name: str) -> str | None:
    """Return a built script, or None where the package was installed without its front end."""
    path = files("nbcompress.panels").joinpath(f"static/{name}")
    return path.read_text(encoding="utf-8") if path.is_file() else None


STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:14px/1.5 system-ui,sans-serif;max-width:1280px;margin:16px auto;padding:0 12px;"
    "background:Canvas;color:CanvasText}"
    "@media print{#nbcompress-view{display:none}#nbcompress-plain[hidden]{display:block}}"
)


def study_page(
    study: StudyLike,
    *,
    expected: Expectations = NOTHING,
    baseline: Mapping[str, float] | None = None,
    warnings: Iterable[str] = (),
    course: Course | None = None,
) -> str:
    """Return one self-contained HTML page; arguments as in `study_view`."""
    view = study_view(
        study,
        expected=expected,
        baseline=baseline,
        warnings=warnings,
        course=course,
        limits=LIVE,
    )
    plain = study_html(view, pictures(view), describe(view))
    script = asset("page.js")
    return (
        "<!doctype html>\n"
        + tag(
            "html",
            tag(
                "head",
                Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'),
                tag("title", f"Study {view['name']}"),
                tag("style", Markup(STYLE)),
            ),
            tag(
                "body",
                tag("main", tag("div", id="nbcompress-view"), tag("div", plain, id="nbcompress-plain")),
                tag("script", Markup(script_json(view)), type="application/json", id="nbcompress-study"),
                tag("script", Markup(script_safe(script))) if script else None,
            ),
            lang="en",
        )
        + "\n"
    )


def script_json(data: Mapping[str, Any]) -> str:
    """Return JSON that no HTML parser can mistake for markup: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_safe(script: str) -> str:
    """Return our own script so that it cannot end its element early."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
