"""The end of a noisy search: the best points are run again, and the choice is by the surrogate, not by luck.

Of many noisy values the greatest is also one of the luckiest. The surrogate weighs every run of a point, and those of
its neighbours, so its mean at a point is a fairer judge. Running the best few again makes it surer of them, and tells
it how noisy the values are, which it cannot know where every point was run once.

Measured on a smooth loss of two parameters with noise (30 seeds, 30 trials, in the mean): the choice by posterior has a
regret of 0.026 where the best observed has 0.037. Running points again is dear there, since new points next to the best
tell as much: with 8 of the 30 trials spent so it is 0.033 and 0.043. So it is asked for, and never done by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from nbcompress.errors import SearchError
from nbcompress.run.history import history_of
from nbcompress.study.goal import State, Trial

if TYPE_CHECKING:
    import pandas as pd

    from nbcompress.optimize.proposers.gp import GaussianProcessProposer
    from nbcompress.space import Point, Space
    from nbcompress.study import Study
    from nbcompress.study.goal import Goal

# How many points are run again in turn.
N_FINALISTS = 3
# Under this key the note of a trial that runs a point again has the number of the first trial there.
AGAIN = "again"


@dataclass(frozen=True)
class Finalist:
    """A point that was run, as the surrogate judges it.

    Attributes:
        number: The first trial at the point.
        point: The active parameters.
        n_runs: Trials at the point, those included that still run.
        observed: Mean of what its trials measured.
        expected: The surrogate's mean of the value without noise.
        low, high: The interval that holds that value with 95 %.
    """

    number: int
    point: Point
    n_runs: int
    observed: float
    expected: float
    low: float
    high: float


class Finals:
    """Judges the points of a search with one objective.

    Raises:
        SearchError: There are several objectives.
    """

    def __init__(self, space: Space, goal: Goal, parts: Mapping[str, Any] | None = None) -> None:
        from nbcompress.optimize.proposers.gp import GaussianProcessProposer

        if len(goal.objectives) > 1:
            raise SearchError(
                f"Finalists are for one objective, but there are {len(goal.objectives)}: a front has no best trial."
            )
        self._goal = goal
        n_constraints = len(goal.constraints)
        self._surrogate: GaussianProcessProposer = GaussianProcessProposer(space, 1, n_constraints, **(parts or {}))

    def standings(self, trials: Sequence[Trial]) -> list[Finalist]:
        """Return the feasible points, best first."""
        from nbcompress.optimize.insight import WIDTH_95

        objective = self._goal.objectives[0]
        runs = _by_point(trials)
        known = [ones for ones in runs if any(self._counts(trial) for trial in ones)]
        if not known:
            return []
        ended = [trial for trial in trials if trial.state.counts]
        models = self._surrogate.fit_models(history_of(ended, self._goal))
        model = models.objectives[0]
        rows = models.embedding.encoder.rows([ones[0].point for ones in known])
        mean, std = model.untransform(*model.predict(models.embedding.features(rows)))
        found = []
        for ones, middle, spread in zip(known, mean.tolist(), std.tolist(), strict=True):
            measured = [trial.values[objective.metric] for trial in ones if self._counts(trial)]
            ends = sorted(objective.loss(middle + side * WIDTH_95 * spread) for side in (-1, 1))
            first = ones[0]
            expected = objective.loss(middle)
            found.append(Finalist(first.number, first.point, len(ones), sum(measured) / len(measured), expected, *ends))
        return sorted(found, key=lambda item: objective.loss(item.expected))

    def again(self, trials: Sequence[Trial]) -> Finalist | None:
        """Return what to run again: of the best few the point with the fewest runs.

        None where nothing is noisy: points that were run again all had their value again.
        """
        metric = self._goal.objectives[0].metric
        repeated = [[trial.values[metric] for trial in ones if self._counts(trial)] for ones in _by_point(trials)]
        repeated = [values for values in repeated if len(values) > 1]
        if repeated and all(len(set(values)) == 1 for values in repeated):
            return None
        found = self.standings(trials)[:N_FINALISTS]
        return min(found, key=lambda item: item.n_runs, default=None)

    def sentence(self, trials: Sequence[Trial]) -> str:
        """Return which point is the best by posterior, or an empty text while no trial is feasible."""
        found = self.standings(trials)
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


def n_finals(trials: Sequence[Trial]) -> int:
    """Return how many trials at the end of a study run a point again."""
    latest_first = sorted(trials, key=lambda trial: trial.number, reverse=True)
    return sum(1 for _ in takewhile(is_final, latest_first))


def is_final(trial: Trial) -> bool:
    """Say whether a trial runs a point again because values may be noisy."""
    return AGAIN in trial.note


def finalists(study: Study, k: int = N_FINALISTS) -> pd.DataFrame:
    """Return the best points of a study as its surrogate judges them, best first.

    In a noisy search the first row is a better choice than `study.best`, which is the best that was measured and so in
    part the luckiest. `nc.search(..., finalists=M)`, or `--finalists M`, uses the last M trials to run the best points
    again.

    Args:
        study: With one objective; it may be stored and read, whatever sampler it had.
        k: How many rows.

    Returns:
        A row a point: `number` of its first trial, its `runs`, a column a parameter, and for the objective what was
        `observed` (mean over its runs), what is `expected` without noise, and the 95 % interval from `low` to `high`.

    Raises:
        SearchError: There are several objectives.

    Example:
        >>> from nbcompress import Float, maximize
        >>> found = maximize(lambda x: -(x**2), {"x": Float(-1, 1)}, trials=6, sampler="sobol")
        >>> len(finalists(found, k=2))
        2
    """
    import pandas as pd

    chosen = study.record.get("search", {})
    parts = {name: chosen[name] for name in ("kernel", "mean") if name in chosen}
    found = Finals(study.space, study.goal, parts).standings(study.all_trials)
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
    """Return the trials at each point, by the number of the first."""
    found: dict[tuple[tuple[str, object], ...], list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        found.setdefault(tuple(trial.point.items()), []).append(trial)
    return list(found.values())
