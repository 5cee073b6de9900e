"""The suggestions of the default search and of the samplers without a model are pinned, so that no change is unnoticed.

Every suggestion is compared alone: the points before it are the pinned ones, and only their outcomes are computed. So a
difference in rounding does not grow from trial to trial. First points are equal exactly. Those of a surrogate are the
end of two optimizations, and processors round differently: numbers agree to `TOLERANCE` of their range.

Whoever changes the default on purpose measures the change (see docs/benchmarks.md) and then writes the file anew, with
`python tests/optimize/proposers/test_suggestions.py`. It prints how far the suggestions move if all outcomes change in
the tenth digit: that must stay well below `TOLERANCE`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbcompress.optimize import History, proposer
from nbcompress.optimize.history import Proposal
from nbcompress.space import Choice, Float, Int, Point, Space

PINNED = Path(__file__).parents[2] / "samples" / "suggestions.json"
N_TRIALS = 13
TOLERANCE = 1e-5
# Relative, of an expected gain.
GAIN_TOLERANCE = 1e-4

# Losses and slacks of a point; no losses for a trial that fails.
Outcome = Callable[[Point], tuple[list[float], list[float]]]


def bowl(point: Point, at: float = 0.3) -> float:
    return sum((value - at - 0.1 * i) ** 2 * (1 + i) for i, value in enumerate(point.values()))


def wave(point: Point) -> float:
    x, y = point["x"], point["y"]
    return math.sin(5 * x) + (y - 0.4) ** 2 + 0.3 * math.cos(7 * x * y)


def training(point: Point) -> float:
    rate = math.log10(point["lr"]) + 2.2 + {"a": 0.0, "b": 0.5, "c": -0.3}[point["method"]]
    return 0.2 * rate**2 + 0.05 * (math.log2(point["bits"]) - 2) ** 2 + (point["width"] - 40) ** 2 / 3000


def branches(point: Point) -> float:
    if point["method"] == "b":
        return (point["momentum"] - 0.8) ** 2 + (point["depth"] - 5) ** 2 / 50
    return 0.4 + (point["beta"] - 0.3) ** 2


def harm(point: Point) -> tuple[list[float], list[float]]:
    amounts = np.array(list(point.values()))
    return [float((amounts**3 * [3.0, 0.5, 1.0, 0.1, 0.2, 2.0]).sum())], [0.45 - float(amounts.mean())]


CUBE = {"x": Float(0, 1), "y": Float(0, 1), "z": Float(0, 1)}
SQUARE = {"x": Float(0, 1), "y": Float(0, 1)}
MIXED = {
    "lr": Float(1e-4, 1, log=True),
    "method": Choice("a", "b", "c"),
    "bits": Choice(2, 4, 8),
    "width": Int(8, 64),
}
TREE = {
    "method": Choice("a", "b"),
    "depth": Int(1, 9, when={"method": "b"}),
    "momentum": Float(0, 1, when={"method": "b"}),
    "beta": Float(0, 1, when={"method": "a"}),
}


@dataclass(frozen=True)
class Case:
    """A short search: what is searched, how outcomes come about, and the options of the proposer."""

    parameters: dict[str, Any]
    outcome: Outcome
    options: dict[str, Any] = field(default_factory=dict)
    n_objectives: int = 1
    n_constraints: int = 0
    # The latest so many points have not ended.
    n_pending: int = 0


def two(point: Point) -> tuple[list[float], list[float]]:
    return [point["x"], bowl(point)], []


CASES = {
    "one objective": Case(SQUARE, lambda p: ([wave(p)], [])),
    "mixed": Case(MIXED, lambda p: ([training(p)], [])),
    "conditional": Case(TREE, lambda p: ([branches(p)], [])),
    "two objectives": Case(CUBE, two, n_objectives=2),
    "three objectives": Case(CUBE, lambda p: ([p["x"], p["y"], bowl(p)], []), n_objectives=3),
    "constraint": Case(SQUARE, lambda p: ([wave(p)], [0.5 - p["x"] * p["y"] * 3]), n_constraints=1),
    "two objectives, constraint": Case(SQUARE, lambda p: ([p["x"], wave(p)], [0.3 - p["y"]]), {}, 2, 1),
    "failures": Case(SQUARE, lambda p: ([], []) if p["x"] > 0.7 else ([wave(p)], [])),
    "penalties": Case(SQUARE, lambda p: ([1e5 if p["x"] > 0.75 else wave(p)], [])),
    "pending": Case(SQUARE, lambda p: ([wave(p)], []), n_pending=2),
    "layers within a budget": Case(
        {"amount": Float(0, 0.95, each=[f"l{i}" for i in range(6)])}, harm, n_constraints=1
    ),
    "ucb": Case(SQUARE, lambda p: ([wave(p)], []), {"acquisition": "ucb"}),
    "rbf, linear mean": Case(SQUARE, lambda p: ([wave(p)], []), {"kernel": "rbf", "mean": "linear"}),
    "sobol": Case(MIXED, lambda p: ([training(p)], []), {"sampler": "sobol"}),
    "random": Case(TREE, lambda p: ([branches(p)], []), {"sampler": "random"}),
}  # fmt: skip


def proposals(case: Case, pinned: list[dict[str, Any]] | None, noise: float = 0.0) -> Iterator[Proposal]:
    """Yield each proposal after the points pinned before it; without pinned ones after those that came before."""
    space = Space(case.parameters)
    options = {"sampler": "gp"} | case.options
    made = proposer(space=space, n_objectives=case.n_objectives, n_constraints=case.n_constraints, seed=1, **options)
    rng = np.random.default_rng(0)
    told = History.empty(case.n_objectives, case.n_constraints)
    waiting: list[tuple[Point, Proposal]] = []
    for number in range(N_TRIALS):
        history = told
        for point, known in waiting:
            history = history.with_point(point, note=known.note)
        proposal = made.propose(number, history)
        yield proposal
        waiting.append((space.check(pinned[number]["point"]) if pinned else proposal.point, proposal))
        while len(waiting) > case.n_pending:
            point, known = waiting.pop(0)
            losses, slacks = case.outcome(point)
            losses = [loss * (1 + noise * rng.standard_normal()) for loss in losses]
            told = told.with_point(point, "told" if losses else "failed", losses or None, slacks or None, known.note)


def difference(space: Space, left: Point, right: Point) -> float:
    """Return the largest difference of two points, as a share of a range; infinite if they differ in an option."""
    if list(left) != list(right):
        return math.inf
    found = [0.0]
    for name, value in left.items():
        parameter, other = space[name], right[name]
        if isinstance(parameter, Float) and parameter.is_continuous:
            found.append(abs(parameter.to_unit(value) - parameter.to_unit(other)))
        elif value != other:
            return math.inf
    return max(found)


@pytest.mark.parametrize("name", CASES)
def test_suggestions_are_those_that_were_pinned(name: str) -> None:
    case, pinned = CASES[name], json.loads(PINNED.read_text(encoding="utf-8"))[name]
    space, n_by_model = Space(case.parameters), 0
    for number, proposal in enumerate(proposals(case, pinned)):
        wanted = pinned[number]
        what = f"trial {number}: {dict(proposal.point)} and not {wanted['point']}"
        allowed = TOLERANCE if proposal.note else 0.0
        assert difference(space, proposal.point, space.check(wanted["point"])) <= allowed, what
        gain, wanted_gain = (math.nan if note.get("gain") is None else note["gain"] for note in (proposal.note, wanted))
        assert gain == pytest.approx(wanted_gain, rel=GAIN_TOLERANCE, nan_ok=True), what
        n_by_model += bool(proposal.note)
    assert n_by_model >= 5 or case.options.get("sampler") in ("sobol", "random")


def write() -> None:
    found = {}
    for name, case in CASES.items():
        rows = [{"point": dict(p.point), "gain": p.note.get("gain")} for p in proposals(case, None)]
        space, moved, gained = Space(case.parameters), 0.0, 0.0
        for number, proposal in enumerate(proposals(case, rows, noise=1e-10)):
            moved = max(moved, difference(space, space.check(rows[number]["point"]), proposal.point))
            if rows[number]["gain"]:
                gained = max(gained, abs(proposal.note["gain"] / rows[number]["gain"] - 1))
        print(f"{name:30}{moved:10.1e}{gained:10.1e}{sum(row['gain'] is not None for row in rows):4}")
        found[name] = rows
    cases = [f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in found.items()]
    PINNED.write_text("{\n" + ",\n".join(cases) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write()
