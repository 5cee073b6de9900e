"""Surrogates without a closed form: what a person can pass, what is refused, and the fitted models."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from nbcompress.choices import SURROGATES
from nbcompress.errors import GoalError
from nbcompress.optimize.encoding import Embedding, SpaceEncoder
from nbcompress.optimize.models import compiled
from nbcompress.optimize.outcome_transform import OutcomeTransform
from nbcompress.optimize.surrogates.botorch import BotorchSurrogate, TorchFactory, as_botorch, in_units, tensor
from nbcompress.optimize.surrogates.closed_form import ModelSpec
from nbcompress.optimize.surrogates.fit import fit
from nbcompress.optimize.surrogates.protocol import (
    ModelFactory,
    NamedModel,
    SurrogateSpec,
    definition_of,
    from_record,
    record_of,
)
from nbcompress.space import Choice, Float, Int, Space

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import gpytorch
    from botorch.models import SingleTaskGP
    from gpytorch.kernels import MaternKernel, PeriodicKernel, RBFKernel, ScaleKernel

PLAIN = Embedding(SpaceEncoder(Space({"x": Float(0, 1), "y": Float(0, 1)})))
MIXED = Embedding(SpaceEncoder(Space({"x": Float(0, 1), "kind": Choice("a", "b", "c"), "n": Int(1, 5)})))


def compiled_of(given: Any, embedding: Embedding = PLAIN) -> Any:
    return compiled(definition_of(given), embedding, n_objectives=1, seed=0, n=6)


def fitted(given: Any, embedding: Embedding = PLAIN, n: int = 10, log_tail: bool = False) -> BotorchSurrogate:
    encoder = embedding.encoder
    rows = encoder.from_cube(np.random.default_rng(0).random((n, encoder.d)))
    features = embedding.features(rows)
    values = np.sin(4 * rows[:, 0]) + 0.3 * rows[:, -1]
    y, transform = OutcomeTransform.fit(values, log_tail=log_tail)
    model = compiled_of(given, embedding).fit(features, y, transform)
    assert isinstance(model, BotorchSurrogate)
    return model


def two_parts(X: torch.Tensor, Y: torch.Tensor) -> SingleTaskGP:
    return SingleTaskGP(X, Y, outcome_transform=None)


GIVEN = {
    "linear": "linear",
    "additive": "additive",
    "warped": "warped",
    "saas": "saas",
    "periodic": ScaleKernel(PeriodicKernel()),
    "factory of a kernel": lambda d: ScaleKernel(RBFKernel(ard_num_dims=d)) + ScaleKernel(MaternKernel(0.5)),
    "factory of a model": two_parts,
    "class of a model": SingleTaskGP,  # standardizes by itself
    "spec": SurrogateSpec(kernel="additive", mean="linear", noise=0.01),
}
every_surrogate = pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)


@every_surrogate
def test_the_laws_of_a_surrogate(given: Any) -> None:
    """Gradients by finite differences; the joint agrees with predictions; conditioning; equal seeds, equal models."""
    model = fitted(given)
    x = np.random.default_rng(1).random((4, 2))
    mean, std, by_mean, by_std = model.predict_with_gradients(x)
    np.testing.assert_allclose(model.predict(x), [mean, std], rtol=1e-6, atol=1e-8)
    step = 1e-5 * np.eye(2)
    for i in range(2):
        high, low = model.predict(x + step[i]), model.predict(x - step[i])
        np.testing.assert_allclose(by_mean[:, i], (high[0] - low[0]) / 2e-5, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(by_std[:, i], (high[1] - low[1]) / 2e-5, rtol=1e-3, atol=1e-4)
    joint_mean, covariance = model.joint(x, observation_noise=False)
    np.testing.assert_allclose(joint_mean, mean, atol=1e-6)
    np.testing.assert_allclose(np.diag(covariance), std**2, rtol=1e-4, atol=1e-7)
    believer = model.condition_on_mean(x[:2])
    np.testing.assert_allclose(believer.predict(x[:2])[1] < 0.9 * std[:2] + 1e-3, True)
    again = fitted(given)
    np.testing.assert_array_equal(model.predict(x), again.predict(x))
    before = torch.random.get_rng_state()
    fitted(given)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_kernel_that_is_recognised_gives_the_closed_form() -> None:
    assert compiled_of("matern32") == ModelSpec("matern32")
    assert compiled_of("rbf", MIXED) == ModelSpec("rbf", has_trend=True)
    own = compiled_of(ScaleKernel(MaternKernel(2.5, ard_num_dims=2)))
    assert isinstance(own, ModelSpec)
    assert own.flat == {"lengthscale", "signal"}
    assert isinstance(compiled_of(PeriodicKernel()), TorchFactory)


def test_the_fit_of_gpytorch_finds_the_mode_of_the_closed_form() -> None:
    """The definition of the default, fitted by BoTorch, predicts as the closed form does."""
    rng = np.random.default_rng(0)
    X = rng.random((15, 2))
    y, transform = OutcomeTransform.fit(np.sin(3 * X[:, 0]) + X[:, 1] ** 2 + 0.1 * rng.standard_normal(15))
    definition = SurrogateSpec()
    factory = TorchFactory(definition, PLAIN.owner, PLAIN.is_choice, PLAIN.is_plain, 0.8)
    slow = factory.fit(X, y, transform)
    fast = fit(ModelSpec(), PLAIN.owner, 2, X, y).model
    x = rng.random((20, 2))
    np.testing.assert_allclose(slow.predict(x)[0], fast.predict(x)[0], atol=0.05)
    np.testing.assert_allclose(slow.predict(x)[1], fast.predict(x)[1], atol=0.05)


def test_leave_one_out_of_gpytorch_is_that_of_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    X, values = rng.random((9, 2)), rng.standard_normal(9)
    fast = fit(ModelSpec(), PLAIN.owner, 2, X, values).model
    slow = BotorchSurrogate(as_botorch(fast, -1.0), X, fast.y, fast.outcome_transform, lambda *_: None)  # type: ignore[arg-type, return-value]
    for ours, theirs in zip(fast.leave_one_out(), slow.leave_one_out(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    with pytest.raises(NotImplementedError, match="EnsembleMapSaas"):
        fitted("saas").leave_one_out()


def test_mixed_is_for_choices() -> None:
    model = fitted("mixed", MIXED, 14)
    assert np.isfinite(model.predict(model.features)).all()
    with pytest.raises(GoalError, match="surrogate='mixed' is for a space with an unordered Choice"):
        compiled_of("mixed")
    alone = Embedding(SpaceEncoder(Space({"kind": Choice("a", "b", "c")})))
    assert fitted("mixed", alone, 6).n == 6
    with pytest.raises(GoalError, match="surrogate='warped' warps numbers"):
        compiled_of("warped", alone)


def test_additive_extrapolates_a_sum() -> None:
    """Known along two axes, the sum is known in the corner; the default is not sure of it."""
    line = np.linspace(0, 1, 7)
    X = np.vstack([np.stack([line, 0 * line], 1), np.stack([0 * line[1:], line[1:]], 1)])
    f = lambda x: np.sin(3 * x[:, 0]) + np.cos(4 * x[:, 1])  # noqa: E731
    y, transform = OutcomeTransform.fit(f(X))
    corner = np.array([[0.8, 0.9], [0.5, 0.6]])
    wanted = (f(corner) - transform.shift * np.abs(f(X)).max()) / (transform.scale * np.abs(f(X)).max())
    additive = compiled_of("additive").fit(X, y, transform).predict(corner)[0]
    default = fit(ModelSpec(), PLAIN.owner, 2, X, f(X)).model.predict(corner)[0]
    assert np.abs(additive - wanted).max() < 0.2 * np.abs(default - wanted).max()


def test_units_of_a_model() -> None:
    """Shift and scale, also negative, with and without an outcome transform; the model itself stays."""
    X = np.random.default_rng(0).random((6, 2))
    x = tensor(np.random.default_rng(1).random((3, 2)))
    for outcome in (None, "default"):
        options = {"outcome_transform": None} if outcome is None else {}
        values = (X[:, :1] - X[:, :1].mean()) / X[:, :1].std(ddof=1)
        model = SingleTaskGP(tensor(X), tensor(values + 0.001), **options).eval()
        before = model.posterior(x)
        for scale in (2.0, -0.5):
            changed = in_units(model, 10.0, scale)
            after = changed.posterior(x, observation_noise=False)
            torch.testing.assert_close(after.mean, 10.0 + scale * before.mean)
            torch.testing.assert_close(after.variance, scale**2 * before.variance)
            fantasy = changed.condition_on_observations(x[:1], torch.full((1, 1), 11.0, dtype=torch.float64))
            assert (fantasy.posterior(x[:1]).variance < after.variance[:1]).all()
        torch.testing.assert_close(model.posterior(x).mean, before.mean)


# --- What is refused ---


def not_trainable(X: torch.Tensor, Y: torch.Tensor) -> Any:
    model = SingleTaskGP(X, Y)
    del model.likelihood
    return model


def two_outputs(X: torch.Tensor, Y: torch.Tensor) -> Any:
    return SingleTaskGP(X, torch.cat([Y, Y], -1))


def raising(X: torch.Tensor, Y: torch.Tensor) -> Any:
    raise ValueError("no such data")


def wrong_dimensions(X: torch.Tensor, Y: torch.Tensor) -> Any:
    return SingleTaskGP(X[:, :1], Y).eval()


class NanKernel(gpytorch.kernels.Kernel):  # type: ignore[misc]
    def forward(self, x1: torch.Tensor, x2: torch.Tensor, diag: bool = False, **_: object) -> torch.Tensor:
        return (x1 if diag else x1 @ x2.transpose(-1, -2)) * torch.nan


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("matern5", r"surrogate is one of matern52, .*, but got 'matern5'. Did you mean 'matern52'"),
        (3, r"surrogate is a name \(.*\), a gpytorch Kernel, .*, but got 3"),
        (["rbf"], r"but got \['rbf'\]"),
        (MaternKernel(ard_num_dims=5), r"MaternKernel is for 5 dimensions, .* \(x, y\) have 2 dimensions"),
        (ScaleKernel(MaternKernel(ard_num_dims=5)), r"\(x, y\) have 2 dimensions, and it raised RuntimeError"),
        (RBFKernel(active_dims=(0, 4)), r"RBFKernel reads dimension 4, but .* 2 dimensions, which are counted from 0"),
        (RBFKernel(batch_shape=torch.Size([2])), r"for 3 points it returned the shape \(2, 3, 3\)"),
        (lambda d: 7, r"A kernel as a function returns a gpytorch Kernel, but a lambda returned 7"),
        (lambda d: d.kernel, r"a lambda\(2\) raised AttributeError: 'int' object has no attribute 'kernel'"),
        (lambda: 1, r"takes \(X, Y\) and returns a botorch Model, but a lambda takes no argument"),
        (lambda a, b, c: 1, r"but a lambda takes 3 arguments"),
        (lambda X, Y: 3, r"surrogate as a function \(X, Y\) returns a botorch Model, but a lambda returned 3"),
        (two_outputs, r"returns a model of one output, but two_outputs returned one of 2"),
        (not_trainable, r"a model in training mode is fitted by its likelihood, but a SingleTaskGP has none"),
        (raising, r"raising could not make and fit a model of 6 points of 2 .*; it raised ValueError: no such data"),
        (wrong_dimensions, r"the model of wrong_dimensions does not predict points of 2 encoded parameters"),
        (SurrogateSpec(mean=gpytorch.means.LinearMean(7)), r"The mean LinearMean cannot be evaluated at 2"),
        (SurrogateSpec(likelihood=lambda: 4), r"A likelihood as a function returns a gpytorch Likelihood"),
        (NanKernel(), r"NanKernel returns finite covariances, but returned nan"),
        (gpytorch.means.ConstantMean(), r"but got ConstantMean\(\). Write surrogate=nc.SurrogateSpec\(mean=...\)"),
        (gpytorch.likelihoods.GaussianLikelihood(), r"Write surrogate=nc.SurrogateSpec\(likelihood=...\)"),
        (torch.nn.Linear(2, 1), r"surrogate is a name \(.*\), .*, but got Linear"),
        (
            SurrogateSpec(likelihood=gpytorch.likelihoods.StudentTLikelihood()),
            r"is Gaussian, .* got a StudentTLikelihood",
        ),
        (
            SurrogateSpec(likelihood=gpytorch.likelihoods.FixedNoiseGaussianLikelihood(torch.ones(3))),
            r"holds the noise of given ones. Write noise= of a SurrogateSpec or noise='accuracy=accuracy_std'",
        ),
    ],
)
def test_what_is_refused_before_the_first_trial(given: Any, text: str) -> None:
    with pytest.raises(GoalError, match=text):
        compiled_of(given)


def test_a_model_is_no_surrogate() -> None:
    model = SingleTaskGP(torch.rand(3, 2).double(), torch.rand(3, 1).double())
    with pytest.raises(GoalError, match=r"so a model is given by a function, but got a SingleTaskGP. Write surrogate="):
        definition_of(model)


@pytest.mark.parametrize("noise", [-1.0, float("nan"), float("inf"), True, "much"])
def test_the_noise_of_a_spec(noise: Any) -> None:
    with pytest.raises(GoalError, match=r"noise= of a SurrogateSpec is a variance .* of at least 0 such as 0.01, but"):
        SurrogateSpec(noise=noise)


def test_kernel_beside_surrogate() -> None:
    with pytest.raises(GoalError, match="surrogate holds kernel and mean already, but kernel is given too"):
        definition_of("rbf", kernel="matern32")
    with pytest.raises(GoalError, match=r"The kernel is one of matern52, .* but got 'spline'"):
        SurrogateSpec(kernel="spline")
    with pytest.raises(GoalError, match=r"mean is a name .* but got 4"):
        SurrogateSpec(mean=4)


def test_definitions() -> None:
    assert isinstance(definition_of(two_parts), ModelFactory)
    assert isinstance(definition_of(lambda X, Y, extra=1: None), ModelFactory)
    assert isinstance(definition_of(lambda d, nu=2.5: None), SurrogateSpec)
    assert isinstance(definition_of(RBFKernel), SurrogateSpec)
    assert definition_of("saas") == NamedModel("saas")
    assert definition_of(None, "rbf", "zero").closed_form == ModelSpec("rbf", "zero")  # type: ignore[union-attr]
    for name in SURROGATES:
        definition_of(name)


def test_what_a_record_holds() -> None:
    for named in (None, "additive", {"loss": "rbf", "size": None}):
        assert from_record(record_of(named)) == named
    spec = from_record(record_of(SurrogateSpec(kernel="rbf", noise=0.1)))
    assert (spec.kernel, spec.mean, spec.noise) == ("rbf", "constant", 0.1)
    for lost in (RBFKernel(), SurrogateSpec(kernel=RBFKernel()), {"loss": two_parts}):
        with pytest.raises(GoalError, match="is an object of an earlier session and was not stored"):
            from_record(record_of(lost))
    assert record_of(ScaleKernel(RBFKernel()))["object"] == "ScaleKernel(RBFKernel)"
