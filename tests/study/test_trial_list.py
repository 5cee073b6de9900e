"""Trials in memory: what is updated trial by trial equals what is computed from all of them."""

from __future__ import annotations

import math

import numpy as np

from nbcompress.space import Choice, Space
from nbcompress.study import Goal, State, Trial
from nbcompress.study.front import front
from nbcompress.study.trial_list import TrialList, trials_table

GOAL = Goal.of(maximize=["accuracy"], minimize=["size"], subject_to=["size <= 8"])


def random_trial(rng: np.random.Generator, number: int) -> Trial:
    state = State(rng.choice([state.value for state in State]))
    values = {"accuracy": float(rng.integers(5)), "size": float(rng.integers(10))}
    return Trial(number, state, {"x": number}, values)


def test_states_and_front_are_those_of_all_trials() -> None:
    rng = np.random.default_rng(0)
    listed, trials = TrialList(GOAL), list[Trial]()
    for _ in range(300):
        is_new = not trials or rng.random() < 0.6
        number = len(trials) if is_new else int(rng.integers(len(trials)))
        trial = random_trial(rng, number)
        listed.put(trial)
        trials[number : number + 1] = [trial]
        assert listed.trials == tuple(trials)
        assert listed.n_counted == sum(trial.state.counts for trial in trials)
        for state in State:
            assert listed.numbers(state) == tuple(trial.number for trial in trials if trial.state is state)
        if rng.random() < 0.5:
            assert listed.front == front(trials, GOAL)


def test_the_tuple_and_the_objects_stay_while_nothing_changes() -> None:
    listed = TrialList(GOAL)
    listed.put(Trial(0, State.RUNNING, {"x": 0}))
    before = listed.trials
    assert listed.trials is before
    listed.put(Trial(1, State.RUNNING, {"x": 1}))
    assert listed.trials[0] is before[0]


def test_an_option_none_is_not_shown_as_an_inactive_parameter() -> None:
    space = Space({"method": Choice("a", "b"), "norm": Choice("", None, "batch", when={"method": "b"})})
    points = [{"method": "a"}, {"method": "b", "norm": None}, {"method": "b", "norm": ""}]
    goal = Goal.of(["score"])
    trials = [Trial(number, State.COMPLETE, point, {"score": 0.5}) for number, point in enumerate(points)]
    inactive, of_none, empty = trials_table(trials, space, goal)["norm"]
    assert isinstance(inactive, float)
    assert math.isnan(inactive)
    assert (of_none, empty) == (None, "")
    # Without the option None, an inactive choice of texts is None.
    space = Space({"method": Choice("a", "b"), "norm": Choice("layer", "batch", when={"method": "b"})})
    trials = [Trial(0, State.COMPLETE, {"method": "a"}), Trial(1, State.COMPLETE, {"method": "b", "norm": "batch"})]
    assert trials_table(trials, space, goal)["norm"].tolist() == [None, "batch"]
