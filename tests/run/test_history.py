"""What proposers see of the trials: histories, extrapolated values, and failures that are alike."""

from __future__ import annotations

import math
import operator
from dataclasses import replace

import numpy as np
import pytest

from nbcompress.optimize.history import n_shared
from nbcompress.run.history import (
    CompletedCurves,
    HistoryCache,
    all_failed,
    curve_of,
    history_of,
    n_alike_initial_failures,
    one_line,
    same_failure,
)
from nbcompress.study import Failure, Goal, State, Trial

GOAL = Goal.of(maximize=["accuracy"], minimize=["size"], subject_to=["size <= 60", "accuracy >= 0.5"])


def test_every_state_has_its_row() -> None:
    trials = [
        Trial(1, State.INFEASIBLE, {"x": 1}, {"size": 61.0}),
        Trial(0, State.COMPLETE, {"x": 0}, {"accuracy": 0.9, "size": 50.0}, note={"a": 1}),
        Trial(2, State.FAILED, {"x": 2}),
        Trial(3, State.STOPPED, {"x": 3}, {"size": 40.0}),
        Trial(4, State.RUNNING, {"x": 4}),
        Trial(5, State.INTERRUPTED, {"x": 5}),
    ]
    history = history_of(trials, GOAL)
    assert history.points == tuple({"x": number} for number in range(6))
    assert history.status == ("told", "told", "failed", "told", "pending", "pending")
    assert history.notes[0] == {"a": 1}
    nan = np.nan
    losses = [[-0.9, 50], [nan, 61], [nan, nan], [nan, 40], [nan, nan], [nan, nan]]
    slacks = [[-10, -0.4], [1, nan], [nan, nan], [-20, nan], [nan, nan], [nan, nan]]
    np.testing.assert_allclose(history.losses, losses)
    np.testing.assert_allclose(history.slacks, slacks)


def test_a_stopped_trial_tells_what_it_reached_while_few_are_complete() -> None:
    reports = {"accuracy": {2: 0.6, 0: 0.2, 1: 0.7}}
    stopped, failed = (
        Trial(number, state, {"x": 0}, {"size": 40.0}, reports=reports)
        for number, state in enumerate((State.STOPPED, State.FAILED))
    )
    history = history_of([stopped, failed], GOAL)
    np.testing.assert_allclose(history.losses, [[-0.6, 40], [np.nan, 40]])
    # Its accuracy was to rise: whether the trial would have kept the limit is not known.
    np.testing.assert_allclose(history.slacks, [[-20, np.nan], [-20, np.nan]])
    assert dict(stopped.values) == {"size": 40.0}


def test_empty() -> None:
    history = history_of([], GOAL)
    assert history.losses.shape == (0, 2)
    assert history.slacks.shape == (0, 2)


# After one report .2, .4, .5, .9; in the end .8, .8, .7, .95: gains of .6, .4, .2, .05.
CURVES = ([0.2, 0.6, 0.8], [0.4, 0.7, 0.8], [0.5, 0.6, 0.7], [0.9, 0.95])
COMPLETE = [
    Trial(i, State.COMPLETE, {"x": i}, {"accuracy": curve[-1]}, reports={"accuracy": dict(enumerate(curve))})
    for i, curve in enumerate(CURVES)
]


@pytest.mark.parametrize(
    ("curve", "end"),
    [
        ([], math.nan),
        ([0.3], 0.3 + 0.4),
        ([0.8], 0.8 + (0.05 + 0.2 + 0.4) / 3),
        # After two reports: gains of .2, .1, .1, 0.
        ([0.1, 0.5], 0.5 + (0.2 + 0.1 + 0.1) / 3),
        # Only three got as far as three reports, and were at their end.
        ([0.1, 0.1, 0.2], 0.2),
        # Nobody got that far.
        ([0.1] * 4, 0.1),
    ],
)
def test_the_three_nearest_tell_the_gain(curve: list[float], end: float) -> None:
    assert CompletedCurves.of(COMPLETE, "accuracy").extrapolate_final_value(curve) == pytest.approx(end, nan_ok=True)


def test_fewer_than_three_tell_nothing() -> None:
    assert CompletedCurves.of(COMPLETE[:2], "accuracy").extrapolate_final_value([0.3]) == 0.3
    assert CompletedCurves.of([], "accuracy").extrapolate_final_value([0.3]) == 0.3


def test_reports_are_read_in_the_order_of_their_steps() -> None:
    trial = Trial(0, State.STOPPED, {}, reports={"accuracy": {5: 0.7, 1: 0.2}})
    assert curve_of(trial, "accuracy") == [0.2, 0.7]
    assert curve_of(trial, "loss") == []


def test_the_surrogate_is_told_the_expected_end_of_a_stopped_trial_alone() -> None:
    reports = {"accuracy": {0: 0.3}}
    others = [
        Trial(4, State.STOPPED, {"x": 4}, {"size": 2.0}, reports=reports),
        # Its accuracy was known for good when it ended.
        Trial(5, State.STOPPED, {"x": 5}, {"accuracy": 0.6, "size": 3.0}, reports=reports),
        Trial(6, State.FAILED, {"x": 6}, reports=reports),
    ]
    losses = history_of([*COMPLETE, *others], Goal.of(maximize=["accuracy"], minimize=["size"])).losses
    assert losses[4:].tolist() == [
        [pytest.approx(-0.7), 2.0],
        [-0.6, 3.0],
        [pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True)],
    ]


def failed(number: int, message: str = "boom") -> Trial:
    return Trial(number, State.FAILED, {}, failure=Failure("ValueError", message))


def test_three_equal_ones_at_the_beginning() -> None:
    trials = [failed(0), failed(1), failed(2)]
    assert same_failure(trials[:2], 2) is None
    assert same_failure(trials, 3) == Failure("ValueError", "boom")


