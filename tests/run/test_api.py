"""`nc.search` and `nc.maximize`."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbcompress as nc
from nbcompress.errors import GoalError, SearchError, SearchFailed, SpaceError, StudyChanged
from nbcompress.study import State, list_studies

SPACE = {
    "x": nc.Float(0.0, 1.0),
    "method": nc.Choice("plain", "cluster"),
    "clusters": nc.Int(4, 64, log=True, when={"method": "cluster"}),
}


def g(x: float, method: str, clusters: int | None = None) -> dict[str, float]:
    assert (clusters is None) == (method == "plain")
    nc.report(size=x)
    nc.keep(which=x)
    return {"accuracy": x * (2 if clusters else 1)}


def sought(**options: Any) -> nc.Study:
    options = {"maximize": ["accuracy"], "minimize": ["size"], "trials": 6, "sampler": "sobol", **options}
    return nc.search(g, SPACE, **options)


def test_a_search() -> None:
    study = sought(subject_to=["size <= 0.8"])
    frame = study.trials
    assert list(frame.columns) == ["number", "state", "x", "method", "clusters", "accuracy", "size", "seconds"]
    assert len(frame) == 6
    assert study.best is not None
    assert set(study.best.kept) == {"which"}
    assert study.best.kept["which"] == study.best.params["x"]
    assert study.record["search"]["sampler"] == "sobol"
    assert study.record["ending"]["reason"] == "All 6 trials are done."


def test_nothing_is_stored_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    sought()
    assert list(tmp_path.iterdir()) == []
    sought(study="digits")
    assert {path.name for path in tmp_path.iterdir()} >= {"nbcompress.journal", "nbcompress.kept"}
    again = sought(study="digits")
    assert "none was run again" in caplog.text
    # A search that runs nothing leaves the ending of the search before.
    assert again.record["ending"]["reason"] == "All 6 trials are done."
    sought(storage=tmp_path / "other.journal")
    assert (tmp_path / "other.journal").exists()


def test_continued_studies(tmp_path: Path) -> None:
    where: dict[str, Any] = {"study": "s", "storage": tmp_path / "journal"}
    assert len(sought(**where, trials=3).all_trials) == 3
    assert len(sought(**where, trials=5).all_trials) == 5
    assert sought(**where, trials=2, fresh=True).name == "s~2"
    with pytest.raises(StudyChanged):
        sought(**where, subject_to=["size <= 1"])


def test_another_steering_is_said_and_the_record_keeps_both(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def sought(**options: Any) -> nc.Study:
        caplog.clear()
        where = {"study": "s", "storage": tmp_path / "journal"}
        return nc.search(lambda x: {"loss": x}, {"x": nc.Float(0, 1)}, minimize="loss", **{**where, **options})

    first = dict(sought(trials=3, seed=0).record["search"])
    # Nothing is run, so nothing of it is recorded.
    assert sought(trials=3, seed=1, sampler="random").record["search"] == first
    assert "was begun with another seed; its earlier trials were run with that." in caplog.text
    record = sought(trials=5, seed=9, sampler="random").record["search"]
    assert (record["seed"], record["sampler"]) == (9, "random")
    assert record["before"] == "up to trial 2: sampler gp, seed 0"
    assert sought(trials=6, seed=9, sampler="random").record["search"]["before"] == record["before"]
    again = sought(trials=7, seed=3, sampler="random").record["search"]["before"]
    assert again == "up to trial 2: sampler gp, seed 0; up to trial 5: seed 9"


def test_another_function_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def first(x: float) -> float:
        return x

    def second(x: float) -> float:
        return x + 1

    space, options = {"x": nc.Float(0, 1)}, {"study": "s", "storage": tmp_path / "journal", "sampler": "sobol"}
    nc.maximize(first, space, 1, **options)
    with caplog.at_level(logging.WARNING):
        nc.maximize(second, space, 2, **options)
    assert "was begun with another body" in caplog.text


def test_maximize() -> None:
    study = nc.maximize(lambda x: -((x - 0.3) ** 2), {"x": nc.Float(0.0, 1.0)}, trials=12)
    assert study.best is not None
    assert abs(study.best.params["x"] - 0.3) < 0.1
    assert list(study.trials.columns) == ["number", "state", "x", "value", "seconds"]


def test_maximize_steps_aside_for_a_parameter() -> None:
    study = nc.maximize(lambda value: value, {"value": nc.Float(0, 1)}, trials=1, sampler="sobol")
    assert list(study.best.values if study.best else ()) == ["objective"]


def test_equal_seeds_give_equal_searches() -> None:
    def points(seed: int) -> list[dict[str, Any]]:
        return [trial.point for trial in sought(sampler="random", seed=seed).all_trials]

    assert points(1) == points(1) != points(2)


def test_groups_arrive_as_dicts() -> None:
    def h(amounts: dict[str, float]) -> float:
        return sum(amounts.values())

    study = nc.maximize(h, {"amounts": nc.Float(0, 1, each=["a", "b"])}, trials=2, sampler="sobol")
    assert "amounts[a]" in study.trials.columns


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: 3, "NotADict: The function returns a dict of metrics such as {'loss': 0.5}, but got int."),
        (lambda x: None, "NotADict: The function returns a dict of metrics such as {'loss': 0.5}, but got NoneType."),
        (
            lambda x: {"los": x},
            "NotAssigned: The trial ended without the metric 'loss'; it left these: los. Did you mean 'los'?",
        ),
        (lambda x: {"loss": x, "name": "a"}, "NotANumber: The metric 'name' is a number, but got the str 'a'."),
    ],
)
def test_what_a_function_returns(function: Any, text: str) -> None:
    with pytest.raises(SearchFailed, match="Stopped: the first three trials failed with the same error, ") as caught:
        nc.search(function, {"x": nc.Float(0, 1)}, minimize="loss", sampler="sobol", trials=9)
    assert str(caught.value).endswith(text)
    assert getattr(caught.value, "__notes__", []) == []  # a failure of ours has no traceback
    study = caught.value.study
    assert isinstance(study, nc.Study)
    assert [str(trial.failure) for trial in study.all_trials] == [text] * 3
    assert study.best is None
    assert len(study.kept) == 0


def test_a_search_runs_a_function() -> None:
    with pytest.raises(SearchError, match="A search runs a function of the parameters, but got 3"):
        nc.search(3, SPACE, minimize="loss")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"maximize": (), "minimize": ()}, GoalError, "A search needs at least one objective"),
        ({"maximize": ["x"]}, GoalError, "No name is both a parameter and a metric, but 'x' is; rename one"),
        ({"subject_to": "size < 3"}, GoalError, "A constraint reads 'NAME <= NUMBER'"),
        ({"sampler": "soboll"}, SearchError, "Did you mean 'sobol'"),
        ({"engine": "proces"}, SearchError, "Did you mean 'process'"),
        ({"pruner": "ascha"}, SearchError, "Did you mean 'asha'"),
        ({"until": "bored"}, SearchError, 'A stop rule reads "no gain N"'),
        ({"until": "gain < 0.1"}, SearchError, "needs a sampler that expects a gain"),
        ({"timeout": "ten"}, SearchError, "A time limit is above 0 and reads like 90s, 10m or 2h"),
        ({"trial_timeout": 0}, SearchError, "A time limit is above 0"),
        ({"trials": -1}, SearchError, "trials is an integer of at least 1"),
        ({"jobs": 2}, SearchError, "inline runs one trial at a time"),
        ({"start": [{"x": 3.0, "method": "plain"}]}, SpaceError, "x"),
        ({"start": {"x": 0.5}}, SearchError, r"start is a list of dicts such as .*, but got \{'x': 0.5\}"),
        ({"start": [0.3]}, SearchError, r"start is a list of dicts .*, but got \[0.3\]"),
        ({"baseline": 0.3}, SearchError, "baseline is a dict with a number for each metric, but got 0.3"),
        ({"baseline": {"size": "big"}}, SearchError, "baseline is a dict with a number for each metric"),
        ({"baseline": {"size": True}}, SearchError, "baseline is a dict with a number for each metric"),
        ({"seed": None}, SearchError, "seed is an integer, but got None"),
        ({"trials": True}, SearchError, "trials is an integer of at least 1, but got True"),
        ({"study": 3}, SearchError, "study is a name, which is a str and not empty, but got 3"),
        ({"study": ""}, SearchError, "study is a name, which is a str and not empty, but got ''"),
        ({"study": "a{b}"}, SearchError, "study is a name without the characters"),
        ({"sampler": 3}, SearchError, "A sampler is one of gp, .*, but got 3"),
        ({"pruner": 3}, SearchError, "A pruner is one of none, .*, but got 3"),
        ({"maximize": None}, GoalError, "maximize is a name or a list of names, but got None"),
        ({"keep": [3]}, GoalError, r"keep is a name or a list of names, but got \[3\]"),
    ],
)
def test_mistakes(options: dict[str, Any], error: type[Exception], text: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=text):
        sought(storage=tmp_path / "journal", **options)
    assert list_studies(tmp_path / "journal") == ()


def test_numbers_of_numpy_are_taken(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "trials": np.int64(3),
        "seed": np.int32(5),
        "jobs": np.uint8(1),
        "repeats": np.int64(1),
        "finalists": np.int64(0),
        "timeout": np.int64(90),
        "trial_timeout": np.float32(60),
        "baseline": {"size": np.float32(1)},
    }
    study = sought(storage=tmp_path / "journal", **options)
    assert len(study.trials) == 3
    assert study.record["search"]["seed"] == 5
    assert study.record["budget"] == {"trials": 3, "timeout": 90, "trial timeout": 60.0}


@pytest.mark.parametrize("function", [3, None, "f"])
def test_what_is_no_function_is_refused_before_a_trial(function: Any) -> None:
    for call in (nc.maximize, nc.search):
        options = {} if call is nc.maximize else {"maximize": "v"}
        with pytest.raises(SearchError, match=f"A search runs a function of the parameters, but got {function!r}"):
            call(function, {"x": nc.Float(0, 1)}, **options)


def test_python_says_why_a_search_has_fewer_trials(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def said(f: Any = float, space: Any = None, **options: Any) -> str:
        caplog.clear()
        where = {"study": "s", "storage": tmp_path / "journal", "sampler": "sobol"}
        nc.maximize(lambda x: f(x), space or {"x": nc.Float(0, 1)}, **{**where, **options})
        return caplog.text

    assert said(trials=2) == ""
    assert "The study 's' has its 2 trials already; none was run again." in said(trials=2)
    assert "All 4 points" in said(space={"x": nc.Int(1, 4)}, trials=50, study="small")
    assert "The search's limit of 0.05 s has come at" in said(f=slow, trials=500, timeout=0.05, study="slow")


def slow(x: float) -> float:
    time.sleep(0.02)
    return x


def test_maximize_takes_no_objectives() -> None:
    with pytest.raises(GoalError, match=r"nc.maximize steers by what its function returns; use nc.search for"):
        nc.maximize(lambda x: x, {"x": nc.Float(0, 1)}, minimize=["a"])


def test_start_points_and_repeats_and_baseline() -> None:
    start = [{"x": 0.5, "method": "plain"}, {"x": 0.25, "method": "cluster", "clusters": 8}]
    study = sought(start=start, repeats=2, baseline={"accuracy": 0.9})
    assert [trial.point for trial in study.all_trials[:2]] == start
    assert study.record["baseline"] == {"accuracy": 0.9}
    study = sought(subject_to="size <= baseline * 0.5", baseline={"size": np.float32(0.5)})
    assert study.goal.constraints[0].bound == 0.25


def test_a_process_engine_from_a_script_without_a_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, nbcompress as nc\n"
        "print('top level', flush=True)\n"
        "offset = 5\n"
        "def f(x):\n"
        "    return os.getpid() + offset * 0\n"
        "study = nc.maximize(f, {'x': nc.Float(0, 1)}, trials=3, engine='process', jobs=2, sampler='sobol')\n"
        "pids = {trial.values['value'] for trial in study.all_trials}\n"
        "print(len(pids), os.getpid() in pids)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert (done.stdout, done.stderr) == ("top level\n3 False\n", "")


def test_importing_the_floor_loads_nothing_heavy() -> None:
    heavy = ["torch", "gpytorch", "botorch", "optuna", "pandas", "scipy"]
    code = f"import sys, nbcompress; nbcompress.report(a=1); print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_states_of_a_mixed_search() -> None:
    def h(x: float) -> dict[str, float]:
        if x > 0.8:
            raise ValueError("too far")
        return {"loss": x, "size": x}

    study = nc.search(h, {"x": nc.Float(0, 1)}, minimize="loss", subject_to="size <= 0.5", trials=16, sampler="sobol")
    assert {trial.state for trial in study.all_trials} == {State.COMPLETE, State.FAILED, State.INFEASIBLE}


def test_a_trial_limit_is_about_the_function_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cleaned up after a trial that has ended in time must not make it a failed one."""
    monkeypatch.setattr("nbcompress.run.evaluation.free_memory", lambda: time.sleep(1.2))
    study = nc.search(lambda x: {"loss": x}, {"x": nc.Float(0, 1)}, minimize=["loss"], trials=1, trial_timeout=1.0)
    assert study.all_trials[0].state is State.COMPLETE


