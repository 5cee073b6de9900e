"""The laws that every sampler keeps."""

import inspect
import json
import math
import random
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import spaces

from nbcompress.choices import ACQUISITIONS, KERNELS, MEANS
from nbcompress.errors import GoalError, SearchError, SpaceExhausted
from nbcompress.optimize import (
    History,
    NarrowableProposer,
    Optimizer,
    Proposer,
    SurrogateProposer,
    proposer,
    samplers,
)
from nbcompress.optimize.proposers.gp import GaussianProcessProposer
from nbcompress.optimize.surrogates.closed_form import ModelSpec
from nbcompress.optuna import Sampler
from nbcompress.space import Choice, Float, Int, Point, Space

CHEAP = ("sobol", "random", "grid")
ENDLESS = tuple(name for name in samplers() if name != "grid")

MIXED = Space(
    {
        "lr": Float(1e-4, 1e-1, log=True),
        "bits": Choice(2, 4, 8),
        "method": Choice("plain", "cluster", None),
        "clusters": Int(4, 64, log=True, when={"method": "cluster"}),
        "share": Float(0.0, 1.0, when={"method": ("plain", "cluster")}),
    }
)
SMALL = Space(
    {
        "bits": Choice(2, 4, 8),
        "method": Choice("plain", "cluster"),
        "clusters": Int(4, 12, step=2, when={"method": "cluster"}),
        "keep": Choice(True, False),
    }
)  # 3 * 2 * (1 + 5) = 36 points

TINY = Space(
    {
        "bits": Choice(2, 4),
        "method": Choice("plain", "cluster", "both"),
        "n": Int(1, 3, when={"method": ("cluster", "both")}),
    }
)  # 2 * (1 + 3 + 3) = 14 points


def loss_of(point: Point) -> float:
    """Some loss of any point, that does not depend on the hash seed."""
    total = 0.0
    for i, (name, value) in enumerate(point.items()):
        number = value if isinstance(value, (int, float)) else len(str(value))
        total += math.sin(i + len(name) + float(number))
    return total


def tell(history: History, point: Point, note: dict, number: int) -> History:
    """Every tenth trial fails, every seventh breaks a constraint before its loss is known."""
    m, k = history.losses.shape[1], history.slacks.shape[1]
    if number % 10 == 9:
        return history.with_point(point, "failed", note=note)
    if k and number % 7 == 6:
        return history.with_point(point, "told", slacks=[1.0] * k, note=note)
    losses = [loss_of(point) * (-1) ** j + j for j in range(m)]
    return history.with_point(point, "told", losses, [-abs(losses[0])] * k, note)


def walk(sampler: Proposer, history: History, n: int, through_json: bool = False) -> History:
    for number in range(len(history), len(history) + n):
        proposal = sampler.propose(number, history)
        assert isinstance(proposal.reason, str)
        assert proposal.reason
        history = tell(history, proposal.point, dict(proposal.note), number)
        if through_json:
            history = History.from_json(json.loads(json.dumps(history.to_json())))
    return history


def make(name: str, space: Space, m: int = 1, k: int = 0, seed: int = 0) -> Proposer:
    return proposer(name, space, n_objectives=m, n_constraints=k, seed=seed)


@pytest.mark.parametrize("name", samplers())
def test_follows_the_protocol(name: str) -> None:
    assert isinstance(make(name, SMALL), Proposer)


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize(("m", "k"), [(1, 0), (1, 1), (2, 0), (2, 1)])
def test_points_are_in_the_space_and_new(name: str, m: int, k: int) -> None:
    history = walk(make(name, MIXED, m, k), History.empty(m, k), 13)
    assert [MIXED.check(point) for point in history.points] == list(history.points)
    for point in history.points:
        assert all(type(value) in (type(None), bool, int, float, str) for value in point.values())
    assert len({repr(point) for point in history.points}) == 13


@pytest.mark.parametrize("name", samplers())
def test_equal_seeds_give_equal_points(name: str) -> None:
    space = SMALL if name == "grid" else MIXED
    first = walk(make(name, space, seed=3), History.empty(1), 14)
    again = walk(make(name, space, seed=3), History.empty(1), 14, through_json=True)
    assert first.points == again.points
    # A fresh proposer that meets the history half way goes on as the first one did.
    half = History(first.points[:7], first.losses[:7], first.slacks[:7], first.status[:7], first.notes[:7])
    assert walk(make(name, space, seed=3), half, 7).points == first.points
    if name != "grid":
        assert walk(make(name, space, seed=4), History.empty(1), 14).points != first.points


@pytest.mark.parametrize("name", samplers())
def test_a_small_space_is_walked_whole(name: str) -> None:
    sampler = make(name, TINY)
    history = walk(sampler, History.empty(1), 14)
    assert sorted(map(repr, history.points)) == sorted(map(repr, TINY.points()))
    with pytest.raises(SpaceExhausted, match="All 14 points of the space were tried"):
        sampler.propose(14, history)


@pytest.mark.parametrize("name", samplers())
def test_pending_points_are_not_proposed_again(name: str) -> None:
    sampler, history = make(name, TINY), History.empty(1)
    for number in range(14):
        point = sampler.propose(number, history).point
        # Three points at a time run; the rest is told.
        history = history.with_point(point)
        losses, status = history.losses.copy(), list(history.status)
        if number >= 3:
            losses[number - 3], status[number - 3] = loss_of(history.points[number - 3]), "told"
        history = History(history.points, losses, history.slacks, tuple(status), history.notes)
    assert len({repr(point) for point in history.points}) == 14


