"""The closed forms against differences, against leaving points out, and against GPyTorch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nbcompress.errors import GoalError
from nbcompress.optimize.outcome_transform import Units
from nbcompress.optimize.surrogates import fit as fitting
from nbcompress.optimize.surrogates.botorch import as_botorch, gpytorch, tensor
from nbcompress.optimize.surrogates.closed_form import (
    KERNELS,
    MEAN_WIDTH,
    MEANS,
    Form,
    GaussianProcess,
    Hyperparameters,
    basis,
)
from nbcompress.optimize.surrogates.fit import FAMILIAR, FRESH, PosteriorMode, fit

OWNER = np.array([0, 1, 2, 2])
HYPER = Hyperparameters(np.array([0.3, 0.4, 0.5]), 1.3, 1e-3)
WITH_TREND = replace(HYPER, trend=0.7)
FORMS = [Form(kernel, mean) for kernel in KERNELS for mean in MEANS]
EVERY = [*FORMS, Form(has_trend=True), Form("rbf", "linear", has_trend=True)]


def name_of(form: Form) -> str:
    return f"{form.kernel}-{form.mean}" + ("-trend" if form.has_trend else "")


every_form = pytest.mark.parametrize("form", EVERY, ids=name_of)


def process_of(form: Form, n: int = 12) -> GaussianProcess:
    rng = np.random.default_rng(0)
    hyper = WITH_TREND if form.has_trend else HYPER
    return GaussianProcess(form, hyper, OWNER, rng.random((n, 4)), rng.standard_normal(n))


def thetas_of(form: Form) -> np.ndarray:
    known = [*HYPER.lengthscales, HYPER.signal, HYPER.noise, WITH_TREND.trend]
    return np.log([known, [1.0, 0.1, 0.3, 2.0, 1e-4, 3.0]])[:, : 5 + form.has_trend]


def differences(function, x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    return np.array([(function(x + e) - function(x - e)) / (2 * step) for e in step * np.eye(len(x))])


@every_form
def test_prediction_gradients(form: Form) -> None:
    process = process_of(form)
    x = np.random.default_rng(1).random(4)
    others = np.random.default_rng(2).random((3, 4))
    mean, std, by_mean, by_std = (one[0] for one in process.predict_with_gradients(np.vstack([x, others])))
    batch = process.predict(x[None])
    assert (mean, std) == (pytest.approx(batch[0][0]), pytest.approx(batch[1][0]))
    np.testing.assert_allclose(by_mean, differences(lambda u: process.predict(u[None])[0][0], x), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(by_std, differences(lambda u: process.predict(u[None])[1][0], x), rtol=1e-6, atol=1e-8)


@every_form
def test_likelihood_gradients(form: Form) -> None:
    process = process_of(form)
    loss = PosteriorMode(form, OWNER, 3, process.features, process.y)
    thetas = thetas_of(form)
    for theta, gradient in zip(thetas, loss(thetas)[1], strict=True):
        numeric = differences(lambda t: loss(t[None])[0][0], theta, 1e-6)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-6)


@every_form
def test_equal_to_gpytorch(form: Form) -> None:
    process = process_of(form)
    model = as_botorch(process)
    x = np.random.default_rng(1).random((5, 4))
    posterior = model.posterior(tensor(x))
    mean, std = process.predict(x)
    np.testing.assert_allclose(posterior.mean.detach().numpy()[:, 0], mean, atol=1e-6)
    np.testing.assert_allclose(posterior.variance.detach().numpy()[:, 0], std**2, atol=1e-6)

    likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    model.train()
    with torch.no_grad():
        theirs = float(likelihood(model(*model.train_inputs), model.train_targets)) * process.n
    loss = PosteriorMode(form, OWNER, 3, process.features, process.y)
    ours = -loss.likelihood(thetas_of(form)[:1])[0][0] + 0.5 * float(process.b @ process.b) / MEAN_WIDTH**2
    assert ours - 0.5 * process.n * np.log(2 * np.pi) == pytest.approx(theirs, abs=1e-6 * process.n)


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_likelihood_gradient_equal_to_gpytorch(form: Form) -> None:
    """By the logarithms of lengthscales, signal and noise, from the derivatives by GPyTorch's raw parameters."""
    process = process_of(form)
    model = as_botorch(process)
    model.train()
    likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    (likelihood(model(*model.train_inputs), model.train_targets) * process.n).backward()
    kernel, noise = model.covar_module, model.likelihood.noise_covar
    theirs = []
    for raw, value, constraint in (
        (
            kernel.base_kernel.raw_lengthscale,
            kernel.base_kernel.lengthscale,
            kernel.base_kernel.raw_lengthscale_constraint,
        ),
        (kernel.raw_outputscale, kernel.outputscale, kernel.raw_outputscale_constraint),
        (noise.raw_noise, noise.noise, noise.raw_noise_constraint),
    ):
        (by_raw,) = torch.autograd.grad(constraint.transform(raw).sum(), raw)
        theirs.append((raw.grad / by_raw * value).detach().numpy().ravel())
    lengthscales = np.bincount(OWNER, theirs[0])
    theta = np.log([[*HYPER.lengthscales, HYPER.signal, HYPER.noise]])
    ours = -PosteriorMode(form, OWNER, 3, process.features, process.y).likelihood(theta)[1][0]
    np.testing.assert_allclose(ours, [*lengthscales, *theirs[1], *theirs[2]], rtol=1e-6, atol=1e-6)


