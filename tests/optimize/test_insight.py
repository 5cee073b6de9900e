import numpy as np
import pytest

from nbcompress.errors import PointError, SearchError
from nbcompress.optimize import History, SurrogateProposer, importance, leave_one_out, proposer, slice_of
from nbcompress.optimize import models as models_module
from nbcompress.optimize.surrogates.fit import fit
from nbcompress.space import Choice, Float, Int, Space

SPACE = Space(
    {
        "x": Float(0.0, 1.0),
        "idle": Float(0.0, 1.0),
        "method": Choice("a", "b"),
        "n": Int(1, 5, when={"method": "b"}),
    }
)


def explored(m: int = 1, n: int = 24) -> History:
    design, history = proposer("sobol", SPACE, n_objectives=m), History.empty(m)
    for number in range(n):
        point = design.propose(number, history).point
        loss = 100 + 10 * (point["x"] - 0.5) ** 2 + point.get("n", 0)
        history = history.with_point(point, "told", [loss, -loss][:m])
    return history


GP = proposer("gp", SPACE, n_objectives=1)


def test_a_slice_is_in_the_units_of_the_loss() -> None:
    found = slice_of(GP, explored(), {"x": 0.2, "idle": 0.5, "method": "a"}, "x", n=11)
    assert found.values[0] == 0.0
    assert found.values[-1] == 1.0
    assert found.mean.shape == found.std.shape == (1, 11)
    assert found.acquisition.shape == (11,)
    truth = 100 + 10 * (np.array(found.values, dtype=float) - 0.5) ** 2
    assert np.abs(found.mean[0] - truth).max() < 0.8
    assert (found.std > 0).all()
    assert np.isfinite(found.acquisition).all()


def test_a_slice_along_a_choice_and_a_conditional_number() -> None:
    history = explored()
    methods = slice_of(GP, history, {"x": 0.5, "idle": 0.5, "method": "a"}, "method")
    assert methods.values == ("a", "b")
    assert methods.mean[0, 1] > methods.mean[0, 0] + 1
    numbers = slice_of(GP, history, {"x": 0.5, "idle": 0.5, "method": "b", "n": 1}, "n")
    assert numbers.values == (1, 2, 3, 4, 5)
    assert (np.diff(numbers.mean[0]) > 0).all()


def test_slices_of_two_objectives() -> None:
    two = proposer("gp", SPACE, n_objectives=2)
    found = slice_of(two, explored(2), {"x": 0.5, "idle": 0.5, "method": "a"}, "x", n=5)
    assert found.mean.shape == (2, 5)
    np.testing.assert_allclose(found.mean[0], -found.mean[1], atol=0.2)


def test_importance_finds_what_matters() -> None:
    shares = importance(GP, explored())
    assert list(shares) == list(SPACE.names)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert all(share >= 0 for share in shares.values())
    assert shares["idle"] < 0.05
    assert shares["x"] > 0.1
    assert shares["method"] > 0.1


def test_importance_of_a_constant() -> None:
    history = explored()
    flat = History(history.points, np.full((24, 1), 3.0))
    assert sum(importance(GP, flat).values()) == pytest.approx(0.0)


def test_calibration() -> None:
    history = explored().with_point({"x": 0.5, "idle": 0.5, "method": "a"})
    found = leave_one_out(GP, history)
    assert found.residuals.shape == (24,)
    assert 0.7 <= found.share_inside <= 1.0


def test_calibration_leaves_out_what_runs() -> None:
    history = explored()
    pending = history.with_point({"x": 0.33, "idle": 0.5, "method": "a"})
    np.testing.assert_allclose(leave_one_out(GP, pending).residuals, leave_one_out(GP, history).residuals)


def test_many_questions_about_one_history_cost_one_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    n_fits = 0

    def counted(*args, **kwargs):
        nonlocal n_fits
        n_fits += 1
        return fit(*args, **kwargs)

    monkeypatch.setattr(models_module, "fit", counted)
    gp, history = proposer("gp", SPACE, n_objectives=1), explored()
    importance(gp, history)
    leave_one_out(gp, history)
    for name in ("x", "idle"):
        slice_of(gp, history, {"x": 0.2, "idle": 0.5, "method": "a"}, name)
    gp.propose(len(history), history)
    assert n_fits == 1
    importance(gp, history.with_point({"x": 0.1, "idle": 0.5, "method": "a"}, "told", [99.0]))
    assert n_fits == 2


def test_what_cannot_be_looked_into() -> None:
    with pytest.raises(SearchError, match="Only the sampler 'gp' has a surrogate"):
        importance(proposer("tpe", SPACE, n_objectives=1), explored())
    with pytest.raises(SearchError, match="nothing to learn from yet"):
        importance(GP, History.empty(1))
    with pytest.raises(PointError, match="'n' is not active at this point"):
        slice_of(GP, explored(), {"x": 0.5, "idle": 0.5, "method": "a"}, "n")
    with pytest.raises(PointError, match=r"'metod' is not a parameter of the space.* Did you mean 'method'"):
        slice_of(GP, explored(), {"x": 0.5, "idle": 0.5, "method": "a"}, "metod")


def test_two_proposers_of_the_same_space_share_the_fitted_models() -> None:
    history = explored()
    first, second = (proposer("gp", SPACE, n_objectives=1, seed=seed) for seed in (0, 1))
    other = proposer("gp", SPACE, n_objectives=1, kernel="rbf")
    assert isinstance(first, SurrogateProposer)
    assert isinstance(second, SurrogateProposer)
    assert isinstance(other, SurrogateProposer)
    assert first.fit_models(history) is second.fit_models(history)
    assert first.fit_models(history) is not other.fit_models(history)
