"""Samplers that do not learn: their points, and whether they need to know the earlier ones."""

from __future__ import annotations

from typing import Any

import pytest

import nbcompress as nc
from nbcompress.optimize import History, proposer
from nbcompress.space import Space

CONTINUOUS = Space({"x": nc.Float(0, 1), "k": nc.Int(0, 5)})
# Half of the points have no continuous coordinate, so draws repeat.
CONDITIONAL = Space({"kind": nc.Choice("a", "b"), "x": nc.Float(0, 1, when={"kind": "a"})})
FINITE = Space({"k": nc.Int(0, 5), "kind": nc.Choice("a", "b")})


def history(points: list[dict[str, Any]]) -> History:
    found = History.empty(1)
    for point in points:
        found = found.with_point(point, "told", [1.0])
    return found


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_a_history_is_not_needed_where_each_point_has_a_continuous_coordinate(sampler: str) -> None:
    needed = {
        space: getattr(proposer(sampler, space, n_objectives=1), "needs_history", True)
        for space in (CONTINUOUS, CONDITIONAL, FINITE)
    }
    assert needed == {CONTINUOUS: False, CONDITIONAL: True, FINITE: True}
    assert getattr(proposer("gp", CONTINUOUS, n_objectives=1), "needs_history", True)
    assert getattr(proposer("tpe", CONTINUOUS, n_objectives=1), "needs_history", True)


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_without_the_history_the_points_are_the_same(sampler: str) -> None:
    with_it, without = (proposer(sampler, CONTINUOUS, n_objectives=1, seed=3) for _ in range(2))
    points: list[dict[str, Any]] = []
    for number in range(20):
        points.append(dict(with_it.propose(number, history(points)).point))
        assert without.propose(number, History.empty(1)).point == points[-1]
    # A point that is known all the same is not proposed again.
    assert with_it.propose(5, history(points)).point not in points
