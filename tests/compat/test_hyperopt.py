"""Scripts as readers of Hyperopt's documentation write them, with one import changed."""

from __future__ import annotations

import math
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbcompress.compat.hyperopt import (
    STATUS_FAIL,
    STATUS_OK,
    NestedSpace,
    Trials,
    fmin,
    hp,
    rand,
    scope,
    space_eval,
    tpe,
)
from nbcompress.errors import NbcompressWarning, PointError, SearchError, SearchFailed, SpaceError

quiet = partial(fmin, rstate=np.random.default_rng(0), verbose=False)

SVM = hp.choice(
    "classifier_type",
    [
        {"type": "naive_bayes"},
        {
            "type": "svm",
            "C": hp.loguniform("svm_C", 0, 1),
            "kernel": hp.choice(
                "svm_kernel",
                [{"ktype": "linear"}, {"ktype": "RBF", "width": hp.uniform("svm_rbf_width", 0.5, 2)}],
            ),
        },
        {"type": "dtree", "max_depth": hp.choice("depth", [None, hp.quniform("dtree_max_depth", 2, 9, 1)])},
    ],
)


def test_the_first_page_of_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    def objective(args: tuple[str, float]) -> float:
        case, val = args
        return val if case == "case 1" else val**2

    space = hp.choice("a", [("case 1", 1 + hp.loguniform("c1", -3, 3)), ("case 2", hp.uniform("c2", -10, 10))])
    best = fmin(objective, space, algo=tpe.suggest, max_evals=40, rstate=np.random.default_rng(0))
    assert best["a"] == 1
    assert set(best) == {"a", "c2"}
    assert abs(best["c2"]) < 1
    assert space_eval(space, best) == ("case 2", best["c2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("call 1: least loss so far")
    assert len(lines) < 40


@pytest.mark.parametrize(
    ("draw", "parameter"),
    [
        (hp.uniform("x", -1, 2), "Float(-1.0, 2.0)"),
        (hp.loguniform("x", 0, 1), f"Float(1.0, {math.e!r}, log=True)"),
        # round(x / q) * q: 0.9 is nearest to 1.0, 4.3 to 4.5
        (hp.quniform("x", 0.9, 4.3, 0.5), "Float(1.0, 4.5, step=0.5)"),
        (hp.quniform("x", 0, 11, 3), "Float(0.0, 12.0, step=3.0)"),
        (hp.qloguniform("x", 0, math.log(100), 1), "Int(1, 100, log=True)"),
        (hp.uniformint("x", 1, 5), "Int(1, 5)"),
        (hp.randint("x", 4), "Int(0, 3)"),
        (hp.randint("x", np.int64(2), 4), "Int(2, 3)"),
        (hp.choice("x", ["gini", "entropy"]), "Choice('gini', 'entropy')"),
        (hp.choice("x", np.array([16, 32])), "Choice(16, 32)"),
        (hp.choice("x", range(3)), "Choice(0, 1, 2)"),
        (hp.choice("x", [1, True, "1"]), "Choice('option 0', 'option 1', 'option 2')"),
        (hp.choice("x", [math.sin, math.cos]), "Choice('sin', 'cos')"),
        (hp.pchoice("x", [(0.5, "a"), (0.5, ("b", 1))]), "Choice('a', 'b')"),
    ],
)
def test_each_draw_is_a_parameter(draw: Any, parameter: str) -> None:
    assert repr(NestedSpace.of({"k": [draw]}).space["x"]) == parameter


def test_nested_choices_are_conditions() -> None:
    assert str(NestedSpace.of(SVM).space).splitlines() == [
        "classifier_type = Choice('naive_bayes', 'svm', 'dtree')",
        "if classifier_type == 'svm':",
        f"    svm_C = Float(1.0, {math.e!r}, log=True)",
        "    svm_kernel = Choice('linear', 'RBF')",
        "if classifier_type == 'svm' and svm_kernel == 'RBF':",
        "    svm_rbf_width = Float(0.5, 2.0)",
        "if classifier_type == 'dtree':",
        "    depth = Choice('option 0', 'option 1')",
        "if classifier_type == 'dtree' and depth == 'option 1':",
        "    dtree_max_depth = Float(2.0, 9.0, step=1.0)",
    ]
    seen: list[Any] = []
    quiet(lambda model: seen.append(model) or len(seen), SVM, algo=rand.suggest, max_evals=25)
    assert {model["type"] for model in seen} == {"naive_bayes", "svm", "dtree"}
    for model in seen:
        assert (
            set(model)
            == {"naive_bayes": {"type"}, "svm": {"type", "C", "kernel"}, "dtree": {"type", "max_depth"}}[model["type"]]
        )


def test_a_draw_in_several_branches_is_active_in_each() -> None:
    width = hp.uniform("width", 1, 2)
    tree = [hp.choice("a", [{"k": "p", "w": width}, {"k": "q"}]), hp.choice("b", [{"k": "r"}, {"k": "s", "w": width}])]
    space = NestedSpace.of(tree).space
    assert space.names == ("a", "b", "width")
    assert space.active({"a": "q", "b": "r"}) == ("a", "b")
    assert space.active({"a": "p", "b": "r"}) == space.active({"a": "q", "b": "s"}) == ("a", "b", "width")
    assert not NestedSpace.of([*tree, width]).space.has_conditions
    with pytest.raises(SpaceError, match="Every label stands for one draw, but 'x' is there twice"):
        NestedSpace.of([hp.uniform("x", 0, 1), hp.uniform("x", 0, 2)])
    with pytest.raises(SpaceError, match="'x' is there twice"):
        NestedSpace.of([hp.choice("x", [0, 1]), hp.choice("x", [0, 1])])


def test_draws_can_be_calculated_with() -> None:
    x, n = hp.uniform("x", 0, 4), hp.quniform("n", 1, 9, 1)
    double = scope.define(lambda value: 2 * value)
    tree = {"int": scope.int(n), "sum": 1 + x, "rest": 5 - x, "power": 10**-x, "own": double(x) / 2, "neg": abs(-x)}
    assert space_eval(tree, {"x": 2.0, "n": 3.0}) == {
        "int": 3,
        "sum": 3.0,
        "rest": 3.0,
        "power": 0.01,
        "own": 2.0,
        "neg": 2.0,
    }
    assert type(space_eval(tree, {"x": 2.0, "n": 3.0})["int"]) is int
    assert NestedSpace.of(tree).space.names == ("n", "x")
    with pytest.raises(SpaceError, match="A draw has a value only within a call"):
        _ = 3 if x else 4


def test_results_are_kept_whole() -> None:
    def objective(params: dict[str, Any]) -> dict[str, Any]:
        if params["lr"] > 0.3:
            return {"status": STATUS_FAIL, "why": "too large"}
        return {"loss": params["lr"], "status": STATUS_OK, "name": "net", "attachments": {"curve": [1, 2]}}

    trials = Trials()
    space = {"lr": hp.uniform("learning rate", 0, 1), "class": hp.choice("class", ["a", ("b", hp.randint("n", 3))])}
    start = [{"learning rate": 0.9, "class": 0}, {"learning rate": 0.8, "class": 0}, {"learning rate": 0.7, "class": 0}]
    best = quiet(objective, space, max_evals=7, trials=trials, points_to_evaluate=start)
    assert len(trials) == len(trials.results) == 10  # three failures alike do not end it: the function says so itself
    assert trials.statuses()[:3] == [STATUS_FAIL] * 3
    assert trials.results[0]["why"] == "too large"
    assert trials.losses()[0] is None
    assert trials.tids == list(range(10))
    assert trials.argmin == best
    assert min(loss for loss in trials.losses() if loss is not None) == best["learning rate"]
    assert trials.best_trial["result"]["name"] == "net"
    assert trials.trial_attachments(trials.best_trial) == {"curve": [1, 2]}
    assert trials.vals["learning rate"][:3] == [0.9, 0.8, 0.7]
    assert trials.idxs["learning rate"] == trials.tids
    assert trials[0]["misc"]["vals"] == {"learning rate": [0.9], "class": [0], "n": []}
    assert trials.study is not None
    assert trials.study.space.names == ("learning_rate", "class_", "n")


def test_a_second_call_goes_on() -> None:
    calls: list[float] = []

    def objective(x: float) -> float:
        calls.append(x)
        return (x - 1) ** 2

    trials = Trials()
    quiet(objective, hp.uniform("x", -3, 3), max_evals=5, trials=trials)
    quiet(objective, hp.uniform("x", -3, 3), max_evals=8, trials=trials)
    assert len(calls) == len(trials) == 8
    again = pickle.loads(pickle.dumps(trials))
    assert again.losses() == trials.losses()
    best = again.fmin(objective, hp.uniform("x", -3, 3), max_evals=14, rstate=0, verbose=False)
    assert len(calls) == 14
    assert abs(best["x"] - 1) < 0.05  # a surrogate that begins anew would still be at its first points
    quiet(objective, hp.uniform("x", -3, 3), max_evals=14, trials=again)
    assert len(calls) == 14


def test_a_script_that_runs_again_calls_nothing_again(tmp_path: Path) -> None:
    calls: list[Any] = []

    def objective(x: float) -> dict[str, Any]:
        calls.append(x)
        return {"loss": x**2, "status": STATUS_OK}

    def script(n: int) -> tuple[dict[str, Any], Trials]:
        trials = Trials()
        best = fmin(
            objective,
            hp.uniform("x", -3, 3),
            max_evals=n,
            trials=trials,
            rstate=0,
            verbose=False,
            study="old script",
            storage=tmp_path / "studies.journal",
        )
        return best, trials

    best, _ = script(4)
    assert script(4)[0] == best
    assert len(calls) == 4
    assert len(script(6)[1]) == 6
    assert len(calls) == 6


def test_what_ends_a_search() -> None:
    space = hp.uniform("x", 0, 1)
    trials = Trials()
    quiet(lambda x: x, space, algo=rand.suggest, trials=trials, loss_threshold=0.3)
    assert trials.losses()[-1] <= 0.3
    assert all(loss > 0.3 for loss in trials.losses()[:-1])
    trials = Trials()
    stop = lambda trials, n=0: (n == 2, [n + 1])  # noqa: E731 - as in their documentation
    quiet(lambda x: x, space, trials=trials, early_stop_fn=stop)
    assert len(trials) == 3


def theirs() -> None:
    """Stand for a function of Hyperopt."""


theirs.__module__ = "hyperopt.rand"


@pytest.mark.parametrize(
    ("algo", "sampler"),
    [(None, "gp"), (tpe.suggest, "tpe"), (tpe, "tpe"), (rand.suggest, "random"), ("tpe", "tpe"), (theirs, "random")],
)
def test_the_sampler_is_the_one_that_was_named(algo: Any, sampler: str) -> None:
    trials = Trials()
    quiet(lambda x: x, hp.uniform("x", 0, 1), algo=algo, max_evals=2, trials=trials)
    assert trials.study is not None
    assert trials.study.record["search"]["sampler"] == sampler


def test_settings_of_a_sampler_are_ignored_with_a_warning() -> None:
    with pytest.warns(NbcompressWarning, match="algo here ignores n_startup_jobs=5"):
        quiet(lambda x: x, hp.uniform("x", 0, 1), algo=partial(tpe.suggest, n_startup_jobs=5), max_evals=1)


def test_a_space_of_annotations_and_the_best_value() -> None:
    def objective(x: hp.uniform("x", -1, 1), kind: hp.choice("kind", ["a", "b"])) -> float:  # type: ignore[valid-type]
        return x**2 + (kind == "b")

    space = {"x": hp.uniform("x", -1, 1), "kind": hp.choice("kind", ["a", "b"])}
    objective.__annotations__ = {**space, "return": float}
    best = quiet(objective, "annotated", max_evals=10)
    assert set(best) == {"x", "kind"}
    assert quiet(lambda drawn: drawn["x"] ** 2, space, max_evals=3, return_argmin=False).keys() == {"x", "kind"}


def test_failures() -> None:
    with pytest.raises(SearchFailed, match="ZeroDivisionError"):
        quiet(lambda x: 1 / 0, hp.uniform("x", 0, 1), max_evals=9)
    with pytest.raises(SearchFailed, match=r"a number or a dict such as \{'loss': 0.5, 'status': STATUS_OK\}"):
        quiet(lambda x: {"value": x}, hp.uniform("x", 0, 1), max_evals=9)
    with pytest.raises(SearchFailed, match="No call returned a finite loss: StatusFail"):
        quiet(lambda x: {"status": STATUS_FAIL}, hp.uniform("x", 0, 1), max_evals=4)
    assert quiet(lambda x: x if x > 0.5 else math.nan, hp.uniform("x", 0, 1), max_evals=6)["x"] > 0.5


X = hp.uniform("x", 0, 1)


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: hp.normal("x", 1, 2), SpaceError, r"no bounds.* write hp.uniform\('x', -5, 7\)"),
        (lambda: hp.qnormal("x", 0, 1, 2), SpaceError, r"write hp.quniform\('x', -3, 3, 2\)"),
        (lambda: hp.lognormal("x", 0, 1), SpaceError, r"write hp.loguniform\('x', -3, 3\)"),
        (lambda: hp.qlognormal("x", 0, 1, 1), SpaceError, r"write hp.qloguniform\('x', -3, 3, 1\)"),
        (lambda: hp.qloguniform("x", -5, 3, 1), SpaceError, r"Write hp.loguniform\('x', -5, 3\) and round"),
        (lambda: hp.loguniform("x", 1, 1000), SpaceError, r"logarithms of its bounds, but exp\(1000\)"),
        (lambda: hp.uniform("x", 2, 1), SpaceError, "low <= high"),
        (lambda: hp.quniform("x", 0, 1, 0), SpaceError, "q above 0"),
        (lambda: hp.uniform(0, 1), TypeError, "missing 1 required"),
        (lambda: hp.uniform(0, 1, 2), SpaceError, r"takes a label first, a text, but got 0\. Write hp\.uniform"),
        (lambda: hp.uniform("x", "a", 1), SpaceError, "low of hp.uniform"),
        (lambda: hp.choice("x", []), SpaceError, "takes a list of options"),
        (lambda: hp.choice("x", "abc"), SpaceError, "takes a list of options, but got 'abc'"),
        (lambda: hp.pchoice("x", ["a", "b"]), SpaceError, "takes pairs"),
        (lambda: hp.randint("x", 3, 3), SpaceError, "draws from low to high - 1"),
        (lambda: quiet(lambda x: x, 3, max_evals=1), SpaceError, "at least one draw"),
        (lambda: quiet(X, lambda x: x, max_evals=1), SearchError, "takes the function first"),
        (lambda: quiet(lambda x: x, X), SearchError, "fmin needs an end: max_evals"),
        (lambda: quiet(lambda x: x, X, max_evals=0), SearchError, "max_evals is an integer of at least 1"),
        (lambda: quiet(lambda x: x, X, algo="tpee", max_evals=1), SearchError, "algo is tpe.suggest"),
        (lambda: quiet(lambda x: x, X, max_evals=1, max_eval=3), SearchError, "no option max_eval"),
        (lambda: quiet(lambda x: x, X, max_evals=1, trials_save_file="t.pkl"), SearchError, "study= and storage="),
        (lambda: quiet(lambda x: x, X, max_evals=1, trials=[]), SearchError, "trials is a Trials of nbcompress"),
        (lambda: quiet(lambda x: x, X, max_evals=1, points_to_evaluate=[{"y": 1}]), PointError, "no label 'y'"),
        (lambda: fmin(lambda x: x, X, max_evals=1, rstate="a"), SearchError, "rstate is None, an integer"),
        (lambda: tpe.suggest(1), SearchError, "only names a sampler"),
        (lambda: space_eval(X, {}), PointError, "The point lacks 'x'"),
        (lambda: space_eval(hp.choice("c", [1, 2]), {"c": 2}), PointError, "'c' is the number of an option, 0 to 1"),
        (lambda: Trials().best_trial, SearchError, "No trial of 0 has status 'ok'"),
    ],
)
def test_what_cannot_be_honoured_is_named(act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act()


def test_probabilities_are_ignored_with_a_warning() -> None:
    with pytest.warns(NbcompressWarning, match="here ignores its probabilities"):
        hp.pchoice("x", [(0.9, "a"), (0.1, "b")])
