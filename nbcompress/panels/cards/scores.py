"""What the user's own functions gave, as rows of a card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nbcompress.panels.text import spell

# Numbers by the name of the function that gave them, then by the model's.
Scores = Mapping[str, Mapping[str, float]]


def score_rows(scores: Scores | None, models: Iterable[str]) -> list[tuple[str, ...]]:
    """Return a row for each function: its name and its number for each model."""
    names = list(models)
    return [
        (function, *(spell(values[name]) if name in values else "-" for name in names))
        for function, values in (scores or {}).items()
    ]
