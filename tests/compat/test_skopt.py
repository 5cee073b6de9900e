"""Scripts as readers of scikit-optimize's documentation write them, with one import changed."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbcompress as nc
from nbcompress.compat import Categorical, Integer, Real, gp_minimize, use_named_args
from nbcompress.errors import NbcompressWarning, SearchError, SearchFailed, SpaceError, StudyChanged
from nbcompress.study import list_studies


def square(x: list[float]) -> float:
    return (x[0] - 0.3) ** 2


def test_a_noisy_function_of_one_variable() -> None:
    noise = np.random.default_rng(0)

    def f(x: list[float]) -> float:
        return float(np.sin(5 * x[0]) * (1 - np.tanh(x[0] ** 2)) + noise.normal() * 0.02)

    res = gp_minimize(
        f, [(-2.0, 2.0)], acq_func="EI", n_calls=20, n_random_starts=5, noise="gaussian", random_state=1234
    )
    assert abs(res.x[0] + 0.28) < 0.1
    assert res.fun == min(res.func_vals)
    assert len(res.x_iters) == len(res.func_vals) == 20
    assert res["fun"] == res.fun
    assert isinstance(res.func_vals, np.ndarray)
    assert res.x_iters[int(np.argmin(res.func_vals))] == res.x


def test_hyperparameters_by_name() -> None:
    from sklearn.datasets import load_diabetes
    from sklearn.model_selection import cross_val_score
    from sklearn.tree import DecisionTreeRegressor

    x, y = load_diabetes(return_X_y=True)
    tree = DecisionTreeRegressor(random_state=0)
    space = [
        Integer(1, 8, name="max_depth"),
        Real(10**-5, 10**0, "log-uniform", name="ccp_alpha"),
        Categorical(["squared_error", "friedman_mse"], name="criterion"),
        Integer(1, 100, name="min_samples_leaf"),
    ]

    @use_named_args(space)
    def objective(**params: Any) -> float:
        tree.set_params(**params)
        return float(-np.mean(cross_val_score(tree, x, y, cv=3, scoring="neg_mean_absolute_error")))

    found = gp_minimize(objective, space, n_calls=15, random_state=0)
    assert found.fun < 51
    assert 1 <= found.x[0] <= 8
    assert [type(value) for value in found.x] == [int, float, str, int]
    assert found.space.dimension_names == ["max_depth", "ccp_alpha", "criterion", "min_samples_leaf"]
    assert set(found.study.trials.columns) >= {"max_depth", "ccp_alpha", "criterion", "min_samples_leaf", "fun"}


def test_dimensions_as_tuples() -> None:
    seen: list[list[Any]] = []
    dimensions = [(1, 5), (0.0, 1.0), (1e-4, 1e-1, "log-uniform"), ["a", "b", "c"], (1, 2.5), [3, "x", None]]
    res = gp_minimize(lambda x: seen.append(x) or float(x[1]), dimensions, n_calls=12, random_state=0)  # type: ignore[func-returns-value]
    kinds = [type(dimension) for dimension in res.space.dimensions]
    assert kinds == [Integer, Real, Real, Categorical, Real, Categorical]
    assert res.space.bounds[:2] == [(1, 5), (0.0, 1.0)]
    assert res.space.n_dims == 6
    for x in seen:
        assert isinstance(x, list)
        assert type(x[0]) is int
        assert 1e-4 <= x[2] <= 1e-1
        assert x[3] in ("a", "b", "c")
        assert x[5] in (3, "x", None)
    assert seen == res.x_iters


def test_points_to_begin_with() -> None:
    calls: list[list[float]] = []

    def f(x: list[float]) -> float:
        calls.append(x)
        return square(x)

    one = gp_minimize(f, [(-1.0, 1.0)], n_calls=8, n_initial_points=5, x0=[0.5], random_state=0)
    assert one.x_iters[0] == [0.5]
    assert len(calls) == len(one.x_iters) == 8
    calls.clear()
    # Known values are not called, and come on top.
    told = gp_minimize(
        f, [(-1.0, 1.0)], n_calls=6, n_initial_points=4, x0=[[0.5], [-0.5]], y0=[0.04, 0.64], random_state=0
    )
    assert told.x_iters[:2] == [[0.5], [-0.5]]
    assert told.func_vals[:2].tolist() == [0.04, 0.64]
    assert len(calls) == 6
    assert len(told.x_iters) == 8


def test_initial_points_are_random_and_the_rest_is_proposed() -> None:
    res = gp_minimize(square, [(-1.0, 1.0)], n_calls=14, n_initial_points=10, random_state=0)
    reasons = [trial.reason for trial in res.study.all_trials]
    assert reasons[:10] == ["A start point."] * 10
    assert all("expected gain" in reason for reason in reasons[10:])
    assert gp_minimize(square, [(-1.0, 1.0)], n_calls=10, random_state=0).x_iters == res.x_iters[:10]
    even = gp_minimize(square, [(-1.0, 1.0)], n_calls=10, initial_point_generator="sobol", random_state=0)
    assert even.x_iters != res.x_iters[:10]


def test_random_states() -> None:
    def ran(state: Any) -> list[Any]:
        return list(gp_minimize(square, [(-1.0, 1.0)], n_calls=5, n_initial_points=5, random_state=state).x_iters)

    assert ran(np.random.RandomState(3)) == ran(np.random.RandomState(3)) != ran(np.random.RandomState(4))
    assert ran(None) != ran(None)
    with pytest.raises(
        SearchError, match="random_state is None, an integer or NumPy's RandomState or Generator, but got 'a'"
    ):
        ran("a")


def test_callbacks_hear_the_result_so_far_and_may_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    lengths: list[int] = []

    def callback(res: Any) -> bool:
        lengths.append(len(res.x_iters))
        return res.fun < 1.0 and len(res.x_iters) >= 7

    res = gp_minimize(
        square, [(-1.0, 1.0)], n_calls=20, callback=[callback, lambda _: None], random_state=0, verbose=True
    )
    assert lengths == [1, 2, 3, 4, 5, 6, 7]
    assert len(res.x_iters) == 7
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert lines[-1].startswith("call 7: ")

    def broken(_: Any) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        gp_minimize(square, [(-1.0, 1.0)], n_calls=12, callback=broken, random_state=0)


def test_a_script_that_runs_again_calls_nothing_again(tmp_path: Path) -> None:
    calls: list[list[float]] = []

    def f(x: list[float]) -> float:
        calls.append(x)
        return square(x)

    def script(n_calls: int) -> Any:
        return gp_minimize(
            f, [(-1.0, 1.0)], n_calls=n_calls, n_initial_points=4, x0=[[0.5]], y0=[0.04], random_state=0,
            study="old script", storage=tmp_path / "studies.journal",
        )  # fmt: skip

    first = script(6)
    again = script(6)
    assert len(calls) == 6
    assert again.x_iters == first.x_iters
    more = script(8)
    assert len(calls) == 8
    assert more.x_iters[:7] == first.x_iters
    assert [summary.name for summary in list_studies(tmp_path / "studies.journal")] == ["old script"]


def test_nothing_is_stored_without_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gp_minimize(square, [(-1.0, 1.0)], n_calls=10, random_state=0)
    assert list(tmp_path.iterdir()) == []


def test_calls_that_fail_are_left_out_and_counted() -> None:
    def f(x: list[int]) -> float:
        if x[0] % 3 == 0:
            raise ValueError(f"no {x[0]}")
        return float(x[0])

    res = gp_minimize(f, [(1, 12)], n_calls=12, random_state=0)
    assert sorted(x[0] for x in res.x_iters) == [1, 2, 4, 5, 7, 8, 10, 11]
    assert (res.x, res.fun) == ([1], 1.0)
    assert len(res.study.trials) == 12

    def never(_: Any) -> float:
        raise ValueError("never")

    with pytest.raises(SearchFailed, match="the first three trials failed with the same error, ValueError: never"):
        gp_minimize(never, [(1, 12)], n_calls=12, random_state=0)


def test_options_that_tune_their_surrogate_are_passed_over_with_one_warning() -> None:
    tuned = {
        "acq_func": "gp_hedge", "noise": 0.1**2, "kappa": 1.96, "xi": 0.01, "n_jobs": -1, "acq_optimizer": "lbfgs",
        "n_restarts_optimizer": 5, "n_points": 10000, "base_estimator": "GP", "initial_point_generator": "lhs",
    }  # fmt: skip
    with pytest.warns(NbcompressWarning) as caught:
        res = gp_minimize(square, [(-1.0, 1.0)], n_calls=12, random_state=0, **tuned)  # type: ignore[arg-type]
    assert len(caught) == 1
    text = str(caught[0].message)
    assert text.startswith("gp_minimize here ignores ")
    assert all(f"{name}=" in text for name in tuned)
    plain = gp_minimize(square, [(-1.0, 1.0)], n_calls=12, initial_point_generator="sobol", random_state=0)
    assert res.x_iters == plain.x_iters


def test_dimensions_of_scikit_optimize_are_read() -> None:
    """Stands in for its objects, which are not installed: what is read are their attributes."""

    def dimension(kind: str, **attributes: Any) -> Any:
        return type(kind, (), attributes)()

    theirs = [
        dimension("Real", low=1e-3, high=1.0, prior="log-uniform", name="lr"),
        dimension("Integer", low=np.int64(1), high=np.int64(5), prior="uniform", name=None),
        dimension("Categorical", categories=("a", np.str_("b")), prior=None, name="kind"),
    ]
    whole = type("Space", (), {"dimensions": theirs})()
    for given in (theirs, whole):
        res = gp_minimize(lambda x: x[0] + x[1], given, n_calls=10, random_state=0)
        assert res.space.dimension_names == ["lr", "x1", "kind"]
        assert [type(dimension) for dimension in res.space] == [Real, Integer, Categorical]
        assert [type(value) for value in res.x] == [float, int, str]


def test_categories_that_are_no_scalars() -> None:
    seen: list[Any] = []
    layers = Categorical([(50,), (50, 50), (100, 50, 50)], name="layers")
    res = gp_minimize(
        lambda x: seen.append(x[0]) or len(x[0]) + x[1],  # type: ignore[func-returns-value]
        [layers, (0.0, 1.0)],
        n_calls=12,
        x0=[[(50, 50), 0.5]],
        random_state=0,
    )
    assert set(seen) == {(50,), (50, 50), (100, 50, 50)}
    assert seen[0] == (50, 50)
    assert res.x[0] == (50,)
    assert set(res.study.trials["layers"]) == {"(50,)", "(50, 50)", "(100, 50, 50)"}
    with pytest.raises(SpaceError, match="layers"):
        gp_minimize(sum, [layers, (0.0, 1.0)], n_calls=12, x0=[[(1,), 0.5]])


def test_a_category_that_is_likelier_is_warned_of() -> None:
    with pytest.warns(NbcompressWarning, match=r"ignores prior=\[0.1, 0.9\]"):
        Categorical(["a", "b"], prior=[0.1, 0.9])


def test_a_small_space_ends_the_search_with_a_sentence() -> None:
    with pytest.warns(NbcompressWarning, match="All 5 points of the space were tried"):
        res = gp_minimize(square, [(-2, 2)], n_calls=20, random_state=0)
    assert sorted(x[0] for x in res.x_iters) == [-2, -1, 0, 1, 2]


def test_a_result_is_pickled_without_its_study() -> None:
    res = gp_minimize(square, [(-1.0, 1.0)], n_calls=10, random_state=0)
    again = pickle.loads(pickle.dumps(res))
    assert again.x_iters == res.x_iters
    assert again.specs["args"]["func"] is square
    assert "study" not in again
    assert copy.deepcopy(res).fun == res.fun


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"space_constraint": square}, "gp_minimize here has no option space_constraint.* subject_to"),
        ({"n_pionts": 3}, "no option n_pionts"),
        ({"acq_func": "EIps"}, "acq_func is one of 'EI', 'LCB', 'PI', 'gp_hedge' here, but got 'EIps'"),
        ({"initial_point_generator": "even"}, "initial_point_generator is one of 'random', 'sobol'"),
        ({"n_calls": 5}, "n_calls is at least 10, the points to begin with, but got 5"),
        ({"y0": [1.0]}, "y0 are the values of x0, but x0 is missing"),
        ({"x0": [[0.1], [0.2]], "y0": [1.0]}, "y0 has a value for each point of x0, which are 2, but got 1"),
        ({"x0": [[0.1]], "y0": [np.inf]}, "A value that is told is a finite number, but got inf"),
    ],
)
def test_options_that_cannot_be_honoured_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SearchError, match=text):
        gp_minimize(square, [(-1.0, 1.0)], **{"n_calls": 12, **options})


def test_too_few_initial_points_are_warned_of() -> None:
    with pytest.warns(NbcompressWarning, match="n_initial_points=2: here the surrogate takes over after 4 points"):
        res = gp_minimize(square, [(-1.0, 1.0)], n_calls=6, n_initial_points=2, random_state=0)
    assert len(res.x_iters) == 6


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Real(0, 1, "normal"), "prior of a Real is 'uniform' or 'log-uniform' here, but got 'normal'"),
        (lambda: Real(0, 1, transform="log"), "transform of a Real is None or 'identity' or 'normalize' here"),
        (lambda: Categorical(["a", "b"], transform="log"), "transform of a Categorical is None or 'identity'"),
        (lambda: gp_minimize(square, [3]), "A dimension is Real, Integer, Categorical"),
        (lambda: gp_minimize(square, [(0, 1.0)], x0=[0.1, 0.2]), "A point has 1 values, one a dimension"),
        (lambda: gp_minimize(square, [Real(0, 1, name="a"), Real(0, 1, name="a")]), "'a' is there twice"),
        (lambda: gp_minimize(square, [(2.0, 1.0)]), "low <= high must hold"),
    ],
)
def test_dimensions_that_cannot_be(make: Any, text: str) -> None:
    with pytest.raises(SpaceError, match=text):
        make()


def test_names_that_no_parameter_has_are_replaced() -> None:
    space = [Real(0, 1, name="learning rate"), Real(0, 1, name="C")]
    res = gp_minimize(sum, space, n_calls=10, random_state=0)
    assert res.space.dimension_names == ["x0", "C"]
    with pytest.raises(SearchError, match="use_named_args needs dimensions with names"):
        use_named_args([Real(0, 1)])


def test_it_is_reached_from_the_package() -> None:
    assert nc.compat.gp_minimize is gp_minimize


def test_two_functions_without_a_name_are_two_studies_and_it_is_said(tmp_path: Path) -> None:
    called: list[str] = []

    def found(name: str, center: float, **options: Any) -> Any:
        def f(x: list[float]) -> float:
            called.append(name)
            return (x[0] - center) ** 2

        place = {"storage": tmp_path / "j", "panel": False, "random_state": 1}
        return gp_minimize(f, [(0.0, 1.0)], n_calls=6, n_initial_points=6, **place, **options)

    first = found("one", 0.2)
    with pytest.warns(NbcompressWarning, match="begins, since .* center = 0.2 before and 0.8 now"):
        second = found("other", 0.8)
    assert second.study.name == f"{first.study.name}~2"
    assert called == ["one"] * 6 + ["other"] * 6
    found("one", 0.2, study="s")
    with pytest.raises(StudyChanged, match=r"center = 0\.2 before and 0\.8 now"):
        found("one", 0.8, study="s")
    with pytest.warns(NbcompressWarning, match="is continued with another value"):
        found("one", 0.8, study="s", accept_changes=True)
    assert found("one", 0.8, study="s", fresh=True).study.name == "s~2"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda f: gp_minimize(f, bounds=[(0.0, 1.0)]),
            r"no option bounds.* Write the space second, as in gp_minimize",
        ),
        (lambda f: gp_minimize(f), r"takes a list of dimensions, but got None. Write the space second"),
        (lambda f: gp_minimize([(0.0, 1.0)], f), "takes the function first and then the dimensions"),
        (lambda f: gp_minimize(f, {"x": (0, 1)}), r"dimensions is a list, but got \{'x': \(0, 1\)\}. Write \[Real"),
        (lambda f: gp_minimize(f, [(0.0, 1.0)], n_iter=5), "no option n_iter, but got 5. Write n_calls=50"),
        (lambda f: gp_minimize(f, [(0.0, 1.0)], init_points=5), "Write n_initial_points=10"),
        (lambda f: gp_minimize(f, [(0.0, 1.0)], seed=0), "Write random_state=0"),
        (lambda f: gp_minimize(fun=f, dimensions=[(0.0, 1.0)]), "Write the function first"),
    ],
)
def test_calls_of_other_functions_are_told_what_to_write(call: Any, text: str) -> None:
    with pytest.raises(SearchError, match=text):
        call(lambda x: x[0] ** 2)
