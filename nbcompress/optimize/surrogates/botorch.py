"""Surrogates that GPyTorch and BoTorch evaluate.

- `as_botorch` turns a fitted closed form into the GPyTorch model that it evaluates.
- `compile_definition` checks what a person passed, and says whether the closed form or GPyTorch evaluates it.
- `TorchFactory` fits a model that has no closed form; `BotorchSurrogate` is the fitted model.

It does not change the global random state or the default dtype of torch: every tensor has an explicit dtype, and random
numbers have their own generator or state.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbcompress.errors import GoalError, first_line, option, shown
from nbcompress.optimize.history import Array
from nbcompress.optimize.outcome_transform import OutcomeTransform
from nbcompress.optimize.surrogates import definition as modules
from nbcompress.optimize.surrogates.closed_form import VARIANCE_FLOOR, GaussianProcess, ModelSpec, known_or
from nbcompress.optimize.surrogates.fit import LENGTHSCALE_PRIOR_WIDTH
from nbcompress.optimize.surrogates.protocol import (
    Definition,
    ModelFactory,
    NamedModel,
    Surrogate,
    SurrogateSpec,
    name_of,
)
from nbcompress.optimize.surrogates.recognise import recognise

with warnings.catch_warnings():
    # linear_operator uses torch.jit.script at import, which is deprecated; a user can do nothing about it.
    warnings.simplefilter("ignore", DeprecationWarning)
    import botorch
    import gpytorch
    import torch
    from botorch.exceptions.warnings import BotorchWarning
    from botorch.fit import fit_gpytorch_mll
    from botorch.models.gp_regression import SingleTaskGP
    from botorch.models.map_saas import EnsembleMapSaasSingleTaskGP
    from botorch.models.model import FantasizeMixin, Model
    from botorch.models.transforms.input import Warp
    from botorch.models.transforms.outcome import Standardize
    from gpytorch.constraints import Positive
    from gpytorch.distributions import MultivariateNormal
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import LogNormalPrior
    from linear_operator.utils.warnings import NumericalWarning

# Rows predicted at once by a model without a closed form: the covariance of all of them is computed.
PREDICTION_CHUNK = 512
# Width of the prior on the logarithm of the two exponents of a warped input, as in BoTorch's tutorials.
WARP_PRIOR_WIDTH = 0.75**0.5
# The seed of the points and outcomes that a factory of models is tried with before the first trial.
TRY_OUT_SEED = 0


@contextmanager
def exact_algebra() -> Iterator[None]:
    """Use exact linear algebra; suppress warnings about input scaling (features need not lie in a cube) and jitter."""
    with (
        warnings.catch_warnings(),
        botorch.settings.validate_input_scaling(False),
        gpytorch.settings.fast_computations(False, False, False),
        gpytorch.settings.max_cholesky_size(10**6),
    ):
        warnings.simplefilter("ignore", NumericalWarning)
        yield


@contextmanager
def fixed_random_state(seed: int) -> Iterator[None]:
    """Seed torch inside the block, and restore its state afterwards: restarts of a fit are drawn from priors."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", BotorchWarning)
        warnings.simplefilter("ignore", gpytorch.utils.warnings.GPInputWarning)
        torch.manual_seed(seed)
        yield


def tensor(array: Array) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float64, device="cpu")


# --- The closed form as a model of GPyTorch ---


def as_botorch(model: GaussianProcess, sign: float = 1.0, affine: tuple[float, float] | None = None) -> SingleTaskGP:
    """Return the GPyTorch definition of a fitted closed form, as a BoTorch model over features of `sign * y`.

    Mean, variance and likelihood are equal.

    Args:
        model: The closed form.
        sign: 1 or -1.
        affine: Shift and scale: the model is then of `shift + scale * sign * y`.
    """
    spec, hyper = model.spec, model.hyper
    kernel, mean, likelihood = modules.default_modules(spec, model.owner, LENGTHSCALE_PRIOR_WIDTH)
    scaled = kernel.kernels[0] if spec.has_trend else kernel
    _set_(scaled, "outputscale", hyper.signal)
    base = scaled.base_kernel
    is_shared = isinstance(base, modules.SharedLengthscaleKernel)
    _set_(base, "lengthscales" if is_shared else "lengthscale", tensor(hyper.lengthscales)[None])
    if spec.has_trend:
        _set_(kernel.kernels[1], "variance", hyper.trend)
    _set_(likelihood.noise_covar, "noise", hyper.noise)
    _set_mean_(mean, sign * model.b)
    known = model.known_noise
    variances = None if known is None else known_or(known, hyper.noise)
    Y = sign * model.y
    shift, scale = affine or (0.0, 1.0)
    with exact_algebra(), warnings.catch_warnings():
        warnings.simplefilter("ignore", BotorchWarning)
        made = SingleTaskGP(
            tensor(model.features),
            tensor(Y)[:, None],
            train_Yvar=None if variances is None else tensor(variances)[:, None],
            likelihood=likelihood if variances is None else None,
            covar_module=kernel,
            mean_module=mean,
            outcome_transform=None,
        )
    if affine is not None:
        made.outcome_transform = affine_transform(shift, scale)
    return made.eval()


