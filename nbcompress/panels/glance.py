"""What there is to show of a study at once: its data, without figures, which take seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbcompress.panels.limits import SAVED
from nbcompress.panels.summary import study_text
from nbcompress.panels.view import MIME, StudyLike, study_view


def study_glance(study: StudyLike, baseline: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return a mime bundle for a front end that will be shown the whole one next."""
    data = study_view(study, baseline=baseline, limits=SAVED[0])
    return {MIME: data, "text/plain": study_text(data)}