def failing(x: float) -> dict[str, float]:
    raise KeyError(x)


def test_the_traceback_of_the_body_stands_below_the_error() -> None:
    with pytest.raises(SearchFailed) as caught:
        nc.search(failing, {"x": nc.Float(0, 1)}, minimize="loss", sampler="sobol", trials=9)
    (note,) = caught.value.__notes__
    assert "in failing" in note
    assert "raise KeyError(x)" in note


def test_an_interrupt_raises_if_the_options_say_so_and_keeps_the_study(tmp_path: Path) -> None:
    calls = []

    def g(x: float) -> dict[str, float]:
        calls.append(x)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return {"loss": x}

    space = {"x": nc.Float(0, 1)}
    options: dict[str, Any] = {
        "minimize": "loss",
        "trials": 5,
        "study": "s",
        "storage": tmp_path / "j",
        "sampler": "sobol",
    }
    with pytest.raises(KeyboardInterrupt):
        nc.search(g, space, on_interrupt="raise", **options)
    study = nc.search(g, space, **options)
    assert [trial.state.value for trial in study.all_trials] == ["complete"] * 5
    assert len(calls) == 6
    with pytest.raises(SearchError, match="on_interrupt is return or raise, but got 'stop'"):
        nc.search(g, space, on_interrupt="stop", **options)
