"""The sampler `gp` with other surrogates and acquisitions, and what happens when they fail in mid search."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from nbcompress.errors import GoalError, NbcompressWarning
from nbcompress.optimize import History, Optimizer, importance, leave_one_out, proposer, slice_of
from nbcompress.space import Choice, Float, Space

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import botorch
    from botorch.models import SingleTaskGP

SPACE = Space({"x": Float(0, 1), "y": Float(0, 1)})
MIXED = Space({"x": Float(0, 1), "kind": Choice("a", "b", "c")})


def loss_of(point: Any) -> float:
    return float((point["x"] - 0.3) ** 2 + 0.5 * (point.get("y", 0.2) - 0.2) ** 2 + 0.1 * (point.get("kind") == "a"))


def searched(n: int, space: Space = SPACE, *, pending: int = 0, m: int = 1, k: int = 0, **options: Any) -> Any:
    """Return the history after n trials and the warnings of their proposals."""
    gp, history, texts = (
        proposer("gp", space, n_objectives=m, n_constraints=k, seed=1, **options),
        History.empty(m, k),
        [],
    )
    for number in range(n):
        proposal = gp.propose(number, history)
        texts.append(proposal.warnings)
        loss = loss_of(proposal.point)
        if number >= n - pending:
            history = history.with_point(proposal.point, note=proposal.note)
        else:
            slacks = [0.4 - proposal.point["x"]] * k
            history = history.with_point(proposal.point, "told", [loss, -loss][:m], slacks, proposal.note)
    return gp, history, texts


@pytest.mark.parametrize("space", [SPACE, MIXED], ids=["numbers", "mixed"])
@pytest.mark.parametrize("acquisition", ["ei", "noisy-ei", "kg", "mes", "thompson"])
def test_acquisitions_find_the_best_point(acquisition: str, space: Space) -> None:
    """Near the best point, where the constraint holds; points of pending trials do not come again."""
    _, history, texts = searched(12, space, k=1, acquisition=acquisition)
    assert not any(texts)
    feasible = history.is_feasible
    known = history.losses[feasible].min()
    assert known < 0.05, "the best feasible loss is 0"
    _, waiting, _ = searched(8, space, pending=2, acquisition=acquisition)
    assert len({str(point) for point in waiting.points}) == 8


@pytest.mark.parametrize("acquisition", ["noisy-ei", "thompson", "ei"])
def test_acquisitions_of_two_objectives(acquisition: str) -> None:
    assert not any(searched(9, m=2, acquisition=acquisition)[2])


@pytest.mark.parametrize("acquisition", ["kg", "mes"])
def test_acquisitions_of_one_objective(acquisition: str) -> None:
    with pytest.raises(GoalError, match=f"acquisition='{acquisition}' is for one objective, but there are 2"):
        proposer("gp", SPACE, n_objectives=2, acquisition=acquisition)


def log_ei(model: Any, X_baseline: Any, X_pending: Any, best_f: Any) -> Any:
    return botorch.acquisition.LogExpectedImprovement(model, best_f)


def ucb(model: Any, X_baseline: Any, X_pending: Any, best_f: Any) -> Any:
    return botorch.acquisition.UpperConfidenceBound(model, 4.0)


def test_log_ei_by_a_factory_is_that_of_the_closed_form() -> None:
    gp, history, _ = searched(9)
    by_factory = proposer("gp", SPACE, n_objectives=1, seed=1, acquisition=log_ei)
    x = np.random.default_rng(0).random((7, 2))
    ours = gp.acquisition_function(history, 9).score(x)
    theirs, gradients = by_factory.acquisition_function(history, 9).score_with_gradients(x)  # type: ignore[attr-defined]
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(gradients, gp.acquisition_function(history, 9).score_with_gradients(x)[1], rtol=0.02)


def test_values_that_are_no_logarithms_are_weighed_by_probability() -> None:
    """A confidence bound may be negative: it is counted from its lowest, so that a product with a probability falls."""
    gp, history, _ = searched(9, k=1, acquisition=ucb)
    x = np.random.default_rng(0).random((7, 2))
    models = gp.fit_models(history)
    gain, feasibility = gp.acquisition_terms(models, history, 9)
    mean, std = models.unconditioned[0].predict(x)
    value = -mean + 2.0 * std
    order = np.argsort(gain.score(x))
    assert (np.diff(value[order]) >= -1e-6).all(), "the same order as without constraints"
    total = gp.acquisition_function(history, 9).score(x)
    np.testing.assert_allclose(total, gain.score(x) + sum(term.score(x) for term in feasibility))


@pytest.mark.parametrize("name", ["logei", "ei", "qlogei", "ucb"])
def test_a_factory_with_the_name_of_an_acquisition_is_not_taken_for_it(name: str) -> None:
    """The gain is that of LogEI, and there are no families, as for a factory of any other name."""

    def factory(model: Any, X_baseline: Any, X_pending: Any, best_f: Any) -> Any:
        return botorch.acquisition.UpperConfidenceBound(model, 4.0)

    space = Space({"x": Float(0, 1), "share": Float(0, 1, each=[f"l{i}" for i in range(5)])})
    factory.__qualname__ = "mine"
    gp, history, texts = searched(9, space, k=1, acquisition=factory)
    factory.__qualname__ = name
    again = proposer("gp", space, n_objectives=1, n_constraints=1, seed=1, acquisition=factory)
    assert not any(texts)
    assert (gp.families, again.families) == (None, None)
    ours, theirs = gp.propose(9, history), again.propose(9, history)
    assert (ours.point, ours.reason, ours.note["gain"]) == (theirs.point, theirs.reason, theirs.note["gain"])


def test_what_a_factory_gets() -> None:
    seen: list[Any] = []

    def factory(*arguments: Any) -> Any:
        seen.append(arguments)
        return log_ei(*arguments)

    gp, history, _ = searched(10, pending=1, acquisition=factory)
    gp.propose(10, history)
    model, X_baseline, X_pending, best_f = seen[-1]
    assert isinstance(model, botorch.models.model.Model)
    assert tuple(X_baseline.shape) == (9, 2)
    assert tuple(X_pending.shape) == (1, 2)
    assert best_f == pytest.approx(-float(gp.fit_models(history).unconditioned[0].y.min()), abs=0.05)
    assert seen[0][2] is None


@pytest.mark.parametrize(
    ("acquisition", "text"),
    [
        (lambda *_: 3, r"returns a botorch AcquisitionFunction, but a lambda returned 3"),
        (lambda model: model, r"a lambda\(model, X_baseline, X_pending, best_f\) .* raised TypeError"),
        (4, r"or a function \(model, X_baseline, X_pending, best_f\) that returns a botorch .*, but got 4"),
        ("qlogie", "Did you mean 'qlogei'"),
    ],
)
def test_acquisitions_that_are_refused(acquisition: Any, text: str) -> None:
    with pytest.raises(GoalError, match=text):
        proposer("gp", SPACE, n_objectives=1, acquisition=acquisition)


def test_a_factory_with_several_objectives() -> None:
    with pytest.raises(GoalError, match=r"acquisition='log_ei' is for one objective, but there are 2\. With several"):
        proposer("gp", SPACE, n_objectives=2, acquisition=log_ei)


def breaks(X: Any, Y: Any) -> Any:
    if len(X) > 8:
        raise RuntimeError(f"only 8 points, not {len(X)}")
    return SingleTaskGP(X, Y)


def test_a_model_that_fails_falls_back_to_the_default() -> None:
    """The default proposes what it would have proposed; the other metric keeps its surrogate."""
    labels = {"loss 0": "accuracy"}
    gp, history, texts = searched(10, surrogate=breaks, labels=labels)
    cause = "The surrogate of 'accuracy' failed (RuntimeError: only 8 points, not 9); the default took its place."
    assert texts[9] == (cause,)
    assert not any(texts[:9])
    default = proposer("gp", SPACE, n_objectives=1, seed=1)
    assert gp.propose(10, history).point == default.propose(10, history).point
    _, known, _ = searched(10, k=1)
    both = proposer("gp", SPACE, n_objectives=1, n_constraints=1, surrogate={"loss 0": breaks, "slack 0": "linear"})
    models = both.fit_models(known)
    assert list(models.failures) == ["loss 0"]
    assert type(models.constraints["slack 0"]).__name__ == "BotorchSurrogate"


def test_an_acquisition_that_fails_falls_back_to_the_default() -> None:
    def fails(model: Any, X_baseline: Any, X_pending: Any, best_f: Any) -> Any:
        if len(X_baseline) > 8:
            raise ValueError("too many")
        return log_ei(model, X_baseline, X_pending, best_f)

    _, _, texts = searched(10, acquisition=fails)
    assert texts[9] == ("The acquisition 'fails' failed (ValueError: too many); the default proposed the point.",)


def test_an_optimizer_warns_once() -> None:
    optimizer = Optimizer(SPACE, seed=0, surrogate=breaks)

    def search() -> None:
        for _ in range(11):
            (point,) = optimizer.ask()
            optimizer.tell(point, loss_of(point))

    with pytest.warns(NbcompressWarning, match="The surrogate of 'value 0' failed") as caught:
        search()
    assert len({str(warning.message) for warning in caught}) == len(caught) == 2, "of 9 and of 10 points"
    with pytest.raises(GoalError, match="surrogate as a dict is by metric, and an Optimizer has only directions"):
        Optimizer(SPACE, surrogate={"loss": "rbf"})


@pytest.mark.parametrize("surrogate", ["additive", "saas", breaks], ids=["additive", "saas", "factory"])
def test_what_the_panel_asks_works_for_any_surrogate(surrogate: Any) -> None:
    gp, history, _ = searched(8, surrogate=surrogate)
    predicted = slice_of(gp, history, history.points[0], "x", n=5)
    assert np.isfinite(predicted.mean).all()
    assert np.isfinite(predicted.acquisition).all()
    shares = importance(gp, history)
    assert sum(shares.values()) == pytest.approx(1.0)
    if surrogate == "saas":
        with pytest.raises(NotImplementedError):
            leave_one_out(gp, history)
    else:
        assert len(leave_one_out(gp, history).residuals) == 8


def test_known_noise_goes_into_the_likelihood() -> None:
    """Two values at nearly the same place: the mean follows the one that is known to be exact."""
    points = tuple({"x": x, "y": 0.5} for x in (0.5, 0.5 + 1e-6, 0.0, 1.0))
    losses = np.array([[0.0], [1.0], [0.4], [0.6]])
    stds = np.array([[0.5], [0.001], [0.01], [0.01]])
    gp = proposer("gp", SPACE, n_objectives=1)
    at = np.array([[0.5, 0.5]])
    means = []
    for noise in (stds, stds[[1, 0, 2, 3]]):
        model = gp.fit_models(History(points, losses, noise=noise)).objectives[0]  # type: ignore[attr-defined]
        means.append(float(model.untransform(*model.predict(at))[0][0]))
    assert means[0] == pytest.approx(1.0, abs=0.05)
    assert means[1] == pytest.approx(0.0, abs=0.05)
