"""Scripts as readers of bayes_opt's documentation write them, with one import changed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbcompress.compat import BayesianOptimization, NotUniqueError, TargetSpace, UtilityFunction, acquisition
from nbcompress.errors import NbcompressWarning, PointError, SearchError, SearchFailed, SpaceError

BOUNDS = {"x": (2, 4), "y": (-3, 3)}


def black_box_function(x: float, y: float) -> float:
    return -(x**2) - (y - 1) ** 2 + 1


def quiet(f: Any = black_box_function, bounds: Any = BOUNDS, **options: Any) -> BayesianOptimization:
    return BayesianOptimization(f=f, pbounds=bounds, **{"random_state": 1, "verbose": 0, **options})


def test_the_first_page_of_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = BayesianOptimization(f=black_box_function, pbounds=BOUNDS, random_state=1)
    optimizer.maximize(init_points=2, n_iter=13)
    assert optimizer.max is not None
    assert optimizer.max["target"] == pytest.approx(-3.0, abs=0.05)
    assert optimizer.max["params"]["x"] == pytest.approx(2.0, abs=0.05)
    assert len(optimizer.res) == 15
    for result in optimizer.res:
        assert result["target"] == black_box_function(**result["params"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 15
    assert lines[0].startswith("call 1: ")
    assert sum(line.endswith(" *") for line in lines) < 15


def test_maximize_goes_on() -> None:
    optimizer = quiet()
    optimizer.maximize(init_points=3, n_iter=2)
    first = optimizer.res
    optimizer.maximize(init_points=0, n_iter=3)
    assert optimizer.res[:5] == first
    assert len(optimizer.res) == 8


def test_probing() -> None:
    calls: list[dict[str, float]] = []

    def f(**params: float) -> float:
        calls.append(params)
        return black_box_function(**params)

    optimizer = quiet(f)
    optimizer.probe(params={"x": 2.5, "y": 0.7}, lazy=True)
    optimizer.probe(params=[2.2, 1.0])
    assert calls == []
    optimizer.maximize(init_points=0, n_iter=0)
    assert calls == [{"x": 2.5, "y": 0.7}, {"x": 2.2, "y": 1.0}]
    optimizer.probe(params={"x": 2.0, "y": 1.0}, lazy=False)
    assert optimizer.max == {"target": -3.0, "params": {"x": 2.0, "y": 1.0}}
    optimizer.probe(params={"x": 2.0, "y": 1.0}, lazy=False)  # is known
    assert len(calls) == 3
    optimizer.maximize(init_points=1, n_iter=1)
    assert len(calls) == 5


def test_a_loop_of_ones_own() -> None:
    optimizer = quiet(f=None)
    for _ in range(12):
        point = optimizer.suggest()
        assert optimizer.suggest() == point
        optimizer.register(params=point, target=black_box_function(**point))
    assert len(optimizer.res) == 12
    assert optimizer.max is not None
    assert optimizer.max["target"] > -3.5
    with pytest.raises(SearchError, match="There is no function to call"):
        optimizer.maximize()


def test_registered_points_help_what_comes() -> None:
    optimizer = quiet()
    optimizer.register(params={"x": 2.0, "y": 1.0}, target=-3.0)
    optimizer.maximize(init_points=2, n_iter=2)
    assert len(optimizer.res) == 5
    assert optimizer.res[0] == {"target": -3.0, "params": {"x": 2.0, "y": 1.0}}
    with pytest.raises(SearchError, match=r"is known already\. Set allow_duplicate_points=True"):
        optimizer.register(params={"x": 2.0, "y": 1.0}, target=-3.1)
    free = quiet(allow_duplicate_points=True)
    for target in (-3.0, -3.0, -3.1):
        free.register(params={"x": 2.0, "y": 1.0}, target=target)
    assert [result["target"] for result in free.res] == [-3.0, -3.0, -3.1]


def test_typed_parameters() -> None:
    seen: list[tuple[Any, ...]] = []

    def f(n: int, kernel: str, c: float) -> float:
        seen.append((n, kernel, c))
        return n * c * (2 if kernel == "rbf" else 1)

    optimizer = quiet(f, {"n": (1, 9, int), "kernel": ("rbf", "poly"), "c": (0.0, 1.0, float)})
    optimizer.maximize(init_points=4, n_iter=8)
    assert {type(call[0]) for call in seen} == {int}
    assert {call[1] for call in seen} == {"rbf", "poly"}
    assert optimizer.max is not None
    assert optimizer.max["target"] > 12


def test_a_script_that_runs_again_calls_nothing_again(tmp_path: Path) -> None:
    calls: list[dict[str, float]] = []

    def f(**params: float) -> float:
        calls.append(params)
        return black_box_function(**params)

    def script(n_iter: int) -> BayesianOptimization:
        optimizer = quiet(f, study="old script", storage=tmp_path / "studies.journal")
        optimizer.register(params={"x": 3.5, "y": 1.0}, target=black_box_function(3.5, 1.0))
        optimizer.probe(params={"x": 2.5, "y": 0.7})
        optimizer.maximize(init_points=2, n_iter=n_iter)
        optimizer.maximize(init_points=1, n_iter=1)
        return optimizer

    first = script(2)
    assert len(calls) == 7
    again = script(2)
    assert len(calls) == 7
    assert again.res == first.res
    assert len(script(4).res) == len(first.res) + 2
    assert len(calls) == 9


def test_before_anything_is_known() -> None:
    assert quiet().max is None
    assert quiet().res == []


def test_failures() -> None:
    def f(x: float, y: float) -> float:
        if y > 0:
            raise ValueError("positive")
        return x

    optimizer = quiet(f)
    optimizer.maximize(init_points=5, n_iter=5)
    assert 0 < len(optimizer.res) < 10
    assert all(result["params"]["y"] <= 0 for result in optimizer.res)
    with pytest.raises(SearchFailed, match="ZeroDivisionError"):
        quiet(lambda x, y: 1 / 0).maximize()


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: quiet(constraint=object()), "BayesianOptimization here has no option constraint"),
        (lambda: quiet(bounds_transformer=1), "no option bounds_transformer.* set_bounds"),
        (
            lambda: quiet(acquisition_function=object()),
            "The acquisition is 'ucb', 'ei' or 'poi', or an object of these kinds, but got <object",
        ),
        (lambda: quiet().maximize(acq="uctb"), "but got 'uctb'. Did you mean 'ucb'?"),
        (lambda: quiet().maximize(n_itre=3), "maximize here has no option n_itre"),
        (lambda: quiet().maximize(init_points=-1), "init_points is a whole number of at least 0, but got -1"),
        (lambda: quiet().register({"x": 2, "y": 0}, 1.0, constraint_value=3), "register here has no option constraint"),
        (lambda: quiet().register({"x": 2, "y": 0}, "high"), "A value that is told is a finite number, but got 'high'"),
    ],
)
def test_options_that_cannot_be_honoured_are_named(act: Any, text: str) -> None:
    with pytest.raises(SearchError, match=text):
        act()


def test_points_and_bounds_are_checked() -> None:
    with pytest.raises(PointError, match="'x'"):
        quiet().probe({"x": 5, "y": 0})
    with pytest.raises(SpaceError, match=r"The bounds of 'x' are \(low, high\), \(low, high, int\) or a list of cat"):
        quiet(bounds={"x": (1, 2, str)})


def test_other_bounds_while_it_goes_on(tmp_path: Path) -> None:
    """As the documentation's first pages do: narrower ones, then ones that reach outside."""
    calls: list[float] = []

    def f(x: float, y: float) -> float:
        calls.append(x)
        return black_box_function(x, y)

    def script() -> BayesianOptimization:
        optimizer = quiet(f, study="wider", storage=tmp_path / "studies.journal")
        optimizer.maximize(init_points=2, n_iter=3)
        optimizer.set_bounds(new_bounds={"x": (3, 4)})
        optimizer.maximize(init_points=2, n_iter=6)
        assert all(x >= 3 for x in calls[5:13])
        optimizer.set_bounds(new_bounds={"x": (-2, 3)})
        optimizer.probe(params={"x": 0.5, "y": 0.7})
        optimizer.maximize(init_points=1, n_iter=8)
        return optimizer

    optimizer = script()
    assert len(calls) == len(optimizer.res) == 23
    assert all(-2 <= x <= 3 for x in calls[13:])
    assert optimizer.max is not None
    assert optimizer.max["target"] > 0.9
    again = script()
    assert len(calls) == 23
    assert again.res == optimizer.res
    with pytest.warns(NbcompressWarning, match="set_bounds here ignores 'z', which is none of x, y"):
        optimizer.set_bounds({"z": (0, 1)})
    with pytest.raises(SpaceError, match=r"but 'x' had Float\(-2.0, 3.0\)"):
        optimizer.set_bounds({"x": (0, 1, int)})


