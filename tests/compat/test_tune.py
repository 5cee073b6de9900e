"""The searcher for Ray Tune. Its methods are called as Tune calls them, since `ray[tune]` is no part of the tests.

Search spaces are those of Ray; the base class is one of ours where `ray.tune` cannot be imported.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import nbcompress as nc
from nbcompress.compat import tune as installed
from nbcompress.errors import MissingPart, PointError, SearchError, SpaceError

ray = pytest.importorskip("ray")


class StandIn:
    """What a searcher of Tune inherits."""

    FINISHED = "FINISHED"

    def __init__(self, metric: Any = None, mode: Any = None) -> None:
        self._metric, self._mode = metric, mode


def loaded(name: str, path: Path) -> ModuleType:
    """Return a module that is loaded from a file, and is not left in `sys.modules`."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


@pytest.fixture(scope="module")
def search() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        stub = ModuleType("ray.tune.search")
        stub.Searcher = StandIn  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "ray.tune", ModuleType("ray.tune"))
        patch.setitem(sys.modules, "ray.tune.search", stub)
        return loaded("tune_with_ray", Path(installed.__file__)).Search


@pytest.fixture(scope="module")
def tune() -> Any:
    """The search spaces of Tune."""
    return loaded("tune_spaces", Path(ray.__file__).parent / "tune" / "search" / "sample.py")


def test_without_ray_tune_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.tune.search", None)
    without = loaded("tune_without_ray", Path(installed.__file__))
    with pytest.raises(MissingPart, match=r'needs Ray Tune: pip install "ray\[tune\]"'):
        without.Search()


def run(searcher: Any, n: int, objective: Any, first: int = 0) -> list[dict[str, Any]]:
    """Run trials as Tune does, one at a time."""
    configs = []
    for number in range(first, first + n):
        config = searcher.suggest(f"trial{number}")
        configs.append(config)
        searcher.on_trial_complete(f"trial{number}", {"loss": objective(config), "training_iteration": 1})
    return configs


def test_a_search_of_tunes_param_space(search: Any, tune: Any) -> None:
    searcher = search()
    space = {"x": tune.uniform(-1, 1), "model": {"kind": tune.choice(["a", "b"]), "width": 8}, "epochs": 3}
    assert searcher.set_search_properties("loss", "min", space)
    configs = run(searcher, 15, lambda config: (config["x"] - 0.3) ** 2 + (config["model"]["kind"] == "b"))
    assert all(set(config) == {"x", "model"} for config in configs)  # Tune adds what is fixed
    assert all(set(config["model"]) == {"kind"} for config in configs)
    best = configs[int(searcher.optimizer.history.losses.argmin())]
    assert best["model"]["kind"] == "a"
    assert best["x"] == pytest.approx(0.3, abs=0.1)
    assert not searcher.set_search_properties("loss", "min", space)


def test_a_space_of_ours_and_the_greatest_value(search: Any) -> None:
    space = {"x": nc.Float(-1, 1), "n": nc.Int(1, 3), "w": nc.Float(0, 1, each=["a", "b"])}
    searcher = search(space, metric="score", mode="max")
    for number in range(12):
        config = searcher.suggest(str(number))
        assert set(config["w"]) == {"a", "b"}
        score = config["n"] - config["x"] ** 2
        searcher.on_trial_complete(str(number), {"score": score})
        assert -searcher.optimizer.history.losses[-1, 0] == score
    assert not searcher.set_search_properties("score", "max", {"x": 3})
    later = search(space)  # TuneConfig has metric and mode, and param_space what is fixed
    assert not later.set_search_properties("score", "max", {"epochs": 3})
    assert later.optimizer.directions == ("maximize",)


