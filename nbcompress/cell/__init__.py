"""What is one trial of a cell? The body, compiled once, and the globals that each trial runs in."""

from nbcompress.cell.body import CellBody, Origin
from nbcompress.cell.evaluator import CellEvaluator, current_globals

__all__ = ["CellBody", "CellEvaluator", "Origin", "current_globals"]