def test_acquisitions_by_their_names() -> None:
    def ran(**options: Any) -> list[Any]:
        optimizer = quiet(**options)
        optimizer.maximize(init_points=6, n_iter=4)
        return optimizer.res

    plain, ucb = ran(), ran(acquisition_function="ucb")
    assert plain != ucb
    assert ran(acquisition_function=acquisition.ExpectedImprovement()) == plain
    assert ran(acquisition_function=UtilityFunction(kind="ucb")) == ucb
    with pytest.warns(NbcompressWarning, match="'UpperConfidenceBound' here ignores kappa=2.5"):
        assert ran(acquisition_function=acquisition.UpperConfidenceBound(kappa=2.5)) == ucb
    older = quiet()
    with pytest.warns(NbcompressWarning, match=r"maximize here ignores kappa=2.5 \(UCB .*alpha=0.001 \(noise"):
        older.maximize(init_points=6, n_iter=4, acq="ucb", kappa=2.5, alpha=1e-3)
    assert older.res == ucb
    with pytest.warns(NbcompressWarning, match="set_gp_params here ignores alpha=0.001"):
        older.set_gp_params(alpha=1e-3)


def test_a_suggestion_by_an_acquisition() -> None:
    optimizer = quiet(None)
    for _ in range(8):
        point = optimizer.suggest(UtilityFunction(kind="ucb"))
        optimizer.register(params=point, target=black_box_function(**point))
    assert optimizer.suggest(UtilityFunction(kind="ei")) == optimizer.suggest()


