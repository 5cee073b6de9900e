"""Trials and studies, stored on disk: what was tried, and what came of it.

A `Study` is all trials of one search, in a storage of Optuna; a `Trial` is one evaluation of a point; a `Goal` says
which metrics are optimized and which are bounded. Optuna is imported when a study is opened, pandas when its table is
asked for, and torch never.
"""

from nbcompress.study.artifact_store import ArtifactStore, KeptValues
from nbcompress.study.front import feasible, front, hypervolume, is_non_dominated, losses_of
from nbcompress.study.goal import Constraint, Failure, Goal, Objective, State, Trial
from nbcompress.study.opening import StudySummary, delete_study, list_studies, open_study, read_study
from nbcompress.study.storage import DEFAULT_STORAGE
from nbcompress.study.study import Study

__all__ = [
    "DEFAULT_STORAGE",
    "ArtifactStore",
    "Constraint",
    "Failure",
    "Goal",
    "KeptValues",
    "Objective",
    "State",
    "Study",
    "StudySummary",
    "Trial",
    "delete_study",
    "feasible",
    "front",
    "hypervolume",
    "is_non_dominated",
    "list_studies",
    "losses_of",
    "open_study",
    "read_study",
]
