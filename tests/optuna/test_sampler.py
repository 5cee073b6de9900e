"""The sampler `gp` in studies of Optuna: what Optuna's own test suite does not check."""

from __future__ import annotations

import math
import pickle
import threading
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import Trial, TrialState

from nbcompress.errors import GoalError, SearchError
from nbcompress.optuna import Sampler
from nbcompress.optuna.sampler import PROPOSAL
from nbcompress.study import hypervolume

optuna.logging.set_verbosity(optuna.logging.WARNING)


def branin(trial: Trial) -> float:
    x, y = trial.suggest_float("x", -5, 10), trial.suggest_float("y", 0, 15)
    bend = y - 5.1 * x**2 / (4 * math.pi**2) + 5 * x / math.pi - 6
    return bend**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def studied(objective: Any, n: int, sampler: Sampler | None = None, **options: Any) -> optuna.Study:
    study = optuna.create_study(sampler=sampler or Sampler(seed=0), **options)
    study.optimize(objective, n_trials=n)
    return study


def proposed(study: optuna.Study) -> list[bool]:
    """Say for each trial whether the proposer chose its point."""
    return [PROPOSAL in trial.system_attrs for trial in study.trials]


def test_it_finds_the_minimum_of_branin() -> None:
    # At random, 25 trials come to within 0.5 of it in one study out of nine.
    for seed in range(3):
        assert studied(branin, 25, Sampler(seed=seed)).best_value < 0.3979 + 0.05


def test_maximizing_is_minimizing_the_opposite() -> None:
    down = studied(branin, 12)
    up = studied(lambda trial: -branin(trial), 12, direction="maximize")
    assert [trial.params for trial in up.trials] == [trial.params for trial in down.trials]


def test_a_study_that_is_continued_later_goes_on_as_if_it_had_not_stopped() -> None:
    whole = studied(branin, 14)
    study = studied(branin, 6)
    study.sampler = pickle.loads(pickle.dumps(Sampler(seed=0)))
    study.optimize(branin, n_trials=8)
    assert [trial.params for trial in study.trials] == [trial.params for trial in whole.trials]
    assert [trial.params for trial in studied(branin, 2, Sampler(seed=1)).trials] != [
        trial.params for trial in whole.trials[:2]
    ]


def test_the_first_trial_is_the_middle_and_the_others_are_proposed_with_a_reason() -> None:
    study = studied(branin, 10)
    assert study.trials[0].params == {"x": 2.5, "y": 7.5}
    assert proposed(study) == [False] + [True] * 9
    assert "expected gain" in study.trials[-1].system_attrs[PROPOSAL]["reason"]


def test_two_objectives_cover_more_than_at_random() -> None:
    def zdt1(trial: Trial) -> tuple[float, float]:
        x = [trial.suggest_float(f"x{i}", 0, 1) for i in range(3)]
        g = 1 + 4.5 * sum(x[1:])
        return x[0], g * (1 - math.sqrt(x[0] / g))

    def volume(sampler: optuna.samplers.BaseSampler) -> float:
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        study.optimize(zdt1, n_trials=25)
        return hypervolume([trial.values for trial in study.trials], [1.1, 1.1])

    ours = volume(Sampler(seed=0))
    assert ours > volume(optuna.samplers.RandomSampler(0)) + 0.1
    assert ours > 0.75  # of 0.877


def test_constraints_are_learned_from_either_source() -> None:
    def objective(trial: Trial) -> float:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        trial.set_constraint("sum", 1.2 - x - y)
        return x + y

    def bound(trial: optuna.trial.FrozenTrial) -> tuple[float]:
        return (1.2 - trial.params["x"] - trial.params["y"],)

    def without(trial: Trial) -> float:
        return trial.suggest_float("x", 0, 1) + trial.suggest_float("y", 0, 1)

    told = studied(objective, 20)
    asked = studied(without, 20, Sampler(seed=0, constraints_func=bound))
    assert [trial.params for trial in told.trials] == [trial.params for trial in asked.trials]
    best = min(trial.values[0] for trial in told.trials if trial.constraints["sum"] <= 0)
    assert best == pytest.approx(1.2, abs=0.02)
    assert asked.best_trial.values[0] == best


