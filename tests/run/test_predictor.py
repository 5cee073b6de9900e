"""What a study hands out of its surrogate, and the noise that it knows."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nbcompress as nc
from nbcompress.errors import GoalError, PointError, StudyError
from nbcompress.run.history import history_of, noise_stds
from nbcompress.run.options import SearchOptions, noise_names
from nbcompress.study import Goal, State, Trial, open_study

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from botorch.acquisition import LogExpectedImprovement
    from botorch.models import SingleTaskGP
    from botorch.models.model import Model
    from botorch.optim import optimize_acqf

SPACE = {
    "x": nc.Float(0, 1),
    "kind": nc.Choice("a", "b", "c"),
    "n": nc.Int(1, 9),
    "extra": nc.Float(0, 1, when={"kind": "b"}),
}
POINTS = [{"x": 0.3, "kind": "a", "n": 4}, {"x": 0.9, "kind": "b", "n": 9, "extra": 0.25}]


def measured(x: float, kind: str, n: int, extra: float = 0.5) -> dict[str, float]:
    return {"accuracy": 90 - 40 * (x - 0.3) ** 2 - 5 * (kind != "a") * extra, "kilobytes": 1000 * n + 10 * x}


def study_of(**options: Any) -> nc.Study:
    settings: dict[str, Any] = {"maximize": "accuracy", "minimize": "kilobytes", "trials": 9, **options}
    return nc.search(measured, nc.Space(SPACE), **settings)


def factory(X: torch.Tensor, Y: torch.Tensor) -> Any:
    return SingleTaskGP(X, Y, outcome_transform=None)


@pytest.fixture(scope="module")
def study() -> nc.Study:
    return study_of()


@pytest.mark.parametrize("surrogate", [None, "additive", factory], ids=["default", "additive", "factory"])
def test_models_in_the_units_and_with_the_sign_of_a_metric(surrogate: Any) -> None:
    """Both directions: at the trials the models return about what was measured, `predict` the same."""
    found = study_of(surrogate=surrogate)
    points = [trial.point for trial in found.all_trials]
    X = found.encode(points)
    assert (X.dtype, tuple(X.shape)) == (torch.float64, (9, 7))
    assert bool(((X >= 0) & (X <= 1)).all())
    table = found.predict(points)
    assert list(table.columns) == [
        *("accuracy", "accuracy_low", "accuracy_high"),
        *("kilobytes", "kilobytes_low", "kilobytes_high"),
    ]
    for metric, tolerance in (("accuracy", 3.0), ("kilobytes", 900.0)):
        model = found.surrogate(metric)
        assert isinstance(model, Model)
        with torch.no_grad():
            posterior = model.posterior(X)
        known = [trial.values[metric] for trial in found.all_trials]
        np.testing.assert_allclose(posterior.mean.numpy()[:, 0], known, atol=tolerance)
        np.testing.assert_allclose(posterior.mean.numpy()[:, 0], table[metric], rtol=1e-6)
        half = 1.959964 * posterior.variance.sqrt().numpy()[:, 0]
        np.testing.assert_allclose(table[f"{metric}_high"] - table[metric], half, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(table[metric] - table[f"{metric}_low"], half, rtol=1e-3, atol=1e-4)


def test_encode_and_decode(study: nc.Study) -> None:
    assert study.decode(study.encode(POINTS)) == POINTS
    assert study.decode(study.encode(POINTS).numpy()) == POINTS
    assert study.decode(study.encode(POINTS[:1])[0]) == POINTS[:1]
    # Columns: x, three options, n, and two of the conditional number.
    near = [0.29, 0.1, 0.6, 0.2, 0.49, 0.3, 0.3]
    (point,) = study.decode([near])
    assert point == {"x": 0.29, "kind": "b", "n": 5, "extra": pytest.approx(0.5)}
    with pytest.raises(StudyError, match=r"of the shape \(n, 7\), .* kind\[0\], .*, but got the shape \(1, 3\)"):
        study.decode([[0.1, 0.2, 0.3]])
    with pytest.raises(PointError):
        study.encode([{"x": 7.0, "kind": "a", "n": 1}])
    with pytest.raises(StudyError, match="Points are dicts"):
        study.predict("x")  # type: ignore[arg-type]


def test_botorch_works_on_a_study(study: nc.Study) -> None:
    model = study.surrogate("accuracy")
    best = max(trial.values["accuracy"] for trial in study.all_trials)
    bounds = torch.stack([torch.zeros(7), torch.ones(7)]).double()
    torch.manual_seed(0)
    X, _ = optimize_acqf(LogExpectedImprovement(model, best), bounds, q=1, num_restarts=2, raw_samples=32)
    (point,) = study.decode(X)
    assert nc.Space(SPACE).check(point) == point
    model.posterior(X)
    fantasy = model.condition_on_observations(X, torch.full((1, 1), 95.0, dtype=torch.float64))
    assert fantasy.posterior(X).mean.item() > model.posterior(X).mean.item()


def test_a_model_is_the_callers_own(study: nc.Study) -> None:
    first = study.surrogate("accuracy")
    first.covar_module = None
    assert study.surrogate("accuracy").covar_module is not None


def test_what_there_is_no_model_of(study: nc.Study) -> None:
    with pytest.raises(StudyError, match=r"is accuracy, kilobytes, but got 'acuracy'. Did you mean 'accuracy'"):
        study.surrogate("acuracy")
    failing = nc.search(lambda x: {}, {"x": nc.Float(0, 1)}, minimize="loss", trials=2, sampler="sobol")
    with pytest.raises(StudyError, match=r"No trial of study .* has the metric 'loss' yet"):
        failing.surrogate("loss")


def test_a_reopened_study_has_the_named_surrogates(tmp_path: Path) -> None:
    path = tmp_path / "j.journal"
    options = {"study": "s", "storage": path, "trials": 9}
    before = study_of(surrogate={"accuracy": "additive"}, **options).predict(POINTS)
    again = open_study("s", nc.Space(SPACE), Goal.of(["accuracy"], ["kilobytes"]), storage=path)
    np.testing.assert_allclose(again.predict(POINTS), before, rtol=1e-6)
    assert type(again.surrogate("accuracy").covar_module).__name__ == "AdditiveKernel"
    study_of(surrogate=factory, **{**options, "study": "own"})
    again = open_study("own", nc.Space(SPACE), Goal.of(["accuracy"], ["kilobytes"]), storage=path)
    with pytest.raises(GoalError, match="The surrogate of this study, factory, is an object of an earlier session"):
        again.predict(POINTS)


def test_predictions_of_the_default_need_no_torch() -> None:
    code = (
        "import sys, nbcompress as nc\n"
        "study = nc.maximize(lambda x: -x * x, {'x': nc.Float(-1, 1)}, trials=8)\n"
        "study.predict([{'x': 0.5}]); study.decode([[0.5]])\n"
        "assert not {'torch', 'gpytorch', 'botorch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- Noise ---


def noisy(x: float) -> dict[str, float]:
    """Measured exactly on the left, and badly on the right."""
    std = 0.001 if x < 0.5 else 1.0
    return {"loss": x**2 + std * math.sin(1e4 * x), "std": std}


@pytest.mark.parametrize("noise", ["std", "loss=std", ["loss=std"], {"loss": "std"}])
def test_known_noise(noise: Any) -> None:
    study = nc.search(noisy, {"x": nc.Float(0, 1)}, minimize="loss", trials=9, noise=noise)
    width = study.predict([{"x": 0.1}, {"x": 0.9}])
    left, right = (width["loss_high"] - width["loss_low"]).tolist()
    assert left < 0.1
    plain = nc.search(noisy, {"x": nc.Float(0, 1)}, minimize="loss", trials=9)
    assert plain.predict([{"x": 0.1}]).loss_high[0] - plain.predict([{"x": 0.1}]).loss_low[0] > left
    assert right > left
    assert "std" in study.trials.columns
    assert study.record["search"]["noise"]
    assert "noise" not in plain.record["search"], "nothing is taken by its name alone"


def test_a_negative_standard_deviation_counts_as_unknown() -> None:
    study = nc.search(
        lambda x: {"loss": x, "std": x - 0.5}, {"x": nc.Float(0, 1)}, minimize="loss", trials=4, noise="std"
    )
    (warning,) = [text for text in study.warnings if "std" in text]
    assert warning.startswith("'std' is -0.")
    assert "but a standard deviation is at least 0: the noise of 'loss' counts as unknown." in warning
    stds = noise_stds(study.all_trials, "loss", "std")
    assert [math.isnan(std) for std in stds] == [trial.values["std"] < 0 for trial in study.all_trials]


def test_a_standard_deviation_that_a_trial_lacks_counts_as_unknown() -> None:
    study = nc.search(
        lambda x: {"loss": x} | ({"std": 0.1} if x > 0.5 else {}),
        {"x": nc.Float(0, 1)}, minimize="loss", trials=4, noise="std",
    )  # fmt: skip
    (warning,) = [text for text in study.warnings if "std" in text]
    assert warning.startswith("The trial left no 'std': the noise of 'loss' counts as unknown.")
    known = [trial for trial in study.all_trials if "std" in trial.values]
    assert 0 < len(known) < 4
    stds = noise_stds(study.all_trials, "loss", "std")
    assert [math.isnan(std) for std in stds] == ["std" not in trial.values for trial in study.all_trials]


def folds(x: float, number: int) -> dict[str, float]:
    """A cross-validation: the mean of the folds, and its standard error."""
    scores = (x - 0.5) ** 2 + 0.02 * np.random.default_rng(number).standard_normal(5)
    return {"loss": float(scores.mean()), "loss_std": float(scores.std(ddof=1) / 5**0.5)}


def test_folds_of_a_cross_validation_give_noise() -> None:
    """Their standard errors are the noise in the likelihood, in the units of the metric."""
    count = itertools.count()
    study = nc.search(
        lambda x: folds(x, next(count)), {"x": nc.Float(0, 1)}, minimize="loss", trials=6, noise="loss_std"
    )
    model = study.surrogate("loss")
    errors = [trial.values["loss_std"] for trial in study.all_trials]
    scale = float(model.outcome_transform.stdvs)
    assert model.likelihood.noise.numpy().ravel() * scale**2 == pytest.approx(np.square(errors), rel=1e-6)


@pytest.mark.parametrize(
    ("noise", "text"),
    [
        (3, "noise names the metric that holds a standard deviation, such as noise='accuracy=accuracy_std', but got 3"),
        ("a b", "but got 'a b'"),
        (["loss=s", "loss=t"], "names each metric once"),
    ],
)
def test_noise_that_cannot_be_read(noise: Any, text: str) -> None:
    with pytest.raises(GoalError, match=text):
        SearchOptions(noise=noise)


def test_noise_of_what() -> None:
    two = Goal.of(["accuracy"], ["size"])
    assert noise_names((("size", "s"),), two) == {"size": "s"}
    with pytest.raises(GoalError, match=r"noise='s' is for one objective, but there are 2. Write for example noise="):
        noise_names((("", "s"),), two)
    with pytest.raises(GoalError, match=r"\(accuracy, size\), but got 'acuracy'. Did you mean 'accuracy'"):
        noise_names((("acuracy", "s"),), two)
    with pytest.raises(GoalError, match="'size' is searched itself"):
        noise_names((("accuracy", "size"),), two)
    with pytest.raises(GoalError, match="No name is both a parameter and a metric, but noise names 'x'"):
        nc.search(noisy, {"x": nc.Float(0, 1)}, minimize="loss", noise="x")


def test_repeats_give_noise(tmp_path: Path) -> None:
    """By hand: two runs of each of two points; variances 2 and 0 between the runs have the mean 1."""
    values = iter([1.0, 3.0, 5.0, 5.0])
    path = tmp_path / "j.journal"
    study = nc.search(
        lambda x: {"loss": next(values)}, {"x": nc.Float(0, 1)}, minimize="loss", trials=2, repeats=2, storage=path
    )
    trials = study.all_trials
    assert [(trial.values["loss"], trial.spreads, trial.n_runs) for trial in trials] == [
        (2.0, {"loss": pytest.approx(math.sqrt(2))}, 2),
        (5.0, {"loss": 0.0}, 2),
    ]
    # Each is worth one run, the mean four: (4 * 1 + 1 * 2) / 5 / 2 runs, and (4 * 1 + 1 * 0) / 5 / 2 runs.
    np.testing.assert_allclose(noise_stds(trials, "loss", None), np.sqrt([0.6, 0.4]))
    np.testing.assert_allclose(history_of(trials, study.goal).noise, np.sqrt([[0.6], [0.4]]))
    again = open_study(study.name, study.space, study.goal, storage=path)
    assert [(trial.spreads, trial.n_runs) for trial in again.all_trials] == [
        (dict(trial.spreads), trial.n_runs) for trial in trials
    ]


def test_runs_that_do_not_differ_tell_nothing() -> None:
    trials = [
        Trial(i, State.COMPLETE, {"x": 0.1 * i}, {"loss": 1.0}, spreads={"loss": 0.0}, n_runs=3) for i in range(3)
    ]
    assert history_of(trials, Goal.of(minimize=["loss"])).noise.size == 0
    plain = [replace(trial, spreads={}, n_runs=1) for trial in trials]
    assert history_of(plain, Goal.of(minimize=["loss"])).noise.size == 0
