"""The optima of the problems are right: a search that reaches them scores 0, and no score is below."""

from __future__ import annotations

import math

import numpy as np
import pytest
from problems import LAYERS_BEST_AMOUNTS, PROBLEMS, area, point_at, volume, wide_share
from tuning_tasks import TASKS, WORST

from nbcompress.space import Point

BY_NAME = {problem.name: problem for problem in PROBLEMS}
ONE_LOSS = [problem for problem in PROBLEMS if problem.n_objectives == 1]


def at(name: str, *values: float) -> Point:
    return dict(zip(BY_NAME[name].space.names, values, strict=True))


# Those of the public functions as published; the digits of Hartmann's and Gramacy's minimisers are rounded there.
OPTIMA: list[tuple[str, Point]] = [
    ("branin", at("branin", -math.pi, 12.275)),
    ("branin", at("branin", math.pi, 2.275)),
    ("branin", at("branin", 9.42478, 2.475)),
    ("hartmann6", at("hartmann6", 0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573)),
    ("levy4", at("levy4", 1.0, 1.0, 1.0, 1.0)),
    ("ackley5", at("ackley5", 0.0, 0.0, 0.0, 0.0, 0.0)),
    ("ackley5 shifted", at("ackley5 shifted", 0.0, 0.0, 0.0, 0.0, 0.0)),
    ("rosenbrock4", at("rosenbrock4", 1.0, 1.0, 1.0, 1.0)),
    ("fourth power", at("fourth power", 3.0)),
    ("constrained", at("constrained", 0.1951227, 0.4046654)),
    (
        "mixed",
        {
            "lr": 10 ** (-2.5 - math.log2(90 / 64) / 6),
            "decay": 10**-3.5,
            "bits": 4,
            "method": "cluster",
            "width": 90,
            "dropout": 0.2,
        },
    ),
    ("conditional", {"lr": 10**-2.3, "bits": 4, "method": "cluster", "clusters": 32, "momentum": 0.8}),
    ("layers30", at("layers30", *LAYERS_BEST_AMOUNTS)),
]
# Penalties leave an optimum of each where it is.
PENALISED = {f"{name}, penalties": point for name, point in reversed(OPTIMA)}
OPTIMA += [(name, point) for name, point in PENALISED.items() if name in BY_NAME]


@pytest.mark.parametrize(("name", "point"), OPTIMA)
def test_the_optimum_scores_zero(name: str, point: Point) -> None:
    problem = BY_NAME[name]
    problem.space.check(point)
    (score,) = problem.scores([problem.losses(point)], [problem.slacks(point)])
    assert score == pytest.approx(0.0, abs=2e-7)


@pytest.mark.parametrize("problem", ONE_LOSS, ids=lambda problem: problem.name)
def test_nothing_is_below_the_optimum(problem: object) -> None:
    assert problem.name in dict(OPTIMA)
    rng = np.random.default_rng(0)
    points = [point_at(problem.space, unit) for unit in rng.random((500, len(problem.space))).tolist()]
    # Around the optima too, where a wrong constant would show.
    for optimum in (point for name, point in OPTIMA if name == problem.name):
        near = {name: problem.space[name].to_unit(value) for name, value in optimum.items()}
        units = np.array([near.get(name, 0.5) for name in problem.space.names])
        steps = 10.0 ** rng.uniform(-6, -1, (500, 1)) * rng.normal(size=(500, len(units)))
        points += [point_at(problem.space, unit) for unit in (units + steps).clip(0, 1).tolist()]
    scores = problem.scores([problem.losses(point) for point in points], [problem.slacks(point) for point in points])
    assert np.nanmin(scores) >= -1e-9


def test_published_values() -> None:
    assert BY_NAME["branin"].losses(OPTIMA[0][1])[0] == pytest.approx(0.397887, abs=1e-6)
    assert BY_NAME["hartmann6"].losses(OPTIMA[3][1])[0] == pytest.approx(-3.32237, abs=1e-5)
    assert BY_NAME["constrained"].best == pytest.approx(0.5998, abs=5e-5)
    # Any corner of Rosenbrock's square, by hand: three terms 100 (2.048 - 2.048^2)^2 + 1.048^2.
    corner = BY_NAME["rosenbrock4"].losses(at("rosenbrock4", 2.048, 2.048, 2.048, 2.048))[0]
    assert corner == pytest.approx(3 * (100 * (2.048 - 2.048**2) ** 2 + 1.048**2))


def test_only_what_is_feasible_counts() -> None:
    problem = BY_NAME["constrained"]
    outside, inside = at("constrained", 0.0, 0.0), at("constrained", 0.9, 0.6)
    points = [outside, inside, outside]
    first, second, third = problem.scores(
        [problem.losses(point) for point in points], [problem.slacks(point) for point in points]
    )
    assert math.isnan(first)
    assert second == third == pytest.approx(1.5 - problem.best)


def test_area_of_steps() -> None:
    assert area([(0.0, 1.0), (1.0, 0.0)], (2.0, 2.0)) == 3.0
    assert area([(0.0, 1.0), (1.0, 0.0), (1.5, 1.5), (3.0, -1.0)], (2.0, 2.0)) == 3.0
    assert area([], (2.0, 2.0)) == 0.0


def test_volume_of_slabs() -> None:
    """By hand: two cuboids of 4 that share 2 below (2, 2, 2)."""
    reference = (2.0, 2.0, 2.0)
    assert volume([(0.0, 1.0, 0.0)], reference) == 4.0
    assert volume([(0.0, 1.0, 0.0), (1.0, 0.0, 0.0)], reference) == 6.0
    assert volume([(0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.5, 1.5, 1.5), (-1.0, -1.0, 2.0)], reference) == 6.0
    assert volume([], reference) == 0.0


def test_the_whole_octant_scores_zero() -> None:
    problem = BY_NAME["dtlz2"]
    angles = np.linspace(0, 1, 30).tolist()
    losses = [problem.losses(at("dtlz2", angle, other, 0.5, 0.5, 0.5, 0.5)) for angle in angles for other in angles]
    assert sum(value**2 for value in losses[100]) == pytest.approx(1.0)
    assert 0 <= problem._score(losses) < 0.03


@pytest.mark.parametrize("name", ["zdt1", "zdt2"])
def test_the_whole_front_scores_zero(name: str) -> None:
    problem = BY_NAME[name]
    losses = [problem.losses(at(name, first, 0, 0, 0, 0, 0)) for first in np.linspace(0, 1, 201).tolist()]
    assert 0 <= problem.scores(losses, [()] * len(losses))[-1] < 0.01
    assert wide_share(problem, losses) == pytest.approx(1.0, abs=1e-4)


def test_no_sample_exceeds_the_front_of_the_tradeoff() -> None:
    problem = BY_NAME["tradeoff"]
    rng = np.random.default_rng(0)
    losses = [problem.losses(point_at(problem.space, unit)) for unit in rng.random((1500, 6)).tolist()]
    # Random points come near it and stay below.
    assert 0 < problem.scores(losses, [()] * len(losses))[-1] < 0.05


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_tuning_tasks_lie_on_their_scale(task: object) -> None:
    assert math.isfinite(task.best)
    assert task.scale > 0
    unit = np.full(len(task.space), 0.4).tolist()
    (loss,) = task.losses(point_at(task.space, unit))
    assert task.losses(point_at(task.space, unit)) == (loss,)
    assert task.best < loss <= WORST
    assert task.scores([(task.best,), (task.best + task.scale,)], [(), ()]) == [0.0, 0.0]
    assert task.scores([(task.best + task.scale,)], [()]) == pytest.approx([1.0])
