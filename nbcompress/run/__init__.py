"""What runs? The loop that asks for points, runs them on an engine and records how they end; and what is kept."""

from __future__ import annotations

from nbcompress.run.controls import Controls
from nbcompress.run.engines import engine_of
from nbcompress.run.finals import finalists
from nbcompress.run.functions import maximize, search
from nbcompress.run.guard import Cut, Guard
from nbcompress.run.keeping import FolderShelf, MemoryShelf, give_shelf
from nbcompress.run.limits import parse_until, seconds_of
from nbcompress.run.loop import run
from nbcompress.run.observers import Ending, Observer
from nbcompress.run.outcome import Assignment, Evaluate, Outcome, TrialEnded
from nbcompress.run.pruner import PRUNERS, Pruner
from nbcompress.run.trial_context import TrialContext, current_trial, keep, report
from nbcompress.run.trial_run import run_trial

__all__ = [
    "PRUNERS",
    "Assignment",
    "Controls",
    "Cut",
    "Ending",
    "Evaluate",
    "FolderShelf",
    "Guard",
    "MemoryShelf",
    "Observer",
    "Outcome",
    "Pruner",
    "TrialContext",
    "TrialEnded",
    "current_trial",
    "engine_of",
    "finalists",
    "give_shelf",
    "keep",
    "maximize",
    "parse_until",
    "report",
    "run",
    "run_trial",
    "search",
    "seconds_of",
]
