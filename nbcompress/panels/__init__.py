"""What does one see? Views (plain data), the live panel, the saved output, cards and the page of a report.

Names load on first use: drawing needs seaborn, the live panel needs ipywidgets, and neither is needed to search.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbcompress.panels.bundle import study_bundle
    from nbcompress.panels.cards import Card, comparison_card, footprint_card, sensitivity_card
    from nbcompress.panels.document import closing_line, study_text
    from nbcompress.panels.live import panel
    from nbcompress.panels.page import study_page
    from nbcompress.panels.surrogate_data import Expectations, expectations_of, slice_data
    from nbcompress.panels.text_panel import Output, Panel
    from nbcompress.panels.view import MIME, Course, study_view

_HOMES = {
    "MIME": "view",
    "Card": "cards",
    "Course": "view",
    "Expectations": "surrogate_data",
    "Output": "text_panel",
    "Panel": "text_panel",
    "closing_line": "document",
    "comparison_card": "cards",
    "expectations_of": "surrogate_data",
    "footprint_card": "cards",
    "panel": "live",
    "sensitivity_card": "cards",
    "slice_data": "surrogate_data",
    "study_bundle": "bundle",
    "study_page": "page",
    "study_text": "document",
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
    "Card",
    "Course",
    "Expectations",
    "Output",
    "Panel",
    "closing_line",
    "comparison_card",
    "expectations_of",
    "footprint_card",
    "panel",
    "sensitivity_card",
    "slice_data",
    "study_bundle",
    "study_page",
    "study_text",
    "study_view",
]
