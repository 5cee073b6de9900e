"""A study as one HTML page that opens offline.

The page holds the interactive view, and the plain HTML for printing and for readers without scripts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from nbcompress.panels.document import overview_alt, study_html
from nbcompress.panels.html import Markup, tag
from nbcompress.panels.surrogate_data import NO_INSIGHT, SurrogateInsight
from nbcompress.panels.text import LIVE_LIMITS
from nbcompress.panels.view import SearchStatus, StudyLike, study_view


@cache
def asset(name: str) -> str | None:
    """Return a built script, or None if the package was installed without its front end."""
    path = files("nbcompress.panels").joinpath(f"static/{name}")
    return path.read_text(encoding="utf-8") if path.is_file() else None


PAGE_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:14px/1.5 system-ui,sans-serif;max-width:1280px;margin:16px auto;padding:0 12px;"
    "background:Canvas;color:CanvasText}"
    # On paper everything is unfolded and nothing is cut off at the right.
    "@media print{#nbcompress-view{display:none}#nbcompress-plain[hidden]{display:block}"
    "details::details-content{content-visibility:visible;display:block;height:auto}"
    "#nbcompress-plain div{overflow:visible!important;max-width:none!important}"
    "table{width:100%;font-size:9px}th,td{padding:2px;overflow-wrap:anywhere}tr,img{break-inside:avoid}}"
)


def study_page(
    study: StudyLike,
    *,
    insight: SurrogateInsight = NO_INSIGHT,
    baseline: Mapping[str, float] | None = None,
    warnings: Iterable[str] = (),
    status: SearchStatus | None = None,
) -> str:
    """Return one self-contained HTML page; arguments as in `study_view`."""
    # Imports the plotting libraries, which a live panel does not need.
    from nbcompress.panels.figures import draw_pictures

    view = study_view(study, insight=insight, baseline=baseline, warnings=warnings, status=status, limits=LIVE_LIMITS)
    plain = study_html(view, draw_pictures(view), overview_alt(view), level=1)
    script = asset("panel.js")
    return (
        "<!doctype html>\n"
        + tag(
            "html",
            tag(
                "head",
                Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'),
                tag("title", f"Study {view['name']}"),
                tag("style", Markup(PAGE_STYLE)),
            ),
            tag(
                "body",
                tag("main", tag("div", id="nbcompress-view"), tag("div", plain, id="nbcompress-plain")),
                tag("script", Markup(script_json(view)), type="application/json", id="nbcompress-study"),
                tag("script", Markup(script_safe(script)), type="module") if script else None,
            ),
            lang="en",
        )
        + "\n"
    )


def script_json(data: Mapping[str, Any]) -> str:
    """Return JSON in which `<`, `>` and `&` are escaped, so that an HTML parser finds no markup in it."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_safe(script: str) -> str:
    """Return our own script with escapes, so that it cannot end its element early."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
