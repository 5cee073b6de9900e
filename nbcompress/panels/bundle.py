"""The saved output of a search: one mime bundle that is complete wherever a notebook is shown.

Data for our viewer, HTML without style sheets, scripts or SVG for every other, a picture, and text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nbcompress.panels.document import Pictures, study_html
from nbcompress.panels.drawing import drawn
from nbcompress.panels.expected import NOTHING, Expectations
from nbcompress.panels.figures import calibration_figure, describe, overview_figure, slices_figure
from nbcompress.panels.limits import SAVED, Limits
from nbcompress.panels.summary import study_text
from nbcompress.panels.view import MIME, Course, StudyLike, study_view

MOST_BYTES = 300_000


def study_bundle(
    study: StudyLike,
    *,
    expected: Expectations = NOTHING,
    baseline: Mapping[str, float] | None = None,
    warnings: Iterable[str] = (),
    course: Course | None = None,
) -> dict[str, Any]:
    """Return the finished output of a study; arguments as in `study_view`.

    The texts are cut as far as it takes to stay below 300 kB.
    """
    lines = tuple(warnings)

    def view(limits: Limits) -> dict[str, Any]:
        return study_view(
            study,
            expected=expected,
            baseline=baseline,
            warnings=lines,
            course=course,
            limits=limits,
        )

    return smallest(view)


def smallest(view: Callable[[Limits], dict[str, Any]]) -> dict[str, Any]:
    """Return the richest bundle that is small enough."""
    data = view(SAVED[0])
    drawings = pictures(data)
    for limits in SAVED:
        data = view(limits)
        bundle = bundle_of(data, drawings)
        if weight(bundle) <= MOST_BYTES:
            break
    return bundle


def pictures(data: Mapping[str, Any]) -> Pictures:
    """Draw everything that there is to draw."""
    return Pictures(
        drawn(lambda: overview_figure(data)),
        drawn(lambda: slices_figure(data), dpi=85),
        drawn(lambda: calibration_figure(data), dpi=85),
    )


def bundle_of(data: Mapping[str, Any], drawings: Pictures) -> dict[str, Any]:
    overview = drawings.overview.png if drawings.overview else None
    return {
        MIME: data,
        "text/html": str(study_html(data, drawings, describe(data))),
        **({"image/png": overview} if overview else {}),
        "text/plain": study_text(data),
    }


def weight(bundle: Mapping[str, Any]) -> int:
    """Return the bytes that a bundle adds to a notebook, letters outside ASCII written as escapes."""
    return len(json.dumps(bundle))
