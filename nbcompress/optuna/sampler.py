"""Our proposer as one of Optuna's samplers."""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING, Any
from zlib import crc32

from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler

from nbcompress.errors import SearchError, SpaceExhausted
from nbcompress.optimize import Proposer, proposer
from nbcompress.optimize.encoding import Axes
from nbcompress.optimize.protocol import generator
from nbcompress.optuna.replay import PROPOSAL, history_of
from nbcompress.optuna.spaces import SearchSpace, conditional_search_space, conditions_of, parameter_of
from nbcompress.space import Space
from nbcompress.study.trial_store import write_attribute

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState


class Sampler(BaseSampler):
    """The sampler `gp` of nbcompress, for a study of Optuna.

    Parameters that the complete trials had, with the same range, are proposed together by the surrogate, also those
    that only some trials were asked for, where a category or a small whole number tells which. All others are drawn at
    random. The study's first trial stands in the middle of every range. Up to 4 objectives; constraints from
    `trial.set_constraint` or `constraints_func`; trials that run beside this one count as pending; failed ones are kept
    away from.

    It has no state but its seed: a proposal depends on the seed, the trial's number and the trials before it. So equal
    seeds give equal points also when a study is continued later, and samplers in several processes may share a seed.

    Args:
        seed: Equal seeds and equal trials give equal points; None draws one.
        acquisition: `logei`, `ucb`, `pi` or `qlogei`.
        kernel: `matern52` or `rbf`.
        mean: `constant`, `linear` or `zero`.
        constraints_func: Returns the constraints of an ended trial, which holds them where they are at most 0. Optuna
            5 prefers `trial.set_constraint` and says so with a warning for its own samplers; this one takes both.

    Raises:
        SearchError: The seed is no whole number.
        GoalError: An unknown acquisition, kernel or mean; at the first proposal also: more objectives than 4.

    Example:
        study = optuna.create_study(sampler=nbcompress.optuna.Sampler(seed=0))
        study.optimize(objective, n_trials=40)
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        acquisition: str = "logei",
        kernel: str = "matern52",
        mean: str = "constant",
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
    ) -> None:
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise SearchError(f"A seed is a whole number or None, but got {seed!r}.")
        self._seed = secrets.randbits(31) if seed is None else seed
        self._parts: dict[str, Any] = {"acquisition": acquisition, "kernel": kernel, "mean": mean}
        self._constraints_func = constraints_func
        self._made: tuple[Any, SearchSpace, Proposer] | None = None
        self._lock = threading.Lock()
        self._proposer(SearchSpace({"x": FloatDistribution(0.0, 1.0)}), 1)  # wrong parts are told now

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def reseed_rng(self) -> None:
        """Do nothing: what is drawn depends on the trial's number, which no other thread or process has."""

    def infer_relative_search_space(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002 - Optuna's signature
    ) -> dict[str, BaseDistribution]:
        return conditional_search_space(study.get_trials(deepcopy=False))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        known = {name: one for name, one in search_space.items() if parameter_of(one) is not None}
        if not known:
            return {}
        # One at a time, so that a thread sees what was proposed to the others.
        with self._lock:
            others = [get_trial for get_trial in study.get_trials(deepcopy=False) if get_trial.number != trial.number]
            space, proposes = self._proposer(SearchSpace(known, conditions_of(others, known)), len(study.directions))
            history = history_of(others, space, study.directions)
            try:
                proposal = proposes.propose(trial.number, history)
            except SpaceExhausted:  # a study of Optuna goes on all the same, with known points drawn at random
                return {name: self.sample_independent(study, trial, name, one) for name, one in known.items()}
            values = space.values(proposal.point)
            stored = {"point": values, "note": dict(proposal.note), "reason": proposal.reason}

            def write(key: str, value: Any) -> None:
                study._storage.set_trial_system_attr(trial._trial_id, key, value)

            write_attribute(write, PROPOSAL, stored, "a proposal")
            return values

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        parameter = parameter_of(param_distribution)
        if trial.number == 0 and parameter is not None:
            axes = Axes(Space({"x": parameter}))
            return axes.point(axes.middle())["x"]
        seed = int(generator(self._seed, trial.number, purpose=crc32(param_name.encode())).integers(2**31))
        return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,  # noqa: ARG002 - Optuna's signature
    ) -> None:
        if self._constraints_func is not None:
            # What Optuna's own samplers call; it stores them where its `best_trials` finds them.
            from optuna.samplers._base import _process_constraints_after_trial

            _process_constraints_after_trial(self._constraints_func, study, trial, state)

    def _proposer(self, space: SearchSpace, n_objectives: int) -> tuple[SearchSpace, Proposer]:
        """Return a search space and its proposer. The last ones are kept: they remember the rows of known points."""
        key = (space, n_objectives)
        if self._made is None or self._made[0] != key:
            made = proposer("gp", space.space, n_objectives=n_objectives, seed=self._seed, **self._parts)
            self._made = (key, space, made)
        return self._made[1:]
