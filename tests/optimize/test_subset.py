"""The subset of points that a surrogate learns from in a search of many trials."""

from __future__ import annotations

import numpy as np
import pytest

from nbcompress.optimize import subset
from nbcompress.optimize.history import History
from nbcompress.optimize.proposers.gp import GaussianProcessProposer
from nbcompress.optimize.subset import learned_from
from nbcompress.space import Choice, Float, Space


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subset, "MAX_POINTS", 40)


def history_of(losses: list[list[float]], slacks: list[list[float]] | None = None, n_pending: int = 0) -> History:
    n = len(losses)
    points = tuple({"x": i / n, "k": "ab"[i % 2]} for i in range(n))
    status = ("told",) * (n - n_pending) + ("pending",) * n_pending
    return History(points, np.array(losses), np.array(slacks or np.empty((n, 0))), status)


def test_all_points_are_used_while_they_are_few() -> None:
    assert learned_from(history_of([[float(i)] for i in range(subset.MAX_POINTS)])).all()
    assert learned_from(history_of([[float(i)] for i in range(subset.MAX_POINTS + 1)])).sum() == subset.MAX_POINTS


@pytest.mark.usefixtures("few")
def test_the_best_points_and_a_share_of_the_others_are_used() -> None:
    rng = np.random.default_rng(0)
    losses = rng.permutation(200).astype(float)[:, None]
    used = learned_from(history_of(losses.tolist(), n_pending=5))
    assert used[-5:].all()
    ended = losses[:-5, 0]
    assert used[:-5].sum() == 40
    best = np.argsort(ended)[:20]
    assert used[best].all()
    # The others are spread over the order of the trials: some in each tenth.
    others = np.setdiff1d(np.flatnonzero(used[:-5]), best)
    assert len(np.unique(others * 10 // 195)) >= 8


@pytest.mark.usefixtures("few")
def test_points_that_violate_constraints_come_after_feasible_ones() -> None:
    # The smaller the loss, the more the constraint is violated.
    losses, slacks = [[float(i)] for i in range(100)], [[50.0 - i] for i in range(100)]
    used = learned_from(history_of(losses, slacks))
    assert used[50:70].all()
    # While none is feasible, the least violations count.
    used = learned_from(history_of(losses, [[150.0 - i] for i in range(100)]))
    assert used[80:].all()


@pytest.mark.usefixtures("few")
def test_with_several_objectives_the_front_is_among_the_best() -> None:
    angle = np.linspace(0, np.pi / 2, 12)
    front = np.stack([1 - np.cos(angle), 1 - np.sin(angle)], 1)
    others = np.random.default_rng(0).random((150, 2)) + 1.0
    assert learned_from(history_of([*others.tolist(), *front.tolist()]))[-12:].all()


@pytest.mark.usefixtures("few")
def test_a_search_beyond_the_limit_still_finds_the_optimum_and_fits_again() -> None:
    space = Space({"x": Float(-1, 1), "k": Choice("a", "b")})
    proposer, history = GaussianProcessProposer(space, 1), History.empty(1)
    for number in range(75):
        proposal = proposer.propose(number, history)
        x = float(proposal.point["x"])
        loss = (x - 0.3) ** 2 + (proposal.point["k"] == "b")
        history = history.with_point(proposal.point, "told", [loss], note=proposal.note)
    fitted = [note["hyperparameters"]["loss 0"]["n_fitted"] for note in history.notes if "hyperparameters" in note]
    assert fitted[-1] > 60  # again after the limit of 40, as the search grows
    assert len(set(fitted[-30:])) > 2
    assert history.losses.min() < 1e-4
    assert proposer.fit_models(history).objectives[0].n == 40
