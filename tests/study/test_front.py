"""The Pareto front and the hypervolume: by hand, and against brute force."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nbcompress.errors import GoalError, StudyError
from nbcompress.space import Float, Space
from nbcompress.study import Goal, State, Study, Trial, front, hypervolume, is_non_dominated, open_study

GOAL = Goal.of(["accuracy"], ["kilobytes"], ["kilobytes <= 60"])


def trial(number: int, accuracy: float, kilobytes: float, state: State = State.COMPLETE) -> Trial:
    return Trial(number, state, {}, {"accuracy": accuracy, "kilobytes": kilobytes})


def by_inclusion_and_exclusion(rows: np.ndarray, corner: np.ndarray) -> float:
    """The textbook sum over all subsets of boxes; exponential, so only for a handful of rows."""
    rows = [row for row in rows if (row < corner).all()]
    total = 0.0
    for size in range(1, len(rows) + 1):
        for subset in itertools.combinations(rows, size):
            total += (-1) ** (size + 1) * float(np.prod(corner - np.max(subset, axis=0)))
    return total


@st.composite
def losses(draw: st.DrawFn, max_rows: int = 6) -> np.ndarray:
    shape = (draw(st.integers(0, max_rows)), draw(st.integers(1, 4)))
    # Few values, so that ties and doubles come often.
    return draw(arrays(np.float64, shape, elements=st.integers(0, 5).map(float)))


def test_front_by_hand() -> None:
    trials = [
        trial(0, 0.90, 50.0),
        trial(1, 0.95, 55.0),
        trial(2, 0.90, 40.0),  # dominates 0
        trial(3, 0.99, 61.0),  # breaks the constraint
        trial(4, 0.80, 30.0),
        trial(5, 0.99, 10.0, State.STOPPED),
        trial(6, 0.80, 30.0),  # equal to 4: neither dominates the other
        trial(7, 0.79, 30.0),
    ]
    assert [trial.number for trial in front(trials, GOAL)] == [1, 2, 4, 6]
    assert front([], GOAL) == []


def test_one_objective_has_a_front_of_equals() -> None:
    goal = Goal.of([], ["loss"])
    trials = [Trial(i, State.COMPLETE, {}, {"loss": loss}) for i, loss in enumerate([3.0, 1.0, 2.0, 1.0])]
    assert [trial.number for trial in front(trials, goal)] == [1, 3]


@pytest.mark.parametrize(
    ("rows", "reference", "volume"),
    [
        ([[1.0]], [4.0], 3.0),
        ([[1.0], [2.0]], [4.0], 3.0),
        ([[5.0]], [4.0], 0.0),
        ([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]], [4.0, 4.0], 3.0 + 2.0 + 1.0),
        ([[1.0, 3.0], [1.0, 3.0], [2.0, 3.0]], [4.0, 4.0], 3.0),
        ([[0.0, 0.0, 0.0]], [1.0, 2.0, 3.0], 6.0),
        ([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]], [2.0, 2.0, 2.0], 4.0),
        ([[1.0, 1.0, 1.0, 1.0], [0.0, 1.5, 1.5, 1.5]], [2.0, 2.0, 2.0, 2.0], 1.0 + 1.0 * 0.5**3),
        (np.empty((0, 2)), [1.0, 1.0], 0.0),
    ],
)
def test_volume_by_hand(rows: object, reference: list[float], volume: float) -> None:
    assert hypervolume(rows, reference) == pytest.approx(volume, abs=1e-12)


@given(losses())
def test_volume_is_the_sum_over_subsets(rows: np.ndarray) -> None:
    corner = np.full(rows.shape[1], 4.5)
    assert hypervolume(rows, corner) == pytest.approx(by_inclusion_and_exclusion(rows, corner), abs=1e-9)


@given(losses(max_rows=12), st.randoms(use_true_random=False))
def test_volume_does_not_depend_on_order(rows: np.ndarray, random: object) -> None:
    corner = np.full(rows.shape[1], 4.5)
    order = random.sample(range(len(rows)), len(rows))
    columns = random.sample(range(rows.shape[1]), rows.shape[1])
    assert hypervolume(rows[order][:, columns], corner) == pytest.approx(hypervolume(rows, corner))


@given(losses(max_rows=12))
def test_volume_never_falls_and_depends_on_the_front_only(rows: np.ndarray) -> None:
    corner = np.full(rows.shape[1], 4.5)
    volumes = [hypervolume(rows[:n], corner) for n in range(len(rows) + 1)]
    assert all(before <= after + 1e-9 for before, after in itertools.pairwise(volumes))
    assert hypervolume(rows[is_non_dominated(rows)], corner) == pytest.approx(volumes[-1])


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_volume_is_near_an_estimate(seed: int, n_objectives: int) -> None:
    generator = np.random.default_rng(seed)
    rows = generator.random((20, n_objectives))
    samples = generator.random((20_000, n_objectives))
    share = np.mean((rows[None] <= samples[:, None]).all(axis=2).any(axis=1))
    # Six standard errors of a share of 20,000.
    assert hypervolume(rows, np.ones(n_objectives)) == pytest.approx(share, abs=6 * math.sqrt(0.25 / 20_000))


@given(losses(max_rows=12))
def test_non_dominated_rows_by_brute_force(rows: np.ndarray) -> None:
    def dominates(row: np.ndarray, other: np.ndarray) -> bool:
        return bool((row <= other).all() and (row < other).any())

    expected = [not any(dominates(other, row) for other in rows) for row in rows]
    assert is_non_dominated(rows).tolist() == expected


def test_volume_of_two_hundred_trials_is_quick() -> None:
    generator = np.random.default_rng(0)
    sphere = np.abs(generator.normal(size=(100, 4)))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    assert 0 < hypervolume(1 - sphere, np.ones(4)) < 1


@pytest.mark.parametrize(
    ("rows", "reference", "text"),
    [
        (
            np.ones((1, 5)),
            np.ones(5),
            "A hypervolume is computed for 1 to 4 objectives, but got a reference of shape (5,).",
        ),
        ([[math.nan, 1.0]], [2.0, 2.0], "A hypervolume needs numbers, but got NaN."),
    ],
)
def test_refused_volumes(rows: object, reference: object, text: str) -> None:
    with pytest.raises(StudyError) as caught:
        hypervolume(rows, reference)
    assert str(caught.value) == text


def _study(goal: Goal, rows: list[dict[str, float]]) -> Study:
    study = open_study("s", Space({"x": Float(0, 1)}), goal, storage=None)
    for index, values in enumerate(rows):
        begun = study.begin({"x": index / 10})
        study.finish(replace(begun, state=State.COMPLETE, values=values))
    return study


def test_the_best_of_one_objective_as_in_optuna() -> None:
    goal = Goal.of(minimize=["loss"], subject_to=["loss >= 1"])
    study = _study(goal, [{"loss": 3.0}, {"loss": 2.0}, {"loss": 0.5}])
    assert (study.best_trial.number, study.best_value, study.best_params) == (1, 2.0, {"x": 0.1})
    for name in ("best_trial", "best_value", "best_params"):
        with pytest.raises(StudyError, match=r"No trial of study 's' is complete and feasible: study\.front is empty"):
            getattr(_study(goal, [{"loss": 0.5}]), name)
        with pytest.raises(StudyError, match=r"several objectives \(a, b\).* Take one of study\.front"):
            getattr(_study(Goal.of(maximize=["a", "b"]), [{"a": 1.0, "b": 1.0}]), name)


def test_a_trial_of_the_front_is_picked_by_a_condition() -> None:
    rows = [(0.9, 10.0), (0.96, 30.0), (0.99, 50.0), (0.95, 40.0)]
    study = _study(
        Goal.of(maximize=["accuracy"], minimize=["kilobytes"]),
        [{"accuracy": accuracy, "kilobytes": kilobytes, "ms": kilobytes} for accuracy, kilobytes in rows],
    )
    assert study.pick("accuracy >= 0.95", "kilobytes").number == 1
    assert study.pick("kilobytes <= 40", "accuracy").number == 1
    assert study.pick(["accuracy >= 0.95", "ms >= 40"], "kilobytes").number == 2
    with pytest.raises(StudyError, match=r"No trial on the front .* has accuracy >= 0\.999; see study\.front"):
        study.pick("accuracy >= 0.999", "kilobytes")
    with pytest.raises(GoalError, match=r"picked by an objective .* Did you mean 'kilobytes'"):
        study.pick("accuracy >= 0.95", "kilobyte")
    with pytest.raises(GoalError, match="A constraint reads"):
        study.pick("accuracy > 0.95", "kilobytes")
