"""Search spaces of Optuna, and parameters that only some trials have."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from nbcompress.errors import NbcompressWarning
from nbcompress.optuna import Sampler
from nbcompress.optuna.sampler import PROPOSAL
from nbcompress.optuna.spaces import conditional_search_space, conditions_of, range_of

optuna.logging.set_verbosity(optuna.logging.WARNING)

RANGES: dict[str, optuna.distributions.BaseDistribution] = {
    "kind": optuna.distributions.CategoricalDistribution(["svm", "forest", "tree"]),
    "layers": optuna.distributions.IntDistribution(1, 3),
    "C": optuna.distributions.FloatDistribution(1e-3, 1e3, log=True),
    "depth": optuna.distributions.IntDistribution(1, 20),
    "width 0": optuna.distributions.IntDistribution(1, 64),
    "width 1": optuna.distributions.IntDistribution(1, 64),
}


def trial(**params: Any) -> FrozenTrial:
    named = {name.replace("_", " "): value for name, value in params.items()}
    return create_trial(params=named, distributions={name: RANGES[name] for name in named}, value=1.0)


def found(trials: list[FrozenTrial]) -> dict[str, Any]:
    space = conditional_search_space(trials)
    assert set(conditions_of(trials, space)) <= set(space)
    return {name: conditions_of(trials, space).get(name) for name in space}


def test_a_category_tells() -> None:
    trials = [trial(kind="svm", C=1.0), trial(kind="tree", depth=3), trial(kind="forest", depth=3)]
    assert found(trials) == {"kind": None, "C": ("kind", ("svm",)), "depth": ("kind", ("forest", "tree"))}
    assert found(trials[:1]) == {"C": None, "kind": None}


def test_a_number_of_layers_tells() -> None:
    trials = [trial(layers=1, width_0=8), trial(layers=2, width_0=8, width_1=8), trial(layers=3, width_0=8, width_1=9)]
    assert found(trials) == {"layers": None, "width 0": None, "width 1": ("layers", (2, 3))}


def test_conditions_of_conditions() -> None:
    trials = [
        trial(kind="svm"),
        trial(kind="tree", layers=1, width_0=3),
        trial(kind="tree", layers=2, width_0=3, width_1=4),
    ]
    expected = {"layers": ("kind", ("tree",)), "width 0": ("kind", ("tree",)), "width 1": ("layers", (2,))}
    assert found(trials) == {"kind": None, **expected}


def test_what_nothing_tells_is_left_out() -> None:
    trials = [trial(kind="svm", C=1.0), trial(kind="svm"), trial(kind="tree", depth=3)]
    assert found(trials) == {"kind": None, "depth": ("kind", ("tree",))}
    other = optuna.distributions.FloatDistribution(0.0, 1.0)
    wider = create_trial(
        params={"kind": "svm", "C": 0.5}, distributions={"kind": RANGES["kind"], "C": other}, value=1.0
    )
    assert "C" not in found([trial(kind="svm", C=1.0), wider, trial(kind="tree", depth=3)])


def conditional(trial: Trial) -> float:
    if trial.suggest_categorical("kind", ["svm", "forest"]) == "svm":
        return (math.log10(trial.suggest_float("C", 1e-3, 1e3, log=True)) - 1) ** 2
    depth, share = trial.suggest_int("depth", 1, 20), trial.suggest_float("share", 0, 1, step=0.1)
    return (depth - 7) ** 2 / 20 + (share - 0.5) ** 2 + 0.05


def test_branches_are_searched_not_drawn() -> None:
    def best(sampler: optuna.samplers.BaseSampler) -> float:
        study = optuna.create_study(sampler=sampler)
        study.optimize(conditional, n_trials=25)
        return study.best_value

    ours = [best(Sampler(seed=seed)) for seed in range(3)]
    drawn = [best(optuna.samplers.RandomSampler(seed=seed)) for seed in range(3)]
    assert median(ours) < 1e-3 < median(drawn)


def test_a_branch_that_is_not_taken_is_not_proposed() -> None:
    study = optuna.create_study(sampler=Sampler(seed=0))
    study.optimize(conditional, n_trials=12)
    later = [trial for trial in study.trials[4:] if trial.state is TrialState.COMPLETE]
    assert {trial.params["kind"] for trial in later} == {"svm", "forest"}
    for trial in later:
        assert trial.system_attrs[PROPOSAL]["point"].keys() == trial.params.keys()


def test_a_number_of_layers_is_searched() -> None:
    def objective(trial: Trial) -> float:
        widths = [trial.suggest_int(f"width {i}", 1, 64) for i in range(trial.suggest_int("layers", 1, 3))]
        return abs(len(widths) - 2) + sum(abs(width - 20) / 20 for width in widths)

    study = optuna.create_study(sampler=Sampler(seed=0))
    study.optimize(objective, n_trials=25)
    assert study.best_value < 0.2
    assert len(study.best_params) == 3


def test_any_text_is_a_name() -> None:
    names = ["lambda", "learning rate", "model.depth", "number", "λ"]

    def objective(trial: Trial) -> float:
        return sum((trial.suggest_float(name, 0, 1) - 0.3) ** 2 for name in names)

    study = optuna.create_study(sampler=Sampler(seed=0))
    study.optimize(objective, n_trials=20)
    assert set(study.trials[-1].system_attrs[PROPOSAL]["point"]) == set(names)
    assert study.best_value < 0.05


def test_a_changed_range_is_searched_on(recwarn: pytest.WarningsRecorder) -> None:
    """Narrowed, widened or shifted: one warning, and the trials within the new range are learned from."""
    for low, high in [(0.0, 0.5), (-2.0, 3.0), (0.25, 2.0)]:

        def objective(trial: Trial, low: float = low, high: float = high) -> float:
            low, high = (0.0, 1.0) if trial.number < 8 else (low, high)
            x, y = trial.suggest_float("x", low, high), trial.suggest_int("y", 1, 40)
            return (x - 0.3) ** 2 + (y - 17) ** 2 / 400

        study = optuna.create_study(sampler=Sampler(seed=1))
        recwarn.clear()
        study.optimize(objective, n_trials=22)
        (said,) = [str(warning.message) for warning in recwarn if warning.category is NbcompressWarning]
        assert said.startswith("The range of 'x' changed during the study. The sampler learns from trials with values")
        assert all(set(trial.system_attrs[PROPOSAL]["point"]) == {"x", "y"} for trial in study.trials[8:])
        assert all(low <= trial.params["x"] <= high for trial in study.trials[8:])
        assert study.best_value < 1e-3


def test_a_range_that_depends_on_another_parameter(recwarn: pytest.WarningsRecorder) -> None:
    def objective(trial: Trial) -> float:
        x = trial.suggest_float("x", 0.1, 1)
        return (x - 0.6) ** 2 + (trial.suggest_float("y", 0, x) - 0.2) ** 2

    study = optuna.create_study(sampler=Sampler(seed=0))
    study.optimize(objective, n_trials=25)
    assert study.best_value < 1e-3
    assert sum(warning.category is NbcompressWarning for warning in recwarn) == 1


def test_ranges_that_go_together() -> None:
    def floats(*ends: tuple[float, float], **options: Any) -> list[optuna.distributions.BaseDistribution]:
        return [optuna.distributions.FloatDistribution(low, high, **options) for low, high in ends]

    assert range_of(floats((0, 1), (0, 1))) == floats((0, 1))[0]
    assert range_of(floats((0, 1), (2, 3), (2, 3))) == floats((2, 3))[0]
    assert range_of(floats((0, 1), (2, 3))) == floats((0, 3))[0]
    assert range_of(floats((0, 1), (0, 3), step=0.5)) == floats((0, 3), step=0.5)[0]
    assert range_of([*floats((1, 2)), *floats((1, 2), log=True)]) is None
