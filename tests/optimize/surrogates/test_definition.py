"""The closed form equals the GPyTorch modules that define it, and nothing else is taken for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbcompress.choices import KERNELS, MEANS
from nbcompress.optimize.surrogates import definition
from nbcompress.optimize.surrogates.botorch import as_botorch, exact_algebra, tensor
from nbcompress.optimize.surrogates.closed_form import GaussianProcess, Hyperparameters, ModelSpec
from nbcompress.optimize.surrogates.fit import LENGTHSCALE_PRIOR_WIDTH, NOISE_BOUNDS, NegativeLogPosterior
from nbcompress.optimize.surrogates.recognise import recognise

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of linear_operator, at its import
    import gpytorch
    from botorch.models import SingleTaskGP
    from gpytorch.constraints import GreaterThan, Interval, Positive
    from gpytorch.kernels import MaternKernel, PeriodicKernel, RBFKernel, ScaleKernel
    from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
    from gpytorch.means import ConstantMean, LinearMean, ZeroMean
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import GammaPrior, LogNormalPrior, NormalPrior

NU = {"matern52": 2.5, "matern32": 1.5, "matern12": 0.5}
PLAIN, SHARED = np.arange(3), np.array([0, 1, 2, 2])
TOLERANCE = 1e-8
# Where gradients are wanted, GPyTorch computes the distance of a point from itself as up to 1e-7, not as 0. Only
# `matern12`, which has a kink at 0, shows that.
GRADIENT_TOLERANCE = {"matern52": 1e-8, "rbf": 1e-8, "matern32": 1e-8, "matern12": 2e-6}


@st.composite
def processes(draw: st.DrawFn) -> GaussianProcess:
    """Recognised forms of every kind: kernel, mean, trend, shared lengthscales, known noise."""
    owner = draw(st.sampled_from([PLAIN, SHARED]))
    spec = ModelSpec(draw(st.sampled_from(KERNELS)), draw(st.sampled_from(MEANS)), draw(st.booleans()))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n = draw(st.integers(1, 9))
    number = lambda low, high: float(np.exp(draw(st.floats(np.log(low), np.log(high)))))  # noqa: E731
    hyper = Hyperparameters(
        np.array([number(0.1, 5.0) for _ in range(3)]),
        number(0.1, 5.0),
        number(1e-2, 0.5),
        trend=number(0.1, 3.0) if spec.has_trend else 0.0,
    )
    known = draw(st.sampled_from(["none", "some", "all"]))
    noise = None if known == "none" else rng.uniform(0.01, 0.2, n)
    if known == "some" and noise is not None:
        noise[::2] = np.nan
    return GaussianProcess(spec, hyper, owner, rng.random((n, len(owner))), rng.standard_normal(n), known_noise=noise)


def loss_of(gp: GaussianProcess) -> NegativeLogPosterior:
    return NegativeLogPosterior(gp.spec, gp.owner, 3, gp.features, gp.y, known_noise=gp.known_noise)


def theta_of(gp: GaussianProcess) -> np.ndarray:
    hyper = gp.hyper
    parts = [*hyper.lengthscales, hyper.signal, hyper.noise, *([hyper.trend] if gp.spec.has_trend else [])]
    return np.log(np.array(parts))


def log_posterior(model: Any) -> torch.Tensor:
    """Return GPyTorch's log marginal likelihood plus log priors."""
    model.train()
    with exact_algebra():
        output = model(*model.train_inputs)
        return ExactMarginalLogLikelihood(model.likelihood, model)(output, model.train_targets) * len(
            model.train_targets
        )


