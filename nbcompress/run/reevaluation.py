"""Re-evaluation of the best points at the end of a noisy search, and the choice by posterior mean.

The best observed value of a noisy objective is biased upward. The posterior mean of the surrogate at a point uses
every run of the point and of its neighbours, so it is less biased. Running the best few points again makes it more
certain, and lets the surrogate estimate the noise.

Re-evaluation costs trials, so it is done only on request; heuristic, see benchmarks.md#noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from nbcompress.errors import SearchError
from nbcompress.run.history import history_of
from nbcompress.run.predictor import SearchPredictor
from nbcompress.study.goal import State, Trial

if TYPE_CHECKING:
    import pandas as pd

    from nbcompress.optimize.proposers.gp import GaussianProcessProposer
    from nbcompress.space import Point, Space
    from nbcompress.study import Study
    from nbcompress.study.goal import Goal

# This many points are run again in turn.
N_FINALISTS = 3
# The key in the note of a trial that runs a point again; the value is the number of the first trial at the point.
REPEAT_OF = "again"


@dataclass(frozen=True)
class Finalist:
    """A point that was run, with its posterior mean.

    Attributes:
        number: The first trial at the point.
        point: The active parameters.
        n_runs: Trials at the point, including those that still run.
        observed: The mean of the measured values.
        expected: The posterior mean of the value without noise.
        low, high: The 95 % interval of that value.
    """

    number: int
    point: Point
    n_runs: int
    observed: float
    expected: float
    low: float
    high: float


class Reevaluation:
    """Ranks the points of a search with one objective, and says which one to run again.

    Args:
        space, goal: Of the search.
        predictor: Has the surrogate of the search, and the metrics that hold known noise.

    Raises:
        SearchError: There are several objectives.
    """

    def __init__(self, space: Space, goal: Goal, predictor: SearchPredictor) -> None:
        from nbcompress.optimize.proposers.gp import GaussianProcessProposer

        if len(goal.objectives) > 1:
            raise SearchError(
                f"Finalists are for one objective, but there are {len(goal.objectives)}: a front has no best trial."
            )
        self._goal, self._noise = goal, predictor.noise
        self._surrogate: GaussianProcessProposer = GaussianProcessProposer(
            space, 1, len(goal.constraints), **predictor.definition(goal)
        )

    def ranking(self, trials: Sequence[Trial]) -> list[Finalist]:
        """Return the feasible points by posterior mean, best first."""
        from nbcompress.optimize.insight import WIDTH_95

        objective = self._goal.objectives[0]
        runs = _by_point(trials)
        known = [repeats for repeats in runs if any(self._counts(trial) for trial in repeats)]
        if not known:
            return []
        ended = [trial for trial in trials if trial.state.counts]
        models = self._surrogate.fit_models(history_of(ended, self._goal, self._noise))
        model = models.objectives[0]
        rows = models.embedding.encoder.rows([repeats[0].point for repeats in known])
        mean, std = model.untransform(*model.predict(models.embedding.features(rows)))
        found = []
        for repeats, middle, spread in zip(known, mean.tolist(), std.tolist(), strict=True):
            measured = [trial.values[objective.metric] for trial in repeats if self._counts(trial)]
            ends = sorted(objective.loss(middle + sign * WIDTH_95 * spread) for sign in (-1, 1))
            first = repeats[0]
            expected = objective.loss(middle)
            found.append(
                Finalist(first.number, first.point, len(repeats), sum(measured) / len(measured), expected, *ends)
            )
        return sorted(found, key=lambda item: objective.loss(item.expected))

    def next_finalist(self, trials: Sequence[Trial]) -> Finalist | None:
        """Return what to run again: of the best few points the one with the fewest runs.

        None if nothing is noisy: every repeated point has given the same value each time.
        """
        metric = self._goal.objectives[0].metric
        repeated = [[trial.values[metric] for trial in repeats if self._counts(trial)] for repeats in _by_point(trials)]
        repeated = [values for values in repeated if len(values) > 1]
        if repeated and all(len(set(values)) == 1 for values in repeated):
            return None
        found = self.ranking(trials)[:N_FINALISTS]
        return min(found, key=lambda item: item.n_runs, default=None)

    def summary(self, trials: Sequence[Trial]) -> str:
        """Return a sentence on the best point by posterior mean; empty while no trial is feasible."""
        found = self.ranking(trials)
        if not found:
            return ""
        best, metric = found[0], self._goal.objectives[0].metric
        runs = f"{best.n_runs} run{'s' * (best.n_runs != 1)}"
        return (
            f"By posterior the best point is that of trial {best.number}: {metric} {best.expected:.4g} "
            f"(95 % from {best.low:.4g} to {best.high:.4g}, {runs})."
        )

    def _counts(self, trial: Trial) -> bool:
        return trial.state is State.COMPLETE and self._goal.is_feasible(trial.values)


def reevaluation_of(study: Study) -> Reevaluation:
    """Return what ranks the points of a study, by the surrogate of its search.

    Raises:
        SearchError: The study has several objectives.
        GoalError: Its surrogate was an object of an earlier session.
    """
    known = study.predictor
    predictor = known if isinstance(known, SearchPredictor) else SearchPredictor.of_record(study)
    return Reevaluation(study.space, study.goal, predictor)


def n_reevaluations(trials: Sequence[Trial]) -> int:
    """Return how many trials at the end of a study are re-evaluations."""
    latest_first = sorted(trials, key=lambda trial: trial.number, reverse=True)
    return sum(1 for _ in takewhile(is_reevaluation, latest_first))


def is_reevaluation(trial: Trial) -> bool:
    """Return whether a trial runs a point again because values may be noisy."""
    return REPEAT_OF in trial.note


def finalists(study: Study, k: int = N_FINALISTS) -> pd.DataFrame:
    """Return the best points of a study by the posterior mean of its surrogate, best first.

    In a noisy search the first row is a better choice than `study.best`: the best observed value is biased upward.
    `nc.search(..., finalists=M)`, or `--finalists M` in a cell, uses the last M trials to run the best points again.

    Args:
        study: A study with one objective. Any sampler will do.
        k: The number of rows.

    Returns:
        A data frame with one row per point. `number` is its first trial and `runs` counts its trials; there is a column
        for each parameter. In the units of the objective: `observed` is the mean of the measured values, `expected` the
        posterior mean of the value without noise, and `low` and `high` are the ends of its 95 % interval.

    Raises:
        SearchError: The study has several objectives.
        GoalError: The surrogate of the study was an object of an earlier session.

    Example:
        >>> import nbcompress as nc
        >>> study = nc.maximize(lambda x: -(x**2), {"x": nc.Float(-1, 1)}, trials=6, sampler="sobol")
        >>> list(nc.finalists(study, k=2).columns)
        ['number', 'runs', 'x', 'observed', 'expected', 'low', 'high']
    """
    import pandas as pd

    found = reevaluation_of(study).ranking(study.all_trials)
    names = study.space.names
    rows = [
        {
            "number": finalist.number,
            "runs": finalist.n_runs,
            **{name: finalist.point.get(name) for name in names},
            **{name: getattr(finalist, name) for name in ("observed", "expected", "low", "high")},
        }
        for finalist in found[:k]
    ]
    columns = ["number", "runs", *names, "observed", "expected", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _by_point(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Return the trials at each point, ordered by the first of them."""
    found: dict[tuple[tuple[str, object], ...], list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        found.setdefault(tuple(trial.point.items()), []).append(trial)
    return list(found.values())
