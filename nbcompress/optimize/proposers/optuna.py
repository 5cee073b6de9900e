"""Optuna's samplers as baselines: the history is replayed into a study in memory, which is then asked.

Each proposal builds its sampler anew, seeded from (seed, number); so it depends on nothing but the history.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from nbcompress.optimize.encoding import Axes
from nbcompress.optimize.history import Array, History, Proposal
from nbcompress.optimize.protocol import Unseen, generator
from nbcompress.space import Choice, Float, Int, Point, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial

# Optuna's own default, 50, would draw at random for longer than our usual searches last. A heuristic.
POPULATION = 12
# How often a sampler is asked again when it comes to a known point.
MAX_ASKED = 4
NAMES = {"tpe": "TPE", "nsga2": "NSGA-II", "optuna-gp": "Gaussian process"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's experimental warnings and its line about a new study from the user, who did not make that study."""
    logger = logging.getLogger("optuna.storages._in_memory")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _sampler(name: str, seed: int) -> BaseSampler:
    from optuna import samplers

    if name == "nsga2":
        return samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    if name == "optuna-gp":
        return samplers.GPSampler(seed=seed)
    return samplers.TPESampler(seed=seed)


def _distribution(parameter: Any) -> BaseDistribution:
    from optuna import distributions

    if isinstance(parameter, Float):
        return distributions.FloatDistribution(parameter.low, parameter.high, parameter.log, parameter.step)
    if isinstance(parameter, Int):
        return distributions.IntDistribution(parameter.low, parameter.high, parameter.log, parameter.step)
    assert isinstance(parameter, Choice)
    return distributions.CategoricalDistribution(parameter.options)


class OptunaProposer:
    """Asks one of Optuna's samplers."""

    def __init__(self, name: str, space: Space, n_objectives: int, n_constraints: int = 0, seed: int = 0) -> None:
        self.name, self.seed = name, seed
        self.axes = Axes(space)
        self.n_objectives, self.n_constraints = n_objectives, n_constraints

    def propose(self, number: int, history: History) -> Proposal:
        unseen = Unseen(self.axes, history)
        rng = generator(self.seed, number)
        with _quiet():
            study = self._replay(history)
            for _ in range(MAX_ASKED):
                study.sampler = _sampler(self.name, int(rng.integers(2**31)))
                point, attributes = self._ask(study)
                if self.axes.rows([point])[0] in unseen:
                    note = {"optuna": attributes} if attributes else {}
                    return Proposal(point, note, f"asked Optuna's {NAMES[self.name]} sampler")
        reason = f"drawn at random, since Optuna's {NAMES[self.name]} sampler came to known points"
        return Proposal(unseen.draw(rng), reason=reason)

    def _ask(self, study: Study) -> tuple[Point, dict[str, Any]]:
        space, trial, point = self.axes.space, study.ask(), Point()
        for name in space.names:
            if space.is_active(name, point):
                point[name] = trial._suggest(name, _distribution(space[name]))
        attributes = study.get_trials(deepcopy=False)[trial.number].system_attrs
        return space.check(point), {key: value for key, value in attributes.items() if _is_json_scalar(value)}

    def _replay(self, history: History) -> Study:
        import optuna

        study = optuna.create_study(directions=["minimize"] * self.n_objectives)
        study.add_trials(self._trials(history))
        return study

    def _trials(self, history: History) -> list[FrozenTrial]:
        from optuna.trial import TrialState, create_trial

        # A trial that broke a constraint early lacks losses. It counts as complete with the worst of each, since
        # Optuna learns from constraints of complete trials alone.
        losses = np.where(np.isnan(history.losses), _worst(history.losses), history.losses)
        trials = []
        for i, (point, status, note) in enumerate(zip(history.points, history.status, history.notes, strict=True)):
            known = not np.isnan(history.losses[i]).any() or bool((history.slacks[i] > 0).any())
            state = TrialState.COMPLETE if known else TrialState.FAIL
            state = {"told": state, "failed": TrialState.FAIL, "pending": TrialState.RUNNING}[status]
            complete = state == TrialState.COMPLETE
            slacks = {str(j): 0.0 if math.isnan(s) else float(s) for j, s in enumerate(history.slacks[i])}
            trials.append(
                create_trial(
                    state=state,
                    values=losses[i].tolist() if complete else None,
                    params=dict(point),
                    distributions={name: _distribution(self.axes.space[name]) for name in point},
                    system_attrs=dict(note.get("optuna", {})),
                    constraints=slacks if complete and slacks else None,
                )
            )
        return trials


def _worst(losses: Array) -> Array:
    """Return the largest known loss of each objective, or 0."""
    known = np.where(np.isnan(losses), -np.inf, losses)
    worst: Array = known.max(0, initial=-np.inf)
    return np.where(np.isinf(worst), 0.0, worst)


def _is_json_scalar(value: object) -> bool:
    return isinstance(value, (bool, int, float, str))
