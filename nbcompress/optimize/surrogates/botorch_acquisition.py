"""Acquisition functions of BoTorch at one point (`q = 1`), and box decompositions by BoTorch.

References:
    Daulton, Balandat, Bakshy (2021), "Parallel Bayesian Optimization of Multiple Noisy Objectives with Expected
    Hypervolume Improvement"; Ament et al. (2023), see `acquisition.py`, for its logarithm.
    Frazier, Powell, Dayanik (2009), "The Knowledge-Gradient Policy for Correlated Normal Beliefs".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import ndtri

from nbcompress.errors import GoalError, first_line, option, shown
from nbcompress.optimize.history import Array
from nbcompress.optimize.surrogates.botorch import (
    as_botorch,
    as_model,
    exact_algebra,
    fixed_random_state,
    tensor,
)
from nbcompress.optimize.surrogates.closed_form import VARIANCE_FLOOR, GaussianProcess, Hyperparameters, ModelSpec
from nbcompress.optimize.surrogates.protocol import Surrogate, name_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # see `definition.py`
    import torch
    from botorch.acquisition.acquisition import AcquisitionFunction as BotorchAcquisition
    from botorch.acquisition.logei import qLogExpectedImprovement, qLogNoisyExpectedImprovement
    from botorch.acquisition.multi_objective import logei as botorch_logei
    from botorch.models.model import Model
    from botorch.models.model_list_gp_regression import ModelListGP
    from botorch.sampling.normal import SobolQMCNormalSampler
    from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning

# Quasi-random samples of the front. The box decomposition of every sample dominates the cost.
N_SAMPLES = 32
# Rows scored at once. Bounds memory: every row is combined with every sample and every box.
CHUNK = 128
# Outcomes of the new point over which a knowledge gradient averages.
N_OUTCOMES = 64
# The seed of the points that a factory is tried with before the first trial.
TRY_OUT_SEED = 0


@dataclass(frozen=True, eq=False)
class TorchAcquisition:
    """An acquisition function of BoTorch for one point, as an `AcquisitionFunction` of features.

    Args:
        function: Takes `(m, 1, D)` and returns `(m,)`.
        is_log: Whether its values are logarithms.
        reference: Values that are no logarithms are counted from here, and their logarithm is returned, so that the
            log probabilities of constraints can be added; None returns the values as they are.
    """

    function: Callable[[torch.Tensor], torch.Tensor]
    is_log: bool = True
    reference: float | None = None

    def _values(self, X: torch.Tensor) -> torch.Tensor:
        values = self.function(X[:, None])
        if values.shape != (len(X),):
            raise ValueError(f"the acquisition of {len(X)} points has the shape {tuple(values.shape)}")
        if self.is_log or self.reference is None:
            return values
        return (values - self.reference).clamp_min(1e-300).log()

    def score(self, features: Array) -> Array:
        with exact_algebra(), _without_compiler(), torch.no_grad():
            parts = [self._values(part) for part in torch.split(tensor(features), CHUNK)]
        return np.asarray(torch.cat(parts).numpy() if parts else np.empty(0))

    def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
        X = tensor(features).requires_grad_(True)
        with exact_algebra(), _without_compiler(), torch.enable_grad():
            value = self._values(X)
            (gradient,) = torch.autograd.grad(value.sum(), X)
        return np.asarray(value.detach().numpy()), np.nan_to_num(gradient.numpy())

    def counted_from_lowest(self, features: Array) -> TorchAcquisition:
        """Return the function for a product with probabilities; values below 0 are counted from the lowest of these."""
        if self.is_log:
            return self
        lowest = float(np.min(TorchAcquisition(self.function, is_log=True).score(features), initial=0.0))
        return TorchAcquisition(self.function, False, lowest)


def acquisition_by_factory(
    factory: Callable[..., Any], model: Model, X_baseline: Array, X_pending: Array, best: float
) -> TorchAcquisition:
    """Return the acquisition function that a factory of a person makes.

    Args:
        factory: Called as `factory(model, X_baseline, X_pending, best_f)`.
        model: Of the standardized values, larger is better.
        X_baseline: Shape `(n, D)`; features of the known feasible points.
        X_pending: Shape `(p, D)`.
        best: The best of these values.

    Raises:
        GoalError: It returns something else.
    """
    pending = tensor(X_pending) if len(X_pending) else None
    with exact_algebra(), _without_compiler():
        made = factory(model, tensor(X_baseline), pending, torch.tensor(best, dtype=torch.float64))
    if not isinstance(made, BotorchAcquisition):
        raise GoalError(
            f"{option('acquisition')} as a function returns a botorch AcquisitionFunction, but {name_of(factory)} "
            f"returned {shown(made)}."
        )
    return TorchAcquisition(made, is_log=bool(getattr(made, "_log", False)))


def check_acquisition_factory(factory: Callable[..., Any], n_features: int) -> None:
    """Make the acquisition function of a factory for made-up data, and evaluate it at one point.

    Raises:
        GoalError: It raises, or returns something else.
    """
    rng = np.random.default_rng(TRY_OUT_SEED)
    X, y = rng.random((4, n_features)), np.array([-1.2, -0.3, 0.4, 1.1])
    hyper = Hyperparameters(np.full(n_features, 0.5), 1.0, 1e-4)
    model = as_botorch(GaussianProcess(ModelSpec(), hyper, np.arange(n_features), X, y), -1.0)
    with fixed_random_state(TRY_OUT_SEED):
        try:
            made = acquisition_by_factory(factory, model, X, np.empty((0, n_features)), 1.2)
            made.score(X[:2] * 0.9)
        except GoalError:
            raise
        except Exception as error:
            raise GoalError(
                f"{option('acquisition')}: {name_of(factory)}(model, X_baseline, X_pending, best_f) and one evaluation "
                f"for one point (q=1) raised {first_line(error)}"
            ) from error


def noisy_expected_improvement(model: Model, X_baseline: Array, X_pending: Array, seed: int) -> TorchAcquisition:
    """Return BoTorch's qLogNEI at one point: the losses of the known points are sampled together."""
    with exact_algebra(), _without_compiler():
        function = qLogNoisyExpectedImprovement(
            model=model,
            X_baseline=tensor(X_baseline),
            X_pending=tensor(X_pending) if len(X_pending) else None,
            sampler=SobolQMCNormalSampler(torch.Size([N_SAMPLES]), seed=seed),
            prune_baseline=True,
        )
    return TorchAcquisition(function)


