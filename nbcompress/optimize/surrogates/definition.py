"""The default surrogate as modules of GPyTorch, and the other surrogates by name.

The default is

    SingleTaskGP(X, Y, covar_module=ScaleKernel(Matern 5/2) [+ TrendKernel], mean_module=ConstantMean, likelihood=
    GaussianLikelihood), where the features of one parameter share a lengthscale (`SharedLengthscaleKernel`),

with the priors and bounds of `fit.py`. `closed_form.py` evaluates the same model without torch, and `recognise.py`
says which modules it evaluates. This module loads torch, so it is imported at the first use.

The mode of the closed form is taken in the logarithm of a hyperparameter. A density in the hyperparameter itself has
the same mode if its log-normal prior has the location `log(median) + width^2`.

References:
    Duvenaud, Nickisch, Rasmussen (2011), "Additive Gaussian Processes".
    Eriksson, Jankowiak (2021), "High-Dimensional Bayesian Optimization with Sparse Axis-Aligned Subspaces" (`saas`, as
    BoTorch's ensemble of modes, which needs no sampling).
    Snoek, Swersky, Zemel, Adams (2014), "Input Warping for Bayesian Optimization of Non-Stationary Functions".
"""

from __future__ import annotations

import math
import warnings
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbcompress.errors import GoalError, first_line, option, shown
from nbcompress.optimize.surrogates import fit as priors
from nbcompress.optimize.surrogates.closed_form import MEAN_PRIOR_STD, ModelSpec
from nbcompress.optimize.surrogates.protocol import SurrogateSpec, name_of

with warnings.catch_warnings():
    # linear_operator uses torch.jit.script at import, which is deprecated; a user can do nothing about it.
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch
    from gpytorch.constraints import Interval
    from gpytorch.kernels import Kernel, LinearKernel, MaternKernel, RBFKernel, ScaleKernel
    from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood, Likelihood
    from gpytorch.likelihoods.gaussian_likelihood import _GaussianLikelihoodBase
    from gpytorch.means import ConstantMean, LinearMean, Mean, ZeroMean
    from gpytorch.priors import LogNormalPrior, NormalPrior, Prior

Owner = NDArray[np.intp]
_NU = {"matern52": 2.5, "matern32": 1.5, "matern12": 0.5}


def log_normal_prior(median: float, width: float) -> LogNormalPrior:
    """Return the prior whose mode in the logarithm is `median`; `width` is of the logarithm."""
    # GPyTorch would hold plain numbers in single precision.
    mode, scale = torch.tensor([math.log(median) + width**2, width], dtype=torch.float64)
    return LogNormalPrior(mode, scale)


def lengthscale_prior(d: int, width: float) -> LogNormalPrior:
    return log_normal_prior(priors.LENGTHSCALE_PRIOR_MEDIAN * math.sqrt(max(d, 1)), width)


class SharedLengthscaleKernel(Kernel):  # type: ignore[misc]  # GPyTorch comes without types
    """A stationary kernel in which all features of a parameter share one lengthscale.

    Args:
        base: A kernel with one lengthscale, which is set to 1.
        owner: Shape `(D,)`; the parameter of each feature, from 0 to d - 1.
        prior: Of the d lengthscales, or None.
        constraint: Of the lengthscales.
        active_dims: The features that are used; all if None. `owner` is of these.
    """

    is_stationary = True

    def __init__(
        self,
        base: Kernel,
        owner: Owner,
        prior: Prior | None = None,
        constraint: Interval | None = None,
        active_dims: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(active_dims=active_dims)
        base.double().lengthscale = 1.0
        base.raw_lengthscale.requires_grad_(False)
        self.base_kernel = base
        self.register_buffer("owner", torch.tensor(owner, dtype=torch.long))
        d = int(owner.max()) + 1 if len(owner) else 0
        self.register_parameter("raw_lengthscales", torch.nn.Parameter(torch.zeros(1, d, dtype=torch.float64)))
        self.register_constraint("raw_lengthscales", constraint or Interval(*priors.LENGTHSCALE_BOUNDS))
        if prior is not None:
            _register_prior_(self, "lengthscales", prior)
        self.lengthscales = priors.LENGTHSCALE_PRIOR_MEDIAN * math.sqrt(max(d, 1))

    @property
    def lengthscales(self) -> torch.Tensor:
        """The lengthscales of the parameters, shape `(1, d)`."""
        return _value(self, "lengthscales")

    @lengthscales.setter
    def lengthscales(self, value: Any) -> None:
        _set_value_(self, value, "lengthscales")

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, diag: bool = False, **parameters: Any) -> torch.Tensor:
        scales = self.lengthscales[..., self.owner]
        found: torch.Tensor = self.base_kernel.forward(x1 / scales, x2 / scales, diag=diag, **parameters)
        return found