def test_addresses_do_not_tell_errors_apart() -> None:
    assert same_failure([failed(i, f"<Net at 0x7f{i}a>") for i in range(3)], 3) is not None


@pytest.mark.parametrize(
    "messages",
    [
        ["got the str '0.5'", "got the str '1e-05'", "got the str '12'"],
        ["the bool True", "the bool False", "the bool True"],
        ["bad x 0.25", "bad x 0.75", "bad x 1"],
    ],
)
def test_what_varies_with_the_point_does_not_tell_errors_apart(messages: list[str]) -> None:
    trials = [failed(number, message) for number, message in enumerate(messages)]
    assert same_failure(trials, 3) is not None
    assert n_alike_initial_failures(trials) == 3


def test_too_little_memory_is_a_matter_of_the_point() -> None:
    trials = [
        Trial(i, State.FAILED, {}, failure=Failure("OutOfMemoryError", f"Tried to allocate {i} GiB")) for i in range(3)
    ]
    assert same_failure(trials, 3) is None


def test_when_all_have_failed_the_last_one_is_named() -> None:
    trials = [failed(0), failed(1, "bang")]
    assert all_failed(trials) == " All failed, the last one with ValueError: bang"
    assert all_failed([*trials, Trial(2, State.INFEASIBLE, {})]) == ""
    assert all_failed([]) == ""
    assert repr(trials[0]) == "<Trial 0: failed, ValueError ()>"


def test_different_ones_go_on() -> None:
    assert same_failure([failed(0), failed(1, "bang"), failed(2)], 3) is None


def test_a_success_means_that_it_can_work() -> None:
    assert same_failure([Trial(0, State.COMPLETE, {}), failed(1), failed(2), failed(3)], 3) is None
    assert same_failure([failed(0), failed(1), Trial(2, State.INFEASIBLE, {})], 3) is None


def test_later_ones_go_on() -> None:
    assert same_failure([failed(0, "bang"), *[failed(i) for i in range(1, 4)]], 4) is None


def test_continued_without_a_repair_it_ends_after_one_more() -> None:
    assert same_failure([failed(i) for i in range(3)], 0) is None
    assert same_failure([failed(i) for i in range(4)], 1) is not None


def test_interrupted_ones_say_nothing() -> None:
    trials = [failed(0), Trial(1, State.INTERRUPTED, {}), failed(2), failed(3)]
    assert same_failure(trials, 3) is not None


def test_a_search_that_began_in_vain() -> None:
    same = [failed(number, "nosuch") for number in range(3)]
    assert n_alike_initial_failures(same) == 3
    assert n_alike_initial_failures(same[:2]) == 0
    assert n_alike_initial_failures([*same, Trial(3, State.COMPLETE, {}), failed(4, "nosuch")]) == 3
    assert n_alike_initial_failures([failed(0, "other"), *[failed(number, "nosuch") for number in (1, 2, 3)]]) == 0


def test_a_failure_as_one_line_of_bounded_length() -> None:
    assert one_line(Failure("ValueError", "two\n  lines")) == "ValueError: two lines"
    text = one_line(Failure("ValueError", "long " * 1000))
    assert text.startswith("ValueError: long long")
    assert text.endswith(" ...")
    assert len(text) < 210


def test_a_cache_returns_the_same_history_for_the_same_trials() -> None:
    trials, cache = COMPLETE[:2], HistoryCache()
    history = cache.history_of(trials, GOAL)
    assert cache.history_of(tuple(trials), GOAL) is history
    assert cache.history_of([replace(trial) for trial in trials], GOAL) is not history
    assert HistoryCache().history_of(trials, GOAL) is not history


def curved(rng: np.random.Generator, number: int) -> Trial:
    """Return a trial with a learning curve of a few coarse values, so that distances are often equal."""
    state = rng.choice(np.array([State.COMPLETE, State.STOPPED, State.FAILED, State.RUNNING, State.INFEASIBLE]))
    n = int(rng.integers(1, 6)) if state != State.COMPLETE else 6
    reports = {"accuracy": {step: float(rng.integers(6)) for step in range(n)}}
    values = {"size": float(rng.integers(80))}
    if state == State.COMPLETE:
        values["accuracy"] = float(rng.integers(6))
    return Trial(number, State(state), {"x": number}, values, reports=reports, note={"n": number})


def test_a_history_made_from_the_last_one_equals_a_new_one() -> None:
    rng, cache, trials = np.random.default_rng(1), HistoryCache(), list[Trial]()
    for _ in range(200):
        running = [trial.number for trial in trials if trial.state is State.RUNNING]
        if running and rng.random() < 0.6:  # trials that run side by side end in any order
            number = int(rng.choice(running))
            trials[number] = replace(curved(rng, number), params=trials[number].params)
        else:
            trials.append(curved(rng, len(trials)))
        if rng.random() < 0.02:  # another process has run a trial again
            number = int(rng.integers(len(trials)))
            trials[number] = curved(rng, number)
        if rng.random() < 0.5:
            found, expected = cache.history_of(trials, GOAL), history_of(trials, GOAL)
            assert found.to_json() == expected.to_json()
            # Each point is one object in all histories: what was computed from it is found again.
            assert all(map(operator.is_, found.points, cache.history_of(list(trials), GOAL).points))


def test_a_history_keeps_the_points_of_the_last_one() -> None:
    cache = HistoryCache()
    first = cache.history_of(COMPLETE, GOAL)
    second = cache.history_of([*COMPLETE, Trial(4, State.RUNNING, {"x": 4})], GOAL)
    assert second.points[0] is first.points[0]
    assert n_shared(first.points, second.points) == 4