def test_known_values_are_told_once(search: Any, tmp_path: Path) -> None:
    known: dict[str, Any] = {"points_to_evaluate": [{"x": 0.25}], "evaluated_rewards": [1.0]}
    search({"x": nc.Float(0, 1)}, "loss", "min", **known).save(tmp_path / "state")
    again = search({"x": nc.Float(0, 1)}, "loss", "min", **known)
    again.restore(tmp_path / "state")
    assert again.optimizer.history.losses.tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("write", "parameter"),
    [
        (lambda tune: tune.uniform(-1, 2), "Float(-1.0, 2.0)"),
        (lambda tune: tune.loguniform(1e-4, 1e-1), "Float(0.0001, 0.1, log=True)"),
        (lambda tune: tune.quniform(0, 1, 0.25), "Float(0.0, 1.0, step=0.25)"),
        (lambda tune: tune.randint(1, 5), "Int(1, 4)"),
        (lambda tune: tune.lograndint(1, 100), "Int(1, 99, log=True)"),
        (lambda tune: tune.qrandint(2, 10, 4), "Int(4, 8, step=4)"),
        (lambda tune: tune.qrandint(2, 10, 1), "Int(2, 9)"),
        (lambda tune: tune.choice([16, 32]), "Choice(16, 32)"),
        (lambda tune: tune.choice([[1, 2], [3]]), "Choice('option 0', 'option 1')"),
    ],
)
def test_each_domain_is_a_parameter(search: Any, tune: Any, write: Any, parameter: str) -> None:
    searcher = search({"a": {"b": write(tune)}}, metric="loss", mode="min")
    assert repr(searcher.optimizer.space["a_b"]) == parameter
    config = searcher.suggest("t")["a"]["b"]
    assert write(tune).is_valid(config)


def test_ranges_within_an_option_are_conditions(search: Any, tune: Any) -> None:
    options = [{"name": "sgd", "momentum": tune.uniform(0, 1)}, {"name": "adam"}]
    searcher = search({"lr": tune.loguniform(1e-3, 1), "opt": tune.choice(options)}, metric="loss", mode="min")
    assert str(searcher.optimizer.space).splitlines()[1:] == [
        "opt = Choice('sgd', 'adam')",
        "if opt == 'sgd':",
        "    opt_0_momentum = Float(0.0, 1.0)",
    ]
    for config in run(searcher, 6, lambda config: config["lr"]):
        assert set(config["opt"]) == ({"name", "momentum"} if config["opt"]["name"] == "sgd" else {"name"})


def test_how_trials_end(search: Any) -> None:
    searcher = search({"x": nc.Float(0, 1)}, metric="loss", mode="min")
    ends: list[tuple[Any, bool]] = [
        ({"loss": 1.0}, False),
        (None, True),
        ({"loss": float("nan")}, False),
        (None, False),
    ]
    for number, (result, error) in enumerate(ends):
        searcher.suggest(str(number))
        searcher.on_trial_result(str(number), {"loss": 5.0})
        searcher.on_trial_complete(str(number), result, error)
    history = searcher.optimizer.history
    assert list(history.status) == ["told", "failed", "failed", "told"]
    assert history.losses[[0, 3], 0].tolist() == [1.0, 5.0]
    searcher.on_trial_complete("3", {"loss": 9.0})  # said twice
    assert len(searcher.optimizer.history) == 4
    searcher.suggest("4")
    with pytest.raises(SearchError, match="A result has no metric 'loss'; it has accuracy"):
        searcher.on_trial_complete("4", {"accuracy": 1.0})


def test_trials_side_by_side_get_other_points(search: Any) -> None:
    searcher = search({"n": nc.Int(1, 3)}, metric="loss", mode="min")
    configs = [searcher.suggest(str(number)) for number in range(3)]
    assert sorted(config["n"] for config in configs) == [1, 2, 3]
    assert searcher.suggest("1") == configs[1]
    assert searcher.suggest("9") == "FINISHED"


