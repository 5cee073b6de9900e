"""The problems of `layers.py`: the fast path is what the library does, the optima are bounds, the budgets are hard."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layer_problems import BITS, LAYER_PROBLEMS, MOST, cliff, entropy, harms, least_harm, settings, shares
from layers import best_uniform, uniform_points
from problems import point_at
from torch import nn

import nbcompress as nc
from nbcompress.space import Point

BY_NAME = {problem.name: problem for problem in LAYER_PROBLEMS}


def test_the_fast_path_is_what_prune_and_quantize_do() -> None:
    net, rng = settings(8), np.random.default_rng(0)
    names = list(net.layers)
    point: Point = {f"bits[{name}]": int(rng.choice(BITS)) for name in names}
    point |= {f"amount[{name}]": float(rng.uniform(0.05, MOST)) for name in names}
    error = net.error(point)
    model = net.model
    with torch.no_grad():
        for name, layer in net.layers.items():
            layer.weight.copy_(net.weights[name])
    small: nn.Module = model
    for name in names:
        small = nc.prune(small, point[f"amount[{name}]"], layers=name)
    small = nc.quantize(small, {f"{name}.weight": point[f"bits[{name}]"] for name in names}, rest="float32")
    for name in names:
        weight = small.get_submodule(name).weight
        assert torch.equal(weight, net.compressed(name, point[f"bits[{name}]"], point[f"amount[{name}]"]))
    x, y = net.data
    assert float((small(x).argmax(1) != y).double().mean()) == error


@pytest.mark.parametrize("name", list(BY_NAME))
def test_few_random_points_meet_the_budget(name: str) -> None:
    problem, rng = BY_NAME[name], np.random.default_rng(0)
    points = [point_at(problem.space, rng.random(len(problem.space))) for _ in range(100)]
    assert sum(problem.slacks(point)[0] <= 0 for point in points) < 5
    assert any(problem.slacks(point)[0] <= 0 for point in uniform_points(problem, 200, 0.5))


def test_the_optimum_of_a_formula_is_a_bound_that_is_nearly_reached() -> None:
    """By Lagrange, the settings of each layer alone at one price of size; the price that meets the budget."""
    sensitivity, size, budget = np.array([3.0, 1.0, 0.2, 0.05] * 6), np.full(24, 1 / 24), 1 / 20
    bound = least_harm(sensitivity, size, budget, has_bits=True)
    amounts, bits = np.meshgrid(np.linspace(0.0, MOST, 500), BITS)
    amounts, bits = amounts.ravel(), bits.ravel()
    reached = np.inf
    for price in np.geomspace(1e-3, 1e6, 400):
        best = [
            int((harms(s, bits, amounts) + price * z * shares(bits, amounts)).argmin())
            for s, z in zip(sensitivity, size, strict=True)
        ]
        if float((size * shares(bits[best], amounts[best])).sum()) <= budget:
            harm = sum(float(harms(s, bits[i], amounts[i])) for s, i in zip(sensitivity, best, strict=True))
            reached = min(reached, harm)
    assert bound <= reached <= 1.05 * bound


def test_parts_of_the_problems() -> None:
    assert (cliff(0.0), cliff(1.0)) == (pytest.approx(0.02), pytest.approx(0.46))
    assert (entropy(0.0), entropy(0.5), entropy(1.0)) == (0.0, 1.0, 0.0)
    assert entropy(0.25) == pytest.approx(0.811278)
    problem = BY_NAME["formula 12, bits"]
    whole = {name: 8 if name.startswith("bits") else 0.0 for name in problem.space.names}
    # 8 of 32 bits, where a 30th is allowed.
    assert problem.slacks(whole) == (pytest.approx(30 / 4 - 1),)
    assert problem.losses(whole)[0] == pytest.approx(0.02, abs=1e-4)
    assert best_uniform(problem) > 0.2
