"""Early stopping: rules on hand-made curves, and how learning curves are compared."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nbcompress.errors import SearchError
from nbcompress.run.early_stopping import (
    LearningCurves,
    Pruner,
    PruningRule,
    PruningRules,
    aspects_of,
    count_better,
    unused_pruner_warning,
)
from nbcompress.study import Goal, State, Trial, is_non_dominated

ONE = Goal.of(minimize=["loss"])
TWO = Goal.of(maximize=["accuracy"], minimize=["loss"])


def ended(number: int, values: list[float], metric: str = "loss", state: State = State.COMPLETE) -> Trial:
    # One report more: nothing is pruned at the last one.
    return Trial(number, state, {}, reports={metric: dict(enumerate([*values, values[-1]]))})


def verdict(
    rule: str, number: int, trials: list[Trial], values: list[float], metric: str = "loss", goal: Goal = ONE
) -> str:
    pruning_rule = Pruner(rule).pruning_rule(number, trials, goal)
    return pruning_rule.verdict({metric: dict(enumerate(values))}, len(values) - 1, {}) if pruning_rule else "no rule"


def test_none_never_stops() -> None:
    assert Pruner().pruning_rule(0, [ended(0, [1.0])], ONE) is None


def test_unknown() -> None:
    with pytest.raises(SearchError, match=r"A pruner is one of none, median.* Did you mean 'median'\?"):
        Pruner("medain")


def test_median_needs_five_trials_and_then_the_worse_half_goes() -> None:
    trials = [ended(i, [float(i)] * 4) for i in range(5)]
    assert verdict("median", 5, trials[:4], [99.0]) == ""
    assert verdict("median", 5, trials, [2.0]) == ""
    assert verdict("median", 5, trials, [2.1]) == "Behind earlier trials at step 0 in loss (median)."
    # The best so far counts, not the latest.
    assert verdict("median", 5, trials, [1.0, 9.0, 9.0]) == ""
    # Nobody got that far.
    assert verdict("median", 5, trials, [9.0] * 5) == ""


def test_the_last_report_of_a_whole_trial_stops_nothing() -> None:
    trials = [ended(0, [0.0] * 8)]  # nine reports in all
    assert verdict("asha", 1, trials, [1.0] * 3) != ""
    assert verdict("asha", 1, trials, [1.0] * 9) == ""
    assert verdict("asha", 1, trials, [1.0] * 27) == ""


def test_median_compares_with_whole_trials_only() -> None:
    trials = [ended(i, [0.0], state=State.STOPPED) for i in range(9)]
    assert verdict("median", 9, trials, [9.0]) == ""


@pytest.mark.parametrize(
    ("n", "is_rung"), [(1, True), (2, False), (3, True), (4, False), (8, False), (9, True), (27, True)]
)
def test_asha_decides_on_rungs(n: int, is_rung: bool) -> None:
    trials = [ended(0, [0.0] * 30)]
    assert bool(verdict("asha", 1, trials, [1.0] * n)) is is_rung


def test_asha_lets_the_best_third_go_on() -> None:
    trials = [ended(i, [float(i)], state=State.STOPPED) for i in range(8)]
    # With this one there are nine: the best three go on.
    assert verdict("asha", 8, trials, [1.5]) == ""
    assert verdict("asha", 8, trials, [2.5]) != ""
    # Alone, nobody is behind.
    assert verdict("asha", 0, [], [9.0]) == ""


def test_maximized_objectives_turn_the_sign() -> None:
    goal = Goal.of(maximize=["accuracy"])
    trials = [ended(0, [0.9], "accuracy")]
    assert verdict("asha", 1, trials, [0.95], "accuracy", goal) == ""
    assert verdict("asha", 1, trials, [0.5], "accuracy", goal) != ""


def twice(**values: float) -> dict[str, dict[int, float]]:
    """Two reports alike: where the first decision falls with several objectives."""
    return {name: {0: value, 1: value} for name, value in values.items()}


def test_with_several_objectives_one_lead_is_enough() -> None:
    trials = [
        Trial(
            0,
            State.COMPLETE,
            {},
            reports={"accuracy": dict.fromkeys(range(3), 0.9), "loss": dict.fromkeys(range(3), 1.0)},
        )
    ]
    pruning_rule = Pruner("asha").pruning_rule(1, trials, TWO)
    assert pruning_rule is not None
    assert pruning_rule.verdict(twice(accuracy=0.95, loss=9.0), 1, {}) == ""
    assert pruning_rule.verdict(twice(accuracy=0.5, loss=0.5), 1, {}) == ""
    both = pruning_rule.verdict(twice(accuracy=0.5, loss=9.0), 1, {})
    assert both == "Behind earlier trials at step 1 in accuracy and loss (asha)."


def sized(number: int, accuracy: list[float], kilobytes: float) -> Trial:
    values = {"accuracy": accuracy[-1], "kilobytes": kilobytes}
    return Trial(number, State.COMPLETE, {}, values, reports={"accuracy": dict(enumerate([*accuracy, accuracy[-1]]))})


def test_a_metric_that_is_known_before_the_training_takes_part() -> None:
    goal = Goal.of(maximize=["accuracy"], minimize=["kilobytes"])
    pruning_rule = Pruner("asha").pruning_rule(1, [sized(0, [0.5, 0.6, 0.9], 40.0)], goal)
    assert pruning_rule is not None
    worse = twice(accuracy=0.3)
    # Smaller than all: it may end on the front, however little it has learned so far.
    assert pruning_rule.verdict(worse, 1, {"kilobytes": 10.0}) == ""
    expected = "Behind earlier trials at step 1 in accuracy and kilobytes (asha)."
    assert pruning_rule.verdict(worse, 1, {"kilobytes": 50.0}) == expected
    # Its size is not known: it may be the smallest, so the other objective alone does not prune it.
    assert pruning_rule.verdict(worse, 1, {}) == ""
    assert pruning_rule.missing_objectives(worse, {}) == ("kilobytes",)


def test_one_objective_is_enough_while_a_constraint_is_not_known() -> None:
    goal = Goal.of(maximize=["accuracy"], subject_to=["kilobytes <= 50"])
    pruning_rule = Pruner("asha").pruning_rule(1, [sized(0, [0.5, 0.6, 0.9], 40.0)], goal)
    assert pruning_rule is not None
    assert pruning_rule.verdict({"accuracy": {0: 0.3}}, 0, {}) == "Behind earlier trials at step 0 in accuracy (asha)."


def test_a_rule_that_never_decided_says_what_to_write() -> None:
    silent, telling = Trial(0, State.COMPLETE, {}, {"loss": 1.0}), ended(1, [1.0])
    assert unused_pruner_warning("median", [silent], ONE) == (
        "The pruner 'median' could not decide: no trial reported loss with a step. "
        "Write report(loss=..., step=epoch) where it trains."
    )
    assert unused_pruner_warning("median", [silent, telling], ONE) == ""
    assert unused_pruner_warning("none", [silent], ONE) == ""


def test_a_trial_that_is_nearer_to_keeping_a_constraint_is_not_behind() -> None:
    goal = Goal.of(minimize=["kilobytes"], subject_to=["accuracy >= 0.9"])
    pruning_rule = Pruner("asha").pruning_rule(1, [sized(0, [0.5, 0.95], 20.0)], goal)
    assert pruning_rule is not None
    assert pruning_rule.verdict({"accuracy": {0: 0.6}}, 0, {"kilobytes": 30.0}) == ""
    assert pruning_rule.verdict({"accuracy": {0: 0.4}}, 0, {"kilobytes": 30.0}) != ""
    # Both keep it: then the size decides alone.
    assert pruning_rule.verdict({"accuracy": {0: 0.4, 1: 0.92, 2: 0.92}}, 2, {"kilobytes": 30.0}) == ""
    kept = Pruner("asha").pruning_rule(1, [sized(0, [0.95], 20.0)], goal)
    assert kept is not None
    assert kept.verdict({"accuracy": {0: 0.99}}, 0, {"kilobytes": 30.0}) != ""


def test_the_best_layers_of_fronts_go_on() -> None:
    goal = Goal.of(maximize=["accuracy"], minimize=["kilobytes"])
    front = [sized(i, [0.5 + i / 10] * 6, 10.0 + i) for i in range(3)]
    behind = [sized(3 + i, [0.3 + i / 10] * 6, 20.0 + i) for i in range(5)]
    pruning_rule = Pruner("asha").pruning_rule(8, [*front, *behind], goal)
    assert pruning_rule is not None
    # With this one there are nine, of which three go on; the front has three already.
    assert pruning_rule.verdict({"accuracy": dict.fromkeys(range(6), 0.55)}, 5, {"kilobytes": 12.5}) != ""
    assert pruning_rule.verdict({"accuracy": dict.fromkeys(range(6), 0.65)}, 5, {"kilobytes": 11.5}) == ""


def test_with_several_objectives_the_first_report_stops_nothing() -> None:
    goal = Goal.of(maximize=["accuracy"], minimize=["kilobytes"])
    # One is better than the next in both.
    pruning_rule = Pruner("asha").pruning_rule(8, [sized(i, [0.9 - i / 10] * 6, 10.0 + i) for i in range(8)], goal)
    assert pruning_rule is not None

    def is_stopped(ahead: int, n_reports: int) -> bool:
        own = {"accuracy": dict.fromkeys(range(n_reports), 0.95 - ahead / 10)}
        return pruning_rule.verdict(own, n_reports - 1, {"kilobytes": 9.5 + ahead}) != ""

    assert [is_stopped(8, n) for n in range(1, 7)] == [False, True, False, False, False, True]
    # With this one there are nine: four go on from the first decision, three from the next.
    assert [is_stopped(ahead, 2) for ahead in (3, 4)] == [False, True]
    assert [is_stopped(ahead, 6) for ahead in (2, 3)] == [False, True]


def test_metrics_that_are_no_objectives_do_not_decide() -> None:
    trials = [ended(0, [0.0], "grad")]
    assert verdict("asha", 1, trials, [9.0], "grad") == ""


def test_hyperband_waits_for_a_whole_trial_and_then_takes_turns() -> None:
    assert Pruner("hyperband").pruning_rule(0, [ended(0, [1.0] * 9, state=State.STOPPED)], ONE) is None
    whole = [ended(0, [1.0] * 9)]  # nine reports: brackets that begin at 1, 3 and 9
    rules = [Pruner("hyperband").pruning_rule(number, whole, ONE) for number in range(1, 7)]
    assert [rule.first_rung for rule in rules if rule] == [3, 9, 1, 3, 9, 1]
    # Rivals are those of the own bracket.
    assert [len(rule.earlier) for rule in rules if rule] == [0, 0, 1, 0, 0, 1]


def test_a_rule_can_be_sent() -> None:
    pruning_rule = Pruner("asha").pruning_rule(1, [ended(0, [1.0, 0.5])], ONE)
    assert isinstance(pruning_rule, PruningRule)
    assert pickle.loads(pickle.dumps(pruning_rule)) == pruning_rule


GOAL = Goal.of(maximize=["accuracy"], minimize=["size"], subject_to=["seconds_each <= 2"])
ASPECTS = aspects_of(GOAL)


def test_curves_hold_the_best_so_far_and_constraints_count_when_broken() -> None:
    reports = {"accuracy": {0: 0.5, 2: 0.4, 1: 0.7}, "seconds_each": {0: 3.0, 1: 1.0}}
    showing = LearningCurves.of(ASPECTS, reports, {"size": 4.0})
    assert showing.curves == ((-0.5, -0.7, -0.7), (), (1.0, 0.0))
    assert showing.known == (None, 4.0, None)
    assert showing.n_reports == 3


def reference_verdict(rule: PruningRule, earlier: list[LearningCurves], own: LearningCurves) -> bool:
    """Decide as the rules are defined, one list after the other."""
    n, longest = own.n_reports, max((trial.n_reports for trial in earlier), default=0)
    if not 0 < n < longest:
        return False
    reported = [i for i, curve in enumerate(own.curves) if curve or own.known[i] is not None]

    def at(trial: LearningCurves, i: int) -> float | None:
        length = len(own.curves[i])
        if length == 0:
            return trial.known[i]
        return trial.curves[i][length - 1] if len(trial.curves[i]) >= length else None

    values = [at(own, i) for i in reported]
    rows = [row for row in ([at(trial, i) for i in reported] for trial in earlier) if None not in row]
    better = count_better(values, rows)  # type: ignore[arg-type]
    if rule.rule == "median":
        return len(rows) >= 5 and better > len(rows) / 2
    if n not in [rule.first_rung * 3**i for i in range(5)]:
        return False
    reduction = 2 if n == rule.first_rung and len(rule.goal.objectives) > 1 else 3
    return better >= max(1, (len(rows) + 1) // reduction)


@pytest.mark.parametrize("goal", [ONE, GOAL, Goal.of(minimize=["loss"], subject_to=["size <= 5"])], ids=str)
@pytest.mark.parametrize("name", ["median", "asha", "hyperband"])
def test_rules_that_read_arrays_decide_as_they_are_defined(name: str, goal: Goal) -> None:
    rng = np.random.default_rng(3)
    rules, trials, aspects, verdicts = PruningRules(Pruner(name), goal), list[Trial](), aspects_of(goal), []
    for number in range(60):
        metrics = [metric for metric in goal.metrics if metric == goal.metrics[0] or rng.random() < 0.8]
        reports = {metric: {s: float(rng.integers(8)) for s in range(rng.integers(1, 12))} for metric in metrics}
        values = {metric: float(rng.integers(8)) for metric in goal.metrics if metric not in reports}
        rule = rules.pruning_rule(number, tuple(trials))
        if rule is not None:
            assert rule == Pruner(name).pruning_rule(number, trials, goal)
            states = (State.COMPLETE,) if name == "median" else (State.COMPLETE, State.STOPPED)
            ended = [trial for trial in trials if trial.state in states]
            if name == "hyperband":
                lengths = [len(s) for t in trials if t.state is State.COMPLETE for s in t.reports.values()]
                n_brackets = int(np.log(max(lengths)) / np.log(3) + 1e-9) + 1
                ended = [trial for trial in ended if trial.number % n_brackets == number % n_brackets]
            earlier = [LearningCurves.of(aspects, trial.reports, trial.values) for trial in ended]
            own = LearningCurves.of(aspects, reports, values)
            found = rule.verdict(reports, 0, values)
            assert bool(found) == reference_verdict(rule, earlier, own)
            extremes = {metric: (min(steps.values()), max(steps.values())) for metric, steps in reports.items()}
            assert rule.verdict(reports, 0, values, extremes) == found
            assert pickle.loads(pickle.dumps(rule)) == rule
            verdicts.append(bool(found))
        state = State.COMPLETE if rng.random() < 0.6 else State.STOPPED
        trials.append(Trial(number, state, {"x": number}, values, reports=reports))
    assert True in verdicts
    assert False in verdicts


numbers = st.integers(0, 4).map(float)
rows = st.integers(1, 3).flatmap(lambda m: arrays(float, st.tuples(st.integers(1, 8), st.just(m)), elements=numbers))


@given(rows)
def test_layers(table: np.ndarray) -> None:
    values, others = table[0].tolist(), table[1:].tolist()
    ahead = count_better(values, others)
    assert (ahead == 0) == bool(is_non_dominated(table)[0])
    if table.shape[1] == 1:
        assert ahead == sum(other < values for other in others)
    # A rival that everything beats changes nothing.
    assert count_better(values, [*others, [9.0] * len(values)]) == ahead