def _set_(module: Any, name: str, value: Any) -> None:
    """Set a hyperparameter; a value outside of its bounds, such as one set by hand, widens them."""
    value = torch.as_tensor(value, dtype=torch.float64)
    constraint = getattr(module, f"raw_{name}_constraint")
    if bool((value <= constraint.lower_bound).any() or (value >= constraint.upper_bound).any()):
        module.register_constraint(f"raw_{name}", Positive(), replace=True)
    setattr(module, name, value)


def _set_mean_(mean: Any, b: Array) -> None:
    with torch.no_grad():
        if len(b) == 1:
            mean.initialize(constant=tensor(b[0]))
        elif len(b) > 1:
            mean.weights.copy_(tensor(b[1:, None]))
            mean.bias.copy_(tensor(b[:1]))


def affine_transform(shift: float, scale: float) -> Standardize:
    """Return the outcome transform whose values are `shift + scale * y`, for `scale` above 0."""
    transform = Standardize(m=1)
    transform.means = torch.full((1, 1), shift, dtype=torch.float64)
    transform.stdvs = torch.full((1, 1), scale, dtype=torch.float64)
    transform._stdvs_sq = transform.stdvs.square()
    transform._is_trained = torch.tensor(True)
    return transform.eval()


class AffineModel(Model, FantasizeMixin):
    """A model of `shift + scale * f`, where f is the output of another model."""

    def __init__(self, model: Model, shift: float, scale: float) -> None:
        super().__init__()
        self.model, self.shift, self.scale = model, shift, scale

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        return self.model.batch_shape

    @property
    def likelihood(self) -> Any:
        return getattr(self.model, "likelihood", None)

    def posterior(  # type: ignore[override]  # the two classes of BoTorch declare it in different ways
        self,
        X: torch.Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | torch.Tensor = False,
        posterior_transform: Any = None,
    ) -> Any:
        inner: Any = self.model.posterior(X, output_indices=output_indices, observation_noise=observation_noise)
        mvn = inner.distribution
        covariance = mvn.covariance_matrix * self.scale**2
        changed = type(inner)(MultivariateNormal(self.shift + self.scale * mvn.mean, covariance))
        return changed if posterior_transform is None else posterior_transform(changed)

    def condition_on_observations(self, X: torch.Tensor, Y: torch.Tensor, **kwargs: Any) -> AffineModel:
        inner = self.model.condition_on_observations(X, (Y - self.shift) / self.scale, **kwargs)
        return AffineModel(inner, self.shift, self.scale)


def in_units(model: Model, shift: float, scale: float) -> Model:
    """Return a fitted model of `shift + scale * output`; the model itself stays as it is."""
    if scale > 0 and isinstance(model, SingleTaskGP):
        made = deepcopy(model)
        known = getattr(made, "outcome_transform", None)
        if known is None:
            made.outcome_transform = affine_transform(shift, scale)
            return made.eval()
        if type(known) is Standardize and known.means.numel() == 1:
            inner_shift, inner_scale = float(known.means), float(known.stdvs)
            made.outcome_transform = affine_transform(shift + scale * inner_shift, scale * inner_scale)
            return made.eval()
    return AffineModel(model, shift, scale).eval()


# --- Models without a closed form ---