def test_a_small_space_is_drawn_whole() -> None:
    optimizer = BayesianOptimization(lambda n: n, {"n": (1, 3, int)}, random_state=1, verbose=0)
    with pytest.warns(NbcompressWarning, match="All 3 points of the space were tried"):
        optimizer.maximize(init_points=5, n_iter=5)
    assert sorted(result["target"] for result in optimizer.res) == [1, 2, 3]


def test_a_study_of_another_object_is_not_continued(tmp_path: Path) -> None:
    class Around:
        def __init__(self, center: float) -> None:
            self.center = center

        def __call__(self, x: float) -> float:
            return -((x - self.center) ** 2)

    def optimizer(center: float) -> Any:
        return BayesianOptimization(
            Around(center), {"x": (0, 1)}, random_state=1, verbose=0, storage=tmp_path / "j", panel=False
        )

    one = optimizer(0.2)
    one.maximize(init_points=6, n_iter=0)
    with pytest.warns(NbcompressWarning, match="center = 0.2 before and 0.8 now"):
        other = optimizer(0.8)
    assert other.study.name == f"{one.study.name}~2"
    assert other.res == []


MIXED = {"n": (1, 9, int), "kernel": ["rbf", "poly", "none"], "c": (0.0, 1.0)}


def mixed(n: int, kernel: str, c: float) -> float:
    return n * c * (2 if kernel == "rbf" else 1)


def known() -> BayesianOptimization:
    """Return an optimizer of mixed parameters with four targets."""
    optimizer = quiet(mixed, MIXED)
    for n, kernel, c in ((1, "rbf", 0.5), (9, "poly", 0.25), (4, "none", 1.0), (3, "rbf", 0.0)):
        optimizer.register({"n": n, "kernel": kernel, "c": c}, mixed(n, kernel, c))
    return optimizer


