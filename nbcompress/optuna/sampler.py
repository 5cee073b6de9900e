"""The sampler `gp` for studies of Optuna."""

from __future__ import annotations

import math
import secrets
import threading
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nbcompress.errors import NbcompressWarning, SearchError, SpaceExhausted
from nbcompress.optimize import History, Proposer, proposer
from nbcompress.optimize.encoding import SpaceEncoder
from nbcompress.optimize.protocol import random_generator
from nbcompress.optuna.spaces import SearchSpace, changed_ranges, conditional_search_space, conditions_of
from nbcompress.space import Space
from nbcompress.study.optuna_distributions import parameter_of
from nbcompress.study.trial_store import read_attribute, write_attribute

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from nbcompress.optimize.history import Array, Status
    from nbcompress.space import Point


# The system attribute that holds the proposal of a trial. Other trials need it, because Optuna stores a parameter only
# when the trial asks for it.
PROPOSAL = "nbcompress:proposal"

# The point of a pruned trial counts as tried, but its final value is unknown.
_STATUS: Mapping[TrialState, Status] = {
    TrialState.COMPLETE: "told",
    TrialState.PRUNED: "told",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "pending",
}


def history_of(
    trials: Iterable[FrozenTrial],
    search_space: SearchSpace,
    directions: Sequence[StudyDirection],
) -> History:
    """Return the trials that lie in the space, in the order of their numbers.

    Trials with values outside the ranges, and trials whose parameters are not known yet, are left out. A failed trial
    counts as failed, so points near it are avoided. Of a pruned trial only the constraints count.

    Args:
        trials: Of the study.
        search_space: Their space.
        directions: Of the study.
    """
    chosen = [
        (trial, point)
        for trial in sorted(trials, key=lambda trial: trial.number)
        if trial.state in _STATUS and (point := _point(trial, search_space)) is not None
    ]
    signs = np.array([-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions])
    unknown = [math.nan] * len(signs)
    losses = [
        signs * np.array(trial.values if trial.state == TrialState.COMPLETE else unknown, dtype=np.float64)
        for trial, _ in chosen
    ]
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    constraints = [trial.constraints if trial.state in ended else {} for trial, _ in chosen]
    names = sorted({name for constraint in constraints for name in constraint})
    slacks = [[constraint.get(name, math.nan) for name in names] for constraint in constraints]
    n = len(chosen)
    return History(
        tuple(point for _, point in chosen),
        _replace_infinite_(np.array(losses, dtype=np.float64).reshape(n, len(signs))),
        _replace_infinite_(np.array(slacks, dtype=np.float64).reshape(n, len(names))),
        tuple(_STATUS[trial.state] for trial, _ in chosen),
        tuple((read_attribute(trial.system_attrs, PROPOSAL) or {}).get("note", {}) for trial, _ in chosen),
    )


def _point(trial: FrozenTrial, search_space: SearchSpace) -> Point | None:
    # A complete trial has all its parameters. Any other may not have asked for all of them (yet).
    proposed = {} if trial.state == TrialState.COMPLETE else read_attribute(trial.system_attrs, PROPOSAL) or {}
    # An enqueued trial takes its fixed parameters instead of the proposed ones.
    values: dict[str, Any] = {
        **proposed.get("point", {}),
        **trial.system_attrs.get("fixed_params", {}),
        **trial.params,
    }
    return search_space.point(values)


