"""The saved output of a study as one mime bundle, which every viewer of notebooks can show.

The bundle holds data for our own viewer, HTML without style sheets, scripts and SVG, LaTeX, a picture, and plain text.
`first_bundle` returns what is known without drawing: importing the plotting libraries and drawing take seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nbcompress.panels.document import StudyPictures, overview_alt, study_html, study_text
from nbcompress.panels.latex import study_latex
from nbcompress.panels.surrogate_data import NO_INSIGHT, SurrogateInsight
from nbcompress.panels.text import SAVED_LIMITS, ViewLimits
from nbcompress.panels.view import MIME, SearchStatus, StudyLike, study_view

MAX_BYTES = 300_000


def first_bundle(study: StudyLike, baseline: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return data and text of a study, without pictures, to show until `study_bundle` is ready."""
    data = study_view(study, baseline=baseline, limits=SAVED_LIMITS[0])
    return {MIME: data, "text/plain": study_text(data)}


def study_bundle(
    study: StudyLike,
    *,
    insight: SurrogateInsight = NO_INSIGHT,
    baseline: Mapping[str, float] | None = None,
    warnings: Iterable[str] = (),
    status: SearchStatus | None = None,
) -> dict[str, Any]:
    """Return the finished output of a study.

    Texts are shortened, and then trials left out, until the bundle is smaller than 300 kB.

    Args:
        study: The study.
        insight: What its surrogate predicts.
        baseline: Metrics of the original model, by name.
        warnings: One line each.
        status: How the search went; by default what the study has stored.
    """
    lines = tuple(warnings)

    def view(limits: ViewLimits) -> dict[str, Any]:
        return study_view(study, insight=insight, baseline=baseline, warnings=lines, status=status, limits=limits)

    return bundle_within_limit(view)


def bundle_within_limit(view: Callable[[ViewLimits], dict[str, Any]]) -> dict[str, Any]:
    """Return the bundle with the widest limits that keep it below `MAX_BYTES`, else the one with the tightest."""
    # Imports the plotting libraries, which `first_bundle` does not need.
    from nbcompress.panels.figures import draw_pictures

    data = view(SAVED_LIMITS[0])
    pictures = draw_pictures(data)
    for limits in SAVED_LIMITS:
        data = view(limits)
        bundle = mime_bundle(data, pictures)
        if encoded_size(bundle) <= MAX_BYTES:
            break
    return bundle


def mime_bundle(data: Mapping[str, Any], pictures: StudyPictures) -> dict[str, Any]:
    """Return a view in every form."""
    picture = pictures.summary or pictures.overview
    png = picture.png if picture else None
    return {
        MIME: data,
        "text/html": str(study_html(data, pictures, overview_alt(data))),
        "text/latex": study_latex(data),
        **({"image/png": png} if png else {}),
        "text/plain": study_text(data),
    }


def encoded_size(bundle: Mapping[str, Any]) -> int:
    """Return the bytes that a bundle adds to a notebook file, where letters outside ASCII are escaped."""
    return len(json.dumps(bundle))