def test_the_space_as_arrays() -> None:
    optimizer = known()
    space = optimizer.space
    assert isinstance(space, TargetSpace)
    assert isinstance(optimizer.acquisition_function, acquisition.AcquisitionFunction)
    assert space.keys == ["n", "kernel", "c"]
    assert len(space) == 4
    assert not space.empty
    assert space.dim == 5
    assert space.bounds.tolist() == [[1, 9], [0, 1], [0, 1], [0, 1], [0, 1]]
    assert space.params.tolist()[:2] == [[1, 1, 0, 0, 0.5], [9, 0, 1, 0, 0.25]]
    assert space.target.tolist() == [1.0, 2.25, 4.0, 0.0]
    assert space.array_to_params([4.4, 0.2, 0.1, 0.7, 0.5]) == {"n": 4, "kernel": "none", "c": 0.5}
    assert {"n": 4, "kernel": "none", "c": 1.0} in space
    assert np.array([4, 0, 0, 1, 0.5]) not in space
    assert space.res() == optimizer.res
    assert space.max() == optimizer.max == {"target": 4.0, "params": {"n": 4, "kernel": "none", "c": 1.0}}
    optimizer.set_bounds({"n": (2, 5, int), "kernel": ["rbf", "poly"]})
    assert space.bounds.tolist() == [[2, 5], [0, 1], [0, 1], [0, 1]]
    assert quiet().space.empty
    assert quiet().space.params.shape == (0, 2)
    with pytest.raises(PointError, match="The array of a point has 2 numbers, but got 3"):
        quiet().probe(np.array([2.0, 0.0, 1.0]))


def test_points_as_arrays() -> None:
    calls: list[Any] = []
    optimizer = quiet(lambda n, kernel, c: calls.append((n, kernel, c)) or mixed(n, kernel, c), MIXED)
    optimizer.register(np.array([2, 0, 1, 0, 0.5]), 1.0)
    optimizer.probe(np.array([3.0, 1, 0, 0, 0.5]))
    assert calls == []
    optimizer.probe(np.array([4, 0, 0, 1, 0.25]), lazy=False)
    optimizer.probe([5, "rbf", 0.5], lazy=False)
    assert calls == [(3, "rbf", 0.5), (4, "none", 0.25), (5, "rbf", 0.5)]
    assert optimizer.space.probe([5, "rbf", 0.5]) == 5.0
    assert len(calls) == 3
    with pytest.raises(NotUniqueError, match="is known already"):
        optimizer.register(np.array([2, 0, 1, 0, 0.5]), 1.0)
    with pytest.raises(NotUniqueError, match="is known already"):  # found by a call, not registered
        optimizer.register([4, "none", 0.25], 1.0)


@pytest.mark.parametrize("params", [[0.5], [0.5, 1, 2], 0.5, "ab"])
def test_a_list_has_a_value_for_each_parameter(params: Any) -> None:
    optimizer = quiet(None, {"x": (0, 1), "y": (0, 1)})
    with pytest.raises(PointError, match="A point has a value for each of x, y, but got"):
        optimizer.register(params, 1.0)


def test_points_may_repeat_where_that_is_allowed() -> None:
    calls: list[float] = []
    optimizer = quiet(lambda x: calls.append(x) or x, {"x": (0, 9)}, allow_duplicate_points=True)
    optimizer.probe({"x": 3}, lazy=False)
    optimizer.probe({"x": 3})
    optimizer.probe({"x": 3}, lazy=False)
    assert calls == [3.0, 3.0, 3.0]
    optimizer.maximize(init_points=1, n_iter=0)
    optimizer.probe({"x": calls[-1]}, lazy=False)
    assert calls[-1] == calls[-2]
    assert len(optimizer.space) == 5


def test_there_is_one_point_at_least() -> None:
    optimizer = quiet()
    optimizer.maximize(init_points=0, n_iter=0)
    assert len(optimizer.space) == 1
    optimizer.maximize(init_points=0, n_iter=0)
    assert len(optimizer.space) == 1
    optimizer.maximize(init_points=0, n_iter=2)
    assert len(optimizer.space) == 3


