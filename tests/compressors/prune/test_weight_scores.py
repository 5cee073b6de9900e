"""Second-order pruning of single weights, and the statistics that it needs."""

from __future__ import annotations

import pytest
import torch
from compress_zoo import ZOO
from torch import Tensor, nn

from nbcompress.compressors import cluster, prune, quantize
from nbcompress.compressors.layers import select
from nbcompress.compressors.prune.activation_scores import input_statistics
from nbcompress.compressors.prune.weight_scores import prune_by_hessian
from nbcompress.errors import CompressionError


def correlated(n: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, columns // 2, generator=generator) @ torch.randn(columns // 2, columns, generator=generator)
    return mixed + 0.3 * torch.randn(n, columns, generator=generator)


def test_one_weight_by_hand() -> None:
    """Inputs that are always equal: when a weight is removed, the other one replaces it, up to the damping of 1 %.

    H = [[1, 1], [1, 1]] + 0.01 I per row of inputs. Without weight 1, the other becomes w2 + w1 / 1.01.
    """
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    data = (torch.ones(4, 2), torch.zeros(4, 1))
    small = prune(model, 0.5, criterion="hessian", data=data)
    assert small.get_parameter("weight").tolist() == [[0.0, pytest.approx(2 + 1 / 1.01)]]


def test_against_the_closed_form() -> None:
    """For the mask that was found, the updated weights are optimal: one row, one removed weight.

    The surgeon's formula: w - w_k / [H^-1]_kk * H^-1 e_k, with k of least w_k^2 / [H^-1]_kk, if k comes first in the
    order of columns, as all others may then change.
    """
    x = correlated(200, 6)
    model = nn.Linear(6, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.01, 1.0, -1.0, 2.0, 0.5, -0.7]]))
    products = x.double().T @ x.double()
    damped = products + 0.01 * products.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    inverse = torch.linalg.inv(damped)
    w = model.weight.detach().double()[0]
    expected = w - w[0] / inverse[0, 0] * inverse[0]
    small = prune(model, 1 / 6, criterion="hessian", data=(x, torch.zeros(200, 1)))
    assert small.get_parameter("weight")[0].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("amount", [0.3, 0.6, 0.9, None])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(200, 24),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 16, 4, groups=4, dilation=2),
        nn.Conv1d(8, 8, 4, padding="same"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_outputs_change_less_than_by_magnitude(layer: nn.Module, amount: float | None) -> None:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    if isinstance(layer, nn.Linear):
        x = correlated(300, 200)
    else:
        # Channels that are mixtures of few, and neighbours that are alike, as in images.
        shape = (9, 9) if isinstance(layer, nn.Conv2d) else (30,)
        noise = torch.einsum("nc...,cd->nd...", torch.randn(40, 3, *shape), torch.randn(3, 8))
        x = torch.cumsum(noise, dim=-1) + 0.1 * torch.randn(40, 8, *shape)
    model = nn.Sequential(layer)
    options = {"data": (x, torch.zeros(len(x)))}
    granularity = "weight" if amount is not None else "2:4"
    scope = "layer" if amount is not None else None
    plain = prune(model, amount, granularity=granularity, scope=scope)  # type: ignore[arg-type]
    surgeon = prune(model, amount, granularity=granularity, criterion="hessian", **options)  # type: ignore[arg-type]
    with torch.no_grad():
        told = model(x)
        errors = [float((pruned(x) - told).square().mean()) for pruned in (surgeon, plain)]
    assert errors[0] < 0.8 * errors[1]


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 2:4, weights are chosen within fours, so the block size does not change the result."""
    from nbcompress.compressors.prune import weight_scores

    model = nn.Sequential(nn.Linear(64, 5))
    data = (correlated(100, 64), torch.zeros(100))
    found = []
    for block in (8, 64):
        monkeypatch.setattr(weight_scores, "_BLOCK", block)
        found.append(prune(model, granularity="2:4", criterion="hessian", data=data).get_parameter("0.weight"))
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=0)


def test_inputs_that_are_always_zero() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    for x in (torch.zeros(8, 4), torch.eye(4)[:1].expand(8, 4)):
        small = prune(model, 0.5, criterion="hessian", data=(x.clone(), torch.zeros(8)))
        assert int((small.get_parameter("0.weight") == 0).sum()) == 6


def test_promises_of_values_are_not_broken() -> None:
    animal = ZOO["perceptron"]()
    for model, promise in ((quantize(animal.model, 4), "grid"), (cluster(animal.model, 4), "codebook")):
        text = f"changes the weights that stay, but '0.weight' must keep to its {promise}: prune before quantizing"
        with pytest.raises(CompressionError, match=text):
            prune(model, 0.5, criterion="hessian", data=animal.data)


def test_weights_beyond_the_range_are_refused() -> None:
    model = nn.Linear(2, 1, bias=False).half()
    with torch.no_grad():
        model.weight.fill_(60000.0)
    target = select(model).targets[0]
    statistics, _ = input_statistics(model, [target], (torch.ones(4, 2), torch.zeros(4, 1)), 0, with_products=True)
    with pytest.raises(CompressionError, match="gave weights beyond the range of their dtype: use float32 weights"):
        prune_by_hessian(target.parameter, statistics["weight"], 1)


def test_too_many_inputs_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from nbcompress.compressors.prune import activation_scores

    monkeypatch.setattr(activation_scores, "MAX_COLUMNS", 10)
    animal = ZOO["perceptron"]()
    targets = select(animal.model).targets
    found, reasons = input_statistics(animal.model, targets, animal.data, 0, with_products=True)
    assert list(found) == ["0.weight"]
    assert reasons["2.weight"] == "its 16 inputs are too many for products of inputs"
