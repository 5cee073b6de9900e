"""What runs? The loop that asks for points, runs them on an engine and records how they end; and what is kept."""

from __future__ import annotations

from nbcompress.run.api import maximize, search
from nbcompress.run.callbacks import Controls, Ending, Observer
from nbcompress.run.early_stopping import Pruner
from nbcompress.run.engines import engine_of
from nbcompress.run.evaluation import run_trial
from nbcompress.run.kept import FolderArtifactStore, MemoryArtifactStore, attach_artifact_store
from nbcompress.run.options import SearchOptions, parse_until, seconds_of
from nbcompress.run.outcome import Assignment, Evaluate, Outcome, TrialEnded
from nbcompress.run.reevaluation import finalists
from nbcompress.run.termination import Termination, Terminator
from nbcompress.run.trial import RunningTrial, current_trial, keep, report, stop_trial

__all__ = [
    "Assignment",
    "Controls",
    "Ending",
    "Evaluate",
    "FolderArtifactStore",
    "MemoryArtifactStore",
    "Observer",
    "Outcome",
    "Pruner",
    "RunningTrial",
    "SearchOptions",
    "Termination",
    "Terminator",
    "TrialEnded",
    "attach_artifact_store",
    "current_trial",
    "engine_of",
    "finalists",
    "keep",
    "maximize",
    "parse_until",
    "report",
    "run_trial",
    "search",
    "seconds_of",
    "stop_trial",
]