def sampled_expected_improvement(model: Model, X_pending: Array, best: float, seed: int) -> TorchAcquisition:
    """Return BoTorch's qLogEI at one point: the outcomes of the pending points are sampled."""
    with exact_algebra(), _without_compiler():
        function = qLogExpectedImprovement(
            model=model,
            best_f=torch.tensor(best, dtype=torch.float64),
            X_pending=tensor(X_pending),
            sampler=SobolQMCNormalSampler(torch.Size([N_SAMPLES]), seed=seed),
        )
    return TorchAcquisition(function)


@dataclass(frozen=True, eq=False)
class DiscreteKnowledgeGradient:
    """The expected gain of the best mean over given points and the new one, after one more value at the new one.

    With the means m and the covariances c(., x) of the points, and the new value's deviation z ~ N(0, 1),

        KG(x) = E_z[max_i (m_i + c(i, x) z / sqrt(c(x, x) + v))] - max_i m_i

    The expectation is the mean over evenly spread quantiles of z.

    Args:
        model: Of the standardized values, larger is better.
        points: Shape `(k, D)`.
    """

    model: Model
    points: Array
    _z: torch.Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        z = ndtri((np.arange(N_OUTCOMES) + 0.5) / N_OUTCOMES)
        object.__setattr__(self, "_z", tensor(z))

    def __call__(self, X: torch.Tensor) -> torch.Tensor:
        every = torch.cat([X, tensor(self.points).expand(len(X), -1, -1)], dim=-2)
        posterior: Any = self.model.posterior(every)
        distribution = posterior.distribution
        mean, to_new = distribution.mean, distribution.covariance_matrix[..., 0]
        noise = getattr(getattr(self.model, "likelihood", None), "noise", torch.zeros(1, dtype=X.dtype)).mean()
        slopes = to_new / (to_new[..., :1].clamp_min(VARIANCE_FLOOR) + noise).sqrt()
        outcomes = mean[..., None] + slopes[..., None] * self._z
        gain: torch.Tensor = outcomes.amax(-2).mean(-1) - mean.amax(-1)
        return gain


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


def noisy_hypervolume_improvement(
    models: Sequence[Surrogate], X_baseline: Array, reference: Array, seed: int
) -> TorchAcquisition:
    """Return BoTorch's qLogNEHVI of two to four losses at one point: those of known and pending points are sampled.

    Args:
        models: One for each loss, not conditioned on pending points.
        X_baseline: Shape `(n, D)`; features of the points whose front is to be improved, with the pending ones.
        reference: Shape `(m,)`, standardized losses.
        seed: Of the quasi-random samples.
    """
    with exact_algebra(), _without_compiler():
        function = botorch_logei.qLogNoisyExpectedHypervolumeImprovement(
            model=ModelListGP(*[as_model(model) for model in models]),
            ref_point=tensor(-reference),
            X_baseline=tensor(X_baseline),
            sampler=SobolQMCNormalSampler(torch.Size([N_SAMPLES]), seed=seed),
            prune_baseline=False,
        )
    return TorchAcquisition(function)