class TrendKernel(Kernel):  # type: ignore[misc]
    """The covariance of the trend, `t2 P P'`; see `trend_basis`."""

    def __init__(self, variance: float = priors.TREND_PRIOR_MEDIAN) -> None:
        super().__init__()
        self.register_parameter("raw_variance", torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)))
        self.register_constraint("raw_variance", Interval(*priors.TREND_BOUNDS))
        prior = log_normal_prior(priors.TREND_PRIOR_MEDIAN, priors.TREND_PRIOR_WIDTH)
        _register_prior_(self, "variance", prior)
        self.variance = variance

    @property
    def variance(self) -> torch.Tensor:
        """The mean variance of the trend, shape `(1,)`."""
        return _value(self, "variance")

    @variance.setter
    def variance(self, value: Any) -> None:
        _set_value_(self, value, "variance")

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, diag: bool = False, **_: object) -> torch.Tensor:
        left, right = self._basis(x1), self._basis(x2)
        if diag:
            return self.variance * (left * right).sum(-1)
        return self.variance * (left @ right.transpose(-1, -2))

    @staticmethod
    def _basis(x: torch.Tensor) -> torch.Tensor:
        centred = x - 0.5
        columns = torch.cat([centred * 12**0.5, (centred * centred - 1 / 12) * 180**0.5], dim=-1)
        share: float = (0.5 / x.shape[-1]) ** 0.5
        return columns * share


class AdditiveKernel(Kernel):  # type: ignore[misc]
    """A sum of one Matern 5/2 kernel per parameter, each with its lengthscale and its share of the variance."""

    def __init__(self, owner: Owner, width: float) -> None:
        super().__init__()
        d = int(owner.max()) + 1 if len(owner) else 0
        self.register_buffer("sums", torch.tensor(np.eye(d)[owner], dtype=torch.float64))
        zeros = torch.zeros(1, d, dtype=torch.float64)
        for name in ("raw_lengthscales", "raw_variances"):
            self.register_parameter(name, torch.nn.Parameter(zeros.clone()))
        self.register_constraint("raw_lengthscales", Interval(*priors.LENGTHSCALE_BOUNDS))
        self.register_constraint("raw_variances", Interval(1e-6, priors.SIGNAL_BOUNDS[1]))
        # One-dimensional: the median does not grow with d. The variances add up to about 1.
        prior = log_normal_prior(2 * priors.LENGTHSCALE_PRIOR_MEDIAN, width)
        _register_prior_(self, "lengthscales", prior)
        prior = log_normal_prior(1.0 / max(d, 1), priors.TREND_PRIOR_WIDTH)
        _register_prior_(self, "variances", prior)
        _set_value_(self, 2 * priors.LENGTHSCALE_PRIOR_MEDIAN, "lengthscales")
        _set_value_(self, 1.0 / max(d, 1), "variances")

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, diag: bool = False, **_: object) -> torch.Tensor:
        difference = x1 - x2 if diag else x1.unsqueeze(-2) - x2.unsqueeze(-3)
        r2 = (difference * difference) @ self.sums / _value(self, "lengthscales")[0].square()
        # The derivative of the root at 0 is infinite, and that of the kernel is 0.
        r = torch.sqrt(5.0 * r2 + 1e-20)
        return ((1.0 + r + r * r / 3.0) * torch.exp(-r)) @ _value(self, "variances")[0]


