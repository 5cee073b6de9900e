"""Goals: refused ones, feasibility, and differences. Trials and their states."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcompress.errors import GoalError
from nbcompress.space import Float, Space
from nbcompress.study import Constraint, Failure, Goal, Objective, State, Trial, open_study

METRICS = st.sampled_from(["accuracy", "kilobytes", "latency_ms", "größe", "f1"])
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def goals(draw: st.DrawFn) -> Goal:
    names = draw(st.lists(METRICS, min_size=1, max_size=4, unique=True))
    objectives = tuple(Objective(name, draw(st.sampled_from(["maximize", "minimize"]))) for name in names)
    constraints = draw(
        st.lists(st.builds(Constraint, METRICS, st.sampled_from(["<=", ">="]), NUMBERS), max_size=3, unique=True)
    )
    return Goal(objectives, tuple(constraints))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kilobytes <= 60", Constraint("kilobytes", "<=", 60.0)),
        ("accuracy>=0.9", Constraint("accuracy", ">=", 0.9)),
        ("  x  <=  -1e-3 ", Constraint("x", "<=", -0.001)),
        ("größe <= 1_000", Constraint("größe", "<=", 1000.0)),
    ],
)
def test_constraint_texts(text: str, expected: Constraint) -> None:
    assert Constraint.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "kilobytes", "kilobytes < 60", "60 <= kilobytes", "a <= b", "a <= 1 <= 2", "a == 1"]
)
def test_malformed_constraints(text: str) -> None:
    with pytest.raises(GoalError) as caught:
        Constraint.parse(text)
    assert str(caught.value) == (
        f"A constraint reads 'NAME <= NUMBER' or 'NAME >= NUMBER', but got {text!r}. "
        'Write for example "kilobytes <= 60".'
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Goal(()), "A search needs at least one objective. Write maximize='NAME' or minimize='NAME'."),
        (lambda: Goal.of(["a"], ["a"]), "The objective 'a' is given twice."),
        (lambda: Goal.of(["state"]), "The metric name 'state' is taken by a column of the trials; choose another."),
        (lambda: Goal.of(["a b"]), "A metric is named by a Python identifier, but got 'a b'."),
        (lambda: Goal.of(["a"], [], ["a <= inf"]), "The bound of a constraint is a finite number, but got inf."),
        (lambda: Objective("a", "up"), "A direction is 'maximize' or 'minimize', but got 'up'."),
        (lambda: Constraint("a", "<", 1.0), "A constraint uses <= or >=, but got '<'."),
    ],
)
def test_refused_goals(make: object, text: str) -> None:
    with pytest.raises(GoalError) as caught:
        make()
    assert str(caught.value) == text


def test_metrics_come_once_and_objectives_first() -> None:
    goal = Goal.of(["accuracy"], ["kilobytes"], ["kilobytes <= 60", "latency_ms <= 5"])
    assert goal.metrics == ("accuracy", "kilobytes", "latency_ms")
    assert str(goal) == "maximize accuracy, minimize kilobytes subject to kilobytes <= 60, latency_ms <= 5"


def test_feasible_and_violated() -> None:
    goal = Goal.of(["a"], [], ["k <= 60", "a >= 0.5"])
    assert goal.is_feasible({"k": 60.0, "a": 0.5})
    assert not goal.is_feasible({"a": 0.5})
    assert not goal.is_broken({"a": 0.5})
    assert goal.is_broken({"k": 60.001})
    assert not goal.is_feasible({"k": math.nan, "a": 1.0})
    assert goal.missing_metrics({"a": math.inf}) == ("a", "k")
    assert goal.missing_metrics({"a": 1.0, "k": 2.0}) == ()


@pytest.mark.parametrize(
    ("before", "now", "sentence"),
    [
        (Goal.of(["a"]), Goal.of(["a"], ["k"]), "The objective 'k' is new: it was not minimized before."),
        (Goal.of(["a"]), Goal.of([], ["a"]), "The objective 'a' is minimized now and was maximized before."),
        (Goal.of(["a", "b"]), Goal.of(["a"]), "The objective 'b' is gone: it was maximized before."),
        (
            Goal.of(["a", "b"]),
            Goal.of(["b", "a"]),
            "The objectives come in the order b, a now and came in a, b before.",
        ),
        (Goal.of(["a"]), Goal.of(["a"], [], ["k <= 6"]), "The constraint 'k <= 6' is new."),
        (Goal.of(["a"], [], ["k <= 6"]), Goal.of(["a"]), "The constraint 'k <= 6' is gone."),
        (
            Goal.of(["a"], [], ["k <= 6"]),
            Goal.of(["a"], [], ["k <= 7"]),
            "The constraint is 'k <= 7' now and was 'k <= 6' before.",
        ),
        (Goal.of(["a"], [], ["k <= 6", "m >= 1"]), Goal.of(["a"], [], ["m >= 1", "k <= 6"]), ""),
    ],
)
def test_differences(before: Goal, now: Goal, sentence: str) -> None:
    assert before.difference(now) == sentence


@given(goals())
def test_json_is_a_round_trip(goal: Goal) -> None:
    assert Goal.from_json(goal.to_json()) == goal


@given(goals(), goals())
def test_a_difference_is_found_in_both_directions(goal: Goal, other: Goal) -> None:
    assert (goal.difference(other) == "") == (other.difference(goal) == "")
    assert goal.difference(goal) == ""


@given(METRICS, st.sampled_from(["<=", ">="]), NUMBERS, NUMBERS)
def test_a_constraint_holds_where_its_slack_is_not_positive(
    name: str, operator: str, bound: float, value: float
) -> None:
    constraint = Constraint(name, operator, bound)
    assert constraint.holds(value) == (value <= bound if operator == "<=" else value >= bound)


@given(METRICS, st.sampled_from(["<=", ">="]), NUMBERS)
def test_a_printed_constraint_says_its_bound(name: str, operator: str, bound: float) -> None:
    constraint = Constraint(name, operator, bound)
    assert Constraint.parse(str(constraint)) == constraint


def test_names_of_states() -> None:
    words = ["running", "complete", "stopped", "infeasible", "failed", "interrupted"]
    assert [state.value for state in State] == words
    assert [str(state) for state in State] == words
    assert [state.value for state in State if state.counts] == ["complete", "stopped", "infeasible", "failed"]


def test_a_trial_is_frozen_and_compared_without_what_it_keeps() -> None:
    trial = Trial(0, State.COMPLETE, {"x": 1}, {"y": 2.0})
    assert trial == Trial(0, State.COMPLETE, {"x": 1}, {"y": 2.0}, kept={"small": object()})
    assert trial != Trial(0, State.COMPLETE, {"x": 1}, {"y": 3.0})
    assert "kept" not in repr(trial)
    with pytest.raises(AttributeError):
        trial.number = 1


def test_the_point_is_a_copy() -> None:
    trial = Trial(0, State.RUNNING, {"x": 1})
    trial.point["x"] = 2
    assert trial.params == {"x": 1}


def test_a_failure_reads_as_kind_and_message() -> None:
    assert str(Failure("ValueError", "no")) == "ValueError: no"
    assert str(Failure("Crash", "")) == "Crash"


@pytest.mark.parametrize(
    ("constraints", "pair"),
    [
        (["l <= 1", "l >= 2"], ("l >= 2", "l <= 1")),
        (["l >= 0", "k <= 9", "l >= 1.5", "l <= 3", "l <= 1"], ("l >= 1.5", "l <= 1")),
        (["l <= 1", "k >= 2"], None),
        (["l <= 1", "l >= 1", "l >= -3"], None),
    ],
)
def test_constraints_that_exclude_each_other_are_refused_before_the_start(
    constraints: list[str], pair: tuple[str, str] | None, tmp_path: Path
) -> None:
    goal = Goal.of(minimize=["l"], subject_to=constraints)
    assert Goal.from_json(goal.to_json()) == goal  # a study that was begun by an earlier version can be read
    storage = tmp_path / "a.journal"
    if pair is None:
        assert open_study("s", Space({"x": Float(0, 1)}), goal, storage=storage).all_trials == ()
        return
    with pytest.raises(GoalError) as caught:
        open_study("s", Space({"x": Float(0, 1)}), goal, storage=storage)
    assert str(caught.value) == (
        f"No value satisfies both '{pair[0]}' and '{pair[1]}', so every trial would be infeasible. "
        "Leave out one of them in subject_to."
    )
    assert not storage.exists()


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("accuracy >= baseline", 0.95),
        ("accuracy >= baseline - 0.01", 0.94),
        ("accuracy>=baseline-0.01", 0.94),
        ("kilobytes <= baseline * 0.5", 50.5),
        ("kilobytes <= baseline / 4", 25.25),
        ("kilobytes <= baseline + 1e3", 1101.0),
    ],
)
def test_a_bound_relative_to_the_baseline(text: str, bound: float) -> None:
    baseline = {"accuracy": 0.95, "kilobytes": 101.0}
    assert Constraint.parse(text, baseline).bound == bound
    assert Goal.of(["accuracy"], subject_to=[text], baseline=baseline).constraints[0].bound == bound
    for missing in (None, {}, 3, {"accuracy": "high", "kilobytes": None}):
        with pytest.raises(GoalError, match=r"needs '\w+' of the original model. Give it with baseline="):
            Constraint.parse(text, missing)


@pytest.mark.parametrize("text", ["a >= baseline -", "a >= base", "a >= baseline - x", "a >= 1 - baseline", "a >= 1 2"])
def test_a_bound_that_cannot_be_read(text: str) -> None:
    with pytest.raises(GoalError, match="A constraint reads"):
        Constraint.parse(text, {"a": 1.0})


def test_a_relative_bound_is_finite() -> None:
    with pytest.raises(GoalError, match="a finite number"):
        Constraint.parse("a >= baseline / 0", {"a": 1.0})
