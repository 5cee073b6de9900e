"""The values and the points that the models of a history are fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from nbcompress.optimize import History
from nbcompress.optimize import models as fitted_models
from nbcompress.optimize import models as models_module
from nbcompress.optimize.encoding import Embedding, SpaceEncoder
from nbcompress.optimize.models import FittedModels, learned_from
from nbcompress.optimize.proposers.gp import GaussianProcessProposer
from nbcompress.optimize.surrogates.closed_form import ModelSpec
from nbcompress.space import Choice, Float, Space

SPACE = Space({"x": Float(0.0, 1.0)})


def told(losses: list[tuple[float, ...]]) -> list[np.ndarray]:
    """Return the values that the model of each loss holds, in the units of the losses."""
    history = History.empty(len(losses[0]))
    for i, row in enumerate(losses):
        history = history.with_point({"x": i / len(losses)}, "told", row)
    models = FittedModels.fit(history, Embedding(SpaceEncoder(SPACE)), ModelSpec())
    objectives = [models.objectives[j] for j in range(len(losses[0]))]
    return [model.untransform(model.y, np.zeros(model.n))[0] for model in objectives]


def test_a_penalty_counts_as_bad_and_no_more() -> None:
    np.testing.assert_allclose(told([(1.0,), (2.0,), (1e9,), (3.0,), (1.5,)])[0], [1.0, 2.0, 5.0, 3.0, 1.5])


def test_the_end_of_a_front_is_no_penalty() -> None:
    """It costs 1,000, far beyond the others, and is the best in the first loss; 1e6 is as bad there, and beaten."""
    first, second = told([(4.0, 1.0), (3.0, 2.0), (5.0, 2.5), (2.0, 3.0), (0.5, 1000.0), (3.0, 2.8), (4.0, 1e6)])
    np.testing.assert_allclose(first, [4.0, 3.0, 5.0, 2.0, 0.5, 3.0, 4.0])
    np.testing.assert_allclose(second, [1.0, 2.0, 2.5, 3.0, 1000.0, 2.8, 1999.0])


def with_failures(fails: Callable[[float, int], bool], xs: Sequence[float]) -> FittedModels:
    history = History.empty(1)
    for i, x in enumerate(xs):
        failed = fails(x, i)
        history = history.with_point({"x": x}, "failed" if failed else "told", None if failed else (x,))
    return FittedModels.fit(history, Embedding(SpaceEncoder(SPACE)), ModelSpec())


EVENLY = [i / 20 for i in range(20)]


@pytest.mark.parametrize(
    "fails",
    [
        lambda _x, i: i % 2 == 0,
        lambda _x, i: i % 3 == 0,
        lambda _x, i: bool(np.random.default_rng(3).random(20)[i] < 0.4),
    ],
)
def test_failures_by_chance_do_not_lead(fails: Callable[[float, int], bool]) -> None:
    """Nearby successes say that the point does not decide."""
    assert with_failures(fails, EVENLY).failure is None


def test_a_success_at_the_same_point_says_chance() -> None:
    models = with_failures(lambda _x, i: i % 2 == 0, [x for x in (0.1, 0.4, 0.6, 0.9) for _ in range(2)])
    assert models.failure is None
    assert models.by_chance is None  # it is no test: chance is the better explanation


def test_some_trials_test_whether_failures_come_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their share is the probability of chance: a tenth, if the evidence against it is log 9."""
    monkeypatch.setattr(fitted_models, "evidence_of_dependence", lambda *_: np.log(9.0))
    found = [with_failures(lambda x, _i: x > 0.5, EVENLY[-n:]) for n in range(1, 21)]
    assert all((models.failure is None) == (models.by_chance is not None) for models in found)
    assert [models.by_chance for models in found if models.failure is None] == pytest.approx([0.1, 0.1])


def test_without_a_failure_there_is_no_classifier() -> None:
    models = with_failures(lambda _x, _i: False, EVENLY)
    assert models.failure is None
    assert "failure" not in models.note["hyperparameters"]


@pytest.mark.parametrize("xs", [EVENLY, EVENLY[::4], [0.2, 0.3, 0.9], [0.9]], ids=len)
def test_a_failing_region_is_known(xs: Sequence[float]) -> None:
    failure = with_failures(lambda x, _i: x > 0.5, xs).failure
    assert failure is not None
    low, high = failure.probability(np.array([[0.2], [0.9]]))
    assert high > 0.6
    assert len(xs) == 1 or low < 0.4


def test_a_failing_region_is_known_beside_failures_by_chance() -> None:
    models = with_failures(lambda x, i: x > 0.6 or i % 4 == 2, [i / 40 for i in range(40)])
    assert models.failure is not None
    low, high = models.failure.probability(np.array([[0.3], [0.9]]))
    assert low < 0.4 < 0.9 < high
    assert models.failure.chance > 0.1  # not all depends on the point
    assert models.note["hyperparameters"]["failure"]["noise"] == models.failure.chance


# Of many points ----------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_module, "MAX_POINTS", 40)


def history_of(losses: list[list[float]], slacks: list[list[float]] | None = None, n_pending: int = 0) -> History:
    n = len(losses)
    points = tuple({"x": i / n, "k": "ab"[i % 2]} for i in range(n))
    status = ("told",) * (n - n_pending) + ("pending",) * n_pending
    return History(points, np.array(losses), np.array(slacks or np.empty((n, 0))), status)


def test_all_points_are_used_while_they_are_few() -> None:
    assert learned_from(history_of([[float(i)] for i in range(models_module.MAX_POINTS)])).all()
    assert (
        learned_from(history_of([[float(i)] for i in range(models_module.MAX_POINTS + 1)])).sum()
        == models_module.MAX_POINTS
    )


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