def test_a_trend_by_hand() -> None:
    """Where the kernel is gone, lines and parabolas go on: the value far from all points, in both directions."""
    P, slopes = basis(np.array([[0.0], [0.5], [1.0]]))
    # Halves of variance 1: -sqrt 3 = -.5 / (sqrt(1/12)), and (1/4 - 1/12) sqrt 180 = sqrt 5, both times sqrt(1/2).
    np.testing.assert_allclose(P, np.sqrt(0.5) * np.array([[-(3**0.5), 5**0.5], [0, -(1.25**0.5)], [3**0.5, 5**0.5]]))
    np.testing.assert_allclose(slopes[1], [np.sqrt(6.0), 0.0])
    even = basis(np.random.default_rng(0).random((200_000, 3)))[0]
    np.testing.assert_allclose(even.mean(0), 0.0, atol=0.01)
    assert (even * even).sum(1).mean() == pytest.approx(1.0, rel=0.01)
    features = np.linspace(0, 0.5, 8)[:, None]
    hyper = Hyperparameters(np.array([0.02]), 1e-6, 1e-6, trend=10.0)
    process = GaussianProcess(Form(has_trend=True), hyper, np.array([0]), features, (features[:, 0] - 0.3) ** 2)
    assert process.predict(np.array([[0.9]]))[0][0] == pytest.approx(0.36, abs=0.05)


def test_interpolates_without_noise() -> None:
    features = np.linspace(0, 1, 5)[:, None]
    values = np.array([1.0, 3.0, 2.0, 5.0, 4.0])
    process = fit(Form(), np.array([0]), 1, features, values).process
    mean, _ = process.in_units(*process.predict(features))
    np.testing.assert_allclose(mean, values, atol=0.05)


@pytest.mark.parametrize("mean", ["zero", "constant"])
def test_leave_one_out_is_leaving_one_out(mean: str) -> None:
    whole = process_of(Form(mean=mean))
    predicted, std = whole.leave_one_out()
    for i in (0, 5, 11):
        rest = np.arange(whole.n) != i
        level = whole.b[0] if len(whole.b) else 0.0
        part = GaussianProcess(Form(mean="zero"), HYPER, OWNER, whole.features[rest], whole.y[rest] - level)
        one_mean, one_std = part.predict(whole.features[[i]])
        assert predicted[i] == pytest.approx(one_mean[0] + level)
        assert std[i] == pytest.approx(np.sqrt(one_std[0] ** 2 + HYPER.noise))


def test_believing_keeps_the_mean_and_narrows_the_deviation() -> None:
    process = process_of(Form())
    pending = np.random.default_rng(2).random((2, 4))
    believing = process.believing(pending)
    x = np.random.default_rng(3).random((20, 4))
    np.testing.assert_allclose(believing.predict(x)[0], process.predict(x)[0], atol=5e-3)
    assert (believing.predict(x)[1] <= process.predict(x)[1] + 1e-9).all()
    assert (believing.predict(pending)[1] < 0.05).all()


