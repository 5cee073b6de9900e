"""What was tried? Trials and studies, kept on disk.

A `Study` is all trials of one search, over one of Optuna's storages; a `Trial` is a point that was run and what became
of it; a `Goal` says which metrics steer and which are bounded. Optuna is imported when a study is opened, pandas when
its table is asked for, and torch never.
"""

from nbcompress.study.artifact_store import KeptValues, Shelf
from nbcompress.study.front import feasible, front, hypervolume, is_unbeaten, losses_of
from nbcompress.study.goal import Constraint, Failure, Goal, Objective, State, Trial
from nbcompress.study.opening import StudySummary, delete_study, list_studies, open_study, read_study
from nbcompress.study.storage import DEFAULT_STORAGE
from nbcompress.study.study import Study

__all__ = [
    "DEFAULT_STORAGE",
    "Constraint",
    "Failure",
    "Goal",
    "KeptValues",
    "Objective",
    "Shelf",
    "State",
    "Study",
    "StudySummary",
    "Trial",
    "delete_study",
    "feasible",
    "front",
    "hypervolume",
    "is_unbeaten",
    "list_studies",
    "losses_of",
    "open_study",
    "read_study",
]