def test_suggestions_and_samples_before_anything_is_known() -> None:
    optimizer = quiet(None, MIXED)
    point = optimizer.suggest()
    assert optimizer.study.space.check(point) == point
    first, second = optimizer.random_sample(), optimizer.random_sample(3)
    assert len(second) == 3
    assert first[0] not in second
    assert len(optimizer.space) == 0


def test_predictions() -> None:
    optimizer = quiet(lambda x: x, {"x": (0, 10)})
    for x in (0, 2, 5, 7, 10):
        optimizer.register({"x": x}, 3.0 * x - 4)
    points = [{"x": 2.0}, {"x": 6.0}]
    mean, cov = optimizer.predict(points, return_cov=True)
    assert mean.shape == (2,)
    assert mean == pytest.approx([2.0, 14.0], abs=0.2)
    _, std = optimizer.predict(points, return_std=True)
    assert cov.shape == (2, 2)
    assert np.sqrt(np.diag(cov)) == pytest.approx(std, rel=1e-6)
    assert cov[0, 1] == pytest.approx(cov[1, 0])
    assert optimizer.predict(points) == pytest.approx(mean)
    single, single_std = optimizer.predict(points[1], return_std=True)
    assert single.ndim == single_std.ndim == 0
    assert (single, single_std) == pytest.approx((mean[1], std[1]))
    table = optimizer.study.predict(points)
    assert table["target"].to_numpy() == pytest.approx(mean, rel=1e-6)
    assert std[0] < optimizer.predict({"x": 8.7}, return_std=True)[1]
    assert np.all(np.isfinite(known().predict([{"n": 4.4, "kernel": "none", "c": 1}])))
    assert known().predict({"n": 4.4, "kernel": "none", "c": 1}) == known().predict({"n": 4, "kernel": "none", "c": 1})


def test_predictions_of_nothing() -> None:
    optimizer = quiet()
    with pytest.raises(RuntimeError, match="There is no target to fit the surrogate to"):
        optimizer.predict({"x": 3, "y": 0})
    assert optimizer.predict({"x": 3, "y": 0}, fit_gp=False) == 0
    mean, std = optimizer.predict([{"x": 3, "y": 0}] * 3, fit_gp=False, return_std=True)
    assert mean.tolist() == [0, 0, 0]
    assert std.tolist() == [1, 1, 1]
    with pytest.raises(TypeError, match="params must be a dict or iterable of dicts, but got 'x'"):
        optimizer.predict("x")
    with pytest.raises(ValueError, match="return_std and return_cov cannot both be True"):
        optimizer.predict({"x": 3, "y": 0}, return_std=True, return_cov=True)
    with pytest.raises(PointError, match="no parameter 'z'"):
        optimizer.predict({"z": 3}, fit_gp=False)


def test_a_saved_state(tmp_path: Path) -> None:
    optimizer = quiet(mixed, MIXED, acquisition_function="ucb")
    optimizer.maximize(init_points=3, n_iter=6)
    optimizer.probe({"n": 2, "kernel": "rbf", "c": 0.125})
    optimizer.set_bounds({"c": (0.1, 0.9)})
    optimizer.save_state(tmp_path / "state.json")
    saved = json.loads((tmp_path / "state.json").read_text())
    assert saved["bounds"] == {
        "n": ["Int", 1, 9],
        "kernel": ["Choice", "rbf", "poly", "none"],
        "c": ["Float", 0.1, 0.9],
    }
    calls: list[Any] = []
    other = quiet(lambda n, kernel, c: calls.append((n, kernel, c)) or mixed(n, kernel, c), MIXED, random_state=99)
    other.load_state(tmp_path / "state.json")
    assert other.res == optimizer.res
    assert other.space.bounds.tolist() == optimizer.space.bounds.tolist()
    expected = optimizer.suggest()
    assert other.suggest() == {**expected, "c": pytest.approx(expected["c"], abs=1e-6)}
    other.load_state(tmp_path / "state.json")  # is known already
    assert other.res == optimizer.res
    other.maximize(init_points=0, n_iter=1)
    assert calls[0] == (2, "rbf", 0.125)
    assert len(calls) == 2