@pytest.mark.parametrize(
    "values", [[5.0, 5.0, 5.0], [0.0, 0.0], [1e300, -1e300, 0.0], [1e-300, 2e-300], [7.0], [0.1, 0.1, 0.1, 0.1, 0.1]]
)
@pytest.mark.parametrize("damped", [False, True])
def test_standardising_hard_values(values: list[float], damped: bool) -> None:
    y, units = Units.of(np.array(values), damped=damped)
    assert np.isfinite(y).all()
    assert np.abs(y).max() < 5
    assert np.isfinite([units.shift, units.scale, units.knee, units.unit]).all()
    assert units.slope > 0
    back, _ = units.restored(y, np.zeros_like(y))
    np.testing.assert_allclose(back, values, rtol=1e-9, atol=1e-12 * np.abs(values).max())
    np.testing.assert_allclose([units.standardised(value) for value in values], y, atol=1e-6)


def test_hard_data_still_fits() -> None:
    twice = np.zeros((6, 1))
    for values in (np.arange(6.0), np.zeros(6)):
        process = fit(Form(), np.array([0]), 1, twice, values).process
        assert np.isfinite(process.predict(np.array([[0.5]]))).all()


def test_noise_is_learned() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((60, 1))
    clean = np.sin(6 * features[:, 0])
    deterministic = fit(Form(), np.array([0]), 1, features, clean).process
    noisy = fit(Form(), np.array([0]), 1, features, clean + 0.3 * rng.standard_normal(60)).process
    assert deterministic.hyper.noise < 1e-4
    assert noisy.hyper.noise * noisy.units.slope**2 == pytest.approx(0.09, rel=0.5)


def test_a_failed_fit_keeps_the_last_good_hyperparameters(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args, **kwargs):
        raise ValueError("no way")

    monkeypatch.setattr(fitting, "minimise", fails)
    process = process_of(Form())
    found = fit(Form(), OWNER, 3, process.features, process.y, [HYPER])
    assert found.process.hyper is HYPER
    assert found.trouble == "the fit failed (no way); older hyperparameters serve"
    assert fit(Form(), OWNER, 3, process.features, process.y).process.hyper.signal == pytest.approx(1.0)


def test_hyperparameters_serve_until_the_points_have_grown() -> None:
    rng = np.random.default_rng(0)
    features, values = rng.random((60, 4)), rng.standard_normal(60)
    for n_fitted, is_kept in ((58, True), (50, False), (0, False)):
        last = Hyperparameters(HYPER.lengthscales, HYPER.signal, HYPER.noise, n_fitted)
        found = fit(Form(), OWNER, 3, features, values, [last])
        assert found.trouble == ""
        assert (found.process.hyper is last) == is_kept
        assert found.process.hyper.n_fitted == (58 if is_kept else 60)


def test_a_trend_is_learned_where_effects_add_up() -> None:
    features = np.random.default_rng(0).random((40, 4))
    values = 3 * features[:, 0] + (features[:, 1] - 0.4) ** 2 - 2 * features[:, 3]
    with_trend = fit(Form(has_trend=True), np.arange(4), 4, features[:20], values[:20]).process
    without = fit(Form(), np.arange(4), 4, features[:20], values[:20]).process
    errors = [np.abs(one.in_units(*one.predict(features[20:]))[0] - values[20:]).max() for one in (with_trend, without)]
    assert errors[0] < 0.02
    assert errors[0] < errors[1] / 2
    again = Hyperparameters.from_json(with_trend.hyper.to_json())
    assert again.trend == with_trend.hyper.trend > 0.1


def test_familiar_fits_start_from_the_last_one_and_fresh_ones_from_everywhere() -> None:
    rng = np.random.default_rng(0)
    for n, expected in ((FAMILIAR, 3), (FAMILIAR + 1, 1), (4 * FRESH, 3), (4 * FRESH + 1, 1)):
        loss = PosteriorMode(Form(), OWNER, 3, rng.random((n, 4)), rng.standard_normal(n))
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
        GoalError, match=r"The kernel is one of matern52, rbf, but got 'matern'. Did you mean 'matern52'"
    ):
        Form(kernel="matern")
    with pytest.raises(GoalError, match=r"The mean is one of constant, linear, zero"):
        Form(mean="quadratic")


@every_form
def test_torch_is_left_as_it_was(form: Form) -> None:
    before = torch.random.get_rng_state()
    as_botorch(process_of(form))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_default_dtype() == torch.float32