def _replace_infinite_(table: Array) -> Array:
    """Replace infinite values by the largest or the smallest finite value of their column, in place."""
    for column in table.T:
        finite = column[np.isfinite(column)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        column[column == math.inf] = high
        column[column == -math.inf] = low
    return table


class Sampler(BaseSampler):
    """The sampler `gp` of nbcompress, for a study of Optuna.

    Parameters of complete trials are proposed together by the surrogate. If a range changes during the study, a warning
    says so once, and the trials whose values lie within the new range are learned from. A parameter that
    only some trials have is included if a category or a small integer decides which trials. All other parameters are
    random. The first trial of a study is in the middle of every range.

    Up to 4 objectives are supported, and constraints from `trial.set_constraint` or `constraints_func`. Running trials
    count as pending, and points near failed trials are avoided.

    The sampler has no state except its seed: a proposal depends on the seed, the trial number and the earlier trials.
    So equal seeds give equal points when a study is continued, and samplers in several processes may share a seed.

    Args:
        seed: Equal seeds and equal trials give equal points; None draws a seed.
        acquisition, kernel, mean, surrogate: See `nc.search`; one surrogate for all objectives and constraints.
        constraints_func: Returns the constraint values of an ended trial; at most 0 is feasible. Optuna 5 prefers
            `trial.set_constraint` and warns about this argument for its own samplers; this sampler takes both.

    Raises:
        SearchError: The seed is not an integer.
        GoalError: An unknown acquisition, kernel or mean; at the first proposal also more than 4 objectives.

    Example:
        >>> import optuna
        >>> import nbcompress as nc
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=nc.optuna.Sampler(seed=0))
        >>> study.optimize(lambda trial: (trial.suggest_float("x", -1, 1) - 0.3) ** 2, n_trials=10)
        >>> study.best_value < 0.01
        True
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        acquisition: Any = "logei",
        kernel: Any = "matern52",
        mean: Any = "constant",
        surrogate: Any = None,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
    ) -> None:
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise SearchError(f"A seed is a whole number or None, but got {seed!r}.")
        self._seed = secrets.randbits(31) if seed is None else seed
        self._options: dict[str, Any] = {
            "acquisition": acquisition,
            "kernel": kernel,
            "mean": mean,
            "surrogate": surrogate,
        }
        self._failed: set[str] = set()
        self._constraints_func = constraints_func
        self._latest: tuple[Any, SearchSpace, Proposer] | None = None
        self._changed: set[str] = set()
        self._lock = threading.Lock()
        self._proposer(SearchSpace({"x": FloatDistribution(0.0, 1.0)}), 1)  # raises for wrong options now

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def reseed_rng(self) -> None:
        """Do nothing: random numbers depend on the trial number, which no other thread or process has."""

    def infer_relative_search_space(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002 - Optuna's signature
    ) -> dict[str, BaseDistribution]:
        trials = study.get_trials(deepcopy=False)
        space = conditional_search_space(trials)
        for name in changed_ranges(trials):
            self._warn_of_changed(name, space.get(name))
        return space

    def _warn_of_changed(self, name: str, distribution: BaseDistribution | None) -> None:
        """Warn, once for each parameter, that its range changed, and say what is done about it."""
        with self._lock:
            if name in self._changed:
                return
            self._changed.add(name)
        if isinstance(distribution, (FloatDistribution, IntDistribution)):
            what = (
                f"The sampler learns from trials with values from {distribution.low} to {distribution.high}, and draws "
                f"at random where a proposal lies outside the range of its trial."
            )
        else:
            what = "Its values are drawn at random from now on, since the ranges do not go together."
        warnings.warn(f"The range of {name!r} changed during the study. {what}", NbcompressWarning, stacklevel=2)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        supported = {
            name: distribution for name, distribution in search_space.items() if parameter_of(distribution) is not None
        }
        if not supported:
            return {}
        # One thread at a time, so that each sees what was proposed to the others.
        with self._lock:
            others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
            wanted = SearchSpace(supported, conditions_of(others, supported))
            space, gp = self._proposer(wanted, len(study.directions))
            history = history_of(others, space, study.directions)
            try:
                proposal = gp.propose(trial.number, history)
            except SpaceExhausted:  # a study of Optuna continues, so known points are drawn at random
                return {
                    name: self.sample_independent(study, trial, name, distribution)
                    for name, distribution in supported.items()
                }
            for text in proposal.warnings:
                if text not in self._failed:
                    self._failed.add(text)
                    warnings.warn(text, NbcompressWarning, stacklevel=2)
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
            encoder = SpaceEncoder(Space({"x": parameter}))
            return encoder.point(encoder.center())["x"]
        seed = int(random_generator(self._seed, trial.number, stream=crc32(param_name.encode())).integers(2**31))
        return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,  # noqa: ARG002 - Optuna's signature
    ) -> None:
        if self._constraints_func is not None:
            # Optuna's own samplers call this; it stores the constraints where `best_trials` reads them.
            from optuna.samplers._base import _process_constraints_after_trial

            _process_constraints_after_trial(self._constraints_func, study, trial, state)

    def _proposer(self, space: SearchSpace, n_objectives: int) -> tuple[SearchSpace, Proposer]:
        """Return a search space and its proposer. The latest ones are kept: they cache rows of known points."""
        key = (space, n_objectives)
        if self._latest is None or self._latest[0] != key:
            gp = proposer("gp", space.space, n_objectives=n_objectives, seed=self._seed, **self._options)
            self._latest = (key, space, gp)
        return self._latest[1:]