def test_a_state_of_bayes_opt(tmp_path: Path) -> None:
    """What version 3.4 writes, without the parts that describe its Gaussian process."""
    theirs = {"keys": ["x", "y"], "params": [[2.5, 0.5], [3.0, 1.0]], "target": [1.0, -2.0], "random_state": None}
    (tmp_path / "state.json").write_text(json.dumps(theirs))
    optimizer = quiet()
    optimizer.load_state(tmp_path / "state.json")
    assert optimizer.space.params.tolist() == theirs["params"]
    assert optimizer.space.target.tolist() == theirs["target"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"keys": ["x"]}, "A state of an optimizer of the parameters x, y is needed"),
        ({"version": 9}, "A state has version 1, but got 9"),
        ({"trials": 3}, "The state of an optimizer is damaged: TypeError"),
        ({"trials": [{"target": 1}]}, "damaged: KeyError 'params'"),
        ({"trials": [{"params": {"x": 2, "y": 0}, "target": "a"}]}, "A value that is told is a finite number"),
        ({"bounds": {"x": ["Int", 2, 4], "y": ["Float", -3, 3]}}, "'x' is Float.* here, but Int.* in the state"),
        ({"acquisition": "best"}, "The acquisition of a state is ucb, logei, pi, but got 'best'"),
        ({"seed": "a"}, "random_state is None, an integer"),
        ({"format": "other", "params": 3}, "has params and target of one length"),
    ],
)
def test_damaged_states_are_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    path = tmp_path / "state.json"
    quiet().save_state(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(SearchError, match=text):
        quiet().load_state(path)
    path.write_text("{")
    with pytest.raises(SearchError, match="is no state of an optimizer"):
        quiet().load_state(path)


def test_an_optimizer_is_pickled() -> None:
    optimizer = quiet(black_box_function)
    optimizer.maximize(init_points=2, n_iter=1)
    optimizer.probe({"x": 2.5, "y": 0.0})
    again = pickle.loads(pickle.dumps(optimizer))
    assert again.res == optimizer.res
    assert again.suggest() == optimizer.suggest()
    again.maximize(init_points=0, n_iter=0)
    assert again.res[-1]["params"] == {"x": 2.5, "y": 0.0}


def test_names_that_are_no_identifiers(capsys: pytest.CaptureFixture[str]) -> None:
    """Such names, and those of a metric or of a column, are others in the study only."""
    bounds = {"learning-rate": (0.0, 1.0), "learning_rate": (0.0, 1.0), "target": (0, 3, int), "class": ["a", "b"]}
    seen: list[dict[str, Any]] = []
    optimizer = quiet(lambda **params: seen.append(params) or params["target"], bounds, verbose=1)
    optimizer.maximize(init_points=2, n_iter=1)
    assert set(seen[0]) == set(bounds) == set(optimizer.suggest())
    assert optimizer.study.space.names == ("learning_rate_", "learning_rate", "target_", "class_")
    assert [found["params"] for found in optimizer.res] == seen
    assert "learning-rate=" in capsys.readouterr().out
    optimizer.set_bounds({"learning-rate": (0.5, 1.0)})
    assert optimizer.space.bounds[0].tolist() == [0.5, 1.0]
    with pytest.raises(SpaceError, match="A parameter is named by a text, but got 3"):
        quiet(bounds={3: (0, 1)})
    with pytest.raises(TypeError, match=r"pbounds is a dict of bounds by name.*but got \[\(0, 1\)\]"):
        quiet(bounds=[(0, 1)])


def test_categories_of_any_kind() -> None:
    space = quiet(None, {"a": (1, 2, 3, 4), "b": [True, False], "c": ["x", None]}).study.space
    assert str(space).splitlines() == ["a = Choice(1, 2, 3, 4)", "b = Choice(True, False)", "c = Choice('x', None)"]
