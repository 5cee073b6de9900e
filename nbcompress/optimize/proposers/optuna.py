"""Optuna's samplers as proposers: the history is copied into a study in memory, which is then asked.

Every proposal makes a new sampler, seeded by (seed, number), so it depends only on the history.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from nbcompress.optimize.candidates import UntriedPoints
from nbcompress.optimize.encoding import SpaceEncoder
from nbcompress.optimize.history import Array, History, Proposal
from nbcompress.optimize.protocol import random_generator
from nbcompress.space import Point, Space
from nbcompress.study.optuna_distributions import distribution_of

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial

# With Optuna's default of 50 the first generation, which is random, would be longer than usual searches. Heuristic.
POPULATION = 12
# How often a sampler is asked when it proposes known points.
MAX_ASKS = 4
# Optuna's name of each sampler.
TITLES = {"tpe": "TPE", "nsga2": "NSGA-II", "optuna-gp": "Gaussian process"}


@contextmanager
def _without_optuna_output() -> Iterator[None]:
    """Suppress Optuna's warnings about experimental features and its message about a new study, which is internal."""
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


class OptunaProposer:
    """The samplers `tpe`, `nsga2` and `optuna-gp`."""

    def __init__(self, name: str, space: Space, n_objectives: int, n_constraints: int = 0, seed: int = 0) -> None:
        self.name, self.seed = name, seed
        self.encoder = SpaceEncoder(space)
        self.n_objectives, self.n_constraints = n_objectives, n_constraints

    def propose(self, number: int, history: History) -> Proposal:
        untried = UntriedPoints(self.encoder, history)
        rng = random_generator(self.seed, number)
        with _without_optuna_output():
            study = self._study_of(history)
            for _ in range(MAX_ASKS):
                study.sampler = _sampler(self.name, int(rng.integers(2**31)))
                point, attributes = self._ask(study)
                if self.encoder.rows([point])[0] in untried:
                    note = {"optuna": attributes} if attributes else {}
                    return Proposal(point, note, f"asked Optuna's {TITLES[self.name]} sampler")
        reason = f"drawn at random, since Optuna's {TITLES[self.name]} sampler proposed known points only"
        return Proposal(untried.draw(rng), reason=reason)

    def _ask(self, study: Study) -> tuple[Point, dict[str, Any]]:
        space, trial, point = self.encoder.space, study.ask(), Point()
        for name in space.names:
            if space.is_active(name, point):
                point[name] = trial._suggest(name, distribution_of(space[name], keep_step=True))
        attributes = study.get_trials(deepcopy=False)[trial.number].system_attrs
        return space.check(point), {key: value for key, value in attributes.items() if _is_json_scalar(value)}

    def _study_of(self, history: History) -> Study:
        import optuna

        study = optuna.create_study(directions=["minimize"] * self.n_objectives)
        study.add_trials(self._trials(history))
        return study

    def _trials(self, history: History) -> list[FrozenTrial]:
        from optuna.trial import TrialState, create_trial

        # A trial that violated a constraint early has no losses. It counts as complete with the worst loss of each
        # objective, since Optuna reads constraints of complete trials only.
        losses = np.where(np.isnan(history.losses), _worst(history.losses), history.losses)
        space, trials = self.encoder.space, []
        for i, (point, status, note) in enumerate(zip(history.points, history.status, history.notes, strict=True)):
            known = not np.isnan(history.losses[i]).any() or bool((history.slacks[i] > 0).any())
            state = TrialState.COMPLETE if known else TrialState.FAIL
            state = {"told": state, "failed": TrialState.FAIL, "pending": TrialState.RUNNING}[status]
            complete = state == TrialState.COMPLETE
            slacks = {str(j): 0.0 if math.isnan(slack) else float(slack) for j, slack in enumerate(history.slacks[i])}
            distributions = {name: distribution_of(space[name], keep_step=True) for name in point}
            trials.append(
                create_trial(
                    state=state,
                    values=losses[i].tolist() if complete else None,
                    params=dict(point),
                    distributions=distributions,
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
