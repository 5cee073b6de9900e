"""The definition of the failure classifier in GPyTorch, whose posterior is found by variational inference.

`classifier.py` evaluates the same model without torch; a test compares the two. Use this one to look at the model with
the tools of GPyTorch, or to begin a model of your own.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from nbcompress.optimize.history import Array
from nbcompress.optimize.surrogates.botorch import exact_algebra, tensor
from nbcompress.optimize.surrogates.classifier import FAILED, Classifier
from nbcompress.optimize.surrogates.definition import default_modules

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # see `definition.py`
    import torch
    from gpytorch.distributions import MultivariateNormal
    from gpytorch.likelihoods.likelihood import _OneDimensionalLikelihood
    from gpytorch.mlls import VariationalELBO
    from gpytorch.models import ApproximateGP
    from gpytorch.variational import CholeskyVariationalDistribution, UnwhitenedVariationalStrategy

# Steps of L-BFGS of the fit.
N_STEPS = 60


class FailureLikelihood(_OneDimensionalLikelihood):  # type: ignore[misc]  # GPyTorch comes without types
    """Whether a trial fails: Bernoulli with the probability `c + (1 - c) Phi(f)`; c is the chance of any trial."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, function_samples: torch.Tensor, *_: Any, **__: Any) -> torch.distributions.Bernoulli:
        share = torch.special.ndtr(function_samples)
        return torch.distributions.Bernoulli(probs=(self.chance + (1.0 - self.chance) * share).clamp(1e-12, 1 - 1e-12))


class FailureModel(ApproximateGP):  # type: ignore[misc]
    """The latent process f of a fitted classifier: its kernel and mean, with every trial as an inducing point."""

    def __init__(self, fitted: Classifier) -> None:
        X = tensor(fitted.latent.features)
        strategy = UnwhitenedVariationalStrategy(
            self, X, CholeskyVariationalDistribution(len(X)).double(), learn_inducing_locations=False
        )
        super().__init__(strategy)
        self.covar_module, self.mean_module, _ = default_modules(fitted.latent.spec, fitted.latent.owner, 1.0)
        self.covar_module.raw_outputscale_constraint = type(self.covar_module.raw_outputscale_constraint)(1e-3, 1e5)
        self.covar_module.outputscale = fitted.hyper.signal
        base = self.covar_module.base_kernel
        name = "lengthscales" if hasattr(base, "lengthscales") else "lengthscale"
        setattr(base, name, tensor(fitted.hyper.lengthscales)[None])
        if len(fitted.latent.b):
            self.mean_module.constant = float(fitted.latent.b[0])
        for part in (self.covar_module, self.mean_module):
            part.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> MultivariateNormal:
        return MultivariateNormal(self.mean_module(x), self.covar_module(x))


def fit_variational(fitted: Classifier, labels: Array) -> tuple[FailureModel, FailureLikelihood]:
    """Return the GPyTorch model with the classifier's hyperparameters, its posterior fitted to labels (1 or -1).

    References:
        Hensman, Matthews, Ghahramani (2015), "Scalable Variational Gaussian Process Classification".
    """
    model, likelihood = FailureModel(fitted), FailureLikelihood(fitted.chance)
    X, y = tensor(fitted.latent.features), tensor((labels == FAILED).astype(float))
    evidence = VariationalELBO(likelihood, model, num_data=len(y))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.LBFGS(trained, lr=1.0, max_iter=N_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = -evidence(model(X), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with exact_algebra():
        model.train()
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return model.eval(), likelihood.eval()


def failure_probability(model: FailureModel, likelihood: FailureLikelihood, features: Array) -> Array:
    """Return the probability that a trial fails at features `(m, D)`: shape `(m,)`."""
    with torch.no_grad(), exact_algebra():
        found = model(tensor(features))
        share = torch.special.ndtr(found.mean / (1.0 + found.variance).sqrt())
        return np.asarray((likelihood.chance + (1.0 - likelihood.chance) * share).numpy())
