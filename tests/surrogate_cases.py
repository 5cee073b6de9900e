"""Surrogates and what they predict: Python's numbers, which the page must find from the data alone.

The samples in `samples/surrogate` are read by the Python and the TypeScript tests; `python tests/surrogate_cases.py`
writes them anew. The hyperparameters in them are those of one fit and need not be those of the next.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from panel_studies import HandMadeStudy, digits_study, single_study

from nbcompress.optimize import proposer
from nbcompress.optimize.acquisition import SumAcquisition
from nbcompress.optimize.models import FittedModels
from nbcompress.optimize.outcome_transform import OutcomeTransform
from nbcompress.optimize.proposers.gp import GaussianProcessProposer
from nbcompress.optimize.surrogates.classifier import Classifier
from nbcompress.optimize.surrogates.closed_form import GaussianProcess, Hyperparameters, ModelSpec
from nbcompress.panels.surrogate_data import SurrogateInsight, surrogate_data
from nbcompress.panels.view import study_view
from nbcompress.run.history import history_of
from nbcompress.space import Choice, Float, Int, Space
from nbcompress.study.goal import Goal, State, Trial

FOLDER = Path(__file__).parent / "samples" / "surrogate"
N_POINTS = 12


def mixed_study(failed: tuple[int, ...] = (5,)) -> HandMadeStudy:
    """Steps, a logarithmic integer, an ordered choice given out of order; some trials fail, one runs."""
    space = Space(
        {"a": Float(0, 2, step=0.25), "k": Int(1, 500, log=True), "b": Choice(8, 2, 4), "on": Choice(True, False)}
    )
    rng = random.Random(3)
    trials = []
    for number in range(14):
        point = space.decode([rng.random() for _ in space.names])
        score = 1.0 - (point["a"] - 0.8) ** 2 + 0.1 * np.log(point["k"]) / point["b"] + 0.05 * point["on"]
        state = State.FAILED if number in failed else State.RUNNING if number == 13 else State.COMPLETE
        trials.append(Trial(number, state, point, {"score": float(score)} if state is State.COMPLETE else {}))
    return HandMadeStudy("mixed", Goal.of(["score"]), space, tuple(trials))


def studies() -> dict[str, tuple[HandMadeStudy, dict[str, Any]]]:
    """Every study with the options of the surrogate that learns from it."""
    bounded = replace(mixed_study(), goal=Goal.of(["score"], subject_to=["score >= 0.2"]))
    return {
        "hypervolume": (digits_study(24), {}),
        "damped": (single_study(12), {}),
        "linear": (mixed_study(), {"kernel": "rbf", "mean": "linear", "acquisition": "ucb"}),
        "failing": (mixed_study(failed=(2, 5, 6, 9)), {}),
        "bounded": (bounded, {"mean": "zero", "acquisition": "pi"}),
    }


def proposer_of(study: HandMadeStudy, options: dict[str, Any]) -> GaussianProcessProposer:
    n_objectives, n_constraints = len(study.goal.objectives), len(study.goal.constraints)
    made = proposer("gp", study.space, n_objectives=n_objectives, n_constraints=n_constraints, **options)
    assert isinstance(made, GaussianProcessProposer)
    return made


def rebuilt(data: dict[str, Any], study: HandMadeStudy, gp: GaussianProcessProposer) -> FittedModels:
    """Return the models that the data describe, from the data and the trials alone."""
    history = history_of(study.all_trials, study.goal)
    points = {trial.number: trial.point for trial in study.all_trials}

    def features(numbers: list[int]) -> Any:
        return gp.embedding.features(gp.encoder.rows([points[number] for number in numbers]))

    objectives: dict[int, GaussianProcess] = {}
    constraints: dict[str, GaussianProcess] = {}
    failure: Classifier | None = None
    for stored in data["processes"]:
        hyper = Hyperparameters(
            np.array(stored["lengthscales"]), stored["signal"], stored["noise"], trend=stored["trend"]
        )
        transform = OutcomeTransform(*(stored["units"][key] for key in ("shift", "scale", "knee", "unit", "damped")))
        mean = {0: "zero", 1: "constant"}.get(len(stored["b"]), "linear")
        spec, y = ModelSpec(data["kernel"], mean), np.array(stored["y"])
        noises = np.array(stored["noises"]) if "noises" in stored else None
        model = GaussianProcess(spec, hyper, gp.embedding.owner, features(stored["trials"]), y, transform, noises)
        if "chance" in stored:
            failure = Classifier(model, stored["chance"], hyper)
        elif stored["role"] == "objective":
            objectives[len(objectives)] = model
        else:
            constraints[f"{stored['role']} {len(constraints)}"] = model
    rows = gp.encoder.rows(history.points)
    X, X_pending = gp.embedding.features(rows), features(data["pending"])
    models = FittedModels(gp.embedding, gp.spec, len(objectives), rows, X, objectives, constraints, X_pending)
    return replace(models, failure=failure, is_used=np.ones(len(history), dtype=bool))


def expected_at(
    models: FittedModels, study: HandMadeStudy, gp: GaussianProcessProposer, point: dict[str, Any]
) -> dict[str, Any]:
    """Return what Python predicts at a point."""
    at = gp.embedding.features(gp.encoder.rows([point]))
    metrics: dict[str, list[float]] = {}
    for objective, model in zip(study.goal.objectives, models.objectives.values(), strict=True):
        mean, std = model.untransform(*model.predict(at))
        metrics[objective.metric] = [objective.loss(float(mean[0])), float(std[0])]
    history = history_of(study.all_trials, study.goal)
    gain, feasibility = gp.acquisition_terms(models, history, len(history))
    terms = [*([gain] if gain else []), *feasibility]
    chance = float(np.exp(SumAcquisition(feasibility).score(at)[0])) if feasibility else None
    acquisition = float(SumAcquisition(terms).score(at)[0])
    return {"point": point, "metrics": metrics, "chance": chance, "acquisition": acquisition}


def points_of(space: Space) -> list[dict[str, Any]]:
    rng = random.Random(11)
    return [dict(space.decode([rng.random() for _ in space.names])) for _ in range(N_POINTS)]


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (study, options) in studies().items():
        gp = proposer_of(study, options)
        data = surrogate_data(gp, study.all_trials, study.goal)
        assert data is not None
        models = rebuilt(data, study, gp)
        view = study_view(study, insight=SurrogateInsight(surrogate=data))
        cases = [expected_at(models, study, gp, point) for point in points_of(study.space)]
        text = json.dumps({"study": view, "cases": cases}, indent=1, allow_nan=False)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
