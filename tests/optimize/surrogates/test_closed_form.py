"""The closed-form Gaussian process and its fit, compared with finite differences, leave-one-out and GPyTorch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nbcompress.errors import GoalError
from nbcompress.optimize.outcome_transform import OutcomeTransform
from nbcompress.optimize.surrogates import fit as fitting
from nbcompress.optimize.surrogates.botorch import as_botorch
from nbcompress.optimize.surrogates.closed_form import (
    KERNELS,
    MEANS,
    GaussianProcess,
    Hyperparameters,
    ModelSpec,
    trend_basis,
)
from nbcompress.optimize.surrogates.fit import RESTART_EVERY, WARM_START_FROM, NegativeLogPosterior, fit

OWNER = np.array([0, 1, 2, 2])
HYPER = Hyperparameters(np.array([0.3, 0.4, 0.5]), 1.3, 1e-3)
WITH_TREND = replace(HYPER, trend=0.7)
SPECS = [ModelSpec(kernel, mean) for kernel in KERNELS for mean in MEANS]
ALL_SPECS = [*SPECS, ModelSpec(has_trend=True), ModelSpec("rbf", "linear", has_trend=True)]


def name_of(spec: ModelSpec) -> str:
    return f"{spec.kernel}-{spec.mean}" + ("-trend" if spec.has_trend else "")


every_spec = pytest.mark.parametrize("spec", ALL_SPECS, ids=name_of)


def gp_of(spec: ModelSpec, n: int = 12) -> GaussianProcess:
    rng = np.random.default_rng(0)
    hyper = WITH_TREND if spec.has_trend else HYPER
    return GaussianProcess(spec, hyper, OWNER, rng.random((n, 4)), rng.standard_normal(n))


def thetas_of(spec: ModelSpec) -> np.ndarray:
    known = [*HYPER.lengthscales, HYPER.signal, HYPER.noise, WITH_TREND.trend]
    return np.log([known, [1.0, 0.1, 0.3, 2.0, 1e-4, 3.0]])[:, : 5 + spec.has_trend]


def differences(function, x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    return np.array([(function(x + e) - function(x - e)) / (2 * step) for e in step * np.eye(len(x))])


@every_spec
def test_prediction_gradients(spec: ModelSpec) -> None:
    model = gp_of(spec)
    x = np.random.default_rng(1).random(4)
    others = np.random.default_rng(2).random((3, 4))
    mean, std, by_mean, by_std = (values[0] for values in model.predict_with_gradients(np.vstack([x, others])))
    batch = model.predict(x[None])
    assert (mean, std) == (pytest.approx(batch[0][0]), pytest.approx(batch[1][0]))
    np.testing.assert_allclose(by_mean, differences(lambda u: model.predict(u[None])[0][0], x), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(by_std, differences(lambda u: model.predict(u[None])[1][0], x), rtol=1e-6, atol=1e-8)


@every_spec
def test_likelihood_gradients(spec: ModelSpec) -> None:
    model = gp_of(spec)
    loss = NegativeLogPosterior(spec, OWNER, 3, model.features, model.y)
    thetas = thetas_of(spec)
    for theta, gradient in zip(thetas, loss(thetas)[1], strict=True):
        numeric = differences(lambda t: loss(t[None])[0][0], theta, 1e-6)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-6)


def test_a_trend_by_hand() -> None:
    """The basis by hand; and far from all points, where the kernel vanishes, the trend still predicts."""
    P, slopes = trend_basis(np.array([[0.0], [0.5], [1.0]]))
    # Halves of variance 1: -sqrt 3 = -.5 / (sqrt(1/12)), and (1/4 - 1/12) sqrt 180 = sqrt 5, both times sqrt(1/2).
    np.testing.assert_allclose(P, np.sqrt(0.5) * np.array([[-(3**0.5), 5**0.5], [0, -(1.25**0.5)], [3**0.5, 5**0.5]]))
    np.testing.assert_allclose(slopes[1], [np.sqrt(6.0), 0.0])
    even = trend_basis(np.random.default_rng(0).random((200_000, 3)))[0]
    np.testing.assert_allclose(even.mean(0), 0.0, atol=0.01)
    assert (even * even).sum(1).mean() == pytest.approx(1.0, rel=0.01)
    features = np.linspace(0, 0.5, 8)[:, None]
    hyper = Hyperparameters(np.array([0.02]), 1e-6, 1e-6, trend=10.0)
    model = GaussianProcess(ModelSpec(has_trend=True), hyper, np.array([0]), features, (features[:, 0] - 0.3) ** 2)
    assert model.predict(np.array([[0.9]]))[0][0] == pytest.approx(0.36, abs=0.05)


def test_interpolates_without_noise() -> None:
    features = np.linspace(0, 1, 5)[:, None]
    values = np.array([1.0, 3.0, 2.0, 5.0, 4.0])
    model = fit(ModelSpec(), np.array([0]), 1, features, values).model
    mean, _ = model.untransform(*model.predict(features))
    np.testing.assert_allclose(mean, values, atol=0.05)


@pytest.mark.parametrize("mean", ["zero", "constant"])
def test_leave_one_out_is_leaving_one_out(mean: str) -> None:
    whole = gp_of(ModelSpec(mean=mean))
    predicted, std = whole.leave_one_out()
    for i in (0, 5, 11):
        rest = np.arange(whole.n) != i
        level = whole.b[0] if len(whole.b) else 0.0
        part = GaussianProcess(ModelSpec(mean="zero"), HYPER, OWNER, whole.features[rest], whole.y[rest] - level)
        mean_without, std_without = part.predict(whole.features[[i]])
        assert predicted[i] == pytest.approx(mean_without[0] + level)
        assert std[i] == pytest.approx(np.sqrt(std_without[0] ** 2 + HYPER.noise))


def test_condition_on_mean_keeps_the_mean_and_shrinks_the_deviation() -> None:
    model = gp_of(ModelSpec())
    pending = np.random.default_rng(2).random((2, 4))
    conditioned = model.condition_on_mean(pending)
    x = np.random.default_rng(3).random((20, 4))
    np.testing.assert_allclose(conditioned.predict(x)[0], model.predict(x)[0], atol=5e-3)
    assert (conditioned.predict(x)[1] <= model.predict(x)[1] + 1e-9).all()
    assert (conditioned.predict(pending)[1] < 0.05).all()


@pytest.mark.parametrize(
    "values", [[5.0, 5.0, 5.0], [0.0, 0.0], [1e300, -1e300, 0.0], [1e-300, 2e-300], [7.0], [0.1, 0.1, 0.1, 0.1, 0.1]]
)
@pytest.mark.parametrize("log_tail", [False, True])
def test_standardizing_hard_values(values: list[float], log_tail: bool) -> None:
    y, transform = OutcomeTransform.fit(np.array(values), log_tail=log_tail)
    assert np.isfinite(y).all()
    assert np.abs(y).max() < 5
    assert np.isfinite([transform.shift, transform.scale, transform.knee, transform.unit]).all()
    assert transform.linear_scale > 0
    back, _ = transform.untransform(y, np.zeros_like(y))
    np.testing.assert_allclose(back, values, rtol=1e-9, atol=1e-12 * np.abs(values).max())
    np.testing.assert_allclose([transform.transform(value) for value in values], y, atol=1e-6)


def test_hard_data_still_fits() -> None:
    twice = np.zeros((6, 1))
    for values in (np.arange(6.0), np.zeros(6)):
        model = fit(ModelSpec(), np.array([0]), 1, twice, values).model
        assert np.isfinite(model.predict(np.array([[0.5]]))).all()


def test_noise_is_learned() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((60, 1))
    clean = np.sin(6 * features[:, 0])
    deterministic = fit(ModelSpec(), np.array([0]), 1, features, clean).model
    noisy = fit(ModelSpec(), np.array([0]), 1, features, clean + 0.3 * rng.standard_normal(60)).model
    assert deterministic.hyper.noise < 1e-4
    assert noisy.hyper.noise * noisy.outcome_transform.linear_scale**2 == pytest.approx(0.09, rel=0.5)


def test_a_failed_fit_falls_back_to_earlier_hyperparameters(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args, **kwargs):
        raise ValueError("no way")

    monkeypatch.setattr(fitting, "batched_minimize", fails)
    model = gp_of(ModelSpec())
    found = fit(ModelSpec(), OWNER, 3, model.features, model.y, [HYPER])
    assert found.model.hyper is HYPER
    assert found.error == "the fit failed (no way); fell back to earlier hyperparameters"
    assert fit(ModelSpec(), OWNER, 3, model.features, model.y).model.hyper.signal == pytest.approx(1.0)


def test_hyperparameters_are_reused_until_there_are_enough_new_points() -> None:
    rng = np.random.default_rng(0)
    features, values = rng.random((60, 4)), rng.standard_normal(60)
    for n_fitted, is_kept in ((58, True), (50, False), (0, False)):
        last = Hyperparameters(HYPER.lengthscales, HYPER.signal, HYPER.noise, n_fitted)
        found = fit(ModelSpec(), OWNER, 3, features, values, [last])
        assert found.error == ""
        assert (found.model.hyper is last) == is_kept
        assert found.model.hyper.n_fitted == (58 if is_kept else 60)


def test_a_trend_is_learned_where_effects_add_up() -> None:
    features = np.random.default_rng(0).random((40, 4))
    values = 3 * features[:, 0] + (features[:, 1] - 0.4) ** 2 - 2 * features[:, 3]
    with_trend = fit(ModelSpec(has_trend=True), np.arange(4), 4, features[:20], values[:20]).model
    without = fit(ModelSpec(), np.arange(4), 4, features[:20], values[:20]).model
    errors = [
        np.abs(model.untransform(*model.predict(features[20:]))[0] - values[20:]).max()
        for model in (with_trend, without)
    ]
    assert errors[0] < 0.02
    assert errors[0] < errors[1] / 2
    again = Hyperparameters.from_json(with_trend.hyper.to_json())
    assert again.trend == with_trend.hyper.trend > 0.1


def test_a_warm_start_uses_the_earlier_hyperparameters_only_and_a_restart_all_starts() -> None:
    rng = np.random.default_rng(0)
    restart = 4 * RESTART_EVERY
    for n, expected in ((WARM_START_FROM, 3), (WARM_START_FROM + 1, 1), (restart, 3), (restart + 1, 1)):
        loss = NegativeLogPosterior(ModelSpec(), OWNER, 3, rng.random((n, 4)), rng.standard_normal(n))
        starts = loss.starts(HYPER)
        assert len(starts) == expected
        np.testing.assert_allclose(np.exp(starts[0]), [*HYPER.lengthscales, HYPER.signal, HYPER.noise])
        assert len(loss.starts(None)) == 2
        assert len(loss.starts(Hyperparameters(np.ones(5), 1.0, 1e-3))) == 2, "of a space that has changed"


def test_hyperparameters_round_trip() -> None:
    again = Hyperparameters.from_json(HYPER.to_json())
    assert again.n_fitted == HYPER.n_fitted
    assert again.lengthscales.tolist() == HYPER.lengthscales.tolist()
    assert (again.signal, again.noise) == (HYPER.signal, HYPER.noise)


def test_unknown_parts() -> None:
    with pytest.raises(
        GoalError,
        match=r"The kernel is one of matern52, rbf, .*, but got 'matern'. Did you mean 'matern52'",
    ):
        ModelSpec(kernel="matern")
    with pytest.raises(GoalError, match=r"The mean is one of constant, linear, zero"):
        ModelSpec(mean="quadratic")


@every_spec
def test_torch_is_left_as_it_was(spec: ModelSpec) -> None:
    before = torch.random.get_rng_state()
    as_botorch(gp_of(spec))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_default_dtype() == torch.float32