@dataclass(frozen=True, eq=False)
class BotorchSurrogate:
    """A fitted BoTorch model as a `Surrogate`: the model is of `-y`, so that larger is better.

    Args:
        model: In eval mode.
        features: Shape `(n, D)`.
        y: Standardized losses, shape `(n,)`.
        outcome_transform: Between y and the original values.
        rebuild: Returns a model for other features and losses, for models that cannot be conditioned.
    """

    model: Model
    features: Array
    y: Array
    outcome_transform: OutcomeTransform
    rebuild: Callable[[Array, Array], Model]

    @property
    def n(self) -> int:
        return len(self.y)

    def _moments(self, X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return means of y and variances, each `(m,)`. A mixture counts with its own mean and variance."""
        posterior: Any = self.model.posterior(X)
        is_mixture = hasattr(posterior, "mixture_mean")
        mean = posterior.mixture_mean if is_mixture else posterior.mean
        variance = posterior.mixture_variance if is_mixture else posterior.variance
        if mean.shape != (len(X), 1):
            raise ValueError(f"the posterior of {len(X)} points has the shape {tuple(mean.shape)}")
        return -mean[:, 0], variance[:, 0].clamp_min(VARIANCE_FLOOR)

    def predict(self, features: Array) -> tuple[Array, Array]:
        parts = [np.empty((2, 0))]
        with exact_algebra(), torch.no_grad():
            for chunk in torch.split(tensor(features), PREDICTION_CHUNK):
                mean, variance = self._moments(chunk)
                parts.append(np.stack([mean.numpy(), variance.sqrt().numpy()]))
        mean, std = np.concatenate(parts, axis=1)
        return mean, std

    def predict_mean(self, features: Array) -> Array:
        return self.predict(features)[0]

    def predict_with_gradients(self, features: Array) -> tuple[Array, Array, Array, Array]:
        X = tensor(features).requires_grad_(True)
        with exact_algebra(), torch.enable_grad():
            mean, variance = self._moments(X)
            std = variance.sqrt()
            (by_mean,) = torch.autograd.grad(mean.sum(), X, retain_graph=True)
            (by_std,) = torch.autograd.grad(std.sum(), X)
        return mean.detach().numpy(), std.detach().numpy(), by_mean.numpy(), np.nan_to_num(by_std.numpy())

    def joint(self, features: Array, *, observation_noise: bool = True) -> tuple[Array, Array]:
        with exact_algebra(), torch.no_grad():
            posterior: Any = self.model.posterior(tensor(features), observation_noise=observation_noise)
            if hasattr(posterior, "mixture_mean"):
                return -posterior.mixture_mean[:, 0].numpy(), posterior.mixture_covariance_matrix.numpy()
            return -posterior.mean[:, 0].numpy(), posterior.distribution.covariance_matrix.numpy()

    def condition_on_mean(self, X_pending: Array) -> BotorchSurrogate:
        return self if len(X_pending) == 0 else self.condition_on_values(X_pending, self.predict_mean(X_pending))

    def condition_on_values(self, features: Array, values: Array) -> BotorchSurrogate:
        all_features, y = np.vstack([self.features, features]), np.concatenate([self.y, values])
        with exact_algebra(), fixed_random_state(0):
            try:
                self.model.posterior(tensor(features[:1]))  # fills the caches that conditioning needs
                made = self.model.condition_on_observations(tensor(features), tensor(-values)[:, None])
            except Exception:  # noqa: BLE001 - many models cannot be conditioned, in as many ways; they are fitted anew
                made = self.rebuild(all_features, y)
        return BotorchSurrogate(made, all_features, y, self.outcome_transform, self.rebuild)

    def leave_one_out(self) -> tuple[Array, Array]:
        """Return the prediction of each known value from the others; Rasmussen & Williams (5.12).

        Raises:
            NotImplementedError: The model is no exact Gaussian process of one output.
        """
        model: Any = self.model
        if not isinstance(model, SingleTaskGP) or len(model.batch_shape) or self.n != model.train_targets.shape[-1]:
            raise NotImplementedError(f"{type(model).__name__} has no leave-one-out in closed form")
        with exact_algebra(), torch.no_grad():
            model.train()
            try:
                prior = model.likelihood(model(*model.train_inputs), *model.train_inputs)
                K, rest = prior.covariance_matrix, model.train_targets - prior.mean
            finally:
                model.eval()
            inverse = torch.linalg.inv(K)
            precision = inverse.diagonal().numpy()
            a = (inverse @ rest).numpy()
        transform: Any = getattr(model, "outcome_transform", None)
        scale = 1.0 if transform is None else float(transform.stdvs)
        return self.y + scale * a / precision, scale / np.sqrt(precision)

    def untransform(self, mean: Array, std: Array) -> tuple[Array, Array]:
        return self.outcome_transform.untransform(mean, std)


@dataclass(frozen=True, eq=False)
class TorchFactory:
    """Fits the models of a definition that has no closed form.

    Args:
        definition: What the person passed.
        owner: Shape `(D,)`; the parameter of each feature.
        is_choice: Shape `(D,)`; whether that is an unordered choice.
        is_plain: Shape `(D,)`; whether the feature is a number itself.
        width: Of the prior on lengthscales.
        has_trend: Whether a stationary kernel by name has the trend of the default.
        seed: Of the restarts of a fit.
    """

    definition: Definition
    owner: modules.Owner
    is_choice: NDArray[np.bool_]
    is_plain: NDArray[np.bool_]
    width: float
    has_trend: bool = False
    seed: int = 0

    @property
    def is_of_person(self) -> bool:
        """Whether a function of the person makes the models; its Y is standardized linearly."""
        return isinstance(self.definition, ModelFactory)

    def fit(
        self, features: Array, y: Array, outcome_transform: OutcomeTransform, known_noise: Array | None = None
    ) -> BotorchSurrogate:
        """Fit a model to standardized losses `(n,)` at features `(n, D)`.

        Raises:
            Exception: Whatever the parts of a person, or the fit, raise.
        """

        def make(X: Array, losses: Array) -> Model:
            extra = len(X) - len(features)
            noise = known_noise
            if noise is not None and extra:
                noise = np.concatenate([noise, np.full(extra, np.nanmean(noise))])
            return self.model(tensor(X), tensor(-losses)[:, None], noise)

        made = make(features, y)
        return BotorchSurrogate(made, features, y, outcome_transform, make)

    def model(self, X: torch.Tensor, Y: torch.Tensor, known_noise: Array | None = None) -> Model:
        """Return the fitted model, in eval mode, of values Y `(n, 1)`, larger is better."""
        with exact_algebra(), fixed_random_state(self.seed):
            made = self._unfitted(X, Y, known_noise)
            return fitted_(made) if made.training else made

    def _unfitted(self, X: torch.Tensor, Y: torch.Tensor, known_noise: Array | None) -> Model:
        definition = self.definition
        if isinstance(definition, ModelFactory):
            return checked_model(definition.function(X.clone(), Y.clone()), definition.function)
        spec = definition if isinstance(definition, SurrogateSpec) else SurrogateSpec()
        if spec.noise is not None:
            fixed = np.full(len(X), spec.noise)
            known_noise = fixed if known_noise is None else np.where(np.isnan(known_noise), fixed, known_noise)
        Yvar = None
        if known_noise is not None:
            # GPyTorch takes the noise of all points or of none: an unknown one counts as the mean of the known ones.
            Yvar = tensor(known_or(known_noise, float(np.nanmean(known_noise))))[:, None]
        if definition == NamedModel("saas"):
            return EnsembleMapSaasSingleTaskGP(X, Y, Yvar, outcome_transform=None)
        kernel, mean, likelihood = modules.parts_of(spec, self.owner, self.is_choice, self.width, self.has_trend)
        return SingleTaskGP(
            X,
            Y,
            train_Yvar=Yvar,
            likelihood=None if Yvar is not None else likelihood,
            covar_module=kernel,
            mean_module=mean,
            outcome_transform=None,
            input_transform=self._warp() if definition == NamedModel("warped") else None,
        )

    def _warp(self) -> Warp:
        """Return Kumaraswamy's distribution function for every number, with the identity as the prior's median."""
        return Warp(
            d=len(self.owner),
            indices=np.flatnonzero(self.is_plain).tolist(),
            concentration1_prior=LogNormalPrior(0.0, WARP_PRIOR_WIDTH),
            concentration0_prior=LogNormalPrior(0.0, WARP_PRIOR_WIDTH),
        )


def checked_model(made: Any, function: Callable[..., Any]) -> Model:
    """Return what a factory of a person returned, if it is a model of one output.

    Raises:
        GoalError: It is not.
    """
    if not isinstance(made, Model):
        raise GoalError(
            f"{option('surrogate')} as a function (X, Y) returns a botorch Model, but {name_of(function)} returned "
            f"{shown(made)}."
        )
    if made.num_outputs != 1:
        raise GoalError(
            f"{option('surrogate')} as a function (X, Y) returns a model of one output, but {name_of(function)} "
            f"returned one of {made.num_outputs}."
        )
    return made


def fitted_(model: Model) -> Model:
    """Fit the hyperparameters of a model in training mode, in place, and return it in eval mode.

    The start is the state that the model came in; further starts are drawn from the priors only where that one fails.
    """
    if any(parameter.requires_grad for parameter in model.parameters()):
        likelihood = getattr(model, "likelihood", None)
        if likelihood is None:
            raise GoalError(
                f"{option('surrogate')}: a model in training mode is fitted by its likelihood, but a "
                f"{type(model).__name__} has none. Fit it yourself and return model.eval()."
            )
        fit_gpytorch_mll(ExactMarginalLogLikelihood(likelihood, model))
    return model.eval()


def compile_definition(definition: Definition, factory: TorchFactory, labels: list[str], n: int) -> ModelSpec | None:
    """Check a definition before the first trial, and return what the closed form evaluates; None for GPyTorch.

    Args:
        definition: What the person passed.
        factory: Of the same definition.
        labels: What each feature is called in a message.
        n: How many points a model has at least, when the search uses one.

    Raises:
        GoalError: It cannot be a surrogate of this space.
    """
    if isinstance(definition, ModelFactory):
        _try_out(definition, factory, n)
        return None
    if isinstance(definition, NamedModel):
        if definition.name == "warped" and not factory.is_plain.any():
            raise GoalError(
                f"{option('surrogate', 'warped')} warps numbers, but this space has no number that is always active. "
                f"Write {option('surrogate', 'matern52')}."
            )
        return None
    kernel, mean, likelihood = modules.parts_of(
        definition, factory.owner, factory.is_choice, factory.width, factory.has_trend
    )
    if not isinstance(definition.kernel, str):
        modules.check_kernel(kernel, factory.owner, labels)
    _check_mean(mean, len(factory.owner))
    modules.check_likelihood(likelihood)
    spec = recognise(kernel, mean, likelihood, factory.owner, factory.width)
    return spec and replace(spec, noise=definition.noise)


def _check_mean(mean: Any, n_features: int) -> None:
    X = torch.rand(3, n_features, dtype=torch.float64, generator=torch.Generator().manual_seed(TRY_OUT_SEED))
    try:
        with torch.no_grad():
            shape = tuple(mean(X).shape)
    except Exception as error:
        raise GoalError(
            f"The mean {name_of(mean)} cannot be evaluated at {n_features} encoded parameters: it raised "
            f"{first_line(error)}"
        ) from error
    if shape != (3,):
        raise GoalError(f"The mean {name_of(mean)} returns 3 values for 3 points, but returned the shape {shape}.")


def _try_out(definition: ModelFactory, factory: TorchFactory, n: int) -> None:
    """Fit the model of a factory to made-up data, and predict with it."""
    generator = torch.Generator().manual_seed(TRY_OUT_SEED)
    X = torch.rand(n, len(factory.owner), dtype=torch.float64, generator=generator)
    Y = torch.sin(3 * X).sum(-1, keepdim=True)
    Y = (Y - Y.mean()) / Y.std().clamp_min(1e-9)
    name = name_of(definition.function)
    try:
        made = factory.model(X, Y)
    except GoalError:
        raise
    except Exception as error:
        raise GoalError(
            f"{option('surrogate')}: {name} could not make and fit a model of {n} points of {X.shape[-1]} encoded "
            f"parameters; it raised {first_line(error)}"
        ) from error
    try:
        losses = -Y[:, 0].numpy()
        BotorchSurrogate(made, X.numpy(), losses, OutcomeTransform(), lambda _X, _y: made).predict(X[:2].numpy())
    except Exception as error:
        raise GoalError(
            f"{option('surrogate')}: the model of {name} does not predict points of {X.shape[-1]} encoded parameters; "
            f"it raised {first_line(error)}"
        ) from error


def as_model(surrogate: Surrogate) -> Any:
    """Return a BoTorch model of the standardized values with the sign that makes larger better."""
    if isinstance(surrogate, GaussianProcess):
        return as_botorch(surrogate, -1.0)
    assert isinstance(surrogate, BotorchSurrogate)
    return surrogate.model
