"""What runs? The loop that asks for points, runs them on an engine and records how they end; and what is kept."""

from __future__ import annotations

from nbcompress.run.guard import Cut, Guard
from nbcompress.run.outcome import Assignment, Evaluate, Outcome, TrialEnded
from nbcompress.run.trial_context import TrialContext, current_trial, keep, report
from nbcompress.run.trial_run import run_trial

__all__ = [
    "Assignment",
    "Cut",
    "Evaluate",
    "Guard",
    "Outcome",
    "TrialContext",
    "TrialEnded",
    "current_trial",
    "keep",
    "report",
    "run_trial",
]