def _value(kernel: Kernel, name: str) -> torch.Tensor:
    """Return a hyperparameter that GPyTorch holds as `raw_{name}` with a constraint."""
    found: torch.Tensor = getattr(kernel, f"raw_{name}_constraint").transform(getattr(kernel, f"raw_{name}"))
    return found


def _set_value_(kernel: Kernel, value: Any, name: str) -> None:
    raw = getattr(kernel, f"raw_{name}")
    value = torch.as_tensor(value, dtype=raw.dtype).expand_as(raw)
    kernel.initialize(**{f"raw_{name}": getattr(kernel, f"raw_{name}_constraint").inverse_transform(value)})


def _register_prior_(kernel: Kernel, name: str, prior: Prior) -> None:
    # Partial functions and not lambdas, so that a model can be pickled.
    kernel.register_prior(f"{name}_prior", prior, partial(_value, name=name), partial(_set_value_, name=name))


# --- The parts by name ---


def scaled(kernel: Kernel, prior: Prior | None = None) -> ScaleKernel:
    """Return a kernel times a signal variance with the prior and the bounds of the default."""
    prior = prior or log_normal_prior(priors.SIGNAL_PRIOR_MEDIAN, priors.SIGNAL_PRIOR_WIDTH)
    whole = ScaleKernel(kernel, outputscale_prior=prior, outputscale_constraint=Interval(*priors.SIGNAL_BOUNDS))
    whole.double().outputscale = priors.SIGNAL_PRIOR_MEDIAN
    return whole


def stationary(name: str, owner: Owner, width: float, active_dims: tuple[int, ...] | None = None) -> Kernel:
    """Return a kernel by name, with one lengthscale for each parameter; plain GPyTorch where D = d."""
    d = int(owner.max()) + 1 if len(owner) else 0
    settings: dict[str, Any] = {}
    is_plain = active_dims is None and np.array_equal(owner, np.arange(len(owner)))
    prior, constraint = lengthscale_prior(d, width), Interval(*priors.LENGTHSCALE_BOUNDS)
    if is_plain:
        settings = {"ard_num_dims": d, "lengthscale_prior": prior, "lengthscale_constraint": constraint}
    base = RBFKernel(**settings) if name == "rbf" else MaternKernel(_NU[name], **settings)
    if not is_plain:
        return SharedLengthscaleKernel(base.double(), owner, prior, constraint, active_dims)
    base.double().lengthscale = priors.LENGTHSCALE_PRIOR_MEDIAN * math.sqrt(max(d, 1))
    return base


def kernel_by_name(
    name: str, owner: Owner, is_choice: NDArray[np.bool_], width: float, has_trend: bool = False
) -> Kernel:
    """Return the kernel of a surrogate by name.

    - `matern52`, `matern32`, `matern12`, `rbf`: from rough (`matern12`) to very smooth (`rbf`).
    - `linear`: a plane; for few trials of effects that only grow or fall.
    - `additive`: a sum over parameters; for many parameters that do not interact, such as one per layer.
    - `mixed`: numbers and unordered choices apart and together; for effects of numbers that differ between options.

    Args:
        name: The kernel.
        owner: Shape `(D,)`; the parameter of each feature.
        is_choice: Shape `(D,)`; whether that is an unordered choice.
        width: Of the prior on lengthscales.
        has_trend: Whether the trend of the default is added to a stationary kernel.

    Raises:
        GoalError: `mixed` without an unordered choice.
    """
    if name == "linear":
        prior = log_normal_prior(1.0, priors.TREND_PRIOR_WIDTH)
        return LinearKernel(ard_num_dims=len(owner), variance_prior=prior).double()
    if name == "additive":
        return AdditiveKernel(owner, width)
    if name == "mixed":
        return _mixed_kernel(owner, is_choice, width)
    kernel = scaled(stationary(name, owner, width))
    return kernel + TrendKernel().double() if has_trend else kernel