def check_predictions(gp: GaussianProcess) -> None:
    """Posterior, joint and conditioning."""
    x = np.random.default_rng(1).random((4, len(gp.owner)))
    for model in (gp, gp.condition_on_mean(x[:2]), gp.condition_on_values(x[:1], np.array([0.3]))):
        with exact_algebra(), torch.no_grad():
            posterior = as_botorch(model).posterior(tensor(x))
        mean, std = model.predict(x)
        np.testing.assert_allclose(posterior.mean.numpy()[:, 0], mean, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(posterior.variance.numpy()[:, 0], std**2, rtol=0, atol=TOLERANCE)
        joint = model.joint(x, observation_noise=False)[1]
        np.testing.assert_allclose(posterior.distribution.covariance_matrix.numpy(), joint, rtol=0, atol=TOLERANCE)


def check_leave_one_out(gp: GaussianProcess) -> None:
    """Equal to models of GPyTorch without the value, with the coefficients of the mean of the whole."""
    model = as_botorch(gp)
    mean, std = gp.leave_one_out()
    noise = np.broadcast_to(gp.noise_variances, gp.n)
    for i in range(gp.n if gp.n > 1 else 0):
        rest = np.delete(np.arange(gp.n), i)
        part = deepcopy(model)
        part.likelihood = FixedNoiseGaussianLikelihood(tensor(noise[rest]))
        part.set_train_data(tensor(gp.features[rest]), tensor(gp.y[rest]), strict=False)
        with exact_algebra(), torch.no_grad():
            posterior = part.eval().posterior(tensor(gp.features[[i]]))
        assert mean[i] == pytest.approx(float(posterior.mean), abs=TOLERANCE)
        assert std[i] ** 2 == pytest.approx(float(posterior.variance) + noise[i], abs=TOLERANCE)


test_predictions = settings(deadline=None, max_examples=15)(given(processes())(check_predictions))
test_leave_one_out = settings(deadline=None, max_examples=8)(given(processes())(check_leave_one_out))


@settings(deadline=None, max_examples=20)
@given(processes())
def test_loss_and_gradients(gp: GaussianProcess) -> None:
    """The losses differ by one constant, and the gradients by the logarithms are equal."""
    loss, theta = loss_of(gp), theta_of(gp)
    if gp.known_noise is not None:
        # GPyTorch has no likelihood with known noise of some points and a fitted one of others.
        gp = GaussianProcess(gp.spec, gp.hyper, gp.owner, gp.features, gp.y)
        loss = loss_of(gp)
    here = GaussianProcess(gp.spec, gp.hyper, gp.owner, gp.features, gp.y)
    other_hyper = Hyperparameters(np.array([0.7, 0.9, 0.4]), 1.5, 0.05, trend=0.6 if gp.spec.has_trend else 0.0)
    there = GaussianProcess(gp.spec, other_hyper, gp.owner, gp.features, gp.y)
    model = as_botorch(here)
    (loss_here, loss_there), gradients = loss(np.stack([theta, theta_of(there)]))
    with torch.no_grad():
        difference = log_posterior(as_botorch(there)).item() - log_posterior(as_botorch(here)).item()
    assert loss_here - loss_there == pytest.approx(difference, abs=TOLERANCE)

    log_posterior(model).backward()
    found = []
    kernel = model.covar_module
    scaled = kernel.kernels[0] if gp.spec.has_trend else kernel
    base = scaled.base_kernel
    name = "lengthscales" if isinstance(base, definition.SharedLengthscaleKernel) else "lengthscale"
    places = [(base, name), (scaled, "outputscale"), (model.likelihood.noise_covar, "noise")]
    if gp.spec.has_trend:
        places.append((kernel.kernels[1], "variance"))
    for module, what in places:
        raw, constraint = getattr(module, f"raw_{what}"), getattr(module, f"raw_{what}_constraint")
        transformed = constraint.transform(raw)
        (by_raw,) = torch.autograd.grad(transformed.sum(), raw)
        found.append((raw.grad / by_raw * transformed).detach().numpy().ravel())
    # The gradient of the mean's coefficients is 0 at their mode, so that of the hyperparameters is the whole one.
    scale = max(1.0, float(np.abs(gradients[0]).max()))
    tolerance = GRADIENT_TOLERANCE[gp.spec.kernel] * scale
    np.testing.assert_allclose(-np.concatenate(found), gradients[0], rtol=0, atol=tolerance)


@settings(deadline=None, max_examples=10)
@given(processes(), st.integers(0, 5))
def test_gradient_by_known_noise(gp: GaussianProcess, seed: int) -> None:
    """By finite differences, where GPyTorch has no such likelihood."""
    loss, theta = loss_of(gp), theta_of(gp)
    direction = np.random.default_rng(seed).standard_normal(len(theta))
    step = 1e-5
    numeric = (loss((theta + step * direction)[None])[0] - loss((theta - step * direction)[None])[0])[0] / (2 * step)
    assert float(loss(theta[None])[1][0] @ direction) == pytest.approx(numeric, rel=1e-4, abs=1e-4)


# --- Recognition ---


def parts(spec: ModelSpec | None = None, owner: np.ndarray = PLAIN) -> list[Any]:
    return list(definition.default_modules(spec or ModelSpec(), owner, LENGTHSCALE_PRIOR_WIDTH))


def seen(found: list[Any], owner: np.ndarray = PLAIN) -> ModelSpec | None:
    return recognise(found[0], found[1], found[2], owner, LENGTHSCALE_PRIOR_WIDTH)


@pytest.mark.parametrize("owner", [PLAIN, SHARED], ids=["plain", "shared"])
@pytest.mark.parametrize("has_trend", [False, True])
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_form_is_recognised(kernel: str, mean: str, has_trend: bool, owner: np.ndarray) -> None:
    spec = ModelSpec(kernel, mean, has_trend)
    assert seen(parts(spec, owner), owner) == spec
    rng = np.random.default_rng(0)
    hyper = Hyperparameters(np.array([0.4, 0.9, 1.7]), 1.3, 0.04, trend=0.6 if has_trend else 0.0)
    gp = GaussianProcess(spec, hyper, owner, rng.random((4, len(owner))), rng.standard_normal(4))
    check_predictions(gp)
    check_leave_one_out(gp)


@pytest.mark.parametrize("kernel", KERNELS)
def test_modules_without_priors_have_the_same_likelihood_and_posterior(kernel: str) -> None:
    """Parts of GPyTorch as a person writes them; the closed form takes the constant at its mode."""
    base = RBFKernel(ard_num_dims=3) if kernel == "rbf" else MaternKernel(NU[kernel], ard_num_dims=3)
    modules = [ScaleKernel(base).double(), ConstantMean().double(), GaussianLikelihood().double()]
    spec = seen(modules)
    assert spec is not None
    rng = np.random.default_rng(2)
    X, y, x = rng.random((7, 3)), rng.standard_normal(7), rng.random((4, 3))
    losses, found = [], []
    for lengthscales, signal, noise in (([0.4, 0.9, 1.7], 1.3, 0.04), ([1.0, 0.5, 0.8], 0.7, 0.2)):
        gp = GaussianProcess(spec, Hyperparameters(np.array(lengthscales), signal, noise), PLAIN, X, y)
        # GPyTorch would take plain numbers in single precision.
        modules[0].base_kernel.lengthscale = tensor(np.array(lengthscales))
        modules[0].outputscale, modules[2].noise = tensor(signal), tensor(noise)
        modules[1].constant.data.fill_(float(gp.b[0]))
        model = SingleTaskGP(
            tensor(X), tensor(y)[:, None], likelihood=modules[2], covar_module=modules[0], mean_module=modules[1],
            outcome_transform=None,
        )  # fmt: skip
        with torch.no_grad():
            found.append(log_posterior(model).item())
        losses.append(loss_of(gp)(theta_of(gp)[None])[0][0])
        with exact_algebra(), torch.no_grad():
            posterior = model.eval().posterior(tensor(x))
        mean, _ = gp.predict(x)
        np.testing.assert_allclose(posterior.mean.numpy()[:, 0], mean, rtol=0, atol=TOLERANCE)
    assert losses[0] - losses[1] == pytest.approx(found[1] - found[0], abs=TOLERANCE)


def test_plain_modules_without_priors_are_recognised() -> None:
    found = seen([ScaleKernel(MaternKernel(1.5, ard_num_dims=3)), ConstantMean(), GaussianLikelihood()])
    assert found is not None
    assert (found.kernel, found.mean, found.has_trend) == ("matern32", "constant", False)
    assert found.flat == {"lengthscale", "signal", "noise", "mean"}
    assert {name for name, *_ in found.bounds} == {"lengthscale", "signal", "noise"}
    assert found.mean_precision == 0.0
    # The closed form then has the likelihood alone as its loss.
    rng = np.random.default_rng(0)
    loss = NegativeLogPosterior(found, PLAIN, 3, rng.random((8, 3)), rng.standard_normal(8))
    theta = np.log([[0.3, 0.5, 0.7, 1.2, 0.1]])
    np.testing.assert_array_equal(loss(theta)[0], loss.negative_log_likelihood(theta)[0])


class OwnMatern(MaternKernel):  # type: ignore[misc]
    pass


class OwnMean(ConstantMean):  # type: ignore[misc]
    pass


class OwnLikelihood(GaussianLikelihood):  # type: ignore[misc]
    pass


def scaled(base: Any) -> ScaleKernel:
    return ScaleKernel(base)


def changed_prior(found: list[Any]) -> None:
    found[0].base_kernel.register_prior("lengthscale_prior", LogNormalPrior(0.0, 1.0), "lengthscale")


def other_kind_of_prior(found: list[Any]) -> None:
    found[0].register_prior("outputscale_prior", GammaPrior(2.0, 1.0), "outputscale")


def one_more_prior(found: list[Any]) -> None:
    found[0].base_kernel.register_prior("another", NormalPrior(0.0, 1.0), "lengthscale")


def frozen(found: list[Any]) -> None:
    found[0].base_kernel.raw_lengthscale.requires_grad_(False)


def frozen_noise(found: list[Any]) -> None:
    found[2].noise_covar.raw_noise.requires_grad_(False)


def hooked(found: list[Any]) -> None:
    found[0].base_kernel.register_forward_hook(lambda *_: None)


def patched(found: list[Any]) -> None:
    found[0].base_kernel.forward = lambda *_, **__: None


def negative_bound(found: list[Any]) -> None:
    found[0].register_constraint("raw_outputscale", GreaterThan(0.0))


def mean_prior(found: list[Any]) -> None:
    found[1].register_prior("mean_prior", NormalPrior(1.0, 1.0), "constant")


CHANGES: list[Callable[[list[Any]], None]] = [
    changed_prior,
    other_kind_of_prior,
    one_more_prior,
    frozen,
    frozen_noise,
    hooked,
    patched,
    negative_bound,
    mean_prior,
]
OTHER_KERNELS = [
    MaternKernel(2.5, ard_num_dims=3),  # no signal variance
    scaled(MaternKernel(2.5)),  # one lengthscale of all
    scaled(MaternKernel(2.5, ard_num_dims=2, active_dims=(0, 1))),
    scaled(MaternKernel(2.5, ard_num_dims=3, batch_shape=torch.Size([2]))),
    scaled(OwnMatern(2.5, ard_num_dims=3)),
    scaled(PeriodicKernel(ard_num_dims=3)),
    scaled(MaternKernel(2.5, ard_num_dims=3)) + scaled(RBFKernel(ard_num_dims=3)),
    scaled(MaternKernel(2.5, ard_num_dims=3)) * scaled(RBFKernel(ard_num_dims=3)),
    scaled(scaled(MaternKernel(2.5, ard_num_dims=3))),
    definition.TrendKernel() + scaled(MaternKernel(2.5, ard_num_dims=3)),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_module_is_not_recognised(change: Callable[[list[Any]], None]) -> None:
    found = parts()
    change(found)
    assert seen(found) is None


@pytest.mark.parametrize("kernel", OTHER_KERNELS, ids=range(len(OTHER_KERNELS)))
def test_other_kernels_are_not_recognised(kernel: Any) -> None:
    assert seen([kernel, *parts()[1:]]) is None


@pytest.mark.parametrize(
    "mean",
    [OwnMean(), LinearMean(3), LinearMean(3, bias=False), ConstantMean(batch_shape=torch.Size([2]))],
    ids=range(4),
)
def test_other_means_are_not_recognised(mean: Any) -> None:
    assert seen([parts()[0], mean, parts()[2]]) is None


@pytest.mark.parametrize(
    "likelihood",
    [OwnLikelihood(), FixedNoiseGaussianLikelihood(torch.ones(3)), gpytorch.likelihoods.StudentTLikelihood()],
    ids=["subclass", "fixed", "student"],
)
def test_other_likelihoods_are_not_recognised(likelihood: Any) -> None:
    assert seen([*parts()[:2], likelihood]) is None


def test_shared_lengthscales_of_other_features_are_not_recognised() -> None:
    assert seen(parts(owner=np.array([0, 0, 1, 2])), SHARED) is None


def test_bounds_are_those_of_the_constraint() -> None:
    found = parts()
    found[0].base_kernel.register_constraint("raw_lengthscale", Interval(0.1, 2.0))
    found[2].noise_covar.register_constraint("raw_noise", Positive())
    spec = seen(found)
    assert spec is not None
    assert {name: (low, high) for name, low, high in spec.bounds} == {
        "lengthscale": (pytest.approx(0.1), pytest.approx(2.0)),
        "noise": (1e-4, 1e4),
    }
    loss = NegativeLogPosterior(spec, PLAIN, 3, np.zeros((1, 3)), np.zeros(1))
    np.testing.assert_allclose(np.exp(loss.low[:3]), 0.1)
    np.testing.assert_allclose(np.exp(loss.high[:5]), [2.0, 2.0, 2.0, 100.0, 1e4])
    assert NOISE_BOUNDS != (1e-4, 1e4)


def test_zero_mean_has_no_prior() -> None:
    assert seen([parts()[0], ZeroMean(), parts()[2]]) == ModelSpec(mean="zero")
