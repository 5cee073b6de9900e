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
from nbcompress.optimize.acquisition import Sum
from nbcompress.optimize.models import Belief
from nbcompress.optimize.outcome_transform import Units
from nbcompress.optimize.proposers.gp import GaussianProcessProposer
from nbcompress.optimize.surrogates.closed_form import Form, GaussianProcess, Hyperparameters
from nbcompress.panels.surrogate_data import Expectations, surrogate_data
from nbcompress.panels.view import study_view
from nbcompress.run.history import history_of
from nbcompress.space import Choice, Float, Int, Space
from nbcompress.study.goal import Goal, State, Trial

FOLDER = Path(__file__).parent / "samples" / "surrogate"
N_POINTS = 12


def mixed_study() -> HandMadeStudy:
    """Steps, a logarithmic integer, an ordered choice given out of order; one trial fails, one runs."""
    space = Space(
        {"a": Float(0, 2, step=0.25), "k": Int(1, 500, log=True), "b": Choice(8, 2, 4), "on": Choice(True, False)}
    )
    rng = random.Random(3)
    trials = []
    for number in range(14):
        point = space.decode([rng.random() for _ in space.names])
        score = 1.0 - (point["a"] - 0.8) ** 2 + 0.1 * np.log(point["k"]) / point["b"] + 0.05 * point["on"]
        state = State.FAILED if number == 5 else State.RUNNING if number == 13 else State.COMPLETE
        trials.append(Trial(number, state, point, {"score": float(score)} if state is State.COMPLETE else {}))
    return HandMadeStudy("mixed", Goal.of(["score"]), space, tuple(trials))


def studies() -> dict[str, tuple[HandMadeStudy, dict[str, Any]]]:
    """Every study with the options of the surrogate that learns from it."""
    bounded = replace(mixed_study(), goal=Goal.of(["score"], subject_to=["score >= 0.2"]))
    return {
        "hypervolume": (digits_study(24), {}),
        "damped": (single_study(12), {}),
        "linear": (mixed_study(), {"kernel": "rbf", "mean": "linear", "acquisition": "ucb"}),
        "bounded": (bounded, {"mean": "zero", "acquisition": "pi"}),
    }


def proposer_of(study: HandMadeStudy, options: dict[str, Any]) -> GaussianProcessProposer:
    n_objectives, n_constraints = len(study.goal.objectives), len(study.goal.constraints)
    made = proposer("gp", study.space, n_objectives=n_objectives, n_constraints=n_constraints, **options)
    assert isinstance(made, GaussianProcessProposer)
    return made


def rebuilt(data: dict[str, Any], study: HandMadeStudy, gp: GaussianProcessProposer) -> Belief:
    """Return the belief that the data tell of, from nothing but them and the trials."""
    history = history_of(study.all_trials, study.goal)
    points = {one.number: one.point for one in study.all_trials}

    def features(numbers: list[int]) -> Any:
        return gp.embedding.features(gp.axes.rows([points[one] for one in numbers]))

    losses: dict[int, GaussianProcess] = {}
    limits: dict[str, GaussianProcess] = {}
    for one in data["processes"]:
        hyper = Hyperparameters(np.array(one["lengthscales"]), one["signal"], one["noise"], trend=one["trend"])
        units = Units(*(one["units"][key] for key in ("shift", "scale", "knee", "unit", "damped")))
        mean = {0: "zero", 1: "constant"}.get(len(one["b"]), "linear")
        form = Form(data["kernel"], mean)
        made = GaussianProcess(form, hyper, gp.embedding.owner, features(one["trials"]), np.array(one["y"]), units)
        if one["role"] == "objective":
            losses[len(losses)] = made
        else:
            limits[f"{one['role']} {len(limits)}"] = made
    rows = gp.axes.rows(history.points)
    return Belief(gp.embedding, history, rows, gp.embedding.features(rows), losses, limits, features(data["pending"]))


def expected_at(
    belief: Belief, study: HandMadeStudy, gp: GaussianProcessProposer, point: dict[str, Any]
) -> dict[str, Any]:
    """Return what Python predicts at a point."""
    at = gp.embedding.features(gp.axes.rows([point]))
    metrics: dict[str, list[float]] = {}
    for objective, process in zip(study.goal.objectives, belief.losses.values(), strict=True):
        mean, std = process.in_units(*process.predict(at))
        metrics[objective.metric] = [objective.loss(float(mean[0])), float(std[0])]
    gain, limits = gp.terms(belief, len(belief.history))
    terms = [*([gain] if gain else []), *limits]
    chance = float(np.exp(Sum(limits).score(at)[0])) if limits else None
    return {"point": point, "metrics": metrics, "chance": chance, "acquisition": float(Sum(terms).score(at)[0])}


def points_of(space: Space) -> list[dict[str, Any]]:
    rng = random.Random(11)
    return [dict(space.decode([rng.random() for _ in space.names])) for _ in range(N_POINTS)]


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (study, options) in studies().items():
        gp = proposer_of(study, options)
        data = surrogate_data(gp, study.all_trials, study.goal)
        assert data is not None
        belief = rebuilt(data, study, gp)
        view = study_view(study, expected=Expectations(surrogate=data))
        cases = [expected_at(belief, study, gp, point) for point in points_of(study.space)]
        text = json.dumps({"study": view, "cases": cases}, indent=1, allow_nan=False)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
