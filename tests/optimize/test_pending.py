"""The gain while others run: against BoTorch's qLogEI; and its gradient."""

import numpy as np
import pytest
import torch

from nbcompress.optimize.acquisition import improvement
from nbcompress.optimize.botorch_model import as_botorch, tensor
from nbcompress.optimize.pending import ImprovementWhilePending
from nbcompress.optimize.surrogate import Form, GaussianProcess, Hyperparameters

HYPER = Hyperparameters(np.array([0.3, 0.5]), 1.2, 1e-4)
PENDING = np.array([[0.2, 0.3], [0.8, 0.9]])


def process() -> GaussianProcess:
    rng = np.random.default_rng(0)
    return GaussianProcess(Form(), HYPER, np.array([0, 1]), rng.random((10, 2)), rng.standard_normal(10))


def gain(n_draws: int = 64) -> ImprovementWhilePending:
    one = process()
    return ImprovementWhilePending(one, PENDING, float(one.y.min()), np.random.default_rng(1), n_draws)


def test_equal_to_what_botorch_adds_up() -> None:
    """qLogEI of x and what runs, less that of what runs alone; by so many samples that both agree to a percent."""
    from botorch.acquisition.logei import qLogExpectedImprovement
    from botorch.sampling.normal import SobolQMCNormalSampler

    one = process()
    sampler = SobolQMCNormalSampler(torch.Size([2**15]), seed=0)
    best = -float(one.y.min())
    theirs = qLogExpectedImprovement(as_botorch(one, -1.0), best, sampler, tau_max=1e-4, tau_relu=1e-8)
    x = np.array([[0.1, 0.9], [0.4, 0.4], [0.25, 0.35], [0.6, 0.1]])
    with torch.no_grad():
        alone = float(theirs(tensor(PENDING)).exp())
        together = [float(theirs(tensor(np.vstack([row, PENDING]))).exp()) for row in x]
    np.testing.assert_allclose(np.exp(gain(2**14).score(x)), np.array(together) - alone, rtol=0.02, atol=2e-5)


def test_gradient() -> None:
    found = gain()
    for x in np.random.default_rng(2).random((4, 2)):
        numeric = [(found.score((x + e)[None]) - found.score((x - e)[None]))[0] / 2e-6 for e in 1e-6 * np.eye(2)]
        value, gradient = found.score_with_gradients(x[None])
        assert value[0] == pytest.approx(found.score(x[None])[0])
        np.testing.assert_allclose(gradient[0], numeric, rtol=1e-5, atol=1e-6)


def test_where_one_runs_there_is_least_to_gain() -> None:
    one = process()
    nothing_runs = improvement("logei", one, float(one.y.min())).score(PENDING)
    assert (gain().score(PENDING) < nothing_runs - 1).all()
