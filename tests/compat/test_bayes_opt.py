"""Scripts as readers of bayes_opt's documentation write them, with one import changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nbcompress.compat import BayesianOptimization, UtilityFunction, acquisition
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
