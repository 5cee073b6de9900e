"""What does one see? Views (plain data), the live panel, the saved output, cards and the page of a report.

Names load on first use: drawing needs seaborn, the live panel needs ipywidgets, and neither is needed to search.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbcompress.panels.bundle import study_bundle
    from nbcompress.panels.ladder import Output, Panel, panel
    from nbcompress.panels.page import study_page
    from nbcompress.panels.slices import slice_data
    from nbcompress.panels.summary import closing_line, study_text
    from nbcompress.panels.view import MIME, Course, study_view

_HOMES = {
    "MIME": "view",
    "Course": "view",
    "Output": "ladder",
    "Panel": "ladder",
    "closing_line": "summary",
    "panel": "ladder",
    "slice_data": "slices",
    "study_bundle": "bundle",
    "study_page": "page",
    "study_text": "summary",
    "study_view": "view",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nbcompress.panels' has no attribute {name!r}")
    value = getattr(import_module(f"nbcompress.panels.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


__all__ = [
    "MIME",
    "Course",
    "Output",
    "Panel",
    "closing_line",
    "panel",
    "slice_data",
    "study_bundle",
    "study_page",
    "study_text",
    "study_view",
]
