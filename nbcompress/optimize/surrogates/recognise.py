"""Which GPyTorch modules the closed form evaluates: exactly those that `definition.py` builds, and plain ones.

Only exact types are recognised, since a subclass may compute anything. A module that is changed in any respect (an
active dimension, a batch, a prior of another width, a parameter that is not trained) is not recognised: GPyTorch
evaluates it.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from nbcompress.optimize.surrogates import fit as priors
from nbcompress.optimize.surrogates.closed_form import MEAN_PRIOR_STD, ModelSpec
from nbcompress.optimize.surrogates.definition import (
    Owner,
    SharedLengthscaleKernel,
    TrendKernel,
    lengthscale_prior,
    log_normal_prior,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # see `definition.py`
    import torch
    from gpytorch.constraints import GreaterThan, Interval, Positive
    from gpytorch.kernels import AdditiveKernel as KernelSum
    from gpytorch.kernels import Kernel, MaternKernel, RBFKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood, Likelihood
    from gpytorch.likelihoods.noise_models import HomoskedasticNoise
    from gpytorch.means import ConstantMean, LinearMean, Mean, ZeroMean
    from gpytorch.priors import LogNormalPrior, NormalPrior

_MATERN = {2.5: "matern52", 1.5: "matern32", 0.5: "matern12"}
# GPyTorch's `Positive` has no bounds; the closed form searches this far, in standardized units.
UNBOUNDED = (1e-4, 1e4)
# Two numbers of a prior or a constraint are equal to this relative difference: GPyTorch may hold them in float32.
TOLERANCE = 1e-6


class _Unknown(Exception):
    """The modules are not those that the closed form evaluates."""


def recognise(kernel: Kernel, mean: Mean, likelihood: Likelihood, owner: Owner, width: float) -> ModelSpec | None:
    """Return what the closed form evaluates in the place of these modules, or None.

    Args:
        kernel, mean, likelihood: As a `SingleTaskGP` gets them.
        owner: Shape `(D,)`; the parameter of each feature.
        width: Of the default's prior on lengthscales.
    """
    try:
        return _recognised(kernel, mean, likelihood, owner, width)
    except _Unknown:
        return None


def _require(condition: bool) -> None:
    if not condition:
        raise _Unknown


def _recognised(kernel: Kernel, mean: Mean, likelihood: Likelihood, owner: Owner, width: float) -> ModelSpec:
    flat: set[str] = set()
    bounds: dict[str, tuple[float, float]] = {}

    def note(name: str, has_prior: bool, limits: tuple[float, float], default: tuple[float, float]) -> None:
        if not has_prior:
            flat.add(name)
        if not np.allclose(limits, default, rtol=TOLERANCE):
            bounds[name] = limits

    scaled, has_trend = kernel, False
    if type(kernel) is KernelSum:
        _require(len(kernel.kernels) == 2 and _has_only(kernel, {"kernels"}) and type(kernel.kernels[1]) is TrendKernel)
        scaled, has_trend = kernel.kernels[0], True
        _check_trend(kernel.kernels[1])
    _require(type(scaled) is ScaleKernel and _is_plain(scaled))
    _require(_has_only(scaled, {"base_kernel", "raw_outputscale_constraint", "outputscale_prior"}))
    signal = log_normal_prior(priors.SIGNAL_PRIOR_MEDIAN, priors.SIGNAL_PRIOR_WIDTH)
    note(
        "signal",
        _has_prior(scaled, "outputscale_prior", signal),
        _limits(scaled.raw_outputscale_constraint),
        priors.SIGNAL_BOUNDS,
    )
    base = scaled.base_kernel
    d = int(owner.max()) + 1 if len(owner) else 0
    prior = lengthscale_prior(d, width)
    if type(base) is SharedLengthscaleKernel:
        _require(_is_plain(base) and np.array_equal(base.owner.numpy(), owner))
        _require(_has_only(base, {"base_kernel", "raw_lengthscales_constraint", "lengthscales_prior"}))
        inner = base.base_kernel
        _require(_is_plain(inner) and inner.ard_num_dims is None and _has_only(inner, {"raw_lengthscale_constraint"}))
        _require(not inner.raw_lengthscale.requires_grad and abs(float(inner.lengthscale) - 1.0) < TOLERANCE)
        has_prior = _has_prior(base, "lengthscales_prior", prior)
        limits, trained = _limits(base.raw_lengthscales_constraint), base.raw_lengthscales
    else:
        inner = base
        _require(_is_plain(base) and base.ard_num_dims == len(owner) and np.array_equal(owner, np.arange(len(owner))))
        _require(_has_only(base, {"raw_lengthscale_constraint", "lengthscale_prior"}))
        has_prior = _has_prior(base, "lengthscale_prior", prior)
        limits, trained = _limits(base.raw_lengthscale_constraint), base.raw_lengthscale
    note("lengthscale", has_prior, limits, priors.LENGTHSCALE_BOUNDS)
    _require(trained.requires_grad and scaled.raw_outputscale.requires_grad)
    note("noise", *_noise(likelihood), priors.NOISE_BOUNDS)
    mean_name, has_mean_prior = _mean(mean, len(owner))
    if not has_mean_prior:
        flat.add("mean")
    listed = tuple((name, *limits) for name, limits in sorted(bounds.items()))
    return ModelSpec(_stationary_name(inner), mean_name, has_trend, frozenset(flat), listed)


def _stationary_name(kernel: Kernel) -> str:
    if type(kernel) is RBFKernel:
        return "rbf"
    _require(type(kernel) is MaternKernel and kernel.nu in _MATERN)
    return _MATERN[kernel.nu]


def _is_plain(kernel: Kernel) -> bool:
    """Whether a kernel reads all features and has no batch."""
    return isinstance(kernel, Kernel) and kernel.active_dims is None and len(kernel.batch_shape) == 0


def _has_only(module: torch.nn.Module, names: set[str]) -> bool:
    """Whether a module has no other parts, and no hook that would change what it computes."""
    has_hooks = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return not has_hooks and set(module._modules) <= names


def _has_prior(module: Any, name: str, default: Any) -> bool:
    """Whether a module has the prior of the default; False without a prior; another one is not recognised."""
    registered = dict(module._priors)
    _require(set(registered) <= {name})
    if name not in registered:
        return False
    prior = registered[name][0]
    _require(type(prior) is type(default))
    if type(prior) is LogNormalPrior:
        same = np.isclose([float(prior.loc), float(prior.scale)], [float(default.loc), float(default.scale)], TOLERANCE)
        _require(bool(same.all()))
    return True


def _limits(constraint: Any) -> tuple[float, float]:
    _require(type(constraint) in (Interval, Positive, GreaterThan))
    low, high = float(constraint.lower_bound), float(constraint.upper_bound)
    low = max(low, UNBOUNDED[0]) if type(constraint) is Positive else low
    _require(low > 0)
    return low, high if math.isfinite(high) else UNBOUNDED[1]


def _check_trend(kernel: TrendKernel) -> None:
    _require(_is_plain(kernel) and _has_only(kernel, {"raw_variance_constraint", "variance_prior"}))
    default = log_normal_prior(priors.TREND_PRIOR_MEDIAN, priors.TREND_PRIOR_WIDTH)
    _require(_has_prior(kernel, "variance_prior", default) and kernel.raw_variance.requires_grad)
    limits = _limits(kernel.raw_variance_constraint)
    _require(bool(np.allclose(limits, priors.TREND_BOUNDS, rtol=TOLERANCE)))


def _noise(likelihood: Likelihood) -> tuple[bool, tuple[float, float]]:
    _require(type(likelihood) is GaussianLikelihood and _has_only(likelihood, {"noise_covar"}))
    covar = likelihood.noise_covar
    _require(type(covar) is HomoskedasticNoise and _has_only(covar, {"raw_noise_constraint", "noise_prior"}))
    _require(tuple(covar.raw_noise.shape) == (1,) and covar.raw_noise.requires_grad)
    default = log_normal_prior(priors.NOISE_PRIOR_MEDIAN, priors.NOISE_PRIOR_WIDTH)
    return _has_prior(covar, "noise_prior", default), _limits(covar.raw_noise_constraint)


def _mean(mean: Mean, n_features: int) -> tuple[str, bool]:
    """Return the name of a mean, and whether its coefficients have the prior of the default."""
    if type(mean) is ZeroMean:
        _require(_has_only(mean, set()) and len(mean.batch_shape) == 0)
        return "zero", True
    if type(mean) is ConstantMean:
        _require(tuple(mean.raw_constant.shape) == () and mean.raw_constant.requires_grad)
        _require(_has_only(mean, {"mean_prior"}) and getattr(mean, "raw_constant_constraint", None) is None)
        return "constant", _has_normal_prior(mean, "mean_prior")
    _require(type(mean) is LinearMean and _has_only(mean, {"weights_prior", "bias_prior"}))
    _require(tuple(mean.weights.shape) == (n_features, 1) and mean.bias is not None)
    _require(mean.weights.requires_grad and mean.bias.requires_grad and len(mean._priors) == 2)
    # Without priors the coefficients of few points are not determined, so the closed form does not evaluate that.
    _require(all(_is_default_normal(prior) for prior, *_ in mean._priors.values()))
    return "linear", True


def _has_normal_prior(module: Any, name: str) -> bool:
    if not module._priors:
        return False
    _require(set(module._priors) == {name} and _is_default_normal(module._priors[name][0]))
    return True


def _is_default_normal(prior: Any) -> bool:
    return type(prior) is NormalPrior and float(prior.loc) == 0.0 and float(prior.scale) == MEAN_PRIOR_STD
