"""What does a magic show of its result? Cards: a table, a picture and what folds away, as text, HTML and PNG."""

from __future__ import annotations

from nbcompress.panels.cards.card import Card, Drawing, Folded
from nbcompress.panels.cards.comparison import comparison_card
from nbcompress.panels.cards.footprint import footprint_card
from nbcompress.panels.cards.sensitivity import sensitivity_card

__all__ = ["Card", "Drawing", "Folded", "comparison_card", "footprint_card", "sensitivity_card"]
