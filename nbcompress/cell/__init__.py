"""The search cell: its declarations, its body, which is compiled once, and the globals in which each trial runs."""

from nbcompress.cell.body import CellBody, CellSource
from nbcompress.cell.evaluator import CellEvaluator, current_globals

__all__ = ["CellBody", "CellEvaluator", "CellSource", "current_globals"]
