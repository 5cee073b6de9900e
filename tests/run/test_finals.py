"""The end of a noisy search: the best points again, and a choice that luck does not make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbcompress as nc
from nbcompress.errors import SearchError
from nbcompress.run import Controls

SPACE = {"x": nc.Float(0, 1), "y": nc.Float(0, 1)}


def true_loss(point: Any) -> float:
    return float((point["x"] - 0.3) ** 2 + (point["y"] - 0.6) ** 2)


def noisy(x: float, y: float) -> dict[str, float]:
    # The loop seeds NumPy's generator for every trial.
    return {"loss": true_loss({"x": x, "y": y}) + 0.1 * float(np.random.normal())}


def sought(**options: Any) -> nc.Study:
    return nc.search(noisy, SPACE, minimize="loss", **{"trials": 26, "finalists": 6, **options})


def again(study: nc.Study) -> list[bool]:
    return ["again: one of the best" in trial.reason for trial in study.all_trials]


def test_the_choice_by_posterior_is_better_than_the_best_observed() -> None:
    observed, chosen, inside = [], [], 0
    for seed in range(10):
        study = sought(seed=seed, trials=30, finalists=3)
        assert study.best is not None
        observed.append(true_loss(study.best.params))
        first = nc.finalists(study).iloc[0]
        chosen.append(true_loss(first))
        inside += first.low <= chosen[-1] <= first.high
    # Measured: 0.035 against 0.048 in the mean; seeds 10 to 19, which luck favors less, 0.024 against 0.025.
    assert np.mean(chosen) < 0.85 * np.mean(observed)
    assert inside >= 7


def test_the_last_trials_run_the_best_points_again() -> None:
    study = sought(seed=1, sampler="sobol")
    assert again(study) == [False] * 20 + [True] * 6
    assert len(study.trials) == 26
    points = [tuple(trial.params.items()) for trial in study.all_trials]
    assert set(points[20:]) <= set(points[:20])
    assert len({trial.seed for trial in study.all_trials}) == 26
    table = nc.finalists(study, k=30)
    assert list(table.columns) == ["number", "runs", "x", "y", "observed", "expected", "low", "high"]
    assert table.runs.sum() == 26
    assert table.expected.is_monotonic_increasing
    assert (table.low < table.expected).all()
    row = table[table.runs > 1].iloc[0]
    same = [trial.values["loss"] for trial in study.all_trials if trial.params["x"] == row.x]
    assert row.observed == pytest.approx(np.mean(same))


def test_what_has_no_noise_is_run_again_once() -> None:
    study = nc.search(lambda x: {"loss": x**2}, {"x": nc.Float(-1, 1)}, minimize="loss", trials=14, finalists=5)
    assert sum(again(study)) == 1


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = sought(trials=18)

    class StopAfter:
        def __init__(self, number: int) -> None:
            self.number, self.controls = number, Controls()

        def trial_ended(self, trial: nc.Trial) -> None:
            if trial.number == self.number:
                self.controls.stop()

    for number in (11, 14):
        stop = StopAfter(number)
        part = sought(trials=18, study="s", storage=tmp_path / "journal", observers=[stop], controls=stop.controls)
        assert len(part.all_trials) == number + 1
    study = sought(trials=18, study="s", storage=tmp_path / "journal")
    assert [trial.params for trial in study.all_trials] == [trial.params for trial in whole.all_trials]
    assert [trial.values for trial in study.all_trials] == [trial.values for trial in whole.all_trials]


def test_maximized_and_constrained() -> None:
    def body(x: float) -> dict[str, float]:
        nc.report(size=x)
        return {"accuracy": x + 0.05 * float(np.random.normal())}

    study = nc.search(
        body, {"x": nc.Float(0, 1)}, maximize="accuracy", subject_to="size <= 0.7", trials=20, finalists=4
    )
    table = nc.finalists(study)
    assert table.expected.is_monotonic_decreasing
    assert (table.low < table.high).all()
    assert 0.5 < table.x[0] <= 0.7


def test_wrong_uses_are_told_before_the_start() -> None:
    with pytest.raises(SearchError, match="Finalists are for one objective, but there are 2"):
        nc.search(noisy, SPACE, minimize=["loss", "size"], finalists=3)
    with pytest.raises(SearchError, match="finalists is an integer of at least 0, but got -1"):
        sought(finalists=-1)


def test_nothing_feasible_has_no_finalists() -> None:
    study = nc.search(lambda x: {"loss": x}, {"x": nc.Float(1, 2)}, minimize="loss", subject_to="loss <= 0", trials=4)
    assert len(nc.finalists(study)) == 0
