"""What runs? The loop that asks for points, runs them on an engine and records how they end; and what is kept."""

from __future__ import annotations

from nbcompress.run.api import maximize, search
from nbcompress.run.callbacks import Controls, Ending, Observer
from nbcompress.run.early_stopping import PRUNERS, Pruner
from nbcompress.run.engines import engine_of
from nbcompress.run.kept import FolderArtifactStore, MemoryArtifactStore, attach_artifact_store
from nbcompress.run.loop import run
from nbcompress.run.options import parse_until, seconds_of
from nbcompress.run.outcome import Assignment, Evaluate, Outcome, TrialEnded
from nbcompress.run.reevaluation import finalists
from nbcompress.run.termination import Cut, Guard
from nbcompress.run.trial import TrialContext, current_trial, keep, report, run_trial

__all__ = [
    "PRUNERS",
    "Assignment",
    "Controls",
    "Cut",
    "Ending",
    "Evaluate",
    "FolderArtifactStore",
    "Guard",
    "MemoryArtifactStore",
    "Observer",
    "Outcome",
    "Pruner",
    "TrialContext",
    "TrialEnded",
    "attach_artifact_store",
    "current_trial",
    "engine_of",
    "finalists",
    "keep",
    "maximize",
    "parse_until",
    "report",
    "run",
    "run_trial",
    "search",
    "seconds_of",
]