@pytest.mark.parametrize("name", CHEAP)
@given(space=spaces(finite=True), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_repeat_in_random_finite_spaces(name: str, space: Space, seed: int) -> None:
    n_points = space.n_points
    assert n_points is not None
    n = min(n_points, 120)
    history = walk(make(name, space, seed=seed), History.empty(1), n)
    assert len({repr(point) for point in history.points}) == n
    if n == n_points:
        with pytest.raises(SpaceExhausted):
            make(name, space).propose(n, history)


@pytest.mark.parametrize("name", CHEAP)
def test_thousands_of_proposals_without_a_repeat(name: str) -> None:
    """Some 10,000 for the three together: six spaces of 560 points each."""
    for seed in range(6):
        space = Space({"a": Int(1, 14), "b": Choice(*"vwxyz", ordered=False), "c": Float(0, 0.7, step=0.1)})
        sampler, history = make(name, space, seed=seed), History.empty(1)
        for number in range(560):
            history = history.with_point(sampler.propose(number, history).point, "told", [0.0])
        assert len({repr(point) for point in history.points}) == 560
        with pytest.raises(SpaceExhausted):
            sampler.propose(560, history)


@pytest.mark.parametrize(
    "parameters",
    [
        {"a": Int(1, 8), "b": Choice("x", "y", "z", ordered=False), "c": Int(1, 64, log=True, step=1)},
        {"a": Float(0, 0.9, step=0.1), "b": Choice(2, 4, 8), "c": Choice(True, False)},
        {"m": Choice("p", "q", "r"), "n": Int(1, 20, when={"m": "q"}), "k": Float(0, 1, step=0.05, when={"m": "r"})},
    ],
    ids=["begun", "steps", "conditional"],
)
def test_the_model_walks_a_space_without_a_repeat(parameters: dict) -> None:
    """Whole where that is short; 80 points otherwise."""
    space = Space(parameters)
    assert space.n_points is not None
    n = min(space.n_points, 80)
    sampler = make("gp", space)
    history = walk(sampler, History.empty(1), n)
    assert len({repr(point) for point in history.points}) == n
    if n == space.n_points:
        with pytest.raises(SpaceExhausted):
            sampler.propose(n, history)


@pytest.mark.parametrize("name", ENDLESS)
@given(space=spaces(), seed=st.integers(0, 9))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_space(name: str, space: Space, seed: int) -> None:
    sampler, history = make(name, space, seed=seed), History.empty(1)
    for number in range(11):
        try:
            point = sampler.propose(number, history).point
        except SpaceExhausted:
            assert space.n_points == number
            return
        assert space.check(point) == point
        history = tell(history, point, {}, number)


@pytest.mark.parametrize("name", samplers())
@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_users_random_state_and_warnings_are_left_alone(name: str, m: int) -> None:
    import torch

    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    expected = torch.random.get_rng_state(), repr(np.random.get_state()), random.getstate()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        walk(make(name, SMALL, m), History.empty(m), 12)
    assert [str(warning.message) for warning in caught] == []
    assert torch.equal(torch.random.get_rng_state(), expected[0])
    assert repr(np.random.get_state()) == expected[1]
    assert random.getstate() == expected[2]
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", ENDLESS)
def test_nothing_but_failures_is_no_error(name: str) -> None:
    sampler, history = make(name, MIXED, 1, 1), History.empty(1, 1)
    for number in range(12):
        history = history.with_point(sampler.propose(number, history).point, "failed")
    assert len({repr(point) for point in history.points}) == 12


@pytest.mark.parametrize("name", ENDLESS)
def test_many_points_at_once_before_anything_is_known(name: str) -> None:
    sampler, history = make(name, MIXED), History.empty(1)
    for number in range(12):
        history = history.with_point(sampler.propose(number, history).point)
    assert len({repr(point) for point in history.points}) == 12


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: make("gpp", SMALL), SearchError, r"but got 'gpp'. Did you mean 'gp'\?"),
        (lambda: make("gp", SMALL, 5), GoalError, "at most 4 objectives, but got 5"),
        (lambda: make("gp", SMALL, 0), GoalError, "at least one objective, but got 0"),
        (lambda: make("grid", MIXED), SearchError, r"lr = Float\(0.0001, 0.1, log=True\) takes any value"),
        (lambda: proposer("gp", SMALL, n_objectives=1, acquisition="eii"), GoalError, "one of logei, ucb, pi"),
        (
            lambda: proposer("gp", SMALL, n_objectives=1, kernel="cubic"),
            GoalError,
            "one of matern52, rbf, matern32, matern12",
        ),
    ],
)
def test_what_is_refused(build: Callable[[], Proposer], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build()


@pytest.mark.parametrize("name", samplers())
def test_only_gp_has_a_surrogate_and_can_be_narrowed(name: str) -> None:
    sampler = make(name, SMALL)
    assert isinstance(sampler, Proposer)
    assert isinstance(sampler, SurrogateProposer) == (name == "gp")
    assert isinstance(sampler, NarrowableProposer) == (name == "gp")


@pytest.mark.parametrize("function", [proposer, GaussianProcessProposer, Optimizer, Sampler])
def test_every_signature_has_the_same_defaults(function: Callable[..., object]) -> None:
    parameters = inspect.signature(function).parameters
    defaults = {name: parameters[name].default for name in ("acquisition", "kernel", "mean", "surrogate")}
    assert defaults == {"acquisition": ACQUISITIONS[0], "kernel": KERNELS[0], "mean": MEANS[0], "surrogate": None}
    assert (ModelSpec().kernel, ModelSpec().mean) == (KERNELS[0], MEANS[0])