def test_failed_trials_are_kept_away_from() -> None:
    def objective(trial: Trial) -> float:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        return x + y if x + y > 0.8 else math.nan

    studies = [studied(objective, 30, Sampler(seed=seed)) for seed in range(3)]
    # The optimum lies at the edge, where failures are to be expected; well beyond it next to nothing is looked for.
    # At random 8 of 45 would be there.
    assert max(study.best_value for study in studies) < 0.82
    assert sum(sum(trial.params.values()) < 0.6 for study in studies for trial in study.trials[15:]) <= 4


def test_running_trials_count_as_pending() -> None:
    study = studied(branin, 9)
    for _ in range(4):
        study.ask().suggest_float("x", -5, 10)  # and has not asked for y yet
    points = [trial.system_attrs[PROPOSAL]["point"] for trial in study.trials[9:]]
    apart = [math.dist(a.values(), b.values()) for i, a in enumerate(points) for b in points[:i]]
    assert min(apart) > 0.5


def test_threads_never_get_the_same_point() -> None:
    barrier = threading.Barrier(2, timeout=60)

    def objective(trial: Trial) -> float:
        barrier.wait()
        return trial.suggest_int("n", 1, 4) + trial.suggest_categorical("k", [1, 2, 3])

    study = optuna.create_study(sampler=Sampler(seed=0))
    study.optimize(objective, n_trials=12, n_jobs=2)
    # The first two know of no space yet.
    assert len({tuple(trial.params.values()) for trial in study.trials[2:]}) == 10


def test_a_finite_space_is_walked_without_repeats_and_goes_on_when_it_is_exhausted() -> None:
    def objective(trial: Trial) -> float:
        return trial.suggest_int("n", 1, 4) + trial.suggest_categorical("k", [1, 2, 3])

    study = studied(objective, 14)
    assert len({tuple(trial.params.values()) for trial in study.trials[:12]}) == 12
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_enqueued_trials_are_learned_from() -> None:
    study = studied(branin, 3)
    study.enqueue_trial({"x": math.pi, "y": 2.275})
    study.optimize(branin, n_trials=1)
    assert study.best_value == pytest.approx(0.3979, abs=1e-4)
    waiting = studied(branin, 9)
    waiting.enqueue_trial({"x": math.pi, "y": 2.275})
    for _ in range(2):
        waiting.ask().suggest_float("x", -5, 10)
    point = waiting.trials[-1].system_attrs[PROPOSAL]["point"]
    assert math.dist(point.values(), (math.pi, 2.275)) > 0.5


def test_pruned_trials_are_not_run_again() -> None:
    def objective(trial: Trial) -> float:
        n = trial.suggest_int("n", 1, 10)
        if n % 2:
            raise optuna.TrialPruned
        return float(n)

    study = studied(objective, 10)
    assert sorted(trial.params["n"] for trial in study.trials) == list(range(1, 11))


def test_what_no_parameter_holds_is_drawn_independently() -> None:
    wide, twins = IntDistribution(0, 10**15), CategoricalDistribution([1, True, "a"])

    def objective(trial: Trial) -> float:
        return trial.suggest_int("wide", 0, 10**15) * 1e-15 + trial.suggest_float("x", 0, 1)

    study = studied(objective, 10)
    assert all(wide._contains(trial.params["wide"]) for trial in study.trials)
    assert set(study.trials[-1].system_attrs[PROPOSAL]["point"]) == {"x"}
    assert study.ask({"twins": twins}).params["twins"] in (1, True, "a")


def test_infinite_values_do_not_end_a_study() -> None:
    study = studied(lambda trial: math.inf if trial.suggest_float("x", 0, 1) > 0.5 else trial.params["x"], 14)
    assert study.best_value < 0.05


def test_wrong_parts_are_told_at_once_and_too_many_objectives_at_the_first_proposal() -> None:
    with pytest.raises(GoalError, match=r"acquisition is one of .*Did you mean 'logei'"):
        Sampler(acquisition="loge")
    with pytest.raises(SearchError, match="A seed is a whole number or None, but got 'a'"):
        Sampler(seed="a")
    study = optuna.create_study(directions=["minimize"] * 5, sampler=Sampler())
    with pytest.raises(GoalError, match="at most 4 objectives"):
        study.optimize(lambda trial: [trial.suggest_float("x", 0, 1)] * 5, n_trials=2)
