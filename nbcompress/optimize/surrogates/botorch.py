"""Convert a fitted Gaussian process to a BoTorch model; qLogNEHVI and box decompositions by BoTorch.

This is the only module of the folder that loads torch. It does not change the global random state or the default dtype
of torch: every tensor has an explicit dtype, and random numbers have their own generator.

References:
    Daulton, Balandat, Bakshy (2021), "Parallel Bayesian Optimization of Multiple Noisy Objectives with Expected
    Hypervolume Improvement"; Ament et al. (2023), see `acquisition.py`, for its logarithm.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from nbcompress.optimize.history import Array
from nbcompress.optimize.surrogates.closed_form import NOISE_FLOOR, GaussianProcess

with warnings.catch_warnings():
    # linear_operator uses torch.jit.script at import, which is deprecated; a user can do nothing about it.
    warnings.simplefilter("ignore", DeprecationWarning)
    import botorch
    import gpytorch
    import torch
    from botorch.acquisition.multi_objective import logei as botorch_logei
    from botorch.models.gp_regression import SingleTaskGP
    from botorch.models.model_list_gp_regression import ModelListGP
    from botorch.sampling.normal import SobolQMCNormalSampler
    from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import Kernel, MaternKernel, RBFKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.means import ConstantMean, LinearMean, Mean, ZeroMean
    from linear_operator.utils.warnings import NumericalWarning

# Quasi-random samples of the front. The box decomposition of every sample dominates the cost.
N_SAMPLES = 32
# Rows scored at once. Bounds memory: every row is combined with every sample and every box.
CHUNK = 128


@contextmanager
def _settings() -> Iterator[None]:
    """Use exact linear algebra; suppress warnings about input scaling (features need not lie in a cube) and jitter."""
    with (
        warnings.catch_warnings(),
        botorch.settings.validate_input_scaling(False),
        gpytorch.settings.fast_computations(False, False, False),
        gpytorch.settings.max_cholesky_size(10**6),
    ):
        warnings.simplefilter("ignore", NumericalWarning)
        yield


def tensor(array: Array) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float64, device="cpu")


class TrendKernel(Kernel):  # type: ignore[misc]  # GPyTorch comes without types
    """The covariance of the trend, `t2 P P'`; see `trend_basis`."""

    def __init__(self, variance: float) -> None:
        super().__init__()
        self.variance = variance

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


def as_botorch(model: GaussianProcess, sign: float = 1.0) -> SingleTaskGP:
    """Return a BoTorch model over features of `sign * y`, with the same mean, variance and likelihood."""
    n_features = len(model.owner)
    base = {"matern52": lambda: MaternKernel(2.5, ard_num_dims=n_features), "rbf": lambda: RBFKernel(n_features)}
    kernel = ScaleKernel(base[model.spec.kernel]()).double()
    kernel.outputscale = model.hyper.signal
    kernel.base_kernel.lengthscale = tensor(model.hyper.lengthscales[model.owner])
    covariance = kernel + TrendKernel(model.hyper.trend) if model.hyper.trend > 0 else kernel
    likelihood = GaussianLikelihood(noise_constraint=GreaterThan(NOISE_FLOOR / 10)).double()
    likelihood.noise = model.hyper.noise
    with _settings():
        model = SingleTaskGP(
            tensor(model.features),
            tensor(sign * model.y)[:, None],
            likelihood=likelihood,
            covar_module=covariance,
            mean_module=_mean(model, sign),
            outcome_transform=None,
        )
    return model.eval()


def _mean(model: GaussianProcess, sign: float) -> Mean:
    b = tensor(sign * model.b)
    with torch.no_grad():
        if model.spec.mean == "zero":
            return ZeroMean()
        if model.spec.mean == "constant":
            constant = ConstantMean().double()
            constant.constant.copy_(b[0])
            return constant
        # LinearMean draws initial weights from the global generator. They are replaced, and its state is restored.
        with torch.random.fork_rng(devices=[]):
            linear = LinearMean(len(model.owner)).double()
        linear.weights.copy_(b[1:, None])
        linear.bias.copy_(b[:1])
        return linear


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Keep BoTorch from compiling C++ code at first use, which would take half a minute."""
    before = getattr(botorch_logei, "_load_attempted", False)
    botorch_logei._load_attempted = True
    try:
        yield
    finally:
        botorch_logei._load_attempted = before


def box_decomposition(front: Array, reference: Array) -> tuple[Array, Array]:
    """Return boxes of the region that a front `(K, m)` does not dominate: lower and upper corners, each `(B, m)`."""
    partitioning = FastNondominatedPartitioning(ref_point=tensor(-reference), Y=tensor(-front))
    high, low = (-corner.numpy() for corner in partitioning.get_hypercell_bounds())
    return np.asarray(low), np.asarray(high)


class QLogNoisyExpectedHypervolumeImprovement:
    """qLogNEHVI of two to four losses at one point: the losses of known and pending points are sampled.

    Args:
        models: One for each loss, not conditioned on pending points.
        X_baseline: Shape `(n, D)`; features of the points whose front is to be improved, with the pending ones.
        reference: Shape `(m,)`, standardized losses.
        seed: Of the quasi-random samples.
    """

    def __init__(self, models: Sequence[GaussianProcess], X_baseline: Array, reference: Array, seed: int) -> None:
        with _settings(), _without_compiler():
            self._function = botorch_logei.qLogNoisyExpectedHypervolumeImprovement(
                model=ModelListGP(*[as_botorch(model, -1.0) for model in models]),
                ref_point=tensor(-reference),
                X_baseline=tensor(X_baseline),
                sampler=SobolQMCNormalSampler(torch.Size([N_SAMPLES]), seed=seed),
                prune_baseline=False,
            )

    def score(self, features: Array) -> Array:
        with _settings(), torch.no_grad():
            parts = [self._function(part[:, None]) for part in torch.split(tensor(features), CHUNK)]
        return np.asarray(torch.cat(parts).numpy() if parts else np.empty(0))

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        x = tensor(features).requires_grad_(True)
        with _settings(), torch.enable_grad():
            value = self._function(x[:, None])
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return np.asarray(value.detach().numpy()), np.asarray(gradient.numpy())