def _mixed_kernel(owner: Owner, is_choice: NDArray[np.bool_], width: float) -> Kernel:
    """Return numbers + choices + numbers * choices, as BoTorch's `MixedSingleTaskGP`."""
    if not is_choice.any():
        raise GoalError(
            f"{option('surrogate', 'mixed')} is for a space with an unordered Choice, but this one has none. Write "
            f"{option('surrogate', 'matern52')}."
        )

    def part(name: str, chosen: NDArray[np.bool_]) -> Kernel:
        own = np.unique(owner[chosen], return_inverse=True)[1].reshape(-1)
        return stationary(name, own, width, tuple(np.flatnonzero(chosen).tolist()))

    if is_choice.all():
        return scaled(part("rbf", is_choice))
    product = part("matern52", ~is_choice) * part("rbf", is_choice)
    return scaled(part("matern52", ~is_choice)) + scaled(part("rbf", is_choice)) + scaled(product)


def mean_by_name(name: str, n_features: int) -> Mean:
    """Return `constant`, `linear` or `zero` with the prior of the default on its coefficients."""
    prior = NormalPrior(0.0, MEAN_PRIOR_STD)
    if name == "zero":
        return ZeroMean().double()
    if name == "constant":
        return ConstantMean(constant_prior=prior).double()
    # LinearMean draws initial weights from the global generator. They are replaced, and its state is restored.
    with torch.random.fork_rng(devices=[]):
        linear = LinearMean(n_features).double()
    linear.register_prior("weights_prior", prior, "weights")
    linear.register_prior("bias_prior", deepcopy(prior), "bias")
    with torch.no_grad():
        linear.weights.zero_()
        linear.bias.zero_()
    return linear


def default_likelihood() -> GaussianLikelihood:
    """Return the likelihood of the default, with its prior and bounds."""
    prior = log_normal_prior(priors.NOISE_PRIOR_MEDIAN, priors.NOISE_PRIOR_WIDTH)
    likelihood = GaussianLikelihood(noise_prior=prior, noise_constraint=Interval(*priors.NOISE_BOUNDS)).double()
    likelihood.noise = priors.NOISE_PRIOR_MEDIAN
    return likelihood


# --- The parts of a person ---


def parts_of(
    spec: SurrogateSpec, owner: Owner, is_choice: NDArray[np.bool_], width: float, has_trend: bool
) -> tuple[Kernel, Mean, Likelihood]:
    """Return new kernel, mean and likelihood of a spec; objects are copied.

    Raises:
        GoalError: A factory raises or returns something else.
    """
    n = len(owner)
    if isinstance(spec.kernel, str):
        kernel = kernel_by_name(spec.kernel, owner, is_choice, width, has_trend)
    else:
        kernel = _made("kernel", spec.kernel, Kernel, n, needs_dimensions=True)
    is_named_mean = isinstance(spec.mean, str)
    mean = mean_by_name(spec.mean, n) if is_named_mean else _made("mean", spec.mean, Mean, n)
    is_default = isinstance(spec.likelihood, str)
    likelihood = default_likelihood() if is_default else _made("likelihood", spec.likelihood, Likelihood, None)
    return kernel, mean, likelihood


