"""A fitted process as a GPyTorch/BoTorch model, qLogNEHVI on such models, and the boxes that a front leaves.

The only module that loads torch. It leaves the global random state and the default dtype of torch alone: every tensor
is double by name, and random numbers come with their own generator.

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
from nbcompress.optimize.surrogate import NOISE_FLOOR, GaussianProcess

with warnings.catch_warnings():
    # linear_operator uses torch.jit.script at import, which torch announces to remove; nothing a user can act on.
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

# Quasi-random samples of the front; its boxes are worked out for every one of them, which is what costs.
N_SAMPLES = 32
# Rows scored at once; a bound on memory, since every row meets every sample and every box.
CHUNK = 128


@contextmanager
def _settings() -> Iterator[None]:
    """Exact algebra; and no remarks about inputs (features need not lie in a cube) or jitter (both are dealt with)."""
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


class Trend(Kernel):  # type: ignore[misc]  # GPyTorch comes without types
    """The covariance of a trend, `t2 P P'`; see `trend.py`."""

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


def as_botorch(process: GaussianProcess, sign: float = 1.0) -> SingleTaskGP:
    """Return the process of `sign * y` as a BoTorch model over features: equal mean, variance and likelihood."""
    n_features = len(process.owner)
    base = {"matern52": lambda: MaternKernel(2.5, ard_num_dims=n_features), "rbf": lambda: RBFKernel(n_features)}
    kernel = ScaleKernel(base[process.form.kernel]()).double()
    kernel.outputscale = process.hyper.signal
    kernel.base_kernel.lengthscale = tensor(process.hyper.lengthscales[process.owner])
    covariance = kernel + Trend(process.hyper.trend) if process.hyper.trend > 0 else kernel
    likelihood = GaussianLikelihood(noise_constraint=GreaterThan(NOISE_FLOOR / 10)).double()
    likelihood.noise = process.hyper.noise
    with _settings():
        model = SingleTaskGP(
            tensor(process.features),
            tensor(sign * process.y)[:, None],
            likelihood=likelihood,
            covar_module=covariance,
            mean_module=_mean(process, sign),
            outcome_transform=None,
        )
    return model.eval()


def _mean(process: GaussianProcess, sign: float) -> Mean:
    b = tensor(sign * process.b)
    with torch.no_grad():
        if process.form.mean == "zero":
            return ZeroMean()
        if process.form.mean == "constant":
            constant = ConstantMean().double()
            constant.constant.copy_(b[0])
            return constant
        # LinearMean draws its first weights from the global generator; these are replaced, and the state restored.
        with torch.random.fork_rng(devices=[]):
            linear = LinearMean(len(process.owner)).double()
        linear.weights.copy_(b[1:, None])
        linear.bias.copy_(b[:1])
        return linear


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Keep BoTorch from compiling C++ on the user's machine at first use (it would take half a minute)."""
    before = getattr(botorch_logei, "_load_attempted", False)
    botorch_logei._load_attempted = True
    try:
        yield
    finally:
        botorch_logei._load_attempted = before


def boxes(front: Array, reference: Array) -> tuple[Array, Array]:
    """Return the boxes that a front `(K, m)` leaves below the reference: lower and upper corners, each `(B, m)`."""
    found = FastNondominatedPartitioning(ref_point=tensor(-reference), Y=tensor(-front)).get_hypercell_bounds()
    high, low = (-corner.numpy() for corner in found)
    return np.asarray(low), np.asarray(high)


class NoisyHypervolume:
    """qLogNEHVI of two to four losses at one point: what the losses of known and pending points are is drawn.

    Args:
        processes: One for each loss, before they believe anything of pending points.
        known: Shape `(n, D)`; features of the points whose front is to be improved, pending ones among them.
        reference: Shape `(m,)`, standardised losses.
        seed: Of the quasi-random samples.
    """

    def __init__(self, processes: Sequence[GaussianProcess], known: Array, reference: Array, seed: int) -> None:
        with _settings(), _without_compiler():
            self._function = botorch_logei.qLogNoisyExpectedHypervolumeImprovement(
                model=ModelListGP(*[as_botorch(one, -1.0) for one in processes]),
                ref_point=tensor(-reference),
                X_baseline=tensor(known),
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