def test_points_to_begin_with(search: Any, tune: Any) -> None:
    space = {"x": tune.uniform(0, 1), "model": {"kind": tune.choice(["a", "b"])}}
    starts = [{"x": 0.25, "model": {"kind": "b"}}, {"x": 0.5, "model/kind": "a"}]
    searcher = search(space, "loss", "min", points_to_evaluate=starts)
    assert [searcher.suggest(name) for name in "ab"] == [starts[0], {"x": 0.5, "model": {"kind": "a"}}]
    told = search(space, "loss", "min", points_to_evaluate=starts, evaluated_rewards=[1.0, 2.0])
    told.add_evaluated_point({"x": 0.75, "model/kind": "a"}, 3.0)
    assert told.optimizer.history.losses[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_several_metrics(search: Any) -> None:
    searcher = search({"x": nc.Float(0, 1)}, metric=["a", "b"], mode=["min", "max"])
    searcher.suggest("t")
    searcher.on_trial_complete("t", {"a": 1.0, "b": 2.0})
    assert searcher.optimizer.history.losses.tolist() == [[1.0, -2.0]]


def test_a_search_that_is_saved_goes_on(search: Any, tune: Any, tmp_path: Path) -> None:
    space = {"x": tune.uniform(0, 1), "kind": tune.choice(["a", "b"])}
    starts = [{"x": 0.25, "kind": "b"}, {"x": 0.5, "kind": "b"}]
    searcher = search(space, "loss", "max", points_to_evaluate=starts)
    run(searcher, 1, lambda config: config["x"])
    running = searcher.suggest("running")
    third = searcher.suggest("third")
    searcher.on_trial_complete("third", None, error=True)
    searcher.save(tmp_path / "state")
    for again in (search(space, "loss", "max"), search()):
        again.restore(tmp_path / "state")  # before or after Tune says what the space is
        again.set_search_properties("loss", "max", space)
        assert again.optimizer.history.losses[0, 0] == -0.25
        assert again.optimizer.history.points[1]["x"] == third["x"]
        assert again.suggest("running") == running == starts[1]
    with pytest.raises(SearchError, match="The state is of metric='loss', mode='max', but got metric='acc'"):
        search(space, "acc", "max").restore(tmp_path / "state")
    with pytest.raises(PointError, match="no parameter 'x'"):
        search({"y": nc.Float(0, 1)}, "loss", "max").restore(tmp_path / "state")
    (tmp_path / "state").write_text("[")
    with pytest.raises(SearchError, match="is no state of a Search"):
        search(space, "loss", "max").restore(tmp_path / "state")
    (tmp_path / "state").write_text(json.dumps({"format": "other"}))
    with pytest.raises(SearchError, match="is no state of a Search, version 1"):
        search(space, "loss", "max").restore(tmp_path / "state")


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda make, tune: make({"x": tune.randn(1, 2)}), SpaceError, r"no bounds.*Write tune.uniform\(-5, 7\)"),
        (lambda make, tune: make({"x": tune.qrandn(0, 1, 0.5)}), SpaceError, r"Write tune.quniform\(-3, 3, 0.5\)"),
        (
            lambda make, tune: make({"x": tune.sample_from(lambda spec: 1)}),
            SpaceError,
            r"Write tune.uniform\(low, high",
        ),
        (lambda make, tune: make({"x": {"grid_search": [1, 2]}}), SpaceError, r"Write tune.choice\(\[1, 2\]\)"),
        (lambda make, tune: make({"x": tune.qloguniform(0.5, 2, 0.5)}), SpaceError, "logarithmic and has q=0.5"),
        (lambda make, tune: make({"x": 3}), SpaceError, "at least one draw"),
        (lambda make, tune: make(3), SpaceError, "space is a Space or a dict"),
        (lambda make, tune: make({"x": nc.Int(1, 2)}, "loss", "least"), SearchError, "mode is 'min' or 'max'"),
        (lambda make, tune: make(None, ["a", "b"], ["min"]), SearchError, "There is a mode for each metric"),
        (lambda make, tune: make().suggest("t"), SearchError, "Search has no space or no mode yet"),
        (lambda make, tune: make(points_to_evaluate=[{}], evaluated_rewards=[]), SearchError, "which are 1, but got 0"),
        (
            lambda make, tune: make({"x": tune.choice([1, 2])}, "a", "min", points_to_evaluate=[{"x": 3}]),
            PointError,
            r"'x' is one of \[1, 2\], but got 3",
        ),
    ],
)
def test_what_cannot_be_honoured_is_named(search: Any, tune: Any, act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act(search, tune)