def _made(keyword: str, given: Any, kind: Any, n: int | None, *, needs_dimensions: bool = False) -> Any:
    """Return a copy of an object, or what a factory returns, as doubles."""
    if isinstance(given, kind):
        return deepcopy(given).double()
    # GPyTorch's own classes of means and likelihoods are factories without arguments.
    takes_none = not needs_dimensions and (n is None or (isinstance(given, type) and not _needs_argument(given)))
    try:
        made = given() if takes_none else given(n)
    except GoalError:
        raise
    except Exception as error:
        call = "()" if takes_none else f"({n})"
        raise GoalError(
            f"A {keyword} as a function returns a gpytorch {kind.__name__}, but {name_of(given)}{call} raised "
            f"{first_line(error)}"
        ) from error
    if not isinstance(made, kind):
        raise GoalError(
            f"A {keyword} as a function returns a gpytorch {kind.__name__}, but {name_of(given)} returned "
            f"{shown(made)}."
        )
    return deepcopy(made).double()


def _needs_argument(kind: type) -> bool:
    import inspect

    parameters = inspect.signature(kind).parameters.values()
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def check_kernel(kernel: Kernel, owner: Owner, labels: list[str]) -> None:
    """Check that a kernel takes the features and returns a covariance of them.

    Raises:
        GoalError: It is for another number of dimensions, or it raises.
    """
    n = len(owner)
    X = torch.rand(3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    text = ", ".join(labels[:6]) + (", ..." if len(labels) > 6 else "")
    fitting = f"the encoded parameters ({text}) have {n} dimension{'s' * (n != 1)}"
    for part in kernel.modules():
        wrong = getattr(part, "ard_num_dims", None)
        dims = getattr(part, "active_dims", None)
        if dims is not None and len(dims) and int(dims.max()) >= n:
            raise GoalError(
                f"The kernel {name_of(kernel)} reads dimension {int(dims.max())}, but {fitting}, which are "
                "counted from 0."
            )
        if wrong is not None and wrong != (n if dims is None else len(dims)) and part is kernel:
            raise GoalError(f"The kernel {name_of(kernel)} is for {wrong} dimensions, but {fitting}.")
    try:
        with torch.no_grad():
            covariance = kernel(X).to_dense()
    except Exception as error:
        raise GoalError(
            f"The kernel {name_of(kernel)} cannot be evaluated: {fitting}, and it raised {first_line(error)}"
        ) from error
    if tuple(covariance.shape) != (3, 3):
        raise GoalError(
            f"The kernel {name_of(kernel)} returns one covariance matrix, but for 3 points it returned the "
            f"shape {tuple(covariance.shape)}. Leave out batch_shape and last_dim_is_batch."
        )
    if not bool(torch.isfinite(covariance).all()):
        raise GoalError(
            f"The kernel {name_of(kernel)} returns finite covariances, but returned {_first_odd(covariance)}."
        )


def _first_odd(values: torch.Tensor) -> float:
    return float(values[~torch.isfinite(values)][0])


def check_likelihood(likelihood: Likelihood) -> None:
    """Check that exact inference is possible with a likelihood, for any number of points.

    Raises:
        GoalError: It is not Gaussian, or it holds the noise of given points.
    """
    if isinstance(likelihood, FixedNoiseGaussianLikelihood):
        raise GoalError(
            f"The likelihood of a surrogate is for any number of points, but a {name_of(likelihood)} holds the noise "
            f"of given ones. Write {option('noise=')} of a SurrogateSpec or {option('noise', 'accuracy=accuracy_std')}."
        )
    if not isinstance(likelihood, _GaussianLikelihoodBase):
        raise GoalError(
            f"The likelihood of a surrogate is Gaussian, for exact inference, but got a {name_of(likelihood)}. Write a "
            f"function (X, Y) that returns a botorch Model for any other one."
        )


def default_modules(spec: ModelSpec, owner: Owner, width: float) -> tuple[Kernel, Mean, Likelihood]:
    """Return the GPyTorch modules that define what the closed form of `spec` evaluates."""
    named = SurrogateSpec(spec.kernel, spec.mean)
    return parts_of(named, owner, np.zeros(len(owner), dtype=bool), width, spec.has_trend)
