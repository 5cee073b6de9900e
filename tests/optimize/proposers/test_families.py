"""Searches over families (`each=`) with a constraint: shared values first, then a trust region; the laws they keep."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbcompress.errors import GoalError, SearchError
from nbcompress.optimize import History, proposer
from nbcompress.optimize.encoding import SpaceEncoder
from nbcompress.optimize.proposers import families as families_module
from nbcompress.optimize.proposers.families import REGION, Families, region, region_length
from nbcompress.optimize.proposers.gp import GaussianProcessProposer
from nbcompress.space import Choice, Float, Int, Point, Space

LAYERS = [f"l{i}" for i in range(8)]
BITS = (2, 3, 4, 6, 8)
SPACE = Space({"bits": Choice(*BITS, each=LAYERS), "amount": Float(0.0, 0.95, each=LAYERS)})
MIXED = Space(
    {
        "method": Choice("prune", "cluster"),
        "amount": Float(0.0, 0.9, each=LAYERS[:5], when={"method": "prune"}),
        "clusters": Int(2, 64, log=True, each=LAYERS[:5], when={"method": "cluster"}),
        "scheme": Choice("plain", "log", each=LAYERS[:3]),
        "lr": Float(1e-4, 1e-1, log=True),
    }
)
# The last layers have most weights, and the first are the most sensitive.
SIZES = np.geomspace(1.0, 6.0, 8) / np.geomspace(1.0, 6.0, 8).sum()
SENSITIVITY = np.geomspace(30.0, 1.0, 8) / np.geomspace(30.0, 1.0, 8).sum()
BUDGET = 1 / 20


def error_and_size(point: Point) -> tuple[float, float]:
    """The error from .02 to .9, and the size as a share of the budget."""
    values = np.array(list(point.values()), dtype=float)
    bits, amounts = values[:8], values[8:]
    harm = 4.0 * float((SENSITIVITY * (amounts**4 + 8.0 * (1 - amounts) * 4.0**-bits)).sum())
    return 0.9 - 0.88 / (1 + harm**2), float((SIZES * (1 - amounts) * bits / 32).sum()) / BUDGET


def searched(
    seed: int,
    n: int,
    *,
    n_objectives: int = 1,
    acquisition: str = "logei",
    is_stopped: bool = False,
    sensitivity: dict[str, dict[str, float]] | None = None,
) -> History:
    """Search; with `is_stopped` a trial that breaks the budget ends before its error is known."""
    options = {"acquisition": acquisition, "sensitivity": sensitivity}
    gp = proposer("gp", SPACE, n_objectives=n_objectives, n_constraints=1, seed=seed, **options)
    history = History.empty(n_objectives, 1)
    for number in range(n):
        proposal = gp.propose(number, history)
        error, size = error_and_size(proposal.point)
        losses = (math.nan if is_stopped and size > 1.0 else error, size, size - error)[:n_objectives]
        history = history.with_point(proposal.point, "told", losses, [size - 1.0], proposal.note)
    return history


def test_a_measured_sensitivity_helps() -> None:
    """The error while only one layer is pruned, and the number of weights of each."""
    dense: Point = {**{f"bits[{name}]": 8 for name in LAYERS}, **{f"amount[{name}]": 0.0 for name in LAYERS}}
    alone = {name: error_and_size({**dense, f"amount[{name}]": 0.95})[0] for name in LAYERS}
    measured = {name: error - error_and_size(dense)[0] for name, error in alone.items()}
    given = {"loss 0": measured, "slack 0": dict(zip(LAYERS, SIZES.tolist(), strict=True))}
    with_it, without = (
        float(np.nanmin(found.losses[found.is_feasible]))
        for found in (searched(0, 16, sensitivity=given), searched(0, 16))
    )
    assert with_it < without


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"l0": 1.0}, r"sensitivity has a number for each name of each=, but none for 'l1'"),
        ({name.upper(): 1.0 for name in LAYERS}, r"and 'L0' is none of them"),
    ],
)
def test_names_of_a_sensitivity(given: dict[str, float], text: str) -> None:
    with pytest.raises(GoalError, match=text):
        proposer("gp", SPACE, n_objectives=1, n_constraints=1, sensitivity={"slack 0": given})


def test_where_a_sensitivity_is_refused() -> None:
    given = {"loss 0": dict.fromkeys(LAYERS, 1.0)}
    for options in ({}, {"n_constraints": 1, "surrogate": "additive"}, {"n_constraints": 1, "acquisition": "kg"}):
        with pytest.raises(GoalError, match=r"sensitivity is for a search with a constraint and .* each of 5 names"):
            proposer("gp", SPACE, n_objectives=1, sensitivity=given, **options)
    with pytest.raises(SearchError, match=r"Only sampler='gp' takes sensitivity="):
        proposer("random", SPACE, n_objectives=1, n_constraints=1, sensitivity=given)


def best_uniform(n_amounts: int = 400) -> float:
    """The smallest error of all settings that the layers share, within the budget."""
    found = []
    for bits in BITS:
        for amount in np.linspace(0.0, 0.95, n_amounts).tolist():
            error, size = error_and_size({n: bits if n.startswith("bits") else amount for n in SPACE.names})
            found += [error] if size <= 1.0 else []
    return min(found)


@pytest.mark.parametrize(("seed", "is_stopped"), [(0, False), (1, False), (0, True)])
def test_a_search_ends_above_every_uniform_setting(seed: int, is_stopped: bool) -> None:
    history = searched(seed, 28, is_stopped=is_stopped)
    best = history.losses[history.is_feasible].min()
    uniform = best_uniform()
    assert uniform > 0.15  # no setting of all layers is good
    assert best < 0.85 * uniform


def test_the_first_points_share_values_and_the_next_do_not() -> None:
    families = Families(SPACE)
    assert families.n_shared_first == 10
    points = searched(0, 13).points
    assert families.are_shared(points[:10])
    assert not any(families.are_shared([point]) for point in points[10:12])
    assert [{points[0][name] for name in SPACE.groups[group]} for group in SPACE.groups] == [{4}, {0.475}]


def test_without_a_constraint_or_with_few_members_nothing_changes() -> None:
    few = Space({"amount": Float(0.0, 1.0, each=["a", "b", "c", "d"])})
    for space, n_constraints in ((SPACE, 0), (few, 1), (Space({"x": Float(0.0, 1.0)}), 1)):
        assert GaussianProcessProposer(space, 1, n_constraints).families is None
    assert GaussianProcessProposer(SPACE, 1, 1).families is not None


def test_a_member_that_is_a_parent_has_no_shared_space() -> None:
    space = Space({"kind": Choice("a", "b", each=LAYERS), "x": Float(0.0, 1.0, when={"kind[l0]": "a"})})
    assert Families.of(space) is None


@pytest.mark.parametrize("space", [SPACE, MIXED], ids=["plain", "mixed"])
def test_shared_points_and_points_are_the_same(space: Space) -> None:
    families = Families(space)
    rng = np.random.default_rng(0)
    for _ in range(20):
        shared = families.shared_space.decode(rng.random(len(families.shared_space)))
        point = families.spread(shared)
        assert space.check(point) == point
        assert families.shared(point) == shared
    spread = families.spread(families.shared_space.decode(np.zeros(len(families.shared_space))))
    first = next(iter(space.groups.values()))
    assert families.shared(spread | {first[1]: space[first[1]].from_unit(1.0)}) is None


def test_a_proposal_follows_from_seed_number_and_history() -> None:
    """Also with points that are still running, and from a stored history."""
    history = searched(3, 13)
    pending = history.with_point(history.points[0] | {"bits[l0]": 8}, "pending")
    for known in (history, pending):
        stored = History.from_json(known.to_json())
        again = [proposer("gp", SPACE, n_objectives=1, n_constraints=1, seed=3).propose(13, h) for h in (known, stored)]
        assert again[0] == again[1]
        assert again[0].point not in known.points
    ahead = proposer("gp", SPACE, n_objectives=1, n_constraints=1, seed=3)
    running = history
    for number in (13, 14, 15):
        running = running.with_point(ahead.propose(number, running).point, "pending")
    assert len({tuple(point.items()) for point in running.points}) == 16


@pytest.mark.parametrize("seed", [0, 1])
def test_mixed_and_conditional_parameters_failures_and_running_trials(seed: int) -> None:
    gp = proposer("gp", MIXED, n_objectives=1, n_constraints=1, seed=seed)
    history, seen = History.empty(1, 1), set()
    for number in range(24):
        proposal = gp.propose(number, history)
        point = MIXED.check(proposal.point)
        values = np.array([MIXED[name].to_unit(value) for name, value in point.items()])
        status = "failed" if number % 7 == 3 else "pending" if number % 7 == 5 else "told"
        known = ([float(values.sum())], [float(1.5 - values.mean() * 3)]) if status == "told" else (None, None)
        history = history.with_point(point, status, *known, proposal.note)
        seen.add(tuple(point.items()))
    assert len(seen) == 24
    assert any(REGION in note for note in history.notes)


@pytest.mark.parametrize(
    ("n_objectives", "acquisition"), [(2, "logei"), (3, "logei"), (1, "ucb"), (2, "pi"), (1, "qlogei")]
)
def test_other_goals_and_acquisitions(n_objectives: int, acquisition: str) -> None:
    history = searched(0, 14, n_objectives=n_objectives, acquisition=acquisition)
    assert history.is_feasible.any()
    assert REGION in history.notes[-1]


def test_two_objectives_do_not_end_at_useless_small_models() -> None:
    """The hypervolume below an error of .5 and the budget is more than what uniform settings reach."""
    history = searched(0, 26, n_objectives=2)
    useful = history.is_feasible & (history.losses[:, 0] < 0.5)
    assert useful.sum() >= 8
    assert history.losses[useful, 0].min() < best_uniform()


def test_a_budget_that_no_uniform_setting_meets() -> None:
    """After twice as many shared trials the search looks at points that differ between layers."""
    gp = proposer("gp", SPACE, n_objectives=1, n_constraints=1, seed=0)
    history, families = History.empty(1, 1), Families(SPACE)
    for number in range(22):
        proposal = gp.propose(number, history)
        bits = [proposal.point[name] for name in SPACE.groups["bits"]]
        history = history.with_point(proposal.point, "told", [1.0 + sum(bits)], [1.0 - np.ptp(bits)], proposal.note)
    assert families.are_shared(history.points[:20])
    assert not families.are_shared(history.points[20:])


def test_a_narrowed_search_stays_within_its_ranges() -> None:
    history = searched(0, 11)
    gp = proposer("gp", SPACE, n_objectives=1, n_constraints=1, seed=0)
    gp.narrowing.narrow_to({"bits[l0]": [4, 6]})
    proposal = gp.propose(11, history)
    assert proposal.point["bits[l0]"] in (4, 6)
    gp.narrowing.narrow_to({})
    assert REGION in gp.propose(11, history).note


def test_ranges_of_a_region() -> None:
    space = Space(
        {
            "x": Float(0.0, 10.0),
            "bits": Choice(*BITS),
            "n": Int(0, 100),
            "kind": Choice("a", "b"),
            "y": Float(0.0, 1.0, when={"kind": "b"}),
        }
    )
    encoder = SpaceEncoder(space)
    center = encoder.rows([{"x": 9.0, "bits": 8, "n": 50, "kind": "a"}])[0]
    ranges = region(encoder, center, 0.2)
    # One step of bits is a quarter of the axis, and is always within reach; `kind` and the inactive `y` are free.
    assert set(ranges) == {"x", "bits", "n"}
    assert ranges["x"] == pytest.approx([7.0, 10.0])
    assert list(ranges["bits"]) == [6, 8]
    assert list(ranges["n"]) == [30, 70]


def test_the_length_of_a_region() -> None:
    def length(*losses: float, failing: int = 99) -> float:
        history = History.empty(1, 1).with_point({"x": 0.0}, "told", [1.0], [0.0])
        for i, loss in enumerate(losses):
            history = history.with_point({"x": 0.0}, "told", [loss], [float(i == failing)], {REGION: 0.1})
        return region_length(history.with_point({"x": 0.0}, "pending", note={REGION: 0.1}))

    first = families_module.FIRST_LENGTH
    assert length() == first
    assert length(0.9) == pytest.approx(first * 1.5)
    assert length(0.9, 0.8, failing=1) == pytest.approx(first * 1.5)  # one that breaks the constraint is not better
    assert length(1.0, 1.0) == first  # as good is not better
    assert length(1.0, 1.0, 1.0) == pytest.approx(first * 0.7)
    assert length(1.0, 1.0, 0.9, 1.0, 1.0) == pytest.approx(first * 1.5)
    assert length(*np.linspace(0.9, 0.1, 9).tolist()) == families_module.MAX_LENGTH
    assert math.isclose(length(*[1.0] * 60), families_module.MIN_LENGTH)
